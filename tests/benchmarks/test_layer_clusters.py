"""Clusters of layers: the similarity against its definition by centred Gram matrices, and merges worked out by hand."""

import subprocess
import sys

import pytest
import torch

from benchmarks.layer_clusters import clusters_of, similarities


def test_the_similarity_is_linear_cka_by_gram_matrices():
    states = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(0))
    states[1] = states[0] @ torch.linalg.qr(torch.randn(4, 4)).Q * 3 + 1  # rotated, scaled and shifted: still the same

    def gram(x):  # Kornblith et al. 2019, eq. 1 and 3
        k, h = x.double() @ x.double().T, torch.eye(20).double() - 1 / 20
        return h @ k @ h

    expected = torch.tensor(
        [[float((gram(a) * gram(b)).sum() / (gram(a).norm() * gram(b).norm())) for b in states] for a in states]
    )
    found = similarities(states)
    torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=0)
    assert float(found[0, 1]) == pytest.approx(1, abs=1e-6) and float(found[0, 2]) < 0.9


def test_neighbours_merge_by_their_mean_similarity():
    alike = torch.eye(4)
    for i, j, value in [(0, 1, 0.5), (1, 2, 0.9), (2, 3, 0.6), (0, 2, 0.2), (1, 3, 0.3), (0, 3, 0.99)]:
        alike[i, j] = alike[j, i] = value
    assert clusters_of(alike, 4) == [[1], [2], [3], [4]]
    assert clusters_of(alike, 3) == [[1], [2, 3], [4]]
    assert clusters_of(alike, 2) == [
        [1],
        [2, 3, 4],
    ]  # (0.6 + 0.3) / 2 against (0.5 + 0.2) / 2: 1 and 4 are no neighbours
    assert clusters_of(alike, 1) == [[1, 2, 3, 4]]


def test_the_command_prints_the_option():
    call = [sys.executable, "-m", "benchmarks.layer_clusters", "embedded", "--clusters", "2", "--utterances", "2"]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].startswith("-o distill.clusters=[[1,")
    refused = subprocess.run([*call[:-3], "9"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "must be from 1 to the teacher's 6 layers" in refused.stderr
