"""The diarisation head, its loss, errors and labels against s3prl's own expert and dataset."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from s3prl_pruned import compat
from s3prl_pruned.compat import experts
from s3prl_pruned.objectives.diarization import (
    DiarizationHead,
    DiarizationHeadConfig,
    frame_errors,
    frame_labels,
    permutation_invariant_loss,
)


@pytest.fixture(scope="module")
def s3prls():
    compat.apply()
    return experts.import_expert("diarization")


def test_loss_gradients_and_errors_are_those_of_s3prls_expert(s3prls):
    from s3prl.upstream.interfaces import Featurizer

    torch.manual_seed(0)
    head = DiarizationHead(3, 6, DiarizationHeadConfig(hidden_size=5))
    with torch.no_grad():
        head.layers.weights.copy_(torch.tensor([0.3, -1.0, 0.8]))
        head.model.linear.weight.mul_(10)  # so that some frames are found active
    states = [torch.randn(3, 20, 6) for _ in range(3)]
    labels = (torch.rand(3, 20, 2) > 0.5).float()
    logits = head(states)
    loss = permutation_invariant_loss(logits, labels) / 60
    wrong, scored = frame_errors(logits, labels)

    featurizer = SimpleNamespace(layer_num=3, normalize=False, weights=head.layers.weights)
    expert = SimpleNamespace(model=head.model, objective=s3prls.pit_loss, _match_length=lambda *pair: pair)
    records = {name: [] for name in ("loss", "acc", "der")}
    features = list(Featurizer._weighted_sum(featurizer, states))
    expected = s3prls.DownstreamExpert.forward(expert, "train", features, list(labels.numpy()), [20] * 3, None, records)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert wrong / scored == pytest.approx(float(records["der"][0]), abs=1e-6) and wrong > 0
    ours, others = (torch.autograd.grad(each, list(head.parameters()), retain_graph=True) for each in (loss, expected))
    for gradient, other in zip(ours, others, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-8)
    moved = permutation_invariant_loss(logits + 0.01, labels) / 60
    assert abs(float((moved - expected).detach())) > 1e-5


def test_the_order_of_the_speakers_does_not_matter():
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(2, 20, 2), (torch.rand(2, 20, 2) > 0.5).float()
    turned = labels.clone()
    turned[1] = labels[1].flip(-1)
    assert permutation_invariant_loss(logits, labels) == permutation_invariant_loss(logits, turned)
    assert frame_errors(logits, labels) == frame_errors(logits, turned)


def test_labels_are_those_of_s3prls_dataset(s3prls):
    segments = {"a": [(0.0, 0.5), (1.23, 1.9)], "b": [(0.31, 1.507)]}
    listed = [{"utt": name, "st": start, "et": end} for name, times in segments.items() for start, end in times]
    data = SimpleNamespace(
        load_wav=lambda recording, start, end: (None, 16_000), segments={"r": listed}, utt2spk={"a": "a", "b": "b"}
    )
    of_dataset = s3prls.DiarizationDataset._get_labeled_speech
    ours = [(number, *time) for number, times in enumerate(segments.values()) for time in times]
    for first, last in ((0, 100), (10, 80)):
        _, expected = of_dataset(SimpleNamespace(data=data, frame_shift=320), "r", first, last, 2)
        found = frame_labels(ours, start=first * 320, num_frames=last - first, hop_samples=320, num_speakers=2)
        assert np.array_equal(found.numpy(), expected)
        moved = frame_labels(ours, start=first * 320 + 320, num_frames=last - first, hop_samples=320, num_speakers=2)
        assert not np.array_equal(moved.numpy(), expected)
    whole = frame_labels(ours, start=30 * 320, num_frames=30, hop_samples=320, num_speakers=2)
    assert whole[:, 1].all(), "a segment around the whole crop, which s3prl leaves out"
