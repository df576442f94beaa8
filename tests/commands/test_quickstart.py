"""The quickstart types what a user types, stops where a command stops, and shows what the files say."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from s3prl_pruned.commands import run_quickstart as quickstart
from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import model_hash, save_encoder
from s3prl_pruned.models.dummies import random_encoder, random_spec
from s3prl_pruned.superb.catalogue import Value
from s3prl_pruned.superb.results.result import Result, Seconds, Upstream, write_result
from tests.tiny_run import tiny_wavlm

ROOT = Path(__file__).resolve().parents[2]
EXPORT = Path("result/pretrain/wavlm_pruned_distill/embedded/export")
STUB = """
import sys
open("calls.txt", "a").write(" ".join(sys.argv) + "\\n")
print("output of", sys.argv[0])
"""


def write_asr(name, cer, *, path=None, note=None):
    folder = Path("results") / name / "asr"
    folder.mkdir(parents=True, exist_ok=True)
    sha256 = model_hash(path) if path else None
    metrics = [Value(name="wer", value=2 * cer, unit="percent"), Value(name="cer", value=cer / 100, unit="fraction")]
    upstream = Upstream(name=name, sha256=sha256, path=str(path) if path else None, teacher_note=note)
    write_result(
        folder / "result.json",
        Result(
            task="asr",
            split="test-clean",
            num_utterances=50,
            metrics=metrics,
            printed_by_s3prl=[],
            protocol="shortened",
            upstream=upstream,
            seconds=Seconds(evaluate=1.0),
        ),
    )


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder with stand-ins for the commands, and the files that the real ones would leave."""
    monkeypatch.chdir(tmp_path)
    Path("tools").mkdir()
    for script in ("run_pretrain.py", "run_downstream.py", "tools/superb_score.py"):
        Path(script).write_text(STUB)
    config = tiny_wavlm()
    save_encoder("teacher", random_encoder(config, seed=0), {"teacher_note": "random teacher"})
    provenance = {
        "teacher_note": "random teacher",
        "teacher": {"name": "t", "sha256": model_hash("teacher")},
        "sparsity": {"target": 0.8},
    }
    save_encoder(EXPORT, random_encoder(config, seed=1, spec=random_spec(config, seed=4)), provenance)
    (EXPORT.parent / "figures").mkdir()
    (EXPORT.parent / "figures" / "mask_averages.png").write_bytes(b"")
    write_asr("fbank", 35.25)
    write_asr("wavlm_embedded", 31.5, path=Path("teacher"), note="random teacher")
    write_asr("wavlm_pruned", 33.0, path=EXPORT, note="random teacher")
    return tmp_path


def test_the_commands_are_those_that_a_user_types(clone, capfd):
    assert quickstart.run_quickstart() == 0
    assert Path("calls.txt").read_text().splitlines() == [
        "run_pretrain.py -u wavlm_pruned_distill -a",
        "run_downstream.py -u fbank -d asr -a",
        "run_downstream.py -u wavlm_embedded -d asr -a",
        "run_downstream.py -u wavlm_pruned -d asr -a",
        "tools/superb_score.py results/",
    ]
    said = capfd.readouterr().out
    assert "[2/5] speech recognition on FBANK: python run_downstream.py -u fbank -d asr -a" in said


def test_the_screen_shows_the_files_numbers_and_is_kept_as_json_and_markdown(clone, capfd):
    assert quickstart.run_quickstart() == 0
    screen = capfd.readouterr().out
    kept = Path("result/quickstart.md").read_text()
    assert kept in screen
    data = json.loads(Path("result/quickstart.json").read_text())
    assert data["recognition"]["FBANK"]["cer"] == pytest.approx(35.25)
    assert data["recognition"]["teacher"]["wer"] == 63.0 and data["recognition"]["pruned"]["cer"] == pytest.approx(33.0)
    before = random_encoder(tiny_wavlm(), seed=0).num_parameters()
    after = random_encoder(tiny_wavlm(), seed=0, spec=random_spec(tiny_wavlm(), seed=4)).num_parameters()
    assert data["parameters"] == [before, after] and data["macs"][0] > data["macs"][1] > 0
    for shown in (
        f"{before:,}",
        f"{after:,}",
        "35.2 %",
        "66.0 %",
        f"{100 * data['realised_sparsity']:.1f} %",
        "shortened protocol",
        "    output of tools/superb_score.py",
        "mask_averages.png",
        model_hash(EXPORT)[:12],
    ):
        assert shown in kept, shown
    for seconds in (1.0, 5.0):
        (result,) = [r for r in data["timing"]["results"] if r["name"] == "pruned" and r["length_s"] == seconds]
        assert f"{result['ratio']:.2f} times as fast" in kept
    assert data["timing"]["baseline"] == "teacher"


def test_a_random_teacher_is_named_in_title_and_columns(clone):
    quickstart.run_quickstart()
    lines = Path("result/quickstart.md").read_text().splitlines()
    assert "RANDOM TEACHER" in lines[0]
    assert "teacher (RANDOM TEACHER)" in lines[2] and "pruned (RANDOM TEACHER)" in lines[2]
    write_asr("wavlm_embedded", 31.5, path=Path("teacher"))
    write_asr("wavlm_pruned", 33.0, path=EXPORT)
    quickstart.run_quickstart()
    assert "RANDOM" not in Path("result/quickstart.md").read_text()


def test_a_pruned_model_of_another_teacher_is_said(clone):
    quickstart.run_quickstart()
    assert "made from other weights" not in Path("result/quickstart.md").read_text()
    save_encoder("other", random_encoder(tiny_wavlm(), seed=9), {})
    write_asr("wavlm_embedded", 31.5, path=Path("other"))
    quickstart.run_quickstart()
    assert "NOTE: the pruned model was made from other weights" in Path("result/quickstart.md").read_text()


def test_what_stood_already_is_said_and_what_did_not_is_not(clone, capfd):
    (clone / "results/fbank/asr/result.json").rename(clone / "kept.json")
    Path("run_downstream.py").write_text(
        STUB + "import shutil\nif 'fbank' in sys.argv: shutil.copy('kept.json', 'results/fbank/asr/result.json')\n"
    )
    assert quickstart.run_quickstart() == 0
    kept = {
        line.split("  ")[-1]
        for line in Path("result/quickstart.md").read_text().splitlines()
        if line.startswith("time ")
    }
    assert "speech recognition on FBANK" in kept
    assert "speech recognition on the pruned model (stood already)" in kept
    assert "[1/5] reused" in capfd.readouterr().out


@pytest.mark.parametrize(
    "ending, status, said",
    [
        ("sys.exit(3)", 3, "ended with exit status 3"),
        ("import os; os.kill(os.getpid(), 9)", 137, "was killed by signal 9"),
    ],
)
def test_a_failing_command_stops_all_with_its_exit_status(clone, capfd, ending, status, said):
    Path("run_downstream.py").write_text(STUB + ending)
    assert quickstart.run_quickstart() == status
    assert len(Path("calls.txt").read_text().splitlines()) == 2, "nothing ran after it"
    error = capfd.readouterr().err
    assert f"error: speech recognition on FBANK: `python run_downstream.py -u fbank -d asr -a` {said}" in error
    assert not Path("result/quickstart.json").exists()


def test_a_failing_last_command_still_shows_what_it_said(clone, capfd):
    Path("tools/superb_score.py").write_text(STUB + "sys.exit(2)")
    assert quickstart.run_quickstart() == 2
    assert "output of tools/superb_score.py" in capfd.readouterr().out


def test_ctrl_c_waits_until_the_command_has_saved(clone):
    Path("run_pretrain.py").write_text(
        "import signal, sys, time\n"
        "def save(*_):\n    time.sleep(1)\n    open('saved', 'w').close()\n    sys.exit(130)\n"
        "signal.signal(signal.SIGINT, save)\nopen('running', 'w').close()\ntime.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, ROOT / "tools" / "quickstart.py"],
        cwd=clone,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    while not (clone / "running").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, error = process.communicate(timeout=30)
    assert (clone / "saved").exists() and process.returncode == 130
    assert "ended with exit status 130. The run is saved; the same command resumes it." in error


def test_a_pruned_model_that_changed_since_is_refused(clone):
    weights = EXPORT / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(UserError, match="is no longer the model whose recognition is in results"):
        quickstart.run_quickstart()


def test_another_folder_than_the_clones_root_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="must be the root of the clone, but has no run_pretrain.py"):
        quickstart.run_quickstart()


def test_the_real_parts_commands_exist_in_the_repository():
    for part in quickstart.PARTS:
        assert (ROOT / part.command[1]).is_file(), part.command[1]
