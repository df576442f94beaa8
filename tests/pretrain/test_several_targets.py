"""Runs with several targets: each is reached, and the one that is hardest is met."""

import pytest

from s3prl_pruned.formats.folder import load_encoder
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.pretrain.logging import read_log
from s3prl_pruned.pretrain.report import target_lines
from s3prl_pruned.sparsity.counts import macs, realised_sparsity

KINDS = ("-o", "gates.kinds=[mha,qk,vo,ffn,int,conv],,sparsity.tolerance=0.03")


@pytest.mark.parametrize(("params", "work"), [(0.3, 0.6), (0.7, 0.2)])
def test_the_harder_target_is_met_and_the_other_one_passed(recipe, tmp_path, params, work):
    run = recipe.train(tmp_path / "run", *KINDS, "--target", f"params={params},macs={work}")
    encoder, card = load_encoder(run / "export")
    dense = CompactSpec.dense(encoder.config)
    counted = [sum(macs(encoder.config, spec, 80_000).values()) for spec in (encoder.spec, dense)]
    removed = realised_sparsity(encoder.config, encoder.spec), 1 - counted[0] / counted[1]
    over = removed[0] - params, removed[1] - work
    assert min(over[0], over[1] * params / work) == pytest.approx(0, abs=0.03)
    assert over[0 if work > params else 1] > 0.05
    (also,) = card["sparsity"]["also"]
    assert (also["quantity"], also["target"]) == ("macs", work)
    assert also["realised"] == pytest.approx(removed[1]) and card["sparsity"]["realised"] == pytest.approx(removed[0])
    log = read_log(run)
    assert log[-1]["on_target"] and "expected_macs" not in log[-1]
    assert log[-1]["expected_fulfilled"] <= log[-1]["expected_sparsity"] / params + 1e-6


def test_memory_is_a_target_by_itself(recipe, tmp_path):
    run = recipe.train(tmp_path / "run", *KINDS, "--target", "memory=0.4")
    found = load_encoder(run / "export")[1]["sparsity"]["memory"]
    assert found["target"] == 0.4 and found["realised"] == pytest.approx(0.4, abs=0.03)
    assert {"target_memory", "expected_memory", "realised_memory"} <= set(read_log(run)[-1])


def test_one_that_is_missed_is_said(recipe, tmp_path):
    options = (KINDS[0], f"{KINDS[1]},,sparsity.match_target=false", "--target", "params=0.5,macs=0.5")
    recipe.train(tmp_path / "run", *options)
    figures = load_encoder(tmp_path / "run" / "export")[1]["sparsity"]
    lines = target_lines(figures, tolerance=0.03, advice="Train longer.")
    assert "MACs for 5 s: realised -" in lines[1] and "the target is missed. Train longer." in lines[2]
