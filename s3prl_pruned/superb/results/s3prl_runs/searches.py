"""SV, SD and QbE of a run directory of s3prl: the best of several evaluations.

SV is the lowest EER over the saved checkpoints, SD the lowest DER over thresholds and median filters, QbE the MTWV of
the layer that is best on dev.
"""

from __future__ import annotations

import re
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import TASKS, Value
from s3prl_pruned.superb.metrics import der, mtwv
from s3prl_pruned.superb.results.s3prl_runs.files import NUMBER, captured_logs, printed_in, read_lines, read_settings
from s3prl_pruned.superb.results.s3prl_runs.found import FoundMetrics, References, Unfinished


def lowest_eer(folder: Path) -> FoundMetrics:
    """SV: the lowest EER over the saved checkpoints, which the benchmark's script evaluates into states-N/.

    test_truth.txt is always empty, so test_predict.txt alone cannot be scored.
    """
    line = "sv-voxceleb1/test-EER: "
    logs = {path.parent.name: printed_in(path, line) for path in sorted(folder.glob("states-*/log.txt"))}
    rates = {name: values[-1] for name, values in logs.items() if values}
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
    return FoundMetrics(
        metrics=[Value(name="eer", value=rates[best], unit="fraction")],
        num_utterances=len(read_lines(predictions)) if predictions else 0,
        note=f"lowest of {len(rates)} evaluated checkpoints, {best}",
    )


def lowest_der(folder: Path, references: References) -> FoundMetrics:
    """SD: the lowest of dscore's numbers where they exist; the `der` that s3prl prints is another measure."""
    rates = {}
    for path in sorted((folder / "scoring").glob("result_th*_med*")):
        for line in read_lines(path):
            if match := re.match(rf"\*\*\* OVERALL \*\*\*\s+{NUMBER}\s", line):
                rates[path.name.removeprefix("result_")] = float(match[1])
    if rates:
        best = min(rates, key=lambda name: rates[name])
        return FoundMetrics(
            metrics=[Value(name="der", value=rates[best], unit="percent")],
            num_utterances=len(list((folder / "scoring" / "predictions").glob("*.h5"))),
            note=f"dscore's lowest of {len(rates)} settings, {best}",
        )
    rttm = references.diarization
    if rttm is None and (test := read_settings(folder).expert("loaderrc", "test_dir")):
        rttm = Path(str(test)) / "rttm"
    if not any(folder.glob("scoring/predictions/*.h5")):
        raise Unfinished(
            "scoring/ holds neither dscore's results nor predictions; evaluate it on test (s3prl prints another DER)."
        )
    if rttm is None or (references.diarization is None and not rttm.is_file()):
        raise Unfinished(
            "scoring/ holds predictions without dscore's results; give the test set's rttm (--rttm) to score them."
        )
    found = der.score_run(folder, rttm)
    return FoundMetrics(
        metrics=[Value(name="der", value=100 * found.der, unit="percent")],
        num_utterances=found.num_recordings,
        note=f"computed from scoring/predictions: lowest of {len(found.errors)} settings, "
        f"threshold {found.threshold}, median {found.median}",
    )


def best_layer_on_dev(folders: list[Path], references: References) -> FoundMetrics:
    """QbE: the MTWV on test of the layer whose MTWV on dev is the greatest."""
    runs: dict[str, dict[int, Path]] = {"dev": {}, "test": {}}
    for folder in folders:
        layer, split = _layer_and_split(folder)
        if layer in runs[split]:
            raise UserError(
                f"{folder}: a second {split} run of layer {layer}, beside {runs[split][layer]}. Keep one of them."
            )
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
    return FoundMetrics(
        metrics=[Value(name="mtwv", value=test, unit="fraction")],
        num_utterances=0,
        note=f"layer {best}, the best of {len(dev)} on dev (MTWV {dev[best]:.4f})",
    )


def _layer_and_split(folder: Path) -> tuple[int, str]:
    """From the settings, else from the benchmark's folder names, such as ``ExpName_6_dev``."""
    args = read_settings(folder).args
    layer, split = args.get("upstream_layer_selection"), args.get("evaluate_split")
    if not isinstance(layer, int) and (match := re.search(r"(?:^|_)(-?\d+)_(dev|test)$", folder.resolve().name)):
        layer, split = int(match[1]), match[2]
    if not isinstance(layer, int) or split not in ("dev", "test"):
        raise UserError(
            f"{folder}: a run of QbE must be of one layer (-l) and of dev or test (-t), but is of layer {layer}, "
            f"{split}. Name it <name>_<layer>_<dev or test> if its args_*.yaml is lost."
        )
    return layer, split


def _mtwv(folder: Path, split: str, references: References) -> float:
    """The MTWV that the official scorer wrote; else scored here, if the corpus is available."""
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
