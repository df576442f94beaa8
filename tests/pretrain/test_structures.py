"""One run's gates give several structures: their figures are those of the models that they are exported as."""

import json
from dataclasses import replace

import pytest
import torch

from s3prl_pruned import checkpoint
from s3prl_pruned.commands.export import main
from s3prl_pruned.config import UserError, to_dict
from s3prl_pruned.formats import microsoft
from s3prl_pruned.formats.folder import load_encoder, model_hash
from s3prl_pruned.models.dummies import random_encoder
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.pretrain.finish import trained_student
from s3prl_pruned.pretrain.logging import read_log
from s3prl_pruned.pretrain.pruners.nothing import NoPruner
from s3prl_pruned.sparsity.config import Target, several_targets
from s3prl_pruned.sparsity.counts import EncoderCounts
from tests.latency_tables import table_of
from tests.pretrain.test_held_out import held_out_loss, tones  # noqa: F401 - a fixture
from tests.tiny_run import tiny_wavlm

OPTIONS = "runner.max_keep=1,,optimizer.lr=0.02,,sparsity.target.share=0.5"


@pytest.fixture(scope="module", params=["", ",,runner.ema_decay=0.5"], ids=["weights", "their average"])
def run(request, recipe, tones):  # noqa: F811
    name = "sizes-average" if request.param else "sizes"
    return recipe.train(recipe.root / name, "--corpus", str(tones), "-o", OPTIONS + request.param)


@pytest.fixture(scope="module")
def sizes(run):
    """The last checkpoint's structures at three targets, its own among them, all exported."""
    folder = run.parent / f"{run.name}-written"
    main([str(run / "states-3.ckpt"), str(folder), "--targets", "0.3,0.5,0.7", "--export", "--time", "1"])
    return folder


def structures(folder):
    return json.loads((folder / "structures.json").read_text())["structures"]


def test_figures_are_those_of_the_exported_models(recipe, run, sizes, tones):  # noqa: F811
    state = checkpoint.load_checkpoint(run / "states-3.ckpt")
    projection = state.get("Average", state)["Distillation"]["projection.weight"]
    dense, *found = structures(sizes)
    assert dense["parameters"] == random_encoder(tiny_wavlm(), seed=0).num_parameters() and dense["realised"] == 0
    assert [one["name"] for one in found] == ["params-0.3", "params-0.5", "params-0.7"]
    for one in found:
        encoder, card = load_encoder(sizes / one["name"])
        assert one["parameters"] == encoder.num_parameters()
        assert one["realised"] == one["sparsity"] == card["sparsity"]["realised"]
        assert one["target"] == card["sparsity"]["target"] and one["inert_share"] == card["sparsity"]["inert_share"]
        assert one["missed"] or abs(one["realised"] - one["target"]) <= 0.002
        expected = held_out_loss(recipe, sizes / one["name"], projection, tones)  # fp32 sums, as in test_held_out
        assert one["held_out_distill"] == pytest.approx(expected, rel=1e-4)
        assert held_out_loss(recipe, sizes / one["name"], 1.01 * projection, tones) != pytest.approx(expected, rel=1e-3)
    parameters, macs, losses = ([one[key] for one in found] for key in ("parameters", "macs", "held_out_distill"))
    for figures in (parameters, macs):
        assert figures == sorted(figures, reverse=True) and len(set(figures)) == 3
    assert len(set(losses)) == 3


def test_the_runs_own_is_its_export(run, sizes):
    own = next(one for one in structures(sizes) if one["own"])
    assert own["target"] == 0.5
    assert model_hash(sizes / "params-0.5") == model_hash(run / "export")
    assert "chosen_after_training" not in load_encoder(sizes / "params-0.5")[1]
    last = read_log(run)[-1]
    assert own["held_out_distill"] == pytest.approx(last["held_out_distill"], rel=1e-6)
    assert (own["parameters"], own["macs"], own["sparsity"], own["inert_share"]) == (
        last["export_parameters"],
        last["export_macs"],
        last["export_sparsity"],
        last["inert_share"],
    )


def test_one_is_exported_alone(run, sizes, tmp_path, capsys):
    main([str(run / "states-3.ckpt"), str(tmp_path / "model"), "--at", "0.7"])
    assert model_hash(tmp_path / "model") == model_hash(sizes / "params-0.7") != model_hash(run / "export")
    assert f"exported to {tmp_path / 'model'}" in capsys.readouterr().out
    card = load_encoder(tmp_path / "model")[1]
    assert card["chosen_after_training"] == "target sparsity 0.7; trained for target sparsity 0.5"
    with pytest.raises(UserError, match="one target is wanted, but there are 2"):
        main([str(run / "states-3.ckpt"), str(tmp_path / "other"), "--at", "0.7,0.8"])


def test_the_table_and_the_picture_say_it(sizes):
    text = (sizes / "structures.md").read_text()
    assert "| params-0.5 | 50.0 %" in text and "the run's own" in text and "The weights have settled" in text
    header, *rows = (sizes / "structures.csv").read_text().splitlines()
    assert header.startswith("name,target,realised,own") and len(rows) == 4
    assert (sizes / "structures.png").read_bytes().startswith(b"\x89PNG")
    dense, *others = structures(sizes)
    assert dense["speed"] == 1 and all(one["seconds"] > 0 for one in (dense, *others))


@pytest.fixture
def last(run):
    return run / "states-3.ckpt"


@pytest.mark.parametrize(
    "targets, message",
    [
        ("0.5,half", "targets must be numbers between commas, but 'half' is none"),
        ("0.5,0.7,0.5", "targets must differ, but 0.5 is there twice"),
        ("1.2", r"`share` must be in \[0, 1\), but is 1.2"),
        ("nan", r"`share` must be in \[0, 1\), but is nan"),
        ("speedup=0.5", "`speedup` must be at least 1, but is 0.5"),
        ("speedup=2", "needs a `table`, but it is null.*--latency-table FILE"),
        (
            "time=0.5",
            "targets must be 0.5,0.65 or params=0.5,0.65, macs=0.5,0.7, memory=0.5,0.7 or .*, but are 'time=0.5'",
        ),
    ],
)
def test_wrong_targets_are_refused(last, tmp_path, targets, message):
    with pytest.raises(UserError, match=message):
        main([str(last), str(tmp_path / "sizes"), "--targets", targets])
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(last, tmp_path):
    (tmp_path / "sizes").mkdir()
    with pytest.raises(UserError, match="exists already, and an export never overwrites"):
        main([str(last), str(tmp_path / "sizes"), "--targets", "0.5"])
    assert not list((tmp_path / "sizes").iterdir())


@pytest.mark.parametrize(
    "options, message",
    [
        (["--export"], "--export is of --targets, which is not given"),
        (["--at", "0.5", "--time", "3"], "--time is of --targets"),
        (["--latency-table", "t.json"], "--latency-table is of --targets or --at"),
        (["--targets", "0.5", "--int8"], "--targets writes none without --export"),
        (["--targets", "0.5", "--at", "0.5"], "not allowed with argument"),
    ],
)
def test_options_without_effect_are_refused(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as ended:
        main(["states-3.ckpt", str(tmp_path / "sizes"), *options])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_size_that_the_gates_of_sublayers_leave_no_room_for_is_refused(last, tmp_path):
    state = checkpoint.load_checkpoint(last)
    state["Gates"]["layers.0.z_ffn.log_alpha"].fill_(-5.0)
    checkpoint.save_checkpoint(tmp_path / "states-3.ckpt", state)
    share = 2 * 24 * 20 / (3 * (4 * 24 * 24 + 2 * 24 * 20))  # of the weights is one feed-forward
    words = [str(tmp_path / "states-3.ckpt"), str(tmp_path / "sizes"), "--no-loss", "--targets"]
    with pytest.raises(UserError, match=rf"out of reach: params-0.01, params-0.05. These gates leave {share:.4g} to"):
        main([*words, "0.01,0.05,0.3"])
    with pytest.raises(UserError, match="out of reach: params-0.05"):
        main([*words[:2], "--at", "0.05"])
    assert not (tmp_path / "sizes").exists()
    main([*words, "0.2"])
    assert structures(tmp_path / "sizes")[1]["held_out_distill"] is None


def test_another_teacher_is_refused_and_a_moved_one_is_found(recipe, last, tmp_path, tones, caplog):  # noqa: F811
    torch.save(microsoft.checkpoint(random_encoder(tiny_wavlm(), seed=1)), tmp_path / "other.pt")
    words = [str(last), str(tmp_path / "sizes"), "--targets", "0.5"]
    with pytest.raises(UserError, match="was trained with another teacher"):
        main([*words, "--teacher", str(tmp_path / "other.pt")])
    (tmp_path / "moved.pt").write_bytes(recipe.teacher.read_bytes())
    main([*words, "--teacher", str(tmp_path / "moved.pt"), "--corpus", str(tones)])
    assert structures(tmp_path / "sizes")[1]["held_out_distill"] > 0
    assert "the corpus is not what it was" not in caplog.text
    words[1] += "-of-others"
    main([*words, "--corpus", str(recipe.corpus)])
    assert "the corpus is not what it was" in caplog.text
    assert structures(tmp_path / "sizes-of-others")[1]["held_out_distill"] is None, "too few to hold any out"


def test_methods_that_leave_no_choice_say_so(last):
    trained = trained_student(last)
    with pytest.raises(UserError, match="the size can be chosen after training only for hard concrete gates"):
        replace(trained, pruner=NoPruner(trained.encoder)).aimed_at(Target(share=0.7))


def test_speed_ups_are_by_a_table_that_is_given(last, tmp_path):
    table = table_of(tiny_wavlm())
    (tmp_path / "table.json").write_text(json.dumps(to_dict(table)))
    words = ["--no-loss", "--export", "--latency-table", str(tmp_path / "table.json")]
    main([str(last), str(tmp_path / "sizes"), "--targets", "speedup=1.1,1.2", *words])
    dense, *found = structures(tmp_path / "sizes")
    assert dense["expected_seconds"] == table.time(EncoderCounts.of(tiny_wavlm(), CompactSpec.dense(tiny_wavlm())))
    for one in found:
        encoder, card = load_encoder(tmp_path / "sizes" / one["name"])
        assert one["expected_seconds"] == table.time(EncoderCounts.of(encoder.config, encoder.spec))
        assert one["realised"] == pytest.approx(dense["expected_seconds"] / one["expected_seconds"])
        assert card["sparsity"]["speedup"]["realised"] == one["realised"] == pytest.approx(one["target"], rel=0.02)


def test_a_run_for_a_speed_up_keeps_its_table(recipe, tones, tmp_path):  # noqa: F811
    """Also where the file is gone; another table is refused."""
    file, table = tmp_path / "table.json", table_of(tiny_wavlm())
    file.write_text(json.dumps(to_dict(table)))
    more = ["--target", "speedup=1.2", "--latency-table", str(file), "-o", "runner.total_steps=2"]
    run = recipe.train(tmp_path / "run", "--corpus", str(tones), *more)
    last, log = str(run / "states-2.ckpt"), read_log(run)[-1]
    other = replace(table, whole=2.0)
    file.write_text(json.dumps(to_dict(other)))
    with pytest.raises(UserError, match="holds other times than the table that this run was trained with"):
        main([last, str(tmp_path / "sizes"), "--targets", "1.1", "--latency-table", str(file)])
    file.unlink()
    main([last, str(tmp_path / "sizes"), "--targets", "1.1,1.2"])
    _, slower, own = structures(tmp_path / "sizes")
    assert own["own"] and not slower["own"] and slower["realised"] == pytest.approx(1.1, rel=0.02)
    assert own["held_out_distill"] == pytest.approx(log["held_out_distill"], rel=1e-6)


def test_targets_are_of_what_the_runs_is_of():
    own = Target(of="macs", share=0.5, seconds=2.0)
    assert several_targets("0.5, 0.6", own) == [own, replace(own, share=0.6)]
    assert several_targets("params=0.6", own) == [Target(share=0.6)]
    timed = several_targets("speedup=2,4", own, table="t.json")
    assert [(each.of, each.share, each.table) for each in timed] == [("time", 0.5, "t.json"), ("time", 0.75, "t.json")]
