"""KS: s3prl's ``speech_commands`` on Speech Commands v0.01 and its test set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, ClassVar

from s3prl_pruned import compat
from s3prl_pruned.compat import audio, experts
from s3prl_pruned.config import UserError
from s3prl_pruned.superb.results.result import SplitRead
from s3prl_pruned.superb.tasks import corpora
from s3prl_pruned.superb.tasks.drivers.classification import Classification

NAMES = (
    ("speech_commands_v0.01", "speech_commands_test_set_v0.01"),
    ("speech_commands_v0.02", "speech_commands_test_set_v0.02"),
)
"""The two archives' folders below ``--corpus``; the first pair is the benchmark's."""

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
NOISE = "_background_noise_"


class KeywordSpotting(Classification):
    """Twelve classes: ten keywords, ``_unknown_`` for other words, and ``_silence_``, cut from recordings of noise.

    s3prl splits training and development set by a hash of the speaker, draws the classes of both with
    equal weight, and puts the noise into both; the sizes here include the noise.
    """

    # 51,088 and 6,798 words, by the archive's own lists, plus its 6 recordings of noise.
    official_sizes: ClassVar[dict[str, int]] = {"train": 51_094, "dev": 6_804, "test": 3_081}

    def random_waveforms(self, config: dict[str, Any]) -> str | None:
        """Silence is cut from another place each time."""
        return "cuts its seconds of silence from the noise at random"

    def prepare(
        self, args: argparse.Namespace, config: dict[str, Any], *, corpus: Path, s3prl_root: Path | None
    ) -> list[SplitRead]:
        """Find both archives, and split the words as s3prl does."""
        self.check_split(args.evaluate_split)
        datarc = config["downstream_expert"]["datarc"]
        root, test_root = self._roots(datarc, corpus)
        layout = f"the folder of {self.task.corpus}"
        corpora.require(root, [f"{name}/" for name in (*KEYWORDS, NOISE)], layout=f"{layout}, its first archive")
        corpora.require(
            test_root,
            [f"{name}/" for name in (*KEYWORDS, "_unknown_", "_silence_")],
            layout=f"{layout}, its test archive",
        )
        datarc["speech_commands_root"], datarc["speech_commands_test_root"] = str(root), str(test_root)
        noise = self._noise(root)
        compat.apply()
        train, dev = experts.import_expert(self.task.downstream).split_dataset(root)
        test = [(path.parent.name, path) for path in test_root.glob("*/*.wav")]
        self._refuse_foreign_classes(test_root, {name for name, _ in test})
        read = []
        for key, where, files in (
            ("train", root, [*train, *noise]),
            ("dev", root, [*dev, *noise]),
            ("test", test_root, test),
        ):
            names = sorted(path.relative_to(where).as_posix() for _, path in files)
            read.append(SplitRead(key=key, folder=key, num_utterances=len(names), sha256=corpora.digest(where, names)))
        self._refuse_endless_training(read[0].num_utterances, datarc["batch_size"])
        for split in read:
            if split.num_utterances == (0 if split.key == "test" else len(noise)):
                raise UserError(f"{root}: must hold words of the {split.key} split, but holds none (*.wav).")
        return read

    def _roots(self, datarc: dict[str, Any], corpus: Path) -> tuple[Path, Path]:
        if str(corpus) == datarc.get("speech_commands_root") and datarc.get("speech_commands_test_root"):
            return corpus, Path(datarc["speech_commands_test_root"])  # the settings name both
        for names in NAMES:
            if all((corpus / name).is_dir() for name in names):
                return corpus / names[0], corpus / names[1]
        corpora.require(corpus, [f"{name}/" for name in NAMES[0]], layout=f"the folder of {self.task.corpus}")
        raise AssertionError("require() has raised")

    def _noise(self, root: Path) -> list[tuple[str, Path]]:
        """The recordings of noise; s3prl cuts a second from each."""
        files = sorted((root / NOISE).glob("*.wav"))
        if not files:
            raise UserError(
                f"{root / NOISE}: must hold recordings of noise (*.wav), the class _silence_, but holds none."
            )
        for path in files:
            found = audio.info(path)
            if found.num_frames < found.sample_rate:
                raise UserError(
                    f"{path}: must be one second or longer, but has {found.num_frames / found.sample_rate:.2f} s."
                )
        return [("_silence_", path) for path in files]

    def _refuse_foreign_classes(self, test_root: Path, found: set[str]) -> None:
        foreign = sorted(found - {*KEYWORDS, "_unknown_", "_silence_"})
        if foreign:
            raise UserError(
                f"{test_root}: its folders must be the twelve classes, but it holds {', '.join(foreign[:5])}. "
                "Other words belong in _unknown_."
            )

    def _refuse_endless_training(self, num_utterances: int, batch_size: int) -> None:
        """s3prl drops the last batch of an epoch: with less than one batch it would never make a step."""
        if num_utterances < batch_size:
            raise UserError(
                f"config.downstream_expert.datarc.batch_size: must be at most the {num_utterances} utterances of the "
                f"training set, but is {batch_size}."
            )
