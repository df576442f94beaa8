"""Read s3prl's own run directories: every task saves its metrics in other files, or only prints them.

| task | what is read | unit |
|---|---|---|
| KS, SID, IC | ``log.log``: the test accuracy at the step of the last best on dev | fraction |
| ER | the same, in five directories, one per fold: their mean | fraction |
| ASR | ``test-clean-noLM-{hyp,ref}.ark``, else ``test-clean wer: `` in a captured log | percent |
| PR | ``test-{hyp,ref}.ark``, else ``test per: `` | fraction |
| SF | ``test-{hyp,ref}.ark``, else ``test slot_type_f1: `` and ``test slot_value_cer: `` | fraction |
| SV | ``sv-voxceleb1/test-EER: `` in ``states-*/log.txt``, ``report.txt`` or a captured log: the lowest | fraction |
| SD | ``scoring/result_th*_med*`` (dscore's output): the lowest; else computed from ``scoring/predictions`` | percent |
| QbE | ``score.out`` (the official scorer's) or ``benchmark.stdlist.xml``, of each layer on dev and test | fraction |

A captured log is s3prl's output, saved by the user as ``*.log``, ``log.txt`` or ``out.txt``; s3prl's own ``log.log``
is not one. Units are s3prl's, known per task. A run without the files that its task needs is unfinished; files that
contradict each other are an error.
"""

from __future__ import annotations

from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import TASKS, Task
from s3prl_pruned.superb.metrics import mtwv
from s3prl_pruned.superb.results.s3prl_runs.accuracy import best_on_dev, mean_of_folds
from s3prl_pruned.superb.results.s3prl_runs.files import read_settings
from s3prl_pruned.superb.results.s3prl_runs.found import NO_REFERENCES, FoundMetrics, References
from s3prl_pruned.superb.results.s3prl_runs.searches import best_layer_on_dev, lowest_der, lowest_eer
from s3prl_pruned.superb.results.s3prl_runs.transcripts import transcript_metrics


def task_of(folder: Path) -> Task | None:
    """The task of a run of s3prl: from its settings, else from a file that only this task writes."""
    settings = read_settings(folder)
    downstream = settings.args.get("downstream")
    matches = [task for task in TASKS.values() if task.downstream == downstream]
    if len(matches) == 2:  # ctc
        name = {"libriphone": "pr", "snips": "sf"}.get(settings.expert("corpus", "name"))
        return TASKS.get(name) if name else None
    if matches:
        return matches[0]
    only = {
        "asr": "test-clean-noLM-*.ark",
        "qbe": mtwv.STDLIST,
        "sd": "scoring/predictions",
        "er": "test_fold?_predict.txt",
    }
    return next((TASKS[name] for name, pattern in only.items() if any(folder.glob(pattern))), None)


def read_s3prl_run(folders: list[Path], task: Task, references: References = NO_REFERENCES) -> FoundMetrics:
    """The metrics of a run of s3prl.

    Args:
        folders: one folder; for ER one per fold, for QbE one per layer and split.
        task: the task of the run.
        references: references for the tasks that s3prl does not score itself.

    Raises:
        Unfinished: if something is still to be run or scored.
        UserError: if files are damaged or contradict each other, or a value is impossible.
    """
    if task.name == "er":
        found = mean_of_folds(folders)
    elif task.name == "qbe":
        found = best_layer_on_dev(folders, references)
    elif len(folders) > 1:
        raise UserError(f"{folders[1]}: a second run of task {task.name} beside {folders[0]}. Keep one of them.")
    elif task.name in ("ks", "sid", "ic"):
        found = best_on_dev(folders[0])
    elif task.name in ("asr", "pr", "sf"):
        found = transcript_metrics(folders[0], task)
    elif task.name == "sv":
        found = lowest_eer(folders[0])
    else:
        assert task.name == "sd", f"no reader of s3prl's runs of {task.name}"
        found = lowest_der(folders[0], references)
    counted = {metric.name: metric for metric in task.metrics}
    for value in found.metrics:
        if value.name in counted:
            counted[value.name].check(value, str(folders[0]))
    return found
