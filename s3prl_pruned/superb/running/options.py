"""The command line of ``run_downstream.py``: s3prl's letters with s3prl's meaning."""

from __future__ import annotations

import argparse
from pathlib import Path

from s3prl_pruned.own_commands import Parser
from s3prl_pruned.superb.catalogue import TASKS

EXAMPLES = """\
The embedded speech and a shortened protocol (no -c, no --corpus):
  python run_downstream.py -u wavlm_pruned -d asr
The benchmark's own recipe:
  python run_downstream.py -u wavlm_pruned -d asr --corpus /data/LibriSpeech
  python run_downstream.py -u wavlm_pruned -d er --corpus /data/IEMOCAP_full_release
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser; its names are s3prl's, so that what it gives is s3prl's ``args``."""
    parser = Parser(
        "downstream",
        description="Train a SUPERB task on an upstream's features and evaluate it, with s3prl.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_what_to_run(parser)
    _add_where_it_goes(parser)
    _add_features(parser)
    _add_others(parser)
    # s3prl's runner reads these; several GPUs and the model hub are not offered.
    parser.set_defaults(hub="torch", backend="nccl", local_rank=None, push_to_hf_hub=False, hf_hub_org="None")
    return parser


def _add_what_to_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what to run").add_argument
    add(
        "-u",
        "--upstream",
        metavar="NAME",
        help="a name in s3prl.hub (fbank, wavlm_base_plus, ...) or wavlm_pruned[_local|_url]",
    )
    add("-d", "--downstream", metavar="TASK", help=f"{' '.join(TASKS)}, or s3prl's own name of one")
    add(
        "-m",
        "--mode",
        default="all",
        choices=["all", "train", "evaluate", "inference"],
        help="all: train, then evaluate (default); inference: transcribe the file given by -t",
    )
    add(
        "--corpus",
        metavar="DIR",
        help="the task's corpus, with the benchmark's settings (default: what paths.yaml or "
        "S3PRL_PRUNED_<TASK>_CORPUS names; asr: else the embedded speech)",
    )
    add(
        "--paths",
        metavar="YAML",
        help="file of `<task>: <corpus>` lines, relative to itself (default: paths.yaml, where there is one)",
    )
    add("--s3prl-root", metavar="DIR", help="a checkout of s3prl, whose lists and dictionaries are used")
    add(
        "-c",
        "--config",
        metavar="YAML",
        help="other task settings (default: downstream_runs/<task>.yaml, or embedded_<task>.yaml)",
    )
    add(
        "-o",
        "--override",
        metavar="K=V,,K=V",
        help="change settings, such as config.optimizer.lr=1.0e-3; values are read as YAML",
    )
    add("-v", "--downstream_variant", metavar="NAME", help="a variant of the task (s3prl)")
    add(
        "-t",
        "--evaluate_split",
        metavar="SPLIT",
        help="split to evaluate (default: the benchmark's test split, asr: test-clean)",
    )
    add("--seed", type=int, default=1337, help="random seed (default: 1337)")
    add("--device", metavar="DEV", help="cuda or cpu (default: cuda where there is one)")


def _add_where_it_goes(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("where it goes, and going on").add_argument
    add("-n", "--expname", metavar="NAME", help="write to results/NAME/<task> (default: results/<upstream>/<task>)")
    add("-p", "--expdir", metavar="DIR", help="write to exactly this folder")
    add("-a", "--auto_resume", action="store_true", help="go on with an interrupted run")
    add("--force", action="store_true", help="move what stands in the folder aside (nothing is deleted) and start anew")
    add(
        "-e",
        "--past_exp",
        metavar="CKPT",
        help="take arguments, settings and weights from a checkpoint, or the newest of a folder",
    )
    add("--tried-rates", metavar="JSON", type=Path, help=argparse.SUPPRESS)  # a planned job: what was tried before it
    add("-i", "--init_ckpt", metavar="CKPT", help="take weights only from a checkpoint")


def _add_features(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the upstream and its features").add_argument
    add(
        "-k",
        "--upstream_ckpt",
        metavar="PATH",
        help="checkpoint or export (default for wavlm_pruned: the newest finished export)",
    )
    add("--upstream-sha256", metavar="HASH", help=argparse.SUPPRESS)  # a planned job: the only model that it takes
    add("-g", "--upstream_model_config", metavar="PATH", help="model config, where one is needed")
    add("-r", "--upstream_refresh", action="store_true", help="download the checkpoint anew")
    add("-f", "--upstream_trainable", action="store_true", help="fine-tune the upstream too")
    add(
        "-s",
        "--upstream_feature_selection",
        metavar="KEY",
        default="hidden_states",
        help="which output of the upstream (default: hidden_states, weighted sum)",
    )
    add("-l", "--upstream_layer_selection", type=int, metavar="N", help="only this layer, from 0")
    add(
        "--upstream_feature_normalize",
        action="store_true",
        help="layer-normalise each hidden state before the weighted sum",
    )
    add(
        "--single-utterance",
        action="store_true",
        help="extract one utterance at a time, without padding (s3prl pads batches, which changes features)",
    )
    add(
        "--cache-features",
        action="store_true",
        help="keep features on disk, below $XDG_CACHE_HOME or ~/.cache (implies --single-utterance)",
    )
    add("--cache-half", action="store_true", help="keep them in half precision (implies --cache-features)")
    add("--layers", metavar="N,N", type=_numbers, default=(), help="weigh, and keep, these layers only, from 0")
    add(
        "--drop-features",
        action="store_true",
        help="remove kept features, of -u or of all, and end",
    )
    add("--upstream_model_name", default="model.pt", help=argparse.SUPPRESS)
    add("--upstream_revision", help=argparse.SUPPRESS)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _add_others(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("other").add_argument
    add("--cache_dir", metavar="DIR", help="where downloaded checkpoints are kept")
    add("--verbose", action="store_true", help="print the models")
    add("--disable_cudnn", action="store_true", help="run without cuDNN")


OURS = ("corpus", "paths", "s3prl_root", "force", "command", "upstream_sha256", "tried_rates", "drop_features")
"""Options that s3prl does not have; they are not handed to its runner."""
