"""Write the folder that `test_written_by_0_1_0.py` reads: small things of every kind that a version leaves on a disk.

    python tests/compatibility/write.py FOLDER

Only for a new version's folder. `written_by_0_1_0/` was made once, by that version, and must stay as it is.
"""

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import yaml
from safetensors.numpy import save_file

from tests import tiny_asr, tiny_run
from tests.compatibility.commands import (
    EXPERIMENT,
    RESULTS,
    ROOT,
    SCORE,
    UNFINISHED,
    Commands,
    hidden_states,
    pretrain,
)  # fmt: skip
from tests.latency_tables import table_of
from tests.superb_corpora import make_voxceleb1
from tests.synthetic_corpus import make_corpus

CNN_TOO = {"gates": {"kinds": ["mha", "qk", "vo", "ffn", "int", "conv"]}}
RECIPES = {
    "target_sparsity": {"sparsity": {"target_sparsity": 0.8}},
    "target_macs": {**CNN_TOO, "sparsity": {"target_macs": 0.6, "tolerance": 0.03}},
    "target_speedup": {
        **CNN_TOO,
        "sparsity": {"target_speedup": 1.6, "latency_table": "latency_table.json", "tolerance": 0.03},
    },
    "target_cnn": {**CNN_TOO, "sparsity": {"target_sparsity": 0.6, "target_cnn": 0.5, "tolerance": 0.1}},
    "self_pinching": {"self_pinching": {"kinds": ["head", "int"]}},
    "heads_and_rows": {
        "compress": {"techniques": ["heads", "rows"], "rounds": 2},
        "sparsity": {"target_sparsity": 0.4, "tolerance": 0.03},
    },
    "low_rank": {
        "compress": {"techniques": ["low_rank"], "rounds": 2},
        "sparsity": {"target_sparsity": 0.5, "tolerance": 0.03},
    },
}
"""`config_model.yaml` of each recipe, beside what `tests/tiny_run.py` has."""
EXPERIMENT_YAML = {
    "title": "A table of random models on noise",
    "claim": "None: no number here means anything.",
    "rows": [
        {"name": "fbank", "upstream": "fbank"},
        {"name": "teacher", "upstream": "wavlm_embedded"},
        {"name": "small", "recipe": "recipes/target_sparsity"},
    ],
    "tasks": ["asr", "sid"],
    "protocol": None,
    "seeds": [1],
    "steps": 4,
}
KEPT_OF_A_TASK = ("result.json", "run.json", "char.dict", "*.ark", "test_*.txt")


def main(folder: Path) -> None:
    folder.mkdir(parents=True)
    _write_inputs(folder)
    scratch = folder.with_name(folder.name + ".scratch")
    shutil.copytree(folder, scratch)
    make_voxceleb1(scratch / "sid_corpus")
    small = "pretrain/small-seed1/export"
    _run(
        scratch,
        {
            **{name: pretrain(name, f"whole/{name}") for name in (*UNFINISHED, "low_rank")},
            "small": pretrain("target_sparsity", "pretrain/small-seed1"),
            "int8": ["tools/export.py", small, "exports/int8", "--int8"],
            "huggingface": ["tools/export.py", small, "exports/huggingface", "--to", "huggingface"],
            **RESULTS,
            "score": SCORE,
            "experiment": [*EXPERIMENT, "experiment.json"],
            "tradeoff": ["tools/tradeoff.py", "pretrain", "results", "--repeats", "2", "--output", "tradeoff"],
            "timing": [
                *("tools/timing.py", "--models", f"teacher.pt,{small}", "--lengths", "0.5", "--repeats", "2"),
                *("--device", "cpu", "--output", "timing"),
            ],
        },
    )
    _keep(scratch, folder)
    save_file(hidden_states(folder), folder / "hidden_states.safetensors")
    shutil.rmtree(scratch)
    _without_this_machines_paths(folder)


def _write_inputs(folder: Path) -> None:
    """Teacher, corpus, recipes, latency table, and the experiment's plan."""
    tiny = tiny_run.TinyRecipe(folder)
    for path in (tiny.corpus, tiny.recipe):
        shutil.rmtree(path)
    make_corpus(folder / "corpus", {"train-clean-100": 3, "dev-clean": 1, "test-clean": 1})
    steps = {"total_steps": 4, "save_step": 2}
    runner = {**tiny_run.RUNNER, "runner": {**tiny_run.RUNNER["runner"], **steps}}
    for name, model in RECIPES.items():
        rate = {"optimizer": {"lr": 1e-3, "gate_lr": 0.25}} if name == "self_pinching" else {}
        _write_recipe(folder / "recipes" / name, {**tiny_run.MODEL, **model}, {**runner, **rate})
    _write_recipe(folder / "recipes" / "asr", tiny_asr.MODEL, tiny_asr.RUNNER)
    (folder / "latency_table.json").write_text(json.dumps(asdict(table_of(tiny_run.tiny_wavlm()))) + "\n")
    (folder / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT_YAML, sort_keys=False))


def _write_recipe(folder: Path, model: dict, runner: dict) -> None:
    folder.mkdir(parents=True)
    for name, data in (("model", model), ("runner", runner)):
        (folder / f"config_{name}.yaml").write_text(yaml.safe_dump(data, sort_keys=False))


def _run(folder: Path, lines: dict[str, list[str]]) -> None:
    commands = Commands(folder, lines)
    for name in lines:
        done = commands[name]
        print(f"{name}: exit code {done.code}\n{done.out}")
        if done.code:
            raise SystemExit(done.err)


def _keep(scratch: Path, folder: Path) -> None:
    """Copy what is read again; a run that is to go on stands as if it was killed after its third step."""
    for name in UNFINISHED:
        whole, run = scratch / "whole" / name, folder / "unfinished" / name
        run.mkdir(parents=True)
        for file in ("run.json", "states-2.ckpt"):
            shutil.copy(whole / file, run)
        lines = (whole / "log.jsonl").read_text().splitlines(keepends=True)
        (run / "log.jsonl").write_text("".join(lines[:3]))
        (folder / "expected").mkdir(exist_ok=True)
        (folder / "expected" / f"{name}.jsonl").write_text("".join(lines))
    for run, name in ((scratch / "pretrain/small-seed1", "small-seed1"), (scratch / "whole/asr", "asr")):
        shutil.copytree(run / "export", folder / "pretrain" / name / "export")
        for file in ("run.json", "log.jsonl", "test.json"):
            if (run / file).is_file():
                shutil.copy(run / file, folder / "pretrain" / name)
    for name, export in (
        ("int8", "exports/int8"),
        ("huggingface", "exports/huggingface"),
        ("low_rank", "whole/low_rank/export"),
    ):
        shutil.copytree(scratch / export, folder / "exports" / name)
    for result in sorted((scratch / "results").glob("*/*/result.json")):
        target = folder / result.parent.relative_to(scratch)
        target.mkdir(parents=True)
        for pattern in KEPT_OF_A_TASK:
            for path in result.parent.glob(pattern):
                shutil.copy(path, target)
    for name in ("superb_score.json", "superb_score.csv"):
        shutil.copy(scratch / "results" / name, folder / "results")
    shutil.copy(scratch / "experiment.json", folder)
    for name in ("tradeoff", "timing"):
        for suffix in ("json", "md"):
            shutil.copy(scratch / name / f"{name}.{suffix}", folder)


def _without_this_machines_paths(folder: Path) -> None:
    """The embedded speech is named by its whole path in results: here relative to the clone."""
    for path in folder.rglob("*"):
        if path.is_file() and str(ROOT).encode() in path.read_bytes():
            path.write_text(path.read_text().replace(f"{ROOT}/", ""))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
