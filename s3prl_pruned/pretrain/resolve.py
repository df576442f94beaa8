"""From `run_pretrain.py`'s options to a run: its recipe with what the options change, its folder, what stands there."""

import argparse
import copy
import datetime
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from s3prl_pruned import checkpoint
from s3prl_pruned.config import UserError, apply_overrides, from_dict, load_yaml, to_dict
from s3prl_pruned.models.spec import FAMILIES
from s3prl_pruned.pretrain.asr.config import AsrModelConfig, AsrRunnerConfig
from s3prl_pruned.pretrain.config import RunnerConfig
from s3prl_pruned.pretrain.distill.config import ModelConfig
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
    add("--target", metavar="WHAT=X", help="how much is pruned: params=0.8 (share of the prunable weights that goes), macs=0.7 (of the MACs), speedup=2.5 (needs --latency-table); a recipe's target_cnn holds beside it")  # fmt: skip
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


def family_of(args: argparse.Namespace) -> str:
    """What `-u <family>_pruned_<objective>` names; the teacher must be one of it."""
    return args.upstream.split("_pruned_")[0]


def objective_of(args: argparse.Namespace) -> Objective:
    return OBJECTIVES[args.upstream.split("_pruned_")[1]]


def resolve(args: argparse.Namespace) -> Run:
    objective = objective_of(args)
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
    model_keys = set(objective_of(args).model.__dataclass_fields__)
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


def resolve_past(args: argparse.Namespace) -> Run:
    """`-e`: the run that a checkpoint or folder belongs to, with the configuration that it was started with."""
    folder = Path(args.past_exp)
    folder = folder if folder.is_dir() else folder.parent
    objective = objective_of(args)
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
        wanted = resolve(args)
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


def prepare_folder(run: Run, args: argparse.Namespace) -> Path | None:
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
    _refuse_difference(run.identity(), _read_run(run.folder, objective_of(args)), run.folder)
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
