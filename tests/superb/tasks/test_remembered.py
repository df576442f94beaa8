"""Cached features equal computed features."""

import numpy as np
import torch
from torch import nn

from s3prl_pruned.superb.tasks.remembered import RememberedBatches, RememberedUpstream


class Counting(nn.Module):
    """An upstream that counts its calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, wavs):
        self.calls += 1
        state = torch.stack([wav[:100].cumsum(0) for wav in wavs]).unsqueeze(-1)  # (B, 100, 1)
        return {"hidden_states": [state, 2 * state], "last_hidden_state": state}


def batch(seed):
    return list(torch.randn(2, 120, generator=torch.Generator().manual_seed(seed)))


def test_a_batch_is_computed_once_and_others_are_told_apart():
    upstream = Counting()
    remembered = RememberedUpstream(upstream)
    for seed in (0, 1, 0, 1):
        given = remembered(batch(seed))
        assert torch.equal(given["hidden_states"][1], Counting()(batch(seed))["hidden_states"][1])
    assert upstream.calls == 2

    longer = [torch.cat([wav, torch.zeros(1)]) for wav in batch(0)]
    remembered(longer)
    remembered(batch(0)[::-1])
    changed = batch(0)
    changed[1][-1] += 1e-6
    remembered(changed)
    assert upstream.calls == 5


def test_memory_is_bounded_and_shared_tensors_count_once():
    upstream = Counting()
    one_batch = 2 * (2 * 100 * 4)  # two states of 2 x 100 floats; the third name is an alias
    remembered = RememberedUpstream(upstream, max_bytes=one_batch)
    for seed in (0, 1, 0, 1):
        remembered(batch(seed))
    assert remembered.num_bytes == one_batch
    assert upstream.calls == 3  # batch 0 once, batch 1 each time


class CountingBatches:
    """A dataset of batches that counts how often it is read."""

    def __init__(self):
        self.calls = 0

    def __len__(self):
        return 3

    def __getitem__(self, index):
        self.calls += 1
        return [np.full(10, index, dtype=np.float32)] * 2, ["labels"], [f"name-{index}"]

    def collate_fn(self, items):
        return items[0]


def test_batches_are_read_once_within_the_bound():
    dataset = CountingBatches()
    remembered = RememberedBatches(dataset, max_bytes=2 * (2 * 10 * 4))
    for _ in range(2):
        for index in range(len(remembered)):
            wavs, _, names = remembered[index]
            assert wavs[1][0] == index and names == [f"name-{index}"]
    assert dataset.calls == 2 + 2  # the third does not fit and is read each time
