"""One pass compared with two stages: three real tiny runs, and the report's numbers from the runs' own files."""

import pytest

from benchmarks.one_pass.comparison import Setting, compare, report
from s3prl_pruned.config import UserError
from s3prl_pruned.pretrain.asr.recognizer import read_test
from s3prl_pruned.pretrain.logging import read_log
from s3prl_pruned.report.figures import draw_run
from s3prl_pruned.report.live import draw_remaining
from tests.tiny_asr import Asr
from tests.tiny_run import TinyRecipe


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    root = tmp_path_factory.mktemp("one_pass")
    tiny = TinyRecipe(tmp_path_factory.mktemp("tiny"))
    asr = Asr(root, tiny.teacher)
    (root / "plain").mkdir()
    (root / "plain" / "config_model.yaml").write_text("self_pinching: null\n")
    (root / "plain" / "config_runner.yaml").write_text((asr.recipe / "config_runner.yaml").read_text())
    setting = Setting(
        one_pass=str(asr.recipe), prune=str(tiny.recipe), finetune=str(root / "plain"), steps=5, prune_steps=3,
        target_sparsity=0.5, options=("--corpus", str(asr.corpus), "--device", "cpu", "--teacher", str(asr.teacher)),
    )  # fmt: skip
    return setting, root / "runs", compare(setting, root / "runs")


def test_both_methods_take_the_same_steps_and_have_their_runs_numbers(compared):
    _, root, found = compared
    assert found.one_pass.steps == found.two_stages.steps == 5
    logs = {name: read_log(root / name)[-1] for name in ("one_pass", "prune", "finetune")}
    assert found.one_pass.seconds == logs["one_pass"]["train_seconds"] > 0
    assert found.two_stages.seconds == logs["prune"]["train_seconds"] + logs["finetune"]["train_seconds"]
    assert found.one_pass.sparsity == logs["one_pass"]["realised_sparsity"]
    assert found.two_stages.sparsity == pytest.approx(logs["finetune"]["realised_sparsity"], abs=1e-6)
    assert found.two_stages.sparsity == pytest.approx(0.5, abs=0.03), (
        "the second stage starts from the first one's export"
    )
    assert found.test.errors == (read_test(root / "one_pass")["edits"], read_test(root / "finetune")["edits"])
    assert found.test.words == 6


def test_the_report_has_both_methods_the_test_and_the_time(compared):
    text = report(compared[2])
    assert "| one pass | 5 |" in text and "| prune, then fine-tune | 5 |" in text
    assert "MAPSSWE: " in text and "p = " in text and "step time of the one pass: " in text


def test_finished_runs_are_kept(compared):
    setting, root, found = compared
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.ckpt")}
    assert compare(setting, root) == found
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.ckpt")} == before


def test_steps_that_leave_none_for_a_stage_are_refused(tmp_path):
    with pytest.raises(UserError, match="`prune_steps` must be from 1 to 4 of 5 steps, but is 5"):
        compare(Setting(steps=5, prune_steps=5, target_sparsity=0.5), tmp_path)


@pytest.mark.parametrize(("name", "with_masks"), [("one_pass", True), ("finetune", False)])
def test_the_figures_of_these_runs_show_their_data(compared, name, with_masks):
    folder = compared[1] / name
    assert draw_remaining(folder).is_file()
    pictures = {path.stem for path in draw_run(folder)}
    assert {"remaining_parameters", "remaining_value_dims"} <= pictures
    assert ("mask_averages" in pictures) is with_masks and "hard_concrete" not in pictures
