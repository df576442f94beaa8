"""Read what s3prl itself left in its run directories: every task keeps its numbers elsewhere, or only prints them.

| task | read is | unit |
|---|---|---|
| KS, SID, IC | ``log.log``: the test accuracy at the step of the last best on dev | fraction |
| ER | the same, in five directories, one per fold: their mean | fraction |
| ASR | ``test-clean-noLM-{hyp,ref}.ark``, else ``test-clean wer: `` in a captured log | percent |
| PR | ``test-{hyp,ref}.ark``, else ``test per: `` | fraction |
| SF | ``test-{hyp,ref}.ark``, else ``test slot_type_f1: `` and ``test slot_value_cer: `` | fraction |
| SV | ``sv-voxceleb1/test-EER: `` in ``states-*/log.txt``, ``report.txt`` or a captured log: the lowest | fraction |
| SD | ``scoring/result_th*_med*`` (dscore's output): the lowest; else computed from ``scoring/predictions`` | percent |
| QbE | ``score.out`` (the official scorer's) or ``benchmark.stdlist.xml``, of each layer on dev and test | fraction |

A captured log is what the user saved of s3prl's output, as ``*.log``, ``log.txt`` or ``out.txt``; s3prl's own ``log.log`` is not one.
Units are s3prl's, known per task. A run that lacks what its task needs is unfinished; one whose files contradict
each other is an error.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.foreign_files import (
    NUMBER, captured_logs, printed_in, printed_values, read_ark_pair, read_lines, read_settings,
)  # fmt: skip
from s3prl_pruned.superb.metrics import der, edits, mtwv
from s3prl_pruned.superb.results import error_rates
from s3prl_pruned.superb.tasks import TASKS, Task, Unit, Value

TOLERANCE = 1e-4
"""Percent, between a number that s3prl printed and the same recomputed from its files: it averages in float32."""
NUM_FOLDS = 5


class Unfinished(Exception):
    """Something is still to be run or scored; says what."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a run says of its task."""

    metrics: list[Value]
    num_utterances: int
    """How many were scored; 0 where s3prl left no trace of it."""
    note: str
    """Where the number comes from, and what was searched."""


@dataclass(frozen=True, kw_only=True)
class References:
    """What the user can point to where s3prl's directories do not suffice. None: as the run's ``config_*.yaml`` says."""

    quesst14: Path | None = None
    """``quesst14Database``, whose ``scoring`` holds the ground truth."""
    diarization: Path | None = None
    """The test set's ``rttm``."""


def task_of(folder: Path) -> Task | None:
    """The task of a run of s3prl: by its settings, else by a file that only this task writes."""
    settings = read_settings(folder)
    downstream = settings.args.get("downstream")
    matches = [task for task in TASKS.values() if task.downstream == downstream]
    if len(matches) == 2:  # ctc
        name = {"libriphone": "pr", "snips": "sf"}.get(settings.expert("corpus", "name"))
        return TASKS.get(name) if name else None
    if matches:
        return matches[0]
    only = {"asr": "test-clean-noLM-*.ark", "qbe": mtwv.STDLIST, "sd": "scoring/predictions", "er": "test_fold?_predict.txt"}
    return next((TASKS[name] for name, pattern in only.items() if any(folder.glob(pattern))), None)


def read_foreign(folders: list[Path], task: Task, references: References = References()) -> Found:
    """The metrics of a run of s3prl.

    Args:
        folders: one; for ER one per fold, for QbE one per layer and split.
        task: which task it is of.
        references: for the tasks that s3prl does not score itself.

    Raises:
        Unfinished: if something is still to be run or scored.
        UserError: if files are damaged or contradict each other, or a value is impossible.
    """
    if task.name == "er":
        found = _folds(folders)
    elif task.name == "qbe":
        found = _layers(folders, references)
    elif len(folders) > 1:
        raise UserError(f"{folders[1]}: a second run of task {task.name} beside {folders[0]}. Keep one of them.")
    elif task.name in ("ks", "sid", "ic"):
        found = _best_on_dev(folders[0])
    elif task.name in ("asr", "pr", "sf"):
        found = _transcripts(folders[0], task)
    else:
        found = {"sv": _verification, "sd": _diarization}[task.name](folders[0], references)
    counted = {metric.name: metric for metric in task.metrics}
    for value in found.metrics:
        if value.name in counted:
            counted[value.name].check(value, str(folders[0]))
    return found


def _best_on_dev(folder: Path) -> Found:
    """The last `New best on dev at step N` is what dev-best.ckpt holds; the test accuracy at N is reported.

    A later `-m evaluate` appends `test at step 0`, of whichever checkpoint it was given.
    """
    log = folder / "log.log"
    best, tests = None, {}
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
    predictions = [*folder.glob("test_predict.txt"), *folder.glob("test_predict.csv"), *folder.glob("test_fold?_predict.txt")]
    count = len(read_lines(predictions[0])) if len(predictions) == 1 else 0
    note = f"log.log, test at step {best}, the last best on dev" + ("" if best in tests else ", evaluated afterwards")
    return Found(metrics=[Value(name="acc", value=accuracy, unit="fraction")], num_utterances=count, note=note)


def _folds(folders: list[Path]) -> Found:
    found: dict[str, Found] = {}
    for folder in folders:
        fold = _fold_of(folder)
        if fold in found:
            raise UserError(f"{folder}: a second run of {fold}. Keep one of them.")
        found[fold] = _best_on_dev(folder)
    if len(found) < NUM_FOLDS:
        raise Unfinished(f"the mean is of {NUM_FOLDS} folds, but here are {', '.join(sorted(found))} only.")
    accuracies = {fold: found[fold].metrics[0].value for fold in sorted(found)}
    for fold, accuracy in accuracies.items():
        TASKS["er"].metrics[0].check(Value(name="acc", value=accuracy, unit="fraction"), fold)
    return Found(
        metrics=[Value(name="acc", value=sum(accuracies.values()) / NUM_FOLDS, unit="fraction")],
        num_utterances=sum(result.num_utterances for result in found.values()),
        note="mean of five folds, log.log: " + " ".join(f"{fold} {accuracy:.4f}" for fold, accuracy in accuracies.items()),
    )


def _fold_of(folder: Path) -> str:
    """By the predictions, which carry it in their names, else by the settings."""
    named = {match[1] for path in folder.glob("test_fold?_predict.txt") if (match := re.search(r"(fold[1-5])", path.name))}
    fold = next(iter(named)) if len(named) == 1 else read_settings(folder).expert("datarc", "test_fold")
    if len(named) > 1 or not re.fullmatch("fold[1-5]", str(fold)):
        says = f"says {', '.join(sorted(named))}" if named else f"says {fold}"
        raise UserError(f"{folder}: a run of ER must be of one fold, fold1 to fold5, but {says}.")
    return fold


def _transcripts(folder: Path, task: Task) -> Found:
    names = [metric.name for metric in task.metrics]
    printed = {}
    for name in names:
        values = printed_values(folder, f"{task.test_split} {name}: ")
        if values:
            printed[name] = values[-1]
    stem = f"{task.test_split}-noLM" if task.name == "asr" else task.test_split
    unit: Unit = task.metrics[0].printed
    paths = [folder / f"{stem}-{kind}.ark" for kind in ("hyp", "ref")]
    if not any(path.is_file() for path in paths):
        if len(printed) < len(names):
            line = f"{task.test_split} {names[0]}: "
            raise Unfinished(f"neither {stem}-hyp.ark nor a captured log with `{line}`; evaluate it on test.")
        values = [Value(name=name, value=printed[name], unit=unit) for name in names]
        return Found(metrics=values, num_utterances=0, note="as s3prl printed it")
    hypotheses, references = read_ark_pair(*paths)
    if task.name == "asr":
        values = error_rates(hypotheses, references)
    elif task.name == "pr":
        values = [Value(name="per", value=edits.phone_error_rate(hypotheses, references), unit=unit)]
    else:
        values = [
            Value(name="slot_type_f1", value=edits.slot_type_f1(hypotheses, references), unit=unit),
            Value(name="slot_value_cer", value=edits.slot_value_cer(hypotheses, references), unit=unit),
        ]
    for value in values:
        if value.name in printed:
            said = Value(name=value.name, value=printed[value.name], unit=unit)
            if not abs(said.percent - value.percent) <= TOLERANCE:
                raise UserError(
                    f"{folder}: s3prl printed {value.name} {said.value}, but {paths[0].name} gives {value.value}. "
                    "They are of two evaluations; keep one of them."
                )
    return Found(metrics=values, num_utterances=len(references), note=f"computed from {paths[0].name}")


def _verification(folder: Path, _: References) -> Found:
    """The lowest over saved checkpoints, each evaluated into states-N/ by the benchmark's script.

    test_truth.txt is always empty, so test_predict.txt alone cannot be scored.
    """
    line = "sv-voxceleb1/test-EER: "
    rates = {path.parent.name: values[-1] for path in sorted(folder.glob("states-*/log.txt")) if (values := printed_in(path, line))}
    if not rates and (folder / "report.txt").is_file():
        for text in read_lines(folder / "report.txt"):
            if match := re.fullmatch(rf"(?:.*/)?([^/]+)/log\.txt:{line}{NUMBER}", text):
                rates[match[1]] = float(match[2])
    if not rates:
        values = [value for path in captured_logs(folder) for value in printed_in(path, line)]
        rates = {f"evaluation {number}": value for number, value in enumerate(values, start=1)}
    if not rates:
        raise Unfinished(f"no checkpoint was evaluated: no states-*/log.txt, report.txt or captured log with `{line}`.")
    for name, rate in rates.items():
        TASKS["sv"].metrics[0].check(Value(name="eer", value=rate, unit="fraction"), f"{folder} {name}")
    best = min(rates, key=lambda name: rates[name])
    predictions = next(iter(sorted(folder.glob("**/test_predict.txt"))), None)
    return Found(
        metrics=[Value(name="eer", value=rates[best], unit="fraction")],
        num_utterances=len(read_lines(predictions)) if predictions else 0,
        note=f"lowest of {len(rates)} evaluated checkpoints, {best}",
    )


def _diarization(folder: Path, references: References) -> Found:
    """dscore's numbers where they are; s3prl's printed `der` is another measure."""
    rates = {}
    for path in sorted((folder / "scoring").glob("result_th*_med*")):
        for line in read_lines(path):
            if match := re.match(rf"\*\*\* OVERALL \*\*\*\s+{NUMBER}\s", line):
                rates[path.name.removeprefix("result_")] = float(match[1])
    if rates:
        best = min(rates, key=lambda name: rates[name])
        return Found(
            metrics=[Value(name="der", value=rates[best], unit="percent")],
            num_utterances=len(list((folder / "scoring" / "predictions").glob("*.h5"))),
            note=f"dscore's lowest of {len(rates)} settings, {best}",
        )
    rttm = references.diarization
    if rttm is None and (test := read_settings(folder).expert("loaderrc", "test_dir")):
        rttm = Path(str(test)) / "rttm"
    if not any(folder.glob("scoring/predictions/*.h5")):
        raise Unfinished(
            "scoring/ holds neither dscore's results nor predictions; evaluate it on test (what it prints is another DER)."
        )
    if rttm is None or (references.diarization is None and not rttm.is_file()):
        raise Unfinished("scoring/ holds predictions without dscore's results; give the test set's rttm (--rttm) to score them.")
    found = der.score_run(folder, rttm)
    return Found(
        metrics=[Value(name="der", value=100 * found.der, unit="percent")],
        num_utterances=found.num_recordings,
        note=f"computed from scoring/predictions: lowest of {len(found.errors)} settings, threshold {found.threshold}, "
        f"median {found.median}",
    )


def _layers(folders: list[Path], references: References) -> Found:
    """Of every layer's MTWV on dev the greatest; its test run is reported."""
    runs: dict[str, dict[int, Path]] = {"dev": {}, "test": {}}
    for folder in folders:
        layer, split = _layer_and_split(folder)
        if layer in runs[split]:
            raise UserError(f"{folder}: a second {split} run of layer {layer}, beside {runs[split][layer]}. Keep one of them.")
        runs[split][layer] = folder
    dev = {layer: _mtwv(folder, "dev", references) for layer, folder in runs["dev"].items()}
    if not dev:
        raise Unfinished("the layer is chosen on dev, but only test was run.")
    for layer, value in dev.items():
        TASKS["qbe"].metrics[0].check(Value(name="mtwv", value=value, unit="fraction"), f"{runs['dev'][layer]}")
    best = mtwv.best_layer(dev)
    if best not in runs["test"]:
        raise Unfinished(f"layer {best} is the best on dev, but test was not run on it.")
    test = _mtwv(runs["test"][best], "eval", references)
    return Found(
        metrics=[Value(name="mtwv", value=test, unit="fraction")],
        num_utterances=0,
        note=f"layer {best}, the best of {len(dev)} on dev (MTWV {dev[best]:.4f})",
    )


def _layer_and_split(folder: Path) -> tuple[int, str]:
    """By the settings, else by the benchmark's folder names, such as ``ExpName_6_dev``."""
    args = read_settings(folder).args
    layer, split = args.get("upstream_layer_selection"), args.get("evaluate_split")
    if not isinstance(layer, int) and (match := re.search(r"(?:^|_)(-?\d+)_(dev|test)$", folder.resolve().name)):
        layer, split = int(match[1]), match[2]
    if not isinstance(layer, int) or split not in ("dev", "test"):
        raise UserError(
            f"{folder}: a run of QbE must be of one layer (-l) and of dev or test (-t), but is of layer {layer}, {split}. "
            "Name it <name>_<layer>_<dev or test> if its args_*.yaml is lost."
        )
    return layer, split


def _mtwv(folder: Path, split: str, references: References) -> float:
    """What the official scorer wrote; else scored here, where the corpus is at hand."""
    if (folder / "score.out").is_file():
        for line in read_lines(folder / "score.out"):
            if match := re.match(rf"actTWV: {NUMBER}\s+maxTWV: {NUMBER}\s", line, flags=re.IGNORECASE):
                return float(match[2])
        raise UserError(f"{folder / 'score.out'}: must hold a line `actTWV: .. maxTWV: ..`. Run the scorer again.")
    root = references.quesst14 or read_settings(folder).expert("datarc", "dataset_root")
    truth = Path(str(root)) / "scoring" / f"groundtruth_quesst14_{split}"
    if not (folder / mtwv.STDLIST).is_file():
        raise Unfinished(f"{folder} holds neither score.out nor {mtwv.STDLIST}.")
    if references.quesst14 is None and not truth.is_dir():
        raise Unfinished(f"{folder} has no score.out; give quesst14Database (--quesst14) to score its {mtwv.STDLIST}.")
    return mtwv.score_stdlist(folder / mtwv.STDLIST, truth).mtwv
