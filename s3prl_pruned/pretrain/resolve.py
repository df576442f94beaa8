"""From the options of `run_pretrain.py` to a run: its recipe, with changes from the options."""

import argparse
import copy
from pathlib import Path
from typing import get_type_hints

import torch

from s3prl_pruned import resources
from s3prl_pruned.config import UserError, apply_overrides, from_dict
from s3prl_pruned.data.sources import sets_in
from s3prl_pruned.models.shape import FAMILIES
from s3prl_pruned.parsers import Parser
from s3prl_pruned.pretrain.objectives import OBJECTIVES, Objective
from s3prl_pruned.pretrain.recipes import (
    MODEL_FILE,
    RUNNER_FILE,
    load_recipe,
    recipe_folder,
    with_overrides,
    with_targets,
)
from s3prl_pruned.pretrain.run_folder import EXPORT, RUN, Run, as_it_began, read_run, refuse_difference
from s3prl_pruned.sparsity.config import chosen_targets, takes_table

RECIPES = resources.recipes()


UPSTREAMS = tuple(f"{family}_pruned_{objective}" for objective in OBJECTIVES for family in FAMILIES)


EXAMPLES = """
python run_pretrain.py -u wavlm_pruned_distill   # embedded teacher and speech, in minutes
python run_pretrain.py -u wavlm_pruned_distill --recipe wavlm_base_s80 --corpus /data/LibriSpeech
torchrun --nproc_per_node=8 -m s3prl_pruned.commands pretrain ...   # several GPUs
"""


def make_parser() -> Parser:
    """The parser of `run_pretrain.py`."""
    parser = Parser(
        "pretrain", usage="-u NAME [--recipe NAME] [--corpus DIR] [--teacher T] [OPTION ...]", examples=EXAMPLES
    )
    add = parser.add_argument
    add(
        "-u",
        "--upstream",
        required=True,
        metavar="NAME",
        help=f"what to train: FAMILY_pruned_{' or FAMILY_pruned_'.join(OBJECTIVES)}, with FAMILY one of "
        f"{', '.join(FAMILIES)}",
    )
    add("--recipe", metavar="NAME", help="folder in upstream_configs/, or a path (default: embedded data)")
    add(
        "--corpus",
        metavar="DIR",
        help="LibriSpeech, a folder of audio files, a manifest, s3prl's CSVs, or lhotse (default: the recipe's)",
    )
    add(
        "--teacher",
        metavar="T",
        help="a name in s3prl.hub, a checkpoint, `embedded`, or `random` (default: the recipe's)",
    )
    add(
        "--target",
        metavar="WHAT=X",
        help="params=0.8, macs=0.7 or memory=0.7: share of the prunable weights, MACs or all weights to remove; "
        "speedup=2.5: needs --latency-table; params=0.8,macs=0.7: at least both",
    )
    add("-o", "--override", metavar="K=V", help="change settings, e.g. runner.total_steps=100,,runner.log_step=10")
    add("-n", "--expname", metavar="NAME", help="write to result/pretrain/<upstream>/NAME (default: recipe's name)")
    add("-a", "--auto_resume", action="store_true", help="resume from the newest checkpoint, if there is one")
    add(
        "--dry-run",
        action="store_true",
        help="check data, teacher and disk space, run a few steps, estimate the time; writes nothing",
    )
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device (default: %(default)s)")
    _add_configuration(parser)
    _add_output(parser)
    add = parser.add_argument_group("second stage").add_argument
    add(
        "--second-stage",
        metavar="NAME",
        help="after the run, train its export without masks by this recipe, such as dphubert_base_stage2, into the "
        "folder of the same name + `_stage2`; -o and --target apply to the first stage only",
    )
    add(
        "--student",
        metavar="EXPORT",
        help="train an exported model without masks; needs a recipe whose name ends in _stage2",
    )
    return parser


def _add_configuration(parser: Parser) -> None:
    add = parser.add_argument_group("configuration").add_argument
    add("-g", "--upstream_config", metavar="YAML", help="config_model.yaml (default: the recipe's)")
    add("-c", "--config", metavar="YAML", help="config_runner.yaml (default: the recipe's)")
    add(
        "--latency-table",
        metavar="JSON",
        help="times of the model's parts on your device, from tools/timing.py --latency-table; needed by --target "
        "speedup=X",
    )
    add("--seed", type=int, metavar="N", default=1337, help="seed of batches, masks and dropout (default: %(default)s)")


def _add_output(parser: Parser) -> None:
    add = parser.add_argument_group("output and resuming").add_argument
    add("-p", "--expdir", metavar="DIR", help="write to exactly this folder")
    add(
        "-e",
        "--past_exp",
        metavar="PATH",
        help="continue the run of this checkpoint or folder, with its own configuration",
    )
    add("--force", action="store_true", help="rename the existing run folder (nothing is deleted) and start again")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse `argv`, by default the command line of `run_pretrain.py`."""
    return make_parser().parse_args(argv)


def family_of(args: argparse.Namespace) -> str:
    """The family in `-u <family>_pruned_<objective>`; the teacher must be of this family."""
    return args.upstream.split("_pruned_")[0]


def objective_of(args: argparse.Namespace) -> Objective:
    """The objective in `-u <family>_pruned_<objective>`."""
    return OBJECTIVES[args.upstream.split("_pruned_")[1]]


def resolve(args: argparse.Namespace) -> Run:
    """The run that the options describe: a recipe, with changes from the options.

    Raises:
        UserError: there is no such recipe, or its settings are impossible.
    """
    objective = objective_of(args)
    recipe = args.recipe or objective.default
    folder = recipe_folder(recipe)
    if folder is None:
        known = sorted(path.name for path in RECIPES.iterdir() if path.is_dir())
        raise UserError(f"`--recipe` must be one of {known} or a folder, but is {recipe!r}.")
    model_file = Path(args.upstream_config or folder / MODEL_FILE)
    runner_file = Path(args.config or folder / RUNNER_FILE)
    data = {"model": load_recipe(model_file, MODEL_FILE), "runner": load_recipe(runner_file, RUNNER_FILE)}
    data = _with_options(data, args)
    run_folder = (
        Path(args.expdir) if args.expdir else Path("result/pretrain") / args.upstream / (args.expname or folder.name)
    )
    run = Run(
        objective=objective,
        model=from_dict(objective.model, data["model"], str(model_file)),
        runner=from_dict(objective.runner, data["runner"], str(runner_file)),
        seed=args.seed,
        recipe=folder.name,
        folder=run_folder,
    )
    return run if args.force or not (run_folder / RUN).exists() else as_it_began(run)


def resolve_second_stage(args: argparse.Namespace, first: Run) -> Run:
    """`--second-stage`: the run that distils the export of the first run again.

    Args:
        args: options of the first run.
        first: the first run.

    Raises:
        UserError: the recipe is unknown or not a second stage, the export of the first run cannot be trained again, or
            `-e` is set, which continues a single run.
    """
    if args.past_exp:
        raise UserError(
            "`-e` continues one run, but --second-stage has two. Repeat the first command with -a, or distil its "
            "export again (--recipe NAME_stage2 --student EXPORT)."
        )
    compress = getattr(first.model, "compress", None)
    if compress is not None and "magnitude" in compress.techniques:
        raise UserError(
            "`--second-stage` has no masks, and would turn zeros of pruned single weights into weights again. Use a "
            "structured method."
        )
    options = copy.copy(args)
    options.recipe, options.upstream_config, options.config = args.second_stage, None, None
    options.override = options.target = options.latency_table = None
    options.student, options.teacher = str(first.folder / EXPORT), first.model.teacher
    folder = first.folder.absolute()
    options.expdir = str(folder.with_name(f"{folder.name}_stage2"))
    return resolve(options)


def _with_options(data: dict, args: argparse.Namespace) -> dict:
    """`model` and `runner` with changes from the options; each `key=value` of `-o` goes into the file with the key."""
    model, runner = copy.deepcopy(data["model"]), copy.deepcopy(data["runner"])
    if args.teacher:
        model["teacher"] = args.teacher
    if args.student:
        model["student_export"] = args.student
    if args.corpus:
        datarc = runner.setdefault("pretrain_expert", {}).setdefault("datarc", {})
        datarc.update(corpus=args.corpus, sets=sets_in(args.corpus, datarc.get("sets"), "train"))
        for key, prefix in (("dev_sets", "dev"), ("test_sets", "test")):
            if key in datarc:
                datarc[key] = sets_in(args.corpus, datarc[key], prefix)
    if args.target:
        model = with_targets(model, {"sparsity": chosen_targets(args.target)}, "--target")
    items = [item.strip().removeprefix("config.") for item in (args.override or "").split(",,")]  # s3prl's prefix
    of_model = [item for item in items if item.split("=")[0].split(".")[0] in get_type_hints(objective_of(args).model)]
    model = with_overrides(model, of_model)
    runner = apply_overrides(runner, [item for item in items if item not in of_model])
    return {"model": _with_table(model, args.latency_table) if args.latency_table else model, "runner": runner}


def _with_table(model: dict, table: str) -> dict:
    """Apply `--latency-table` to targets of time; a target of the CNN becomes one of time."""
    made = with_targets(model, {"sparsity": {"latency_table": table}}, "--latency-table")
    if not takes_table(made["sparsity"]):
        raise UserError(
            "`--latency-table` is for a target of time, but there is none. Give --target speedup=2.5, or a target of "
            "the CNN's own: -o sparsity.cnn_target.share=0.5."
        )
    return made


def resolve_past(args: argparse.Namespace) -> Run:
    """`-e`: the run of a checkpoint or folder, with the configuration that it was started with."""
    folder = Path(args.past_exp)
    folder = folder if folder.is_dir() else folder.parent
    objective = objective_of(args)
    record = read_run(folder, objective)
    data = _with_options(record, args)
    run = Run(
        objective=objective,
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
    refuse_difference(wanted, record, folder)
    return run
