"""Pruning rounds: how much each removes, that several techniques meet one rate, that the export is the student."""

import pytest
import torch

from s3prl_pruned.compressors.config import CompressConfig
from s3prl_pruned.compressors.magnitude import plain_state
from s3prl_pruned.export.masks import export_compact
from s3prl_pruned.models.compact import surviving_spec
from s3prl_pruned.models.dummies import random_encoder
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.sparsity.counts import realised_sparsity
from tests.compressors.test_structures import CONFIG, plan


def random_scores(made):
    return lambda: [torch.rand(len(layer.heads)) for layer in made.student.spec.layers]


def test_rounds_are_spread_from_the_first_step_to_the_last_round():
    config = CompressConfig(techniques=("rows",), rounds=5, last_round=0.5)
    assert [config.step_of(number, 201) for number in range(5)] == [1, 26, 51, 76, 101]
    assert CompressConfig(techniques=("rows",), rounds=1).step_of(0, 200) == 1
    _, compressor = plan("rows", 0.4, rounds=5)
    rounds = {step: compressor.rounds_before(step, 201) for step in range(1, 202)}
    assert {step: found for step, found in rounds.items() if found} == {1: [0], 26: [1], 51: [2], 76: [3], 101: [4]}
    _, compressor = plan("low_rank", 0.4)
    assert not any(compressor.rounds_before(step, 201) for step in range(1, 202))


@pytest.mark.parametrize(
    "techniques, rate",
    [
        ("magnitude", 0.8),
        ("rows", 0.4),
        ("heads", 0.1875),
        ("heads rows", 0.6),
        ("heads rows magnitude", 0.9),
        ("layers rows", 0.7),
        ("low_rank rows", 0.6),
        ("layers low_rank heads rows magnitude", 0.9),
    ],
)
def test_every_round_removes_its_share_and_the_last_meets_the_rate(techniques, rate):
    made, compressor = plan(techniques, rate, rounds=4)
    begin = realised_sparsity(CONFIG, made.student.spec)
    reached, coarse = [], 0.04 if "heads" in techniques else 0.01
    for number in range(4):
        before = {name: mask.clone() for name, mask in compressor.named_buffers() if name.startswith("z_")}
        compressor.prune(number, random_scores(made) if compressor.needs_data() else None)
        assert all((compressor.get_buffer(name) <= mask).all() for name, mask in before.items()), "nothing comes back"
        reached.append(compressor.realised_sparsity())
        assert reached[-1] == pytest.approx(begin + (number + 1) / 4 * (rate - begin), abs=coarse)
    assert reached[-1] == pytest.approx(rate, abs=0.01)


@pytest.mark.parametrize("techniques", ["heads rows", "low_rank heads rows", "heads rows magnitude", "layers rows"])
def test_the_export_computes_what_the_masked_student_does(techniques):
    """In float64; and it has the counted size."""
    made, compressor = plan(techniques, 0.6 if "magnitude" not in techniques else 0.8, rounds=2)
    for number in range(2):
        compressor.prune(number, random_scores(made))
    student = SpeechEncoder(CONFIG, made.student.spec).eval().double()
    student.load_state_dict(plain_state(made.student))
    masks = compressor.masks()
    small = export_compact(student, masks, surviving_spec(student.spec, masks))
    wavs = torch.randn(2, 1600, dtype=torch.float64)
    made.student.double().set_masks(masks.to(torch.float64))
    with torch.no_grad():
        ours, theirs = small(wavs).hidden_states, made.student(wavs).hidden_states
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() < 1e-9
    with torch.no_grad():
        whole = random_encoder(CONFIG, seed=0).double()(wavs).hidden_states[-1]
    assert (whole - theirs[-1]).abs().max() > 1e-3
    if "magnitude" not in techniques:
        assert realised_sparsity(CONFIG, small.spec) == pytest.approx(compressor.realised_sparsity())
    else:
        assert realised_sparsity(CONFIG, small.spec) < compressor.realised_sparsity()


def test_shares_divide_what_is_removed():
    def of(**more):
        made, compressor = plan("heads rows", 0.4, rounds=1, **more)
        compressor.prune(0, random_scores(made))
        heads, rows = (
            sum(int((mask == 0).sum()) for name, mask in compressor.named_buffers() if slot in name)
            for slot in ("head", "int")
        )
        return heads / (4 * 4), rows / (4 * 96)

    heads, rows = of()  # by the most that each can remove: heads 3/4 x 1/2, rows 1/2 of the weights
    assert heads / 0.75 == pytest.approx(rows, abs=0.1)
    heads, rows = of(shares=(1, 3))
    assert heads == pytest.approx(0.2, abs=0.07) and rows == pytest.approx(0.6, abs=0.05)
