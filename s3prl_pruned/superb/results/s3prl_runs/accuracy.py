"""KS, SID, IC and ER of a run directory of s3prl: the test accuracy in ``log.log``."""

from __future__ import annotations

import math
import re
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import TASKS, Value
from s3prl_pruned.superb.results.s3prl_runs.files import NUMBER, read_lines, read_settings
from s3prl_pruned.superb.results.s3prl_runs.found import FoundMetrics, Unfinished

NUM_FOLDS = 5


def best_on_dev(folder: Path) -> FoundMetrics:
    """KS, SID, IC: the test accuracy at the step of the last `New best on dev at step N`, that of dev-best.ckpt.

    A later `-m evaluate` appends `test at step 0`, whichever checkpoint it evaluates.
    """
    log = folder / "log.log"
    best, tests = None, dict[int, float]()
    for line in read_lines(log) if log.is_file() else []:
        if match := re.fullmatch(rf"New best on dev at step (\d+): {NUMBER}", line):
            best = int(match[1])
        elif match := re.fullmatch(rf"test at step (\d+): {NUMBER}", line):
            tests[int(match[1])] = float(match[2])
    if best is None:
        raise Unfinished("log.log says no best on dev yet.")
    args = read_settings(folder).args
    evaluated = args.get("mode") == "evaluate" and Path(str(args.get("init_ckpt"))).name == "dev-best.ckpt"
    afterwards = tests.get(0) if evaluated else None
    accuracy = tests.get(best, afterwards)
    if accuracy is None:
        raise Unfinished(f"log.log has no test accuracy of step {best}, the best on dev; evaluate dev-best.ckpt.")
    if afterwards is not None and not math.isclose(accuracy, afterwards, abs_tol=1e-3):
        raise UserError(
            f"{log}: dev-best.ckpt, of step {best}, has a test accuracy of {accuracy} in training, but of {afterwards} "
            "evaluated afterwards. Two runs were written into one folder; keep one of them."
        )
    names = ("test_predict.txt", "test_predict.csv", "test_fold?_predict.txt")
    predictions = [path for name in names for path in folder.glob(name)]
    count = len(read_lines(predictions[0])) if len(predictions) == 1 else 0
    note = f"log.log, test at step {best}, the last best on dev" + ("" if best in tests else ", evaluated afterwards")
    return FoundMetrics(metrics=[Value(name="acc", value=accuracy, unit="fraction")], num_utterances=count, note=note)


def mean_of_folds(folders: list[Path]) -> FoundMetrics:
    """ER: the mean of the accuracies of the five folds, one directory each."""
    found: dict[str, FoundMetrics] = {}
    for folder in folders:
        fold = _fold_of(folder)
        if fold in found:
            raise UserError(f"{folder}: a second run of {fold}. Keep one of them.")
        found[fold] = best_on_dev(folder)
    if len(found) < NUM_FOLDS:
        raise Unfinished(f"the mean is of {NUM_FOLDS} folds, but here are {', '.join(sorted(found))} only.")
    accuracies = {fold: found[fold].metrics[0].value for fold in sorted(found)}
    for fold, accuracy in accuracies.items():
        TASKS["er"].metrics[0].check(Value(name="acc", value=accuracy, unit="fraction"), fold)
    listing = " ".join(f"{fold} {accuracy:.4f}" for fold, accuracy in accuracies.items())
    return FoundMetrics(
        metrics=[Value(name="acc", value=sum(accuracies.values()) / NUM_FOLDS, unit="fraction")],
        num_utterances=sum(result.num_utterances for result in found.values()),
        note=f"mean of five folds, log.log: {listing}",
    )


def _fold_of(folder: Path) -> str:
    """The fold, from the names of the prediction files, else from the settings."""
    names = [path.name for path in folder.glob("test_fold?_predict.txt")]
    named = {match[1] for name in names if (match := re.search(r"(fold[1-5])", name))}
    fold = next(iter(named)) if len(named) == 1 else read_settings(folder).expert("datarc", "test_fold")
    if len(named) > 1 or not re.fullmatch("fold[1-5]", str(fold)):
        says = f"says {', '.join(sorted(named))}" if named else f"says {fold}"
        raise UserError(f"{folder}: a run of ER must be of one fold, fold1 to fold5, but {says}.")
    return fold
