"""The trade-off report: models, costs and qualities joined by hash, fronts worked out by hand, a page of its own."""

import csv
import io
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from s3prl_pruned.commands import tradeoff
from s3prl_pruned.compressors.magnitude import plain_state, prune_weights
from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import model_hash, save_encoder
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base
from s3prl_pruned.report import tradeoff_report
from s3prl_pruned.report.card_times import write_times
from s3prl_pruned.report.tradeoff import Quality, TradeoffModel, gather, mark_pareto
from s3prl_pruned.report.tradeoff_picture import quality_against_costs
from s3prl_pruned.sparsity.counts import macs, realised_sparsity
from s3prl_pruned.superb.catalogue import Value, find_task
from s3prl_pruned.superb.results.result import Result, Seconds, Upstream, write_result
from s3prl_pruned.superb.score.scored_models import measured_models
from s3prl_pruned.timing.exports import measure, method_name

ROOT = Path(__file__).resolve().parents[2]
CONFIG = tiny_base()
TEACHER = {"name": "tiny", "sha256": "f" * 64}
COMMAND = "python run_pretrain.py -u wavlm_pruned_distill"


def recipe(**model):
    return {
        "method": "?",
        "teacher": TEACHER,
        "teacher_note": "random teacher",
        "step": 7,
        "recipe": {"model": model},
        "command": COMMAND,
    }


def export(folder, encoder, **model):
    save_encoder(folder, encoder, recipe(**model))
    return model_hash(folder)


def result(folder, sha256, cer, *, task="asr", protocol="shortened", name="wavlm_pruned", metric="cer"):
    folder.mkdir(parents=True)
    value = Value(name=metric, value=cer, unit="percent")
    upstream = Upstream(name=name, sha256=sha256, teacher_note=None)
    write_result(
        folder / "result.json",
        Result(
            task=task,
            split=find_task(task).test_split,
            num_utterances=5,
            metrics=[value, Value(name="wer", value=2 * cer, unit="percent")] if task == "asr" else [value],
            printed_by_s3prl=[],
            protocol=protocol,
            upstream=upstream,
            seconds=Seconds(evaluate=1.0),
        ),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A ragged, a magnitude-pruned and a moved-aside export; results of two of them, of FBANK and of the teacher."""
    root = tmp_path_factory.mktemp("tradeoff")
    ragged = random_encoder(CONFIG, seed=0, spec=random_spec(CONFIG, seed=1))
    sparse = random_encoder(CONFIG, seed=1)
    prune_weights(sparse, 3000)
    plain = random_encoder(CONFIG, seed=1)
    plain.load_state_dict(plain_state(sparse))
    hashes = {
        "ragged": export(
            root / "result/pretrain/x/ragged/export",
            ragged,
            compress={"techniques": ["heads", "rows"], "head_scores": "l1"},
        ),
        "sparse": export(root / "result/pretrain/x/sparse/export", plain, compress={"techniques": ["magnitude"]}),
    }
    export(root / "result/pretrain/x/ragged.old-20260101-000000/export", ragged)
    result(root / "results/fbank/asr", None, 40.0, name="fbank")
    result(root / "results/teacher/asr", TEACHER["sha256"], 10.0)
    result(root / "results/ragged-seed1/asr", hashes["ragged"], 20.0)
    result(root / "results/ragged-seed2/asr", hashes["ragged"], 22.0)
    result(root / "results/sparse/asr", hashes["sparse"], 15.0)
    return root, hashes


def joined(exports, *results, timing=None, repeats=0):
    """As `tools/tradeoff.py` does it."""
    costs, measured = measure([exports], repeats=repeats)
    return gather(costs, [row for folder in results for row in measured_models(folder)[0]], timing=timing or measured)


@pytest.fixture(scope="module")
def data(made):
    return joined(made[0] / "result", made[0] / "results", repeats=1)


def by_name(data):
    return {entry["name"]: entry for entry in data["entries"]}


def test_models_and_results_are_joined_by_hash(data, made):
    found = by_name(data)
    assert set(found) == {"dense tiny", "ragged", "sparse"}, "what --force moved aside is passed over"
    assert found["ragged"]["sha256"] == made[1]["ragged"]
    assert found["ragged"]["qualities"]["asr cer"] == {
        "value": 21.0,
        "better": "down",
        "protocol": "shortened",
        "runs": 2,
        "spread": pytest.approx(math.sqrt(2)),  # of 20 and 22, with n - 1
    }
    assert found["sparse"]["qualities"]["asr wer"]["value"] == 30.0
    assert found["dense tiny"]["qualities"]["asr cer"]["value"] == 10.0
    assert found["ragged"]["method"] == "heads (l1) + rows" and found["ragged"]["steps"] == 7
    assert [found[name]["command"] for name in ("dense tiny", "ragged")] == [None, COMMAND]


def test_costs_are_the_models_own(data):
    found = by_name(data)
    ragged = random_encoder(CONFIG, seed=0, spec=random_spec(CONFIG, seed=1))
    assert (
        found["ragged"]["parameters"]
        == found["ragged"]["nonzero_parameters"]
        == sum(p.numel() for p in ragged.parameters())
    )
    assert found["ragged"]["rate"] == pytest.approx(realised_sparsity(CONFIG, ragged.spec))
    assert found["ragged"]["macs"] == sum(macs(CONFIG, ragged.spec, 80_000).values()) < found["dense tiny"]["macs"]
    dense = random_encoder(CONFIG, seed=3)
    assert found["dense tiny"]["parameters"] == dense.num_parameters() and found["dense tiny"]["rate"] == 0


def test_unstructured_sparsity_is_told_as_zeros_and_saves_no_macs(data):
    sparse, dense = by_name(data)["sparse"], by_name(data)["dense tiny"]
    assert sparse["parameters"] == dense["parameters"] and sparse["macs"] == dense["macs"]
    assert dense["parameters"] - sparse["nonzero_parameters"] == 9792 - 3000  # prunable weights of the tiny shape
    assert sparse["rate"] == pytest.approx(1 - 3000 / 9792)
    text = tradeoff_report.markdown(data)
    assert "none is claimed" in text and "Compare methods at equal size only where these overlap" in text


def test_the_mini_score_is_between_fbank_and_the_teacher(data):
    found = by_name(data)
    assert found["dense tiny"]["qualities"]["mini-score"]["value"] == pytest.approx(1000)
    assert found["sparse"]["qualities"]["mini-score"]["value"] == pytest.approx(1000 * (80 - 30) / (80 - 20))  # by WER
    assert "mini-score: 0 is fbank, 1000 is teacher" in data["notes"]


def test_all_models_are_timed_in_one_run_against_the_dense_one(data):
    assert data["timing"]["baseline"] == "dense tiny" and by_name(data)["dense tiny"]["speed"] == 1
    assert [row["name"] for row in data["timing"]["results"]] == ["dense tiny", "ragged", "sparse"]
    assert all(row["length_s"] == 5 for row in data["timing"]["results"])
    (row,) = [row for row in data["timing"]["results"] if row["name"] == "ragged"]
    entry = by_name(data)["ragged"]
    assert entry["seconds"] == row["seconds"] > 0
    assert (entry["seconds_spread"], entry["speed_spread"]) == (row["seconds_spread"], row["ratio_spread"])


def test_a_given_timing_is_found_by_path_or_hash_and_what_it_lacks_is_told(made):
    root, hashes = made
    row = {"length_s": 5.0, "batch": 1, "seconds": 0.25, "ratio": 1.5, "noisy": True}
    timing = {
        "baseline": "s3prl:wavlm_base",
        "machine": "M",
        "threads": 1,
        "date": "2026-11-21T00:00",
        "results": [
            {**row, "name": "elsewhere", "weights": f"sha256 {hashes['ragged'][:12]}"},
            {
                **row,
                "length_s": 15.0,
                "seconds": 9.0,
                "name": str(root / "result/pretrain/x/sparse/export"),
                "weights": "?",
            },
            {**row, "seconds": 0.5, "name": str(root / "result/pretrain/x/sparse/export"), "weights": "?"},
        ],
    }
    found = joined(root / "result", timing=timing)
    assert by_name(found)["ragged"]["seconds"] == 0.25 and by_name(found)["sparse"]["seconds"] == 0.5
    assert by_name(found)["dense tiny"]["seconds"] is None
    assert any("no row for 5 s of: dense tiny" in note for note in found["notes"])
    assert any("TOO NOISY" in note and "ragged, sparse" in note for note in found["notes"])


def entry(name, parameters, value, *, better="down", protocol="official", seconds=None):
    made = TradeoffModel(
        name=name,
        method="m",
        path=None,
        sha256=None,
        teacher=None,
        note=None,
        rate=0,
        steps=None,
        parameters=parameters,
        nonzero_parameters=parameters,
        macs=100 - parameters,
        seconds=seconds,
    )
    made.qualities["q"] = Quality(value=value, better=better, protocol=protocol)
    return made


def front(entries, cost):
    mark_pareto(entries)
    return "".join(sorted(e.name for e in entries if f"q/{cost}" in e.pareto))


def test_the_pareto_front_is_what_no_other_model_beats():
    """Drawn by hand: A and C are corners, B is above their line but not beaten, D is beaten by A, E by C."""
    down = [
        entry("A", 10, 30.0),
        entry("B", 20, 25.0),
        entry("C", 30, 10.0),
        entry("D", 11, 30.0),
        entry("E", 40, 10.0),
    ]
    assert front(down, "parameters") == "ABC"
    assert front(down, "macs") == "E", "macs run the other way here: the largest E is cheapest and as good as the best"
    assert front(down, "seconds") == ""
    up = [entry("A", 10, 30.0, better="up"), entry("B", 20, 25.0, better="up"), entry("C", 30, 40.0, better="up")]
    assert front(up, "parameters") == "AC"


def test_figures_of_two_protocols_are_not_compared():
    entries = [entry("A", 10, 10.0), entry("B", 20, 20.0, protocol="shortened"), entry("C", 30, 30.0)]
    assert front(entries, "parameters") == "AB"


def test_a_recognisers_own_test_result_is_read_beside_its_export(made, tmp_path):
    folder = tmp_path / "result/asr"
    export(folder / "export", random_encoder(CONFIG, seed=5), self_pinching={"kinds": ["int"]})
    (folder / "test.json").write_text(json.dumps({"wer": 0.125, "edits": 1, "words": 8, "utterances": {}}))
    found = joined(tmp_path / "result")
    assert by_name(found)["asr"]["qualities"]["CTC wer"] == {
        "value": 12.5,
        "better": "down",
        "protocol": "fine-tuned whole",
        "runs": 1,
        "spread": None,
    }
    assert any(note.startswith("CTC wer: of recognisers fine-tuned as a whole") for note in found["notes"])


def test_several_protocols_of_one_figure_are_refused(made, tmp_path):
    root, hashes = made
    result(tmp_path / "results/a/asr", hashes["ragged"], 20.0)
    result(tmp_path / "results/b/asr", hashes["ragged"], 20.0, protocol="official")
    with pytest.raises(
        UserError, match="ragged: its results of asr cer are of several protocols, \\['official', 'shortened'\\]"
    ):
        joined(root / "result", tmp_path / "results")


def test_no_model_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no exported model found"):
        joined(tmp_path)


def test_the_table_is_the_same_in_csv_and_markdown(data):
    rows = list(csv.DictReader(io.StringIO(tradeoff_report.as_csv(data))))
    assert {row["name"]: float(row["asr cer"]) for row in rows} == {"dense tiny": 10.0, "ragged": 21.0, "sparse": 15.0}
    assert (
        rows[0]["asr cer protocol"] == "shortened"
        and {row["name"]: row["asr cer runs"] for row in rows}["ragged"] == "2"
    )
    lines = [line for line in tradeoff_report.markdown(data).splitlines() if line.startswith("|")]
    assert lines[0].startswith(
        "| model | mini-score, higher is better | ASR CER (%), lower is better | ASR WER (%), lower is better | method "
        "| rate | parameters (M) | parameters not zero (M) | MACs (G) | time (ms) | speed |"
    )
    (ragged,) = [line for line in lines if "| heads (l1) + rows |" in line]
    assert "RANDOM TEACHER" in ragged and "**21.00 ± 1.41**" in ragged, "the cheapest model is on the front"


def test_the_page_holds_everything_itself_and_escapes_names(data, tmp_path):
    changed = json.loads(json.dumps(data))
    changed["entries"][1]["name"] = "<script>alert(1)</script>"
    paths = {path.suffix: path for path in tradeoff_report.write(changed, tmp_path / "report")}
    text = paths[".html"].read_text()
    assert text.count("<script") == 1 and "&lt;script&gt;" in text
    assert "class=pareto" in text and "RANDOM TEACHER" in text
    assert (tmp_path / "report/tradeoff_asr_cer.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="exists already"):
        tradeoff_report.write(changed, tmp_path / "report")


def test_what_is_left_out_is_told_once_in_one_line():
    notes = [
        "time: M, 1 thread(s)",
        *(f"mini-score leaves out {task}: fbank or teacher has no result" for task in ("asr", "qbe")),
        "mini-score leaves out ks: teacher is no better than fbank",
        "no result is of these weights: dense tiny, other",
    ]
    assert tradeoff_report.left_out(notes) == (
        "Left out: of the mini-score ASR, QbE (fbank or teacher has no result), KS (teacher is no better than fbank); "
        "no result is of these weights: dense tiny, other."
    )
    assert tradeoff_report.left_out(notes[:1]) is None


def test_a_document_of_before_spreads_takes_them_from_its_timing(data):
    old = json.loads(json.dumps(data))
    for entry, row in zip(old["entries"], old["timing"]["results"]):
        del entry["seconds_spread"], entry["speed_spread"], entry["command"]
        row |= {"seconds_spread": 0.004, "ratio_spread": 0.3}
    for entry, row in zip(data["entries"], tradeoff_report.table(old).rows):
        assert row[-2:] == [f"{1e3 * entry['seconds']:,.3f} ± 2.000", f"{entry['speed']:.2f} ± 0.15"]


def test_times_go_into_the_cards_of_exports_that_still_have_these_weights(data, made, tmp_path):
    shutil.copytree(made[0] / "result", tmp_path / "result")
    moved = json.loads(json.dumps(data).replace(str(made[0]), str(tmp_path)))
    ragged, sparse = (tmp_path / f"result/pretrain/x/{name}/export" for name in ("ragged", "sparse"))
    before = {path: path.read_bytes() for path in ragged.iterdir() if path.name != "README.md"}
    card = (ragged / "README.md").read_text()
    (sparse / "model.safetensors").write_bytes(b"others")
    assert write_times(moved) == [ragged / "README.md"]
    timed = (ragged / "README.md").read_text()
    row = by_name(data)["ragged"]
    assert f"| 5 s, one utterance | {1e3 * row['seconds']:,.3f}" in timed and "Not measured" not in timed
    assert f"Measured on {data['timing']['machine']}, 1 thread, float32" in timed
    kept = [line for line in card.splitlines() if "tradeoff" not in line and "Not measured" not in line]
    assert [line for line in kept if line not in timed.splitlines()] == []
    assert {path: path.read_bytes() for path in before} == before
    write_times(moved)
    assert (ragged / "README.md").read_text() == timed, "written again, it is the same"


def test_the_command_joins_draws_and_prints_again(made, tmp_path):
    root, _ = made

    def call(*arguments):
        command = [sys.executable, "tools/tradeoff.py", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)

    first = call(root / "result", root / "results", "--repeats", 0, "--output", tmp_path / "out")
    assert first.returncode == 0, first.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "tradeoff.json",
        "tradeoff.csv",
        "tradeoff.md",
        "tradeoff.html",
    }
    again = call("--table", tmp_path / "out/tradeoff.json")
    assert again.stdout == (tmp_path / "out/tradeoff.md").read_text() and again.stdout in first.stdout
    refused = call(root / "result", "--repeats", 0, "--output", tmp_path / "out")
    assert refused.returncode == 2 and "exists already" in refused.stderr
    with pytest.raises(SystemExit, match="2"):
        tradeoff.main([str(root / "result"), "--repeats", "0", "--cards"])
    with pytest.raises(UserError, match="must be the JSON document of tools/tradeoff.py, but lacks"):
        tradeoff_report.check_document({"task": "asr"}, "result.json")


@pytest.mark.parametrize(
    "provenance, name",
    [
        (recipe(compress={"techniques": ["low_rank"], "ranks": "energy"}), "low_rank (energy)"),
        (recipe(gates={"kinds": ["mha", "qk"], "straight_through": False}), "hard concrete (mha, qk) without STE"),
        (recipe(gates={"kinds": ["mha"]}, self_pinching={"kinds": ["head", "int"]}), "self-pinching (head, int)"),
        ({"method": "converted, not pruned"}, "converted, not pruned"),
        ({**recipe(compress={"techniques": ["rows"]}), "int8_error": 0.1}, "rows + int8"),
    ],
)
def test_methods_have_short_names(provenance, name):
    assert method_name(provenance) == name


def test_pictures_hold_a_point_for_each_model_and_its_front(data):
    figure = quality_against_costs(data, "asr cer")
    assert len(figure.axes) == 4  # parameters, those not zero, MACs, time
    drawn = {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}
    assert set(drawn) == {"dense", "heads (l1) + rows", "magnitude", "Pareto front"}
    assert torch.tensor(drawn["Pareto front"])[:, 1].tolist() == [21.0, 10.0], "of equal parameters the better stays"
