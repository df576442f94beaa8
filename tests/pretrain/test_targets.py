"""Runs with targets of MACs or time: the reduction of the export, entries of its files, and wrong settings."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from s3prl_pruned.config import UserError, to_dict
from s3prl_pruned.formats.folder import load_encoder, model_hash
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.pretrain.finish import export_checkpoint
from s3prl_pruned.pretrain.logging import read_log
from s3prl_pruned.report.figures import mask_averages
from s3prl_pruned.report.live import draw_remaining
from s3prl_pruned.sparsity.counts import EncoderCounts, macs
from tests.latency_tables import table_of
from tests.pretrain.test_interruption import trajectory
from tests.tiny_run import tiny_wavlm

ROOT = Path(__file__).resolve().parents[2]
KINDS = (
    "-o",
    "gates.kinds=[mha,qk,vo,ffn,int,conv],,sparsity.tolerance=0.03",
)  # a head of 4 is a large part of such a small model

CNN = ("-o", "gates.kinds=[mha,qk,vo,ffn,int,conv],,sparsity.tolerance=0.1,,sparsity.target_cnn=0.5")


@pytest.fixture(scope="module")
def table(recipe):
    path = recipe.root / "table.json"
    path.write_text(json.dumps(to_dict(table_of(tiny_wavlm()))))
    return path


@pytest.fixture(scope="module")
def faster(recipe, table):
    return recipe.train(recipe.root / "faster", *KINDS, "--target", "speedup=1.6", "--latency-table", str(table))


@pytest.fixture(scope="module")
def lighter(recipe):
    return recipe.train(recipe.root / "lighter", *KINDS, "--target", "macs=0.6")


def test_the_export_saves_the_target_share_of_macs(lighter):
    encoder, provenance = load_encoder(lighter / "export")
    work = [
        sum(macs(encoder.config, spec, 80_000).values()) for spec in (encoder.spec, CompactSpec.dense(encoder.config))
    ]
    found = provenance["sparsity"]["macs"]
    assert 1 - work[0] / work[1] == pytest.approx(found["realised"]) == pytest.approx(0.6, abs=0.03)
    assert found["target"] == 0.6 and found["utterance_seconds"] == 5 and provenance["sparsity"]["target"] is None
    assert "- sparsity.macs.target: 0.6" in (lighter / "export" / "README.md").read_text()


@pytest.fixture(scope="module")
def thin(recipe):
    return recipe.train(recipe.root / "thin", *CNN, "--target", "params=0.6")


def test_the_cnn_reaches_a_target_of_its_own_besides_the_models(thin):
    encoder, provenance = load_encoder(thin / "export")
    work = [macs(encoder.config, spec, 80_000)["cnn"] for spec in (encoder.spec, CompactSpec.dense(encoder.config))]
    found = provenance["sparsity"]["cnn"]
    assert 1 - work[0] / work[1] == pytest.approx(found["realised"]) == pytest.approx(0.5, abs=0.1)
    assert provenance["sparsity"]["realised"] == pytest.approx(0.6, abs=0.1) and found["target"] == 0.5
    line = read_log(thin)[-1]
    assert line["target_cnn"] == 0.5 and 0 <= line["expected_cnn"] < 1 and line["target_sparsity"] == 0.6


def test_with_a_table_the_cnns_target_is_of_its_time(recipe, table, tmp_path):
    run = recipe.train(tmp_path / "run", *CNN, "--latency-table", str(table))
    assert load_encoder(run / "export")[1]["sparsity"]["cnn"]["of"] == "time by the latency table"
    table = table_of(tiny_wavlm())
    encoder, provenance = load_encoder(run / "export")
    times = [
        table.cnn_time(EncoderCounts.of(encoder.config, s).channels)
        for s in (encoder.spec, CompactSpec.dense(encoder.config))
    ]
    assert (
        1 - times[0] / times[1]
        == pytest.approx(provenance["sparsity"]["cnn"]["realised"])
        == pytest.approx(0.5, abs=0.1)
    )


def test_the_multipliers_of_the_cnn_are_resumed_too(recipe, thin, tmp_path):
    shutil.copytree(thin, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "export")
    (tmp_path / "run" / "states-3.ckpt").unlink()
    recipe.train(tmp_path / "run", *CNN, "--target", "params=0.6", "-a")
    assert trajectory(tmp_path / "run") == trajectory(thin)
    assert model_hash(tmp_path / "run" / "export") == model_hash(thin / "export")


def former(section):
    """A `sparsity:` section with the old keys of targets."""
    target, cnn = section.pop("target"), section.pop("cnn_target")
    assert target["of"] == "params" and cnn["of"] == "macs"
    one = {"target_sparsity": target["share"], "target_macs": None, "target_speedup": None, "target_cnn": cnn["share"]}
    return {**one, "utterance_seconds": cnn["seconds"], "latency_table": None, **section}


def test_a_run_with_old_keys_of_targets_in_its_files_is_resumed_and_exported(recipe, thin, tmp_path):
    shutil.copytree(thin, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "export")
    (tmp_path / "run" / "states-3.ckpt").unlink()
    record = json.loads((thin / "run.json").read_text())
    record["model"]["sparsity"] = former(record["model"]["sparsity"])
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    path = tmp_path / "run" / "states-2.ckpt"
    state = torch.load(path, weights_only=True)
    state["Upstream_Config"]["sparsity"] = former(state["Upstream_Config"]["sparsity"])
    torch.save(state, path)
    export_checkpoint(path, tmp_path / "export")
    found = load_encoder(tmp_path / "export")[1]
    assert found["sparsity"]["cnn"]["target"] == 0.5 and found["sparsity"]["target"] == 0.6
    other = (*CNN[:1], CNN[1].replace("target_cnn=0.5", "target_cnn=0.6"), "--target", "params=0.6", "-a")
    with pytest.raises(UserError, match="model.sparsity.cnn_target.share: 0.5 there, 0.6 wanted"):
        recipe.train(tmp_path / "run", *other)
    recipe.train(tmp_path / "run", *CNN, "--target", "params=0.6", "-a")
    assert trajectory(tmp_path / "run") == trajectory(thin)
    assert model_hash(tmp_path / "run" / "export") == model_hash(thin / "export")


def test_the_export_has_the_target_speedup_by_the_table(faster):
    encoder, provenance = load_encoder(faster / "export")
    table = table_of(tiny_wavlm())
    times = [table.time(EncoderCounts.of(encoder.config, s)) for s in (CompactSpec.dense(encoder.config), encoder.spec)]
    found = provenance["sparsity"]["speedup"]
    assert times[0] / times[1] == pytest.approx(found["realised"])
    assert 1 - 1 / found["realised"] == pytest.approx(1 - 1 / 1.6, abs=0.03)
    assert found["measured"]["machine"] == "invented"


def test_the_log_holds_the_target_in_its_own_unit_and_the_pictures_are_drawn(faster, lighter):
    for folder, of, last in ((faster, "speedup", 1.6), (lighter, "macs", 0.6)):
        line = read_log(folder)[-1]
        assert line[f"target_{of}"] == pytest.approx(last) and line[f"expected_{of}"] >= (of == "speedup")
        assert f"realised_{of}" in line and 0 <= line["expected_sparsity"] < 1 and "target_sparsity" not in line
        assert draw_remaining(folder).is_file()
        assert mask_averages(read_log(folder), "log", None).axes[1].get_ylabel() in (
            "MACs removed (%)",
            "speed-up by the latency table",
        )


def test_a_checkpoint_is_exported_without_the_file_of_the_table(faster, table, tmp_path):
    away = table.rename(table.with_name("away.json"))
    try:
        shutil.copy(faster / "states-3.ckpt", tmp_path)
        export_checkpoint(tmp_path / "states-3.ckpt", tmp_path / "export")
    finally:
        away.rename(table)
    assert model_hash(tmp_path / "export") == model_hash(faster / "export")


def test_a_resumed_run_takes_the_same_steps(recipe, faster, table, tmp_path):
    shutil.copytree(faster, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "export")
    (tmp_path / "run" / "states-3.ckpt").unlink()
    recipe.train(tmp_path / "run", *KINDS, "--target", "speedup=1.6", "--latency-table", str(table), "-a")
    assert trajectory(tmp_path / "run") == trajectory(faster)


def test_a_run_only_resumes_with_the_times_that_it_was_started_with(recipe, faster, tmp_path):
    shutil.copytree(faster, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "export")
    (tmp_path / "run" / "states-3.ckpt").unlink()
    other = to_dict(table_of(tiny_wavlm()))
    other["rest"]["seconds"] = [2 * seconds for seconds in other["rest"]["seconds"]]
    path = recipe.root / "table.json"
    kept = path.read_text()
    path.write_text(json.dumps(other))
    try:
        with pytest.raises(UserError, match="table.json: holds other times than when this run was started"):
            recipe.train(tmp_path / "run", *KINDS, "--target", "speedup=1.6", "--latency-table", str(path), "-a")
    finally:
        path.write_text(kept)


def test_params_is_the_papers_sparsity(recipe, tmp_path):
    run = recipe.train(tmp_path / "run", "--target", "params=0.5", "-o", "sparsity.tolerance=0.03")
    assert load_encoder(run / "export")[1]["sparsity"]["target"] == 0.5
    assert json.loads((run / "run.json").read_text())["model"]["sparsity"]["target"]["share"] == 0.5


def test_the_screen_shows_target_and_result(recipe, tmp_path):
    command = [
        sys.executable,
        ROOT / "run_pretrain.py",
        *recipe.arguments(tmp_path / "run", *CNN, "--target", "macs=0.6"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "the CNN's MACs: realised -" in result.stdout
    assert (
        "target 60 % fewer MACs for 5 s, 50 % fewer MACs in the CNN" in result.stdout
        and "MACs for 5 s: realised -" in result.stdout
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", "size=0.8"), "`--target` must be params=0.8, macs=0.7, memory=0.7 or speedup=2.5"),
        (("--target", "macs"), "`--target` must be"),
        (("--target", "params=0.5,speedup=2"), "`--target` has a speedup after another target: name it first"),
        (
            ("--target", "params=0.5,params=0.6"),
            r"`target` and `also` must be of different quantities, but are of \['params', 'params'\]",
        ),
        (("--target", "params=0.5,macs=0"), r"every target needs a share above 0, but they are \[0.5, 0.0\]"),
        (
            ("--target", "params=0.5,macs=0.99"),
            r"`sparsity.also` is a share of 0.99, but gates of the kinds .* reach 0.000 to 0\.\d+ on this encoder",
        ),
        (
            ("--target", "params=0.5,macs=0.5", "-o", "self_pinching={}"),
            "`sparsity.also` is for `gates`, but `self_pinching` is set",
        ),
        (
            ("--target", "macs=0.99"),
            r"`sparsity.target` is a share of 0.99, but gates of the kinds .* reach 0.000 to 0\.\d+ on this encoder",
        ),
        (("--target", "speedup=2"), "a target of time needs a `table`, but it is null. .*--latency-table FILE"),
        (
            ("--target", "speedup=50", "--latency-table", "TABLE"),
            r"`sparsity.target` is a speedup of 50, but gates .* reach 1.000 to \d\.\d+",
        ),
        (
            ("-o", "sparsity.target_cnn=0.5"),
            r"`sparsity.cnn_target` is a share of 0.5, but gates of the kinds .* reach 0.000 to 0.000 on this encoder",
        ),
        (("-o", "sparsity.target_cnn=1.0"), r"sparsity.cnn_target: `share` must be in \[0, 1\), but is 1.0"),
        (("--latency-table", "TABLE"), "`--latency-table` is for a target of time, but there is none"),
        (
            ("-o", "sparsity.cnn_target.share=0.5,,self_pinching={}"),
            "`sparsity.cnn_target` is for `gates`, but `self_p",
        ),
        (("--target", "speedup=2", "--latency-table", "nowhere.json"), "nowhere.json: is not a latency table"),
        (
            ("--target", "macs=0.5", "-o", "self_pinching={}"),
            "`sparsity.target` is of macs, which only `gates` can reach, but `self_pinching` is set",
        ),
    ],
)
def test_unreachable_targets_and_unreadable_tables_are_refused(recipe, table, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        recipe.train(tmp_path / "run", *(str(table) if option == "TABLE" else option for option in options))
    assert not (tmp_path / "run").exists()
