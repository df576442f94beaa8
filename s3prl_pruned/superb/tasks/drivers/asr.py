"""ASR: s3prl's ``asr`` on a corpus in LibriSpeech's layout, without a language model."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any, ClassVar

from s3prl_pruned import distributed
from s3prl_pruned.compat import experts
from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import Value
from s3prl_pruned.superb.metrics.edits import word_and_character_error_rates
from s3prl_pruned.superb.results.arks import read_hypotheses
from s3prl_pruned.superb.results.result import SplitRead
from s3prl_pruned.superb.tasks import librispeech, settings
from s3prl_pruned.superb.tasks.driver import DownstreamRun, Driver, Evaluation, EvaluationMetrics
from s3prl_pruned.superb.tasks.padded_lstm import use_padded_lstm
from s3prl_pruned.superb.tasks.remembered import RememberedBatches, RememberedUpstream


class SpeechRecognition(Driver):
    """The settings name the splits (``datarc.train``, ``datarc.dev-clean``, ...), one folder each."""

    transcribes = True
    best = "dev-clean-best.ckpt"
    best_rule = "lowest WER on dev-clean"
    criterion = ("wer", "percent")
    no_best_rule = "the last one, since the WER on dev-clean never got below 100 %"
    official_sizes: ClassVar[dict[str, int]] = librispeech.OFFICIAL_SIZES

    def check(self, config: dict[str, Any]) -> None:
        """Refuse a decoder with a language model."""
        decoder = settings.get(config, "downstream_expert.datarc.decoder_args.decoder_type")
        if decoder != "None":
            raise UserError(
                "config.downstream_expert.datarc.decoder_args.decoder_type: must be 'None' (SUPERB's ASR is scored "
                f"without a language model), but is {decoder!r}."
            )

    def prepare(
        self, args: argparse.Namespace, config: dict[str, Any], *, corpus: Path, s3prl_root: Path | None
    ) -> list[SplitRead]:
        """Read the splits' folders and transcripts; write the utterances' lengths, by which s3prl makes batches."""
        datarc = settings.get(config, "downstream_expert.datarc")
        keys = {
            "all": ["train", *settings.get(config, "runner.eval_dataloaders"), args.evaluate_split],
            "train": ["train", *settings.get(config, "runner.eval_dataloaders")],
            "evaluate": [args.evaluate_split],
            "inference": [],
        }[args.mode]
        read: list[SplitRead] = []
        folders: dict[str, librispeech.TranscribedSplit] = {}
        for key in dict.fromkeys(keys):
            if not isinstance(datarc.get(key), list):
                known = [name for name, value in datarc.items() if isinstance(value, list)]
                raise UserError(f"split {key!r}: not in config.downstream_expert.datarc.{settings.nearest(key, known)}")
            for name in datarc[key]:
                folders[name] = folders.get(name) or librispeech.read_split(corpus, name)
                split = folders[name]
                read.append(SplitRead(key=key, folder=name, num_utterances=len(split.audio), sha256=split.stamp))
            if key != "train":
                count = sum(split.num_utterances for split in read if split.key == key)
                librispeech.refuse_lost_utterances(count, datarc["eval_batch_size"], key)
        datarc["libri_root"] = str(corpus)
        datarc["bucket_file"] = str(librispeech.write_bucket_lengths(corpus, list(folders.values())))
        datarc["dict_path"] = str(Path(args.expdir) / "char.dict")
        return read

    def adapt(self, run: DownstreamRun) -> None:
        """Write the dictionary of letters; make s3prl read the transcripts as they were checked."""
        distributed.from_main(lambda: librispeech.write_dictionary(run.folder / "char.dict"))
        experts.read_asr_transcripts_by(librispeech.plain_transcripts)

    def make_faster(self, runner: Any, run: DownstreamRun) -> None:
        """Train the LSTM on padded batches; remember audio and features from one epoch to the next."""
        config, expert = run.config, runner.downstream.model
        use_padded_lstm(expert)
        if config["downstream_expert"]["datarc"]["num_workers"] == 0:  # a worker process would not keep them
            expert.get_dataloader("train")  # s3prl makes the dataset here and keeps it
            expert.train_dataset = RememberedBatches(expert.train_dataset)
        if not runner.upstream.trainable and not config.get("specaug"):  # specaug changes features in place
            runner.upstream.model = RememberedUpstream(runner.upstream.model)

    def read_metrics(self, evaluation: Evaluation, text: str) -> EvaluationMetrics:
        """WER and CER of the hypotheses that s3prl saved."""
        split = evaluation.run.args.evaluate_split
        hypotheses, references = read_hypotheses(evaluation.run.folder, f"{split}-noLM")
        found = dict(re.findall(rf"^{re.escape(split)} (uer|wer): (\S+)$", text, flags=re.MULTILINE))
        if "wer" not in found:
            raise RuntimeError(f"{split}: s3prl printed no WER.")
        return EvaluationMetrics(
            metrics=word_and_character_error_rates(hypotheses, references),
            printed=[
                Value(name=name, value=float(found[name]), unit="percent") for name in ("uer", "wer") if name in found
            ],
            num_utterances=len(references),
        )
