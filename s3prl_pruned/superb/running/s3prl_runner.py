"""Running s3prl: preparing this process, calling s3prl's runner, capturing what it prints.

This does what ``s3prl/run_downstream.py`` does around the runner, without its parser (which calls ``eval`` on
overrides) and its replacement of ``builtins.isinstance``.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import multiprocessing
import os
import platform
import random
import sys
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import yaml

from s3prl_pruned import __version__, compat, distributed
from s3prl_pruned.checkpoint import DISK_FULL
from s3prl_pruned.compat import audio, experts
from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.scalars import ScalarWriter
from s3prl_pruned.stop_requests import stop_requests
from s3prl_pruned.superb.results.result import Versions
from s3prl_pruned.superb.running.features import ChosenLayers, extract_singly
from s3prl_pruned.superb.running.features_room import require_room
from s3prl_pruned.superb.running.stoppable import StoppableTraining
from s3prl_pruned.superb.tasks.driver import DownstreamRun

TIMEOUT_SECONDS = 24 * 3600
"""Only the first process evaluates on the development set; the others wait for it in the next step."""

LOG_FILE = "stdout.log"
"""All that s3prl prints while training and evaluating."""


def prepare(options: argparse.Namespace) -> None:
    """Prepare this process, and choose the device if none is named.

    Raises:
        UserError: on a missing device, or a setting of this process with which s3prl fails.
    """
    if os.environ.get("TQDM_DISABLE", "0") not in ("", "0"):
        # s3prl counts its steps in the progress bar; a disabled one does not count.
        raise UserError("TQDM_DISABLE: s3prl would never end with it. Unset this environment variable.")
    if distributed.launched_processes() > 1 and options.mode in ("evaluate", "inference"):
        raise UserError(f"-m {options.mode}: s3prl evaluates in one process. Start without torchrun.")
    if options.device == "cpu":
        # On a machine with a GPU, s3prl would call torch.cuda.device("cpu") and stop.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    compat.apply()
    import torch

    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if options.device != "cpu" and not (options.device.startswith("cuda") and torch.cuda.is_available()):
        raise UserError(f"--device {options.device}: must be cpu, or cuda on a machine that has it.")
    if options.init_ckpt is not None and options.mode in ("all", "train"):
        raise UserError("-i: is for -m evaluate and inference; to resume training give -e or -a.")
    if options.mode == "inference" and not Path(options.evaluate_split or "").is_file():
        raise UserError(f"-t {options.evaluate_split}: -m inference takes an existing audio file.")
    options.device = distributed.start(options.device, timeout_seconds=TIMEOUT_SECONDS)
    options.local_rank = distributed.local_rank() if distributed.world_size() > 1 else None
    torch.multiprocessing.set_sharing_strategy("file_system")
    if sys.platform == "linux" and multiprocessing.get_start_method(allow_none=True) is None:
        # Python 3.14 does not fork data loading processes, so they lack the workarounds applied above.
        multiprocessing.set_start_method("fork")
    torch.backends.cudnn.enabled = not options.disable_cudnn
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    if options.cache_dir:
        torch.hub.set_dir(options.cache_dir)
    for message in (r".*torch\.cuda\.amp", "User provided device_type of 'cuda'", r".*torch\.jit\."):
        warnings.filterwarnings("ignore", message=message)  # from s3prl's code, at every step


def save_settings(run: DownstreamRun) -> None:
    """Write s3prl's ``args_<time>.yaml`` and ``config_<time>.yaml``, as it does itself; in the first process only."""
    if not distributed.is_main():
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    tag = datetime.now().strftime("%Y-%m-%d-%H-%M-%S")
    for name, data in (("args", vars(run.args)), ("config", run.config)):
        path = run.folder / f"{name}_{tag}.yaml"
        path.write_text(yaml.safe_dump(data), encoding="utf-8")


def train(run: DownstreamRun, start: Path | None) -> None:
    """Train with s3prl's runner.

    Args:
        run: the run, with the folder of this training.
        start: the checkpoint to resume from, if any.

    Raises:
        Interrupted: by one of `STOP_SIGNALS`, in all processes after the same step, which is saved.
        UserError: if a checkpoint cannot be written; earlier ones are kept.
    """
    with _logged(run.folder):
        runner = _make_runner(run, "train", start)
        if run.args.device == "cpu" and distributed.world_size() == 1:
            run.driver.make_faster(runner, run)
        with stop_requests() as request:
            training = StoppableTraining(runner, run, request)
            try:
                training.train()
            except OSError as error:
                if error.errno not in DISK_FULL:
                    raise
                raise UserError(f"{run.folder}: cannot be written ({error}). Make room; -a resumes.") from error


def evaluate(run: DownstreamRun, checkpoint: Path | None) -> str:
    """Evaluate with s3prl's runner, which saves its predictions in the run's folder.

    Args:
        run: the run, with the folder of this evaluation.
        checkpoint: the checkpoint to evaluate; None where nothing is trained.

    Returns:
        What s3prl printed.
    """
    with _logged(run.folder) as text:
        _make_runner(run, "evaluate", checkpoint).evaluate()
    return text.getvalue()


def transcribe(run: DownstreamRun, checkpoint: Path, path: str) -> str:
    """Decode one file of 16 kHz mono audio and return the text."""
    found = audio.info(path)
    if (found.sample_rate, found.num_channels) != (SAMPLE_RATE, 1):
        raise UserError(
            f"{path}: must be {SAMPLE_RATE} Hz mono, but has {found.sample_rate} Hz and {found.num_channels} "
            "channel(s)."
        )
    run.args.evaluate_split = path
    with _logged(run.folder):
        _make_runner(run, "inference", checkpoint).inference()
    line = (run.folder / "inference.ark").read_text(encoding="utf-8").strip()
    return line.partition(" ")[2]


def versions() -> Versions:
    """Versions of the installed software."""
    import torch
    import torchaudio

    host = compat.host()
    return Versions(
        s3prl_pruned=__version__,
        host=host.name,
        s3prl=host.version,
        torch=torch.__version__,
        torchaudio=torchaudio.__version__,
        python=platform.python_version(),
    )


def _make_runner(run: DownstreamRun, mode: str, checkpoint: Path | None) -> Any:
    import numpy
    import torch
    from s3prl.downstream.runner import Runner

    args = argparse.Namespace(**vars(run.args))
    args.mode, args.init_ckpt = mode, None if checkpoint is None else str(checkpoint)
    if distributed.world_size() > 1:
        experts.train_on_all_processes()
    experts.import_expert(args.downstream)
    experts.write_scalars_by(ScalarWriter)
    run.driver.adapt(run)
    for seed in (random.seed, numpy.random.seed, torch.manual_seed):
        seed(args.seed)
    try:
        runner = _with_layers(Runner, args)(args, copy.deepcopy(run.config))
    except RuntimeError as error:
        if checkpoint is None or "state_dict" not in str(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{checkpoint}: its weights are for another model ({reason}).") from error
    if args.single_utterance or run.features:
        _keep_features(runner, run, args)
    if args.verbose:
        print(*(entry.model for entry in runner.all_entries), sep="\n")
    return runner


def _with_layers(runner: Any, args: argparse.Namespace) -> Any:
    """s3prl's runner with an upstream that returns the layers of ``--layers`` only."""
    if not args.layers:
        return runner

    class RunnerWithLayers(runner):  # of either host
        def _get_upstream(self) -> Any:
            entry, selection = super()._get_upstream(), args.upstream_feature_selection
            entry.model = ChosenLayers(entry.model, selection=selection, layers=args.layers)
            return entry

    return RunnerWithLayers


def _keep_features(runner: Any, run: DownstreamRun, args: argparse.Namespace) -> None:
    """Extract features utterance by utterance, and cache them if there is room for all."""
    selection, folder = args.upstream_feature_selection, run.features
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        training = args.mode == "train"
        splits = ["train", *run.config["runner"]["eval_dataloaders"]] if training else [args.evaluate_split]
        try:
            if distributed.is_main():
                require_room(runner, splits, folder, selection=selection, half=args.cache_half)
        except UserError as error:
            if args.cache_features:
                raise
            print(f"{error} They are extracted again for every evaluation.")  # the user did not ask for a cache
            folder = None
    layer = args.upstream_layer_selection
    extract_singly(runner, selection=selection, folder=folder, layer=layer, half=args.cache_half)


@contextlib.contextmanager
def _logged(folder: Path) -> Iterator[io.StringIO]:
    """Copy what is printed into the folder's log, and yield it. Only the first process prints."""
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    if not distributed.is_main():
        with contextlib.redirect_stdout(text):
            yield text
        return
    with (
        (folder / LOG_FILE).open("a", encoding="utf-8") as log,
        contextlib.redirect_stdout(_Tee(sys.stdout, log, text)),
    ):
        yield text


class _Tee(io.TextIOBase):
    """A text stream that writes to several."""

    def __init__(self, *streams: TextIO) -> None:
        self.streams = streams

    def write(self, text: str) -> int:
        for stream in self.streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in self.streams:
            stream.flush()
