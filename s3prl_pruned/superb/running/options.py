"""The command line of ``run_downstream.py``: s3prl's letters with s3prl's meaning."""

from __future__ import annotations

import argparse
from pathlib import Path

from s3prl_pruned.parsers import Parser
from s3prl_pruned.superb.catalogue import TASKS

EXAMPLES = """
python run_downstream.py -u wavlm_pruned -d asr                             # embedded speech
python run_downstream.py -u wavlm_pruned -d asr --corpus /data/LibriSpeech  # SUPERB's settings
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser; its names are s3prl's, so that what it gives is s3prl's ``args``."""
    parser = Parser("downstream", usage="-u NAME -d TASK [-k PATH] [--corpus DIR] [OPTION ...]", examples=EXAMPLES)
    _add_common(parser)
    _add_task(parser)
    _add_output(parser)
    _add_features(parser)
    _add_others(parser)
    # s3prl's runner reads these; several GPUs and the model hub are not offered.
    parser.set_defaults(hub="torch", backend="nccl", local_rank=None, push_to_hf_hub=False, hf_hub_org="None")
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "-u",
        "--upstream",
        metavar="NAME",
        help="a name in s3prl.hub (fbank, wavlm_base_plus, ...), or <family>_pruned[_local|_url]",
    )
    add("-d", "--downstream", metavar="TASK", help=f"{' '.join(TASKS)}, or s3prl's name of the task")
    add(
        "-k",
        "--upstream_ckpt",
        metavar="PATH",
        help="checkpoint or export (default for wavlm_pruned: the newest finished export)",
    )
    add(
        "--corpus",
        metavar="DIR",
        help="corpus of the task, used with SUPERB's settings (default: from paths.yaml or "
        "S3PRL_PRUNED_<TASK>_CORPUS; for asr else the embedded speech)",
    )
    add(
        "-m",
        "--mode",
        metavar="MODE",
        default="all",
        choices=["all", "train", "evaluate", "inference"],
        help="%(choices)s; all: train and evaluate (default), inference: transcribe the file of -t",
    )
    add("-o", "--override", metavar="K=V,,K=V", help="change settings, e.g. config.optimizer.lr=1.0e-3 (YAML values)")
    add("-n", "--expname", metavar="NAME", help="write to results/NAME/<task> (default: results/<upstream>/<task>)")
    add("-a", "--auto_resume", action="store_true", help="resume an interrupted run")
    add("--device", metavar="DEV", help="cuda or cpu (default: cuda if available)")


def _add_task(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("task and data").add_argument
    add(
        "-c",
        "--config",
        metavar="YAML",
        help="task settings (default: downstream_runs/<task>.yaml, or embedded_<task>.yaml)",
    )
    add("-v", "--downstream_variant", metavar="NAME", help="s3prl's variant of the task")
    add(
        "-t",
        "--evaluate_split",
        metavar="SPLIT",
        help="split to evaluate (default: SUPERB's test split, for asr test-clean)",
    )
    add(
        "--paths",
        metavar="YAML",
        help="file of `<task>: <corpus>` lines; relative paths start from its folder (default: paths.yaml, if it "
        "exists)",
    )
    add("--s3prl-root", metavar="DIR", help="checkout of s3prl, for its lists and dictionaries")
    add("--seed", type=int, metavar="N", default=1337, help="random seed (default: %(default)s)")


def _add_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output and resuming").add_argument
    add("-p", "--expdir", metavar="DIR", help="write to exactly this folder")
    add("--force", action="store_true", help="rename the existing run folder (nothing is deleted) and start again")
    add(
        "-e",
        "--past_exp",
        metavar="CKPT",
        help="load options, settings and weights from a checkpoint, or from the newest in a folder",
    )
    add("-i", "--init_ckpt", metavar="CKPT", help="load only the weights from a checkpoint")
    add("--tried-rates", metavar="JSON", type=Path, help=argparse.SUPPRESS)  # a planned job: what was tried before it


def _add_features(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("upstream and features").add_argument
    add("--upstream-sha256", metavar="HASH", help=argparse.SUPPRESS)  # a planned job: the only model that it takes
    add("-g", "--upstream_model_config", metavar="PATH", help="model configuration, for upstreams that need one")
    add("-r", "--upstream_refresh", action="store_true", help="download the checkpoint again")
    add("-f", "--upstream_trainable", action="store_true", help="fine-tune the upstream too")
    add(
        "-s",
        "--upstream_feature_selection",
        metavar="KEY",
        default="hidden_states",
        help="output of the upstream to use (default: hidden_states, as a weighted sum)",
    )
    add("-l", "--upstream_layer_selection", type=int, metavar="N", help="use only this layer, from 0")
    add(
        "--upstream_feature_normalize",
        action="store_true",
        help="apply layer normalization to each hidden state before the weighted sum",
    )
    add("--layers", metavar="N,N", type=_numbers, default=(), help="use and cache only these layers, from 0")
    add(
        "--single-utterance",
        action="store_true",
        help="encode one utterance at a time, without padding (s3prl pads batches, which changes the features)",
    )
    add(
        "--cache-features",
        action="store_true",
        help="cache features on disk, in $XDG_CACHE_HOME or ~/.cache (implies --single-utterance)",
    )
    add("--cache-half", action="store_true", help="cache them in fp16 (implies --cache-features)")
    add("--drop-features", action="store_true", help="delete cached features, of -u or of all upstreams, and exit")
    add("--upstream_model_name", default="model.pt", help=argparse.SUPPRESS)
    add("--upstream_revision", help=argparse.SUPPRESS)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _add_others(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("other").add_argument
    add("--cache_dir", metavar="DIR", help="folder of downloaded checkpoints")
    add("--verbose", action="store_true", help="print the models")
    add("--disable_cudnn", action="store_true", help="run without cuDNN")


OURS = ("corpus", "paths", "s3prl_root", "force", "command", "upstream_sha256", "tried_rates", "drop_features")
"""Options that s3prl does not have; they are not handed to its runner."""
