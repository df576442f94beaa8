"""SV: s3prl's ``sv_voxceleb1`` on VoxCeleb1.

The model is trained on the speakers of ``dev/wav`` and tested on trials of the speakers of ``test/wav``.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from s3prl_pruned import compat
from s3prl_pruned.compat import experts
from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.progress import progress
from s3prl_pruned.superb.catalogue import Value
from s3prl_pruned.superb.metrics.eer import PREDICTIONS, score_predictions
from s3prl_pruned.superb.results.result import Part, SplitRead
from s3prl_pruned.superb.results.s3prl_runs.files import saved_steps
from s3prl_pruned.superb.tasks import corpora
from s3prl_pruned.superb.tasks.checkpoints import numbered_checkpoints
from s3prl_pruned.superb.tasks.driver import Combined, DownstreamRun, Driver, Evaluation, EvaluationMetrics
from s3prl_pruned.superb.tasks.drivers.voxceleb1 import FOLDERS, find_list, random_crops
from s3prl_pruned.superb.tasks.known_files import known_files

TRIALS = ("veri_test.txt", "voxceleb1_test_v2.txt")
"""VoxCeleb1's own list, ``1 id10270/x6uYqmx31kE/00001.wav id10270/8jEAjG6SegY/00008.wav``, and s3prl's name for it."""

EFFECTS = [["channels", "1"], ["rate", "16000"], ["gain", "-3.0"], ["silence", "1", "0.1", "0.1%", "-1", "0.1", "0.1%"]]
"""The effects that s3prl applies to all audio (``sv_voxceleb1/dataset.py``)."""

SHORTEST_TEST = 6400
"""Samples after pauses are removed: the x-vector's context is 15 frames, 0.3 s at 20 ms each."""


class SpeakerVerification(Driver):
    """There is no development set: every saved checkpoint is tested, and the lowest EER is reported.

    s3prl removes pauses from all audio, and trains on utterances that are then longer than ``vad_config.min_sec``
    samples. It caches the lengths beside its code, whatever the corpus; here they are cached by corpus.
    """

    criterion = None
    selecting = ("runner.save_step",)  # the lowest of ten checkpoints differs from the lowest of 200
    optional_settings = ("datarc.test_meta_data",)
    # Trials and their files, counted in s3prl's voxceleb1_test_v2.txt. dev/wav: all of SID's list (138,361 + 6,904 +
    # 8,251 files) except the 4,874 of the test speakers.
    official_sizes: ClassVar[dict[str, int]] = {"dev/wav": 148_642, "test/wav": 4_715, "trials": 37_720}

    def random_waveforms(self, config: dict[str, Any]) -> str | None:
        """Utterances are cropped if the settings say so."""
        return random_crops(config)

    def check(self, config: dict[str, Any]) -> None:
        """Refuse evaluation during training, which s3prl cannot do, and the deletion of checkpoints."""
        runner = config["runner"]
        if runner["eval_dataloaders"]:
            raise UserError(
                "config.runner.eval_dataloaders: must be [], since s3prl's sv_voxceleb1 scores the trials of the test "
                f"set only, but is {runner['eval_dataloaders']}."
            )
        saved = runner["total_steps"] // runner["save_step"]
        if saved > runner["max_keep"]:
            raise UserError(
                f"config.runner.max_keep: must be at least the {saved} checkpoints that will be saved, since each is "
                f"tested, but is {runner['max_keep']}."
            )

    def prepare(
        self, args: argparse.Namespace, config: dict[str, Any], *, corpus: Path, s3prl_root: Path | None
    ) -> list[SplitRead]:
        """Read the trials; measure the length of every utterance without its pauses, by which s3prl selects them."""
        if args.evaluate_split != "test":
            raise UserError(f"-t {args.evaluate_split}: sv has the split test only.")
        datarc = config["downstream_expert"]["datarc"]
        named = datarc.get("test_meta_data")
        listing = find_list(self, TRIALS, corpus=corpus, s3prl_root=s3prl_root, named=named, of="trials")
        trials = _read_trials(listing)
        text = "\n".join(map(" ".join, trials))
        found = known_files(
            "sv_voxceleb1", corpus, FOLDERS, listing=text, find=lambda: _find_files(corpus, trials, listing)
        )
        trained, tested = found["train"].names, found["test"].names
        read = [
            SplitRead(key=key, folder=known.root, num_utterances=len(known.names), sha256=known.sha256)
            for key, known in found.items()
        ]
        sha256 = corpora.digest(corpus, [], more=text)
        read.append(SplitRead(key="trials", folder="trials", num_utterances=len(trials), sha256=sha256))
        cache = corpora.splits_folder("sv_voxceleb1", corpus, read)
        self._refuse_short(_lengths(corpus / "test" / "wav", tested, cache / "test_lengths.json"))
        # An evaluation needs no lengths of the training set; on VoxCeleb1 they take a core an hour.
        lengths = {}
        if args.mode != "evaluate":
            lengths = _lengths(corpus / "dev" / "wav", trained, cache / "train_lengths.json")
            shortest = datarc["vad_config"]["min_sec"]
            if not any(length > shortest for length in lengths.values()):
                raise UserError(
                    f"{corpus / 'dev' / 'wav'}: must hold utterances that are longer than {shortest / SAMPLE_RATE:g} s "
                    "without their pauses (config.downstream_expert.datarc.vad_config.min_sec), but holds none."
                )
        datarc["file_path"] = str(corpus)
        datarc["train_meta_data"] = str(_write_for_s3prl(cache / ("all" if lengths else "none"), lengths))
        datarc["dev_meta_data"] = str(corpora.write_once(cache / "no_trials.txt", ""))  # read, but never used
        datarc["test_meta_data"] = str(
            corpora.write_once(cache / "trials.txt", "".join(f"{' '.join(trial)}\n" for trial in trials))
        )
        return read

    def adapt(self, run: DownstreamRun) -> None:
        """Make s3prl read the lengths from the cache, and run on the chosen device."""
        experts.keep_sv_voxceleb1_lengths_in(Path(run.config["downstream_expert"]["datarc"]["train_meta_data"]))
        experts.let_sv_voxceleb1_follow_its_device()

    def evaluations(self, run: DownstreamRun, done: list[Part]) -> list[Evaluation]:
        """One evaluation for every checkpoint that the settings save."""
        if done:
            return []
        found = numbered_checkpoints(run.folder)
        if not found:
            raise UserError(f"{run.folder}: holds no checkpoint. Train first (-m train or all), or name one by -e.")
        _refuse_other_checkpoints(run)
        rule = "every saved one is tested"
        return [Evaluation(name=path.stem, run=run.below(path.stem), checkpoint=path, rule=rule) for path in found]

    def read_metrics(self, evaluation: Evaluation, text: str) -> EvaluationMetrics:
        """EER of the scores that s3prl saved, with the labels of the list of trials."""
        found = re.findall(r"^sv-voxceleb1/test-EER: (\S+)$", text, flags=re.MULTILINE)
        if not found:
            raise RuntimeError("test: s3prl printed no EER.")
        run = evaluation.run
        predictions = run.folder / PREDICTIONS
        rate = score_predictions(predictions, Path(run.config["downstream_expert"]["datarc"]["test_meta_data"]))
        return EvaluationMetrics(
            metrics=[Value(name="eer", value=rate, unit="fraction")],
            printed=[Value(name="eer", value=float(found[-1]), unit="fraction")],
            num_utterances=len(predictions.read_text(encoding="utf-8").splitlines()),
        )

    def expected_utterances(self, evaluation: Evaluation) -> int:
        """All trials must be scored."""
        return evaluation.run.num_utterances("trials")

    def combine(self, parts: list[Part]) -> Combined:
        """The lowest EER over the checkpoints."""
        if len(parts) == 1:
            return super().combine(parts)
        lowest = min(parts, key=lambda part: part.metrics[0].value)
        rule = f"lowest EER of {len(parts)} saved checkpoints"
        assert lowest.checkpoint is not None, "every evaluation of sv is of a saved checkpoint"
        chosen = replace(lowest, checkpoint=replace(lowest.checkpoint, rule=rule))
        return Combined(metrics=lowest.metrics, chosen=chosen, rule=rule)

    def _refuse_short(self, lengths: dict[str, int]) -> None:
        short = sorted(name for name, length in lengths.items() if length < SHORTEST_TEST)
        if short:
            raise UserError(
                f"test/wav: every tested utterance must be {SHORTEST_TEST / SAMPLE_RATE:g} s or longer without its "
                f"pauses, but {len(short)} are not (first {', '.join(short[:3])})."
            )


def _refuse_other_checkpoints(run: DownstreamRun) -> None:
    """Refuse more or fewer checkpoints than the settings save: the lowest EER would be another number.

    Raises:
        UserError: with a checkpoint that should not be there, or one before the newest that is missing.
    """
    total, interval = (run.config["runner"][key] for key in ("total_steps", "save_step"))
    found, wanted = set(saved_steps(run.folder)), set(range(interval, total + 1, interval))
    due = {step for step in wanted if step < max(found)}
    for steps, what in ((found - wanted, "holds"), (due - found, "lacks")):
        if steps:
            raise UserError(
                f"{run.folder}: must hold the checkpoints of every {interval} steps, of which the lowest EER is "
                f"reported, but {what} states-{min(steps)}.ckpt. Correct that, or train under another name (-n)."
            )


def _find_files(corpus: Path, trials: list[tuple[str, str, str]], listing: Path) -> dict[str, tuple[str, list[str]]]:
    """All files of ``dev/wav``, and those of ``test/wav`` that trials name."""
    tested = sorted({name for trial in trials for name in trial[1:]})
    corpora.refuse_missing_files(corpus / "test" / "wav", tested, listing.name)
    trained = sorted(path.relative_to(corpus / "dev" / "wav").as_posix() for path in corpus.glob("dev/wav/*/*/*.wav"))
    if not trained:
        raise UserError(f"{corpus / 'dev' / 'wav'}: must hold <speaker>/<video>/<file>.wav, but holds none.")
    return {"train": ("dev/wav", trained), "test": ("test/wav", tested)}


def _read_trials(path: Path) -> list[tuple[str, str, str]]:
    trials = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if len(fields) != 3 or fields[0] not in ("0", "1"):
            raise UserError(f"{path}, line {number}: must be `<1 or 0> <file> <file>`, but is {line!r}.")
        trials.append((fields[0], fields[1], fields[2]))
    if {label for label, *_ in trials} != {"0", "1"}:
        raise UserError(
            f"{path}: must hold trials of the same (1) and of different speakers (0), but lacks one of them."
        )
    return trials


def _lengths(root: Path, names: list[str], kept: Path) -> dict[str, int]:
    """Samples of each file after s3prl's chain of effects, from the cache if they were computed before."""
    if not kept.is_file():
        compat.apply()
        jobs = os.cpu_count() or 1
        paths = [str(root / name) for name in names]
        if len(paths) < 64 or jobs == 1:
            found = [_trimmed_length(path) for path in paths]
        else:
            with multiprocessing.Pool(jobs, initializer=_one_thread) as pool:
                found = list(
                    progress(pool.imap(_trimmed_length, paths, 16), total=len(paths), desc=f"lengths of {root}")
                )
        corpora.write_once(kept, json.dumps(dict(zip(names, found, strict=True))))
    return json.loads(kept.read_text(encoding="utf-8"))


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _trimmed_length(path: str) -> int:
    import torchaudio

    wav, _ = torchaudio.sox_effects.apply_effects_file(path, EFFECTS)
    return wav.shape[-1]


def _write_for_s3prl(folder: Path, lengths: dict[str, int]) -> Path:
    """Write s3prl's file of lengths, at the place below ``folder`` where s3prl expects it."""
    import torch

    path = folder / ".wav_lengths" / "Voxceleb1_length.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save([[tuple(name.split("/")) for name in lengths], list(lengths.values())], content)
    return corpora.write_once(path, content.getvalue())
