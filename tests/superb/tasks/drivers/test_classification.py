"""KS, SID and IC from the command line to the result, run by s3prl on tiny corpora in the official layouts."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.results.result import read_result
from s3prl_pruned.superb.tasks.drivers.classification import compare_predictions, logged_accuracy
from tests.superb.pieces import assert_pieces_give_the_result
from tests.superb_corpora import make_fluent_commands, make_speech_commands, make_voxceleb1, tiny

TASKS = {
    "ks": (make_speech_commands, tiny(batch_size=4), {"train": 13, "dev": 13, "test": 12}),
    "sid": (make_voxceleb1, tiny(train_batch_size=2), {"train": 4, "dev": 4, "test": 4}),
    "ic": (make_fluent_commands, tiny(train_batch_size=2, eval_batch_size=2), {"train": 6, "dev": 3, "test": 5}),
}


@pytest.fixture(scope="module", params=TASKS)
def finished(request, command, workplace):
    """A finished task, its output, and a function that calls its command again."""
    make, settings, sizes = TASKS[request.param]
    corpus = make(workplace / f"corpus_{request.param}")

    def again(*options):
        return command("-d", request.param, "--corpus", corpus, "-o", settings, *options)

    return SimpleNamespace(
        name=request.param, sizes=sizes, printed=again(), again=again, folder=Path("results/fbank") / request.param
    )


def test_the_accuracy_is_that_of_s3prls_files_and_of_its_log(finished):
    result = read_result(finished.folder / "result.json")
    suffix = "csv" if finished.name == "ic" else "txt"
    predicted, truth = (
        (finished.folder / f"test_{kind}.{suffix}").read_text().splitlines() for kind in ("predict", "truth")
    )
    expected = sum(one == other for one, other in zip(predicted, truth)) / len(truth)
    assert len(truth) == finished.sizes["test"] == result.num_utterances
    assert [(value.name, value.value, value.unit) for value in result.metrics] == [
        ("acc", pytest.approx(expected), "fraction")
    ]
    log = (finished.folder / "log.log").read_text()
    (logged,) = re.findall(rf"^test at step {result.checkpoint.step}: (\S+)$", log, flags=re.MULTILINE)
    printed = {value.name: value.value for value in result.printed_by_s3prl}
    assert printed["acc_logged_while_training"] == float(logged) == pytest.approx(expected, abs=1e-6)
    assert f"{finished.name} test: ACC {100 * expected:.2f} %" in finished.printed
    assert_pieces_give_the_result(finished.folder)


def test_the_checkpoint_is_the_one_of_the_last_new_best_on_dev(finished):
    result = read_result(finished.folder / "result.json")
    best = re.findall(
        r"^New best on dev at step (\d+): (\S+)$", (finished.folder / "log.log").read_text(), flags=re.MULTILINE
    )
    if best:
        step, value = best[-1]
        assert (result.checkpoint.file, result.checkpoint.step) == ("dev-best.ckpt", int(step))
        assert result.checkpoint.dev.value == pytest.approx(float(value)) and result.checkpoint.dev.unit == "fraction"
    else:
        assert result.checkpoint.file == "states-4.ckpt" and "never got above 0" in result.checkpoint.rule
        assert result.checkpoint.dev is None


def test_sizes_and_settings_that_are_not_the_benchmarks_are_reported(finished):
    result = read_result(finished.folder / "result.json")
    assert {split.key: split.num_utterances for split in result.splits} == finished.sizes
    assert result.protocol == "custom"
    for difference in ("runner.total_steps", f"{finished.sizes['train']} utterances in train"):
        assert difference in result.protocol_note
    assert not any(word in result.protocol_note for word in ("root", "file_path", "meta_data"))


def test_the_best_on_dev_is_evaluated_although_another_came_later(finished):
    """As if the best checkpoint of the training were at step 2."""
    states = torch.load(finished.folder / "states-2.ckpt", weights_only=True)
    states["Downstream"]["best_score"].fill_(0.75)
    target = finished.folder / "dev-best.ckpt"
    kept = target.read_bytes() if target.is_file() else None
    torch.save(states, target)
    try:
        finished.again("-m", "evaluate", "--force")
    finally:
        target.write_bytes(kept) if kept else target.unlink()
    checkpoint = read_result(finished.folder / "result.json").checkpoint
    assert (checkpoint.file, checkpoint.step, checkpoint.dev.value) == ("dev-best.ckpt", 2, 0.75)
    assert checkpoint.rule == "highest accuracy on dev"


def test_a_finished_task_says_so(finished):
    assert "finished before with the same settings, model and corpus; nothing to do" in finished.again()


def test_the_development_set_is_evaluated_beside_the_test_set(finished):
    finished.again("-m", "evaluate", "-t", "dev")
    result = read_result(finished.folder / "result-dev.json")
    assert (result.split, result.num_utterances) == ("dev", finished.sizes["dev"])


def test_a_split_that_the_task_lacks_is_refused(finished):
    with pytest.raises(UserError, match=f"-t test-clean: {finished.name} has the splits dev, test"):
        finished.again("-t", "test-clean")
    with pytest.raises(UserError, match=f"-m inference: s3prl's {finished.name} has none"):
        finished.again("-m", "inference", "-t", __file__)


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_predictions_count_by_line_and_of_the_same_utterances_only(tmp_path):
    truth = write(tmp_path / "test_truth.txt", "a yes", "b no", "b no", "c up")
    assert compare_predictions(write(tmp_path / "p.txt", "a yes", "b up", "b no", "c no"), truth) == [
        True,
        False,
        True,
        False,
    ]
    table = write(tmp_path / "truth.csv", "a,change language,none,none", "b,bring,shoes,none")
    answer = write(tmp_path / "predict.csv", "a,change language,none,none", "b,bring,juice,none")
    assert compare_predictions(answer, table) == [True, False]
    for lines in (["a yes", "b no"], ["a yes", "c no", "b no", "b up"], []):
        with pytest.raises(
            UserError, match="must hold the utterances of test_truth.txt in the same order .4., but holds"
        ):
            compare_predictions(write(tmp_path / "p.txt", *lines), truth)
    with pytest.raises(UserError, match="absent.txt: cannot be read"):
        compare_predictions(tmp_path / "absent.txt", truth)


def test_the_logged_value_is_that_of_the_checkpoints_step_not_of_a_later_evaluation(tmp_path):
    from argparse import Namespace

    from s3prl_pruned import compat

    compat.apply()
    torch.save({"Args": Namespace(), "Config": {}, "Step": 20}, tmp_path / "dev-best.ckpt")
    evaluation = SimpleNamespace(checkpoint=tmp_path / "dev-best.ckpt", run=SimpleNamespace(folder=tmp_path))
    assert logged_accuracy(evaluation, "test") is None
    write(
        tmp_path / "log.log", "New best on dev at step 20: 0.5", "test at step 20: 0.1", "test at step 20: 0.25",
        "test at step 200: 0.75", "test at step 0: 0.99", "dev at step 20: 0.5",
    )  # fmt: skip
    assert logged_accuracy(evaluation, "test") == 0.25
