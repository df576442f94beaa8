"""`python run_pretrain.py`: from options to a finished export. s3prl's letters keep s3prl's meaning."""

import argparse
import copy
import datetime
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from s3prl_pruned import checkpoint, distributed
from s3prl_pruned.compressors.magnitude import weights_left
from s3prl_pruned.config import UserError, apply_overrides, from_dict, load_yaml, to_dict
from s3prl_pruned.export.formats import load_encoder
from s3prl_pruned.models.spec import FAMILIES, CompactSpec
from s3prl_pruned.pretrain import runner
from s3prl_pruned.pretrain.asr.config import AsrModelConfig, AsrRunnerConfig
from s3prl_pruned.pretrain.asr.pretrain_expert import UpstreamPretrainExpert as AsrPretrainExpert
from s3prl_pruned.pretrain.asr.recognizer import tested
from s3prl_pruned.pretrain.config import RunnerConfig
from s3prl_pruned.pretrain.distill.compress_expert import CompressPretrainExpert
from s3prl_pruned.pretrain.distill.config import ModelConfig
from s3prl_pruned.pretrain.distill.pretrain_expert import UpstreamPretrainExpert
from s3prl_pruned.pretrain.distill.second_stage_expert import SecondStagePretrainExpert
from s3prl_pruned.pretrain.dry_run import describe, dry_run
from s3prl_pruned.pretrain.finish import describe_export, export_checkpoint
from s3prl_pruned.pretrain.report import target_lines
from s3prl_pruned.sparsity.counts import macs, parameters, prunable_weights
from s3prl_pruned.sparsity.targets import chosen_target

RECIPES = Path(__file__).parents[2] / "upstream_configs"
RUN, EXPORT = "run.json", "export"
WITHOUT_EFFECT_ON_RESULTS = (
    *(f"runner.runner.{key}" for key in ("log_step", "save_step", "max_keep", "max_bad_steps", "process_timeout")),
    "runner.runner.gradient_checkpointing",
    "runner.pretrain_expert.datarc.num_workers",
)
"""Configuration that an unfinished run may go on with in another value."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What `-u <family>_pruned_<objective>` trains for."""

    model: type
    """What `config_model.yaml` may hold."""
    runner: type
    """What `config_runner.yaml` may hold."""
    default: str
    """The recipe when none is named."""
    paper: str
    """A paper's recipe, for the default's first line; `{}` is the family."""


OBJECTIVES = {
    "distill": Objective(model=ModelConfig, runner=RunnerConfig, default="embedded", paper="{}_base_s80"),
    "asr": Objective(model=AsrModelConfig, runner=AsrRunnerConfig, default="self_pinching_asr_embedded", paper="self_pinching_asr"),
}
UPSTREAMS = tuple(f"{family}_pruned_{objective}" for objective in OBJECTIVES for family in FAMILIES)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run_pretrain.py",
        description="Prune a speech encoder: by distillation (Wang et al. 2023, Xu et al. 2025, Lin et al. 2024), or while it "
        "is fine-tuned for speech recognition (Xu et al. 2025). With -u alone: the embedded teacher on the embedded speech.",
    )
    add = parser.add_argument
    add("-u", "--upstream", required=True, metavar="NAME", help=f"what to train: {', '.join(UPSTREAMS)}")
    add("--recipe", metavar="NAME", help="folder under upstream_configs/, or a path (default: an embedded one)")
    add("--corpus", metavar="DIR", help="speech: LibriSpeech, any folder of audio, a manifest, s3prl CSVs, or lhotse (default: the recipe's)")
    add("--teacher", metavar="T", help="a name of s3prl's hub (wavlm_base, hubert_large_ll60k, ...), embedded, random, or a checkpoint's path (default: the recipe's)")  # fmt: skip
    add("-g", "--upstream_config", metavar="YAML", help="config_model.yaml (default: the recipe's)")
    add("-c", "--config", metavar="YAML", help="config_runner.yaml (default: the recipe's)")
    add("-n", "--expname", metavar="NAME", help="write to result/pretrain/<upstream>/NAME (default: the recipe's name)")
    add("-p", "--expdir", metavar="DIR", help="write to DIR instead")
    add("-a", "--auto_resume", action="store_true", help="continue from the newest checkpoint, if there is one")
    add("-e", "--past_exp", metavar="PATH", help="continue the run of this checkpoint or folder, with its own configuration")  # fmt: skip
    add("--student", metavar="EXPORT", help="an exported student to distil again without masks, with a recipe whose name ends in _stage2")
    add("--target", metavar="WHAT=X", help="how much is pruned: params=0.8 (share of the prunable weights that goes), macs=0.7 (of the MACs), speedup=2.5 (needs --latency-table)")  # fmt: skip
    add("--latency-table", metavar="JSON", help="times of the model's parts on your device, by tools/timing.py --latency-table")
    add("-o", "--override", metavar="K=V", help="change single keys, e.g. sparsity.target_sparsity=0.5,,runner.total_steps=100")  # fmt: skip
    add("--dry-run", action="store_true", help="check data, teacher, disk space and a few steps, estimate the time, write nothing")  # fmt: skip
    add("--force", action="store_true", help="move what stands in the folder aside and start anew")
    add("--seed", type=int, default=1337, help="of batches, masks, dropout (default: 1337)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device (default: %(default)s)")
    return parser.parse_args(argv)


@dataclass
class Run:
    """A resolved run: what decides its result, and where it stands."""

    model: ModelConfig | AsrModelConfig
    runner: RunnerConfig
    seed: int
    recipe: str
    folder: Path

    def identity(self) -> dict:
        return {"model": to_dict(self.model), "runner": to_dict(self.runner), "seed": self.seed}


def main(argv: list[str] | None = None, *, on_checkpoint: Callable[[Path], None] | None = None) -> Path | None:
    """Train and export; returns the run's folder, in the main process alone (None also after `--dry-run`).

    Args:
        argv: command line; None is the process's own.
        on_checkpoint: see `runner.train`.

    Raises:
        UserError: anything that the user can mend.
        Interrupted: by a signal, after saving.
    """
    args = parse_arguments(argv)
    if args.upstream not in UPSTREAMS:
        raise UserError(f"`-u` must be one of {list(UPSTREAMS)}, but is {args.upstream!r}.")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"`--device` is {args.device}, but torch {torch.__version__} sees no GPU. Use --device cpu.")
    run = _resolve_past(args) if args.past_exp else _resolve(args)
    args.device = distributed.start(args.device, timeout_seconds=run.runner.runner.process_timeout)
    if run.recipe == _objective(args).default and distributed.is_main():
        paper = _objective(args).paper.format(_family(args))
        print(f"recipe `{run.recipe}`: small teacher, small speech corpus, few steps. The paper's: --recipe {paper} --corpus /data/LibriSpeech", flush=True)  # fmt: skip
    try:
        return _train_and_export(run, args, on_checkpoint)
    finally:
        distributed.stop()


def _train_and_export(run: Run, args: argparse.Namespace, on_checkpoint: Callable[[Path], None] | None) -> Path | None:
    if args.dry_run:
        return _dry_run(run, args)
    args.auto_resume |= distributed.restarted()
    resume_from = distributed.from_main(lambda: _prepare_folder(run, args))
    if distributed.from_main(lambda: resume_from is None and (run.folder / EXPORT).exists()):
        return _report(run, args.device, finished_before=True) if distributed.is_main() else None
    expert = _expert(run, args)
    if distributed.is_main():
        _announce(run, args, expert, resume_from)
        if resume_from is None:
            record = {"recipe": run.recipe, **run.identity()}
            checkpoint.write_text(run.folder / RUN, json.dumps(record, indent=1) + "\n")
    runner.train(expert, run.runner, run.folder, seed=run.seed, resume_from=resume_from, on_checkpoint=on_checkpoint)
    if not distributed.is_main():
        return None
    last = checkpoint.checkpoint_path(run.folder, run.runner.runner.total_steps)
    export_checkpoint(last, run.folder / EXPORT)
    return _report(run, args.device)


def _expert(run: Run, args: argparse.Namespace) -> UpstreamPretrainExpert | AsrPretrainExpert:
    datarc = run.runner.pretrain_expert.datarc
    if isinstance(run.model, AsrModelConfig):
        kind = AsrPretrainExpert
    elif run.model.student_export is not None:
        kind = SecondStagePretrainExpert
    else:
        kind = UpstreamPretrainExpert if run.model.compress is None else CompressPretrainExpert
    return kind(datarc, run.model, args.device, seed=run.seed, family=_family(args))


def _family(args: argparse.Namespace) -> str:
    """What `-u <family>_pruned_<objective>` names; the teacher must be one of it."""
    return args.upstream.split("_pruned_")[0]


def _objective(args: argparse.Namespace) -> Objective:
    return OBJECTIVES[args.upstream.split("_pruned_")[1]]


def _dry_run(run: Run, args: argparse.Namespace) -> None:
    expert = _expert(run, args)
    if distributed.is_main():
        _announce(run, args, expert, None)
    found = dry_run(expert, run.runner, run.folder, seed=run.seed)
    if distributed.is_main():
        print(describe(found, run.runner, args.device))


def _resolve(args: argparse.Namespace) -> Run:
    objective = _objective(args)
    recipe = args.recipe or objective.default
    folder = Path(recipe) if Path(recipe).is_dir() else RECIPES / recipe
    if not folder.is_dir():
        known = sorted(path.name for path in RECIPES.iterdir() if path.is_dir())
        raise UserError(f"`--recipe` must be one of {known} or a folder, but is {recipe!r}.")
    model_file = Path(args.upstream_config or folder / "config_model.yaml")
    runner_file = Path(args.config or folder / "config_runner.yaml")
    data = {"model": load_yaml(model_file), "runner": load_yaml(runner_file)}
    data = _with_options(data, args)
    run_folder = Path(args.expdir) if args.expdir else Path("result/pretrain") / args.upstream / (args.expname or folder.name)
    return Run(
        model=from_dict(objective.model, data["model"], str(model_file)),
        runner=from_dict(objective.runner, data["runner"], str(runner_file)),
        seed=args.seed,
        recipe=folder.name,
        folder=run_folder,
    )


def _with_options(data: dict, args: argparse.Namespace) -> dict:
    """`model` and `runner` with `--teacher`, `--student`, `--corpus`, `--target`, ... and `-o`, each `key=value` in the file whose key it is."""
    data = copy.deepcopy(data)
    if args.teacher:
        data["model"]["teacher"] = args.teacher
    if args.student:
        data["model"]["student_export"] = args.student
    if args.target:
        section = data["model"].setdefault("sparsity", {})
        for other in ("target_macs", "target_speedup"):
            section.pop(other, None)
        name, value = chosen_target(args.target)
        section[name] = value
    if args.latency_table:
        data["model"].setdefault("sparsity", {})["latency_table"] = args.latency_table
    if args.corpus:
        datarc = data["runner"].setdefault("pretrain_expert", {}).setdefault("datarc", {})
        datarc.update(corpus=args.corpus, sets=_sets_in(Path(args.corpus), datarc.get("sets"), "train"))
        for key, prefix in (("dev_sets", "dev"), ("test_sets", "test")):
            if key in datarc:
                datarc[key] = _sets_in(Path(args.corpus), datarc[key], prefix)
    model_keys = set(_objective(args).model.__dataclass_fields__)
    for item in (args.override or "").split(",,"):
        item = item.strip().removeprefix("config.")  # s3prl's prefix
        if item:
            file = "model" if item.split("=")[0].split(".")[0] in model_keys else "runner"
            data[file] = apply_overrides(data[file], [item])
    return data


def _sets_in(corpus: Path, sets: list[str] | None, prefix: str) -> list[str] | None:
    """The recipe's `sets` where the corpus has one of them; else its folders of this prefix; else None."""
    if not sets or not corpus.is_dir() or any((corpus / name).is_dir() or (corpus / f"{name}.csv").is_file() for name in sets):
        return sets
    return sorted(path.name for path in corpus.glob(f"{prefix}*") if path.is_dir()) or None


def _resolve_past(args: argparse.Namespace) -> Run:
    """`-e`: the run that a checkpoint or folder belongs to, with the configuration that it was started with."""
    folder = Path(args.past_exp)
    folder = folder if folder.is_dir() else folder.parent
    objective = _objective(args)
    record = _read_run(folder, objective)
    data = _with_options(record, args)
    run = Run(
        model=from_dict(objective.model, data["model"], str(folder / RUN)),
        runner=from_dict(objective.runner, data["runner"], str(folder / RUN)),
        seed=record["seed"],
        recipe=record["recipe"],
        folder=folder,
    )
    wanted = run
    if args.recipe or args.upstream_config or args.config:
        args.expdir, args.seed = str(folder), run.seed
        wanted = _resolve(args)
    _refuse_difference(wanted.identity(), record, folder)
    return run


def _read_run(folder: Path, objective: Objective) -> dict:
    try:
        record = json.loads((folder / RUN).read_text())
        for key, kind in (("model", objective.model), ("runner", objective.runner)):  # with defaults for fields newer than it
            record[key] = to_dict(from_dict(kind, record[key], str(folder / RUN)))
        record["seed"], record["recipe"]
        return record
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: is no run of run_pretrain.py ({RUN}: {error!r}).") from error


def _prepare_folder(run: Run, args: argparse.Namespace) -> Path | None:
    """Which checkpoint to continue from; refuses to mix runs, moves old ones aside when told to."""
    if args.past_exp:
        path = Path(args.past_exp)
        found = path if path.is_file() else checkpoint.newest(path)
        if found is None and not (run.folder / EXPORT).exists():
            raise UserError(f"{path}: holds no whole checkpoint to continue from.")
        return None if (run.folder / EXPORT).exists() else found
    if not run.folder.exists() or not any(run.folder.iterdir()):
        return None
    if args.force:
        aside = run.folder.with_name(f"{run.folder.name}.old-{datetime.datetime.now():%Y%m%d-%H%M%S}")
        run.folder.rename(aside)
        print(f"moved {run.folder} aside, to {aside}")
        return None
    _refuse_difference(run.identity(), _read_run(run.folder, _objective(args)), run.folder)
    if (run.folder / EXPORT).exists():
        return None
    found = checkpoint.newest(run.folder)
    if found is not None and not args.auto_resume:
        raise UserError(
            f"{run.folder}: holds an unfinished run ({found.name}). -a continues it, -n NAME starts another beside it, "
            "--force moves it aside."
        )
    return found


def _refuse_difference(wanted: dict, stands: dict, folder: Path) -> None:
    """Refuse when what stands in a folder was made by another configuration, and show the difference."""

    def flat(data, prefix=""):
        if not isinstance(data, dict):
            return {prefix[:-1]: data}
        return {k: v for key, value in data.items() for k, v in flat(value, f"{prefix}{key}.").items()}

    old, new = flat({key: stands[key] for key in wanted}), flat(wanted)
    keys = sorted(k for k in old | new if old.get(k) != new.get(k) and k not in WITHOUT_EFFECT_ON_RESULTS)
    changed = [f"{k}: {old.get(k)!r} there, {new.get(k)!r} wanted" for k in keys]
    if changed:
        raise UserError(
            f"{folder}: holds a run of another configuration ({'; '.join(changed[:5])}). -n NAME starts another run "
            "beside it, --force moves it aside."
        )


def _announce(run: Run, args: argparse.Namespace, expert: UpstreamPretrainExpert, resume_from: Path | None) -> None:
    teacher, batches, loop = expert.loaded_teacher, expert.batches, run.runner.runner
    note = f", {teacher.note.upper()}" if teacher.note else ""
    print(f"teacher: {teacher.name} ({teacher.encoder.num_parameters():,} parameters{note})")
    datarc = run.runner.pretrain_expert.datarc
    sets = f", {' '.join(datarc.sets)}" if datarc.sets else ""
    print(f"speech: {datarc.corpus or 'embedded'}{sets}: {batches.num_utterances} utterances, {batches.hours:.2f} h")
    if distributed.world_size() > 1:
        print(f"{distributed.world_size()} processes, {loop.gradient_accumulate_steps} micro-batches each per step")
    print(f"{loop.total_steps} steps on {args.device}, {expert.aim}, into {run.folder}")
    if loop.fp16 and not loop.bf16 and not args.device.startswith("cuda"):
        print("fp16 is for CUDA; this device computes in fp32")
    if resume_from:
        print(f"continuing from {resume_from}")
    sys.stdout.flush()


def _report(run: Run, device: str, *, finished_before: bool = False) -> Path:
    """Print what came out, from the export's own files. A recogniser is tested first, unless it was."""
    folder = run.folder / EXPORT
    encoder, provenance = load_encoder(folder)
    config, spec, dense = encoder.config, encoder.spec, CompactSpec.dense(encoder.config)
    if finished_before:
        print(f"{run.folder}: this run is finished already; nothing to do (--force starts anew).")
    before, after = sum(parameters(config, dense).values()), encoder.num_parameters()
    work = [sum(macs(config, s, 80_000).values()) / 1e9 for s in (dense, spec)]
    if provenance["teacher_note"]:
        print(f"note: {provenance['teacher_note']}")
    print("\n".join(target_lines(run.model, provenance["sparsity"])))
    zeros = prunable_weights(config, spec) - weights_left(encoder)
    print(f"parameters: {before:,} -> {after:,}" + f" ({after - zeros:,} not zero; nothing gets faster by that)" * bool(zeros) + f"; MACs for 5 s: {work[0]:.3f} G -> {work[1]:.3f} G")
    if isinstance(run.model, AsrModelConfig) and run.runner.pretrain_expert.datarc.test_sets:
        result = tested(run.folder, folder, run.runner.pretrain_expert.datarc, device)
        print(f"WER on {' '.join(run.runner.pretrain_expert.datarc.test_sets)}: {100 * result['wer']:.2f} % ({result['edits']} of {result['words']} words), greedy")  # fmt: skip
    print(f"exported to {describe_export(folder)}")
    return run.folder
