"""The formula of a step's memory agrees with the bytes that a step keeps, and distinguishes settings."""

from dataclasses import replace

import pytest

from s3prl_pruned.models import families
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.pretrain.memory import GIB, Batch, MemorySetting, memory_of_step
from tests.memory_count import count

DROPOUT = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1, "feature_grad_mult": 0.1}


def setting(name: str, layers: int, **changes) -> MemorySetting:
    shape = replace(families.named(name), num_layers=layers, **DROPOUT)
    return MemorySetting(shape=shape, spec=CompactSpec.dense(shape), pairs=min(4, layers), **changes)


@pytest.mark.parametrize(
    "name, layers, utterances, changes",
    [
        ("wavlm_base", 12, 24, {}),
        ("wavlm_base", 3, 24, {"checkpointing": True}),
        ("wavlm_base", 2, 12, {"half": False}),
        ("wavlm_large", 2, 6, {}),
        ("data2vec_base", 2, 24, {}),
        ("whisper_base", 6, 24, {}),
    ],
)
def test_the_formula_agrees_with_the_bytes_that_a_step_keeps(name, layers, utterances, changes):
    given = setting(name, layers, **changes)
    counted = count(given.shape, utterances=utterances, seconds=15.6, **changes)
    batch = Batch(utterances, 249_600)
    found = memory_of_step(given, batch)
    assert found.total == pytest.approx(counted.total, rel=0.05)
    assert found.cnn + found.layers == pytest.approx(counted.cnn + counted.layers, rel=0.05, abs=0.15 * GIB)
    if not changes:
        assert found.total < 0.95 * memory_of_step(given, Batch(utterances + 2, 249_600)).total, "no difference"


def test_each_setting_saves_memory():
    batch, base = Batch(24, 249_600), setting("wavlm_base", 12)

    def total(**changes) -> float:
        return memory_of_step(replace(base, **changes), batch).total / GIB

    assert total() < 15 and total(checkpointing=True) < 5
    assert total(half=False) > 1.4 * total()
    assert total(max_seconds_at_once=187.2) < 0.6 * total()
    assert total(max_seconds_at_once=374.4) == total(), "24 x 15.6 s fit into one part"
    frozen = replace(base, shape=replace(base.shape, feature_grad_mult=0.0))
    assert total(shape=frozen.shape) == pytest.approx(total() - 3.4, abs=0.05)
    assert total(shape=frozen.shape, masks_cnn=True) == pytest.approx(total(), abs=0.05)
    assert total(pairs=0, matches=False) < total(matches=False) <= total()
    assert total(averages=True) - total() == pytest.approx(4 * 94_381_936 / GIB, rel=1e-3), "a copy of the weights"


def test_the_parts_in_words_add_up():
    found = memory_of_step(setting("wavlm_base", 12), Batch(24, 249_600))
    total, *parts = [float(word.strip("(),")) for word in found.in_words().split() if word.strip("(),")[0].isdigit()]
    assert sum(parts) == pytest.approx(total, abs=0.3)
