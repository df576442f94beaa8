"""SD: s3prl's ``diarization`` on two-speaker mixtures of LibriSpeech, described by folders in Kaldi's format."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from s3prl_pruned.compat import audio, experts
from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.superb.catalogue import Value
from s3prl_pruned.superb.metrics.der import DerSearch, read_rttm, score_run
from s3prl_pruned.superb.results.result import SplitRead, write_json
from s3prl_pruned.superb.tasks import corpora
from s3prl_pruned.superb.tasks.driver import DownstreamRun, Driver, Evaluation, EvaluationMetrics
from s3prl_pruned.superb.tasks.settings import check_dev_is_evaluated

SPLITS = ("train", "dev", "test")
FILES = ("wav.scp", "segments", "utt2spk", "spk2utt", "reco2dur")
SEARCH_FILE = Path("scoring") / "der.json"
"""The DER for each tried threshold and median filter, and for the lowest DER the seconds of every recording."""


class SpeakerDiarization(Driver):
    """s3prl prints an error rate over frames; the benchmark's is over time, computed from s3prl's predictions.

    It uses no collar, includes overlapped speech, and is the lowest over thresholds and median filters
    (``metrics/der.py``).
    """

    best = "best-states-dev.ckpt"
    best_rule = "highest frame accuracy on dev"
    no_best_rule = "the last one, since the frame accuracy on dev never got above 0"
    # Lines of metadata/Libri2Mix/ in https://github.com/s3prl/LibriMix, from which its generate_librimix_sd.sh makes
    # the corpus.
    official_sizes: ClassVar[dict[str, int]] = {"train": 13_900, "dev": 3_000, "test": 3_000}

    def check(self, config: dict[str, Any]) -> None:
        """Refuse training without a development set, and an evaluation that would save no predictions."""
        if config["downstream_expert"]["scorerc"]["save_predictions"] is not True:
            raise UserError(
                "config.downstream_expert.scorerc.save_predictions: must be true, since the predictions are scored."
            )
        check_dev_is_evaluated(config)

    def prepare(
        self, args: argparse.Namespace, config: dict[str, Any], *, corpus: Path, s3prl_root: Path | None
    ) -> list[SplitRead]:
        """Check the three folders in Kaldi's format: the same recordings, utterances and speakers in every file."""
        if args.evaluate_split != "test":
            raise UserError(f"-t {args.evaluate_split}: s3prl saves predictions of sd's split test only.")
        loaderrc = config["downstream_expert"]["loaderrc"]
        speakers = config["downstream_expert"]["datarc"]["num_speakers"]
        named = {split: loaderrc.get(f"{split}_dir") for split in SPLITS}
        if not (str(corpus) == named["train"] and all(named.values())):  # the settings name all three
            corpora.require(corpus, [f"{split}/" for split in SPLITS], layout=f"the folders of {self.task.corpus}")
            named = {split: str(corpus / split) for split in SPLITS}
        splits = {"train": ("train", "dev"), "evaluate": ("test",)}.get(args.mode, SPLITS)
        read = [_read_split(Path(named[split]), split, speakers=speakers) for split in splits]
        loaderrc |= {f"{split}_dir": folder for split, folder in named.items()}
        return read

    def adapt(self, run: DownstreamRun) -> None:
        """Make the folder that s3prl writes predictions into."""
        experts.keep_settings_of("diarization")
        (run.folder / "scoring" / "predictions").mkdir(parents=True, exist_ok=True)

    def read_metrics(self, evaluation: Evaluation, text: str) -> EvaluationMetrics:
        """The lowest DER over thresholds and median filters; the others are written to ``scoring/der.json`` too."""
        run = evaluation.run
        reference = Path(run.config["downstream_expert"]["loaderrc"]["test_dir"]) / "rttm"
        found = score_run(run.folder, reference)
        _write_search(run.folder / SEARCH_FILE, found)
        printed = re.findall(r"^mode test acc (\S+) der (\S+)$", text, flags=re.MULTILINE)
        if not printed:
            raise RuntimeError("test: s3prl printed no frame accuracy.")
        names = ("frame_acc", "frame_der")
        return EvaluationMetrics(
            metrics=[Value(name="der", value=found.der, unit="fraction")],
            printed=[
                Value(name=name, value=float(value), unit="fraction")
                for name, value in zip(names, printed[-1], strict=True)
            ],
            num_utterances=found.num_recordings,
            rule=f"lowest DER of {len(found.errors)}: threshold {found.threshold:g}, "
            f"median filter of {found.median} frames",
        )


def _write_search(path: Path, found: DerSearch) -> None:
    tried = [
        {"threshold": threshold, "median": median, "der": error.rate, **asdict(error)}
        for (threshold, median), error in found.errors.items()
    ]
    best = {"threshold": found.threshold, "median": found.median, "der": found.der}
    recordings = {name: asdict(error) for name, error in found.recordings.items()}
    write_json(path, {**best, "seconds_tried": tried, "recordings": recordings})


def _read_split(folder: Path, split: str, *, speakers: int) -> SplitRead:
    """Check a folder in Kaldi's format.

    Raises:
        UserError: if a file is missing, or the files do not have the same recordings, utterances and speakers.
    """
    names = [*FILES, "rttm"] if split == "test" else list(FILES)
    corpora.require(folder, names, layout="a folder in Kaldi's format, as s3prl's LibriMix makes it")
    tables = {name: _read_table(folder / name) for name in FILES}
    recordings = {name: " ".join(rest) for name, rest in tables["wav.scp"].items()}
    if not recordings:
        raise UserError(f"{folder / 'wav.scp'}: must name recordings, but is empty.")
    for name, file in recordings.items():
        if file.endswith("|") or not Path(file).is_file():
            raise UserError(
                f"{folder / 'wav.scp'}: {name} must be an audio file, but is {file!r}"
                f"{', a command, which is not run' if file.endswith('|') else ', which is not there'}."
            )
    _same(folder, "reco2dur", tables["reco2dur"], recordings)
    voices: dict[str, set[str]] = {}
    for utterance, fields in tables["segments"].items():
        if len(fields) != 3 or utterance not in tables["utt2spk"]:
            raise UserError(
                f"{folder / 'segments'}: {utterance} must have recording, begin and end, and a speaker in utt2spk."
            )
        voices.setdefault(fields[0], set()).update(tables["utt2spk"][utterance])
    _same(folder, "segments", voices, recordings)
    crowded = sorted(name for name, found in voices.items() if len(found) > speakers)
    if crowded:
        raise UserError(
            f"{folder / 'segments'}: a recording must have at most {speakers} speakers, but {crowded[0]} has more."
        )
    if split == "test":
        _same(folder, "rttm", read_rttm(folder / "rttm"), recordings)
    sizes = "\n".join(f"{name} {Path(file).stat().st_size}" for name, file in recordings.items())
    sha256 = corpora.digest(folder, names[1:], more=sizes)
    cache = corpora.cache_folder("diarization", f"{folder.resolve()} {sha256}")
    if not (cache / "checked").is_file():  # only once, since it opens every file
        for name, file in recordings.items():
            _check_audio(Path(file), float(tables["reco2dur"][name][0]))
        corpora.write_once(cache / "checked", "")
    return SplitRead(key=split, folder=split, num_utterances=len(recordings), sha256=sha256)


def _check_audio(path: Path, seconds: float) -> None:
    corpora.check_audio([path], why="s3prl reads it as such")
    length = audio.info(path).num_frames / SAMPLE_RATE
    if abs(length - seconds) > 0.1:
        raise UserError(f"{path}: must last {seconds:g} s as reco2dur says, but lasts {length:g} s.")


def _same(folder: Path, name: str, found: dict[str, Any], recordings: dict[str, str]) -> None:
    alone = sorted(found.keys() ^ recordings.keys())
    if alone:
        raise UserError(
            f"{folder / name}: must have the recordings of wav.scp, but {len(alone)} are in one of them only "
            f"(first {', '.join(alone[:3])})."
        )


def _read_table(path: Path) -> dict[str, list[str]]:
    """The fields of each line, by its first field."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
    table = {fields[0]: fields[1:] for fields in lines if len(fields) > 1}
    if len(table) < len(lines):
        raise UserError(f"{path}: every line must begin with a new name and have more fields, but one does not.")
    return table
