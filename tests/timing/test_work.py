"""Multiply-accumulates: the formula gives torch's count."""

import pytest
import torch

from s3prl_pruned.models.dummies import random_spec, tiny_base, tiny_large
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity import counts
from s3prl_pruned.timing import work


@pytest.mark.parametrize("config", [tiny_base(), tiny_large(conv_bias=True, pos_conv_kernel=5)], ids=["base", "large"])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_macs_are_those_that_pytorch_counts(config, seed):
    spec = CompactSpec.dense(config) if seed is None else random_spec(config, seed=seed, channels=seed == 1)
    assert work.macs_of(config, spec, [[torch.empty(3000)]]) == work.macs_by_torch(config, spec, 3000)
    assert work.macs_of(config, spec, [[torch.empty(3001 + 80)]]) != work.macs_by_torch(config, spec, 3000)


def test_macs_of_a_batch_count_its_padding():
    config = tiny_base()
    spec = CompactSpec.dense(config)
    one = sum(counts.macs(config, spec, 4000).values())
    assert work.macs_of(config, spec, [[torch.empty(4000), torch.empty(500)]]) == 2 * one
    apart = work.macs_of(config, spec, [[torch.empty(4000)], [torch.empty(500)]])
    assert one < apart < 2 * one
