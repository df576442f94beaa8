"""ASR: s3prl's ``asr`` on a corpus in LibriSpeech's layout, without a language model."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3prl_pruned import distributed
from s3prl_pruned.config import UserError
from s3prl_pruned.superb import librispeech, settings
from s3prl_pruned.superb.drivers.base import Driver, Evaluation, Score
from s3prl_pruned.superb.padded_lstm import use_padded_lstm
from s3prl_pruned.superb.remembered import RememberedBatches, RememberedUpstream
from s3prl_pruned.superb.results import SplitRead, error_rates, read_arks
from s3prl_pruned.superb.tasks import Value

if TYPE_CHECKING:
    from s3prl_pruned.superb.experiment import Experiment


class SpeechRecognition(Driver):
    """Splits are named by the settings (``datarc.train``, ``datarc.dev-clean``, ...), one folder each."""

    transcribes = True
    best = "dev-clean-best.ckpt"
    best_rule = "lowest WER on dev-clean"
    criterion = ("wer", "percent")
    no_best_rule = "the last one, since the WER on dev-clean never got below 100 %"
    official_sizes = librispeech.OFFICIAL_SIZES

    def check(self, config: dict[str, Any]) -> None:
        decoder = settings.get(config, "downstream_expert.datarc.decoder_args.decoder_type")
        if decoder != "None":
            raise UserError(
                "config.downstream_expert.datarc.decoder_args.decoder_type: must be 'None' (SUPERB's ASR is "
                f"scored without a language model), but is {decoder!r}."
            )

    def prepare(
        self, args: argparse.Namespace, config: dict[str, Any], *, corpus: Path, s3prl_root: Path | None
    ) -> list[SplitRead]:
        datarc = settings.get(config, "downstream_expert.datarc")
        keys = {
            "all": ["train", *settings.get(config, "runner.eval_dataloaders"), args.evaluate_split],
            "train": ["train", *settings.get(config, "runner.eval_dataloaders")],
            "evaluate": [args.evaluate_split],
            "inference": [],
        }[args.mode]
        read, folders = [], {}
        for key in dict.fromkeys(keys):
            if not isinstance(datarc.get(key), list):
                known = [name for name, value in datarc.items() if isinstance(value, list)]
                raise UserError(
                    f"split {key!r}: not in config.downstream_expert.datarc.{settings.nearest(key, known)}"
                )
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

    def adapt(self, experiment: Experiment) -> None:
        distributed.from_main(lambda: librispeech.write_dictionary(experiment.folder / "char.dict"))

    def make_faster(self, runner: Any, experiment: Experiment) -> None:
        config, expert = experiment.config, runner.downstream.model
        use_padded_lstm(expert)
        if config["downstream_expert"]["datarc"]["num_workers"] == 0:  # another process would forget
            expert.get_dataloader("train")  # s3prl makes the dataset here and keeps it
            expert.train_dataset = RememberedBatches(expert.train_dataset)
        if not runner.upstream.trainable and not config.get("specaug"):  # specaug changes features in place
            runner.upstream.model = RememberedUpstream(runner.upstream.model)

    def score(self, evaluation: Evaluation, text: str) -> Score:
        split = evaluation.experiment.args.evaluate_split
        hypotheses, references = read_arks(evaluation.experiment.folder, split)
        found = dict(re.findall(rf"^{re.escape(split)} (uer|wer): (\S+)$", text, flags=re.MULTILINE))
        if "wer" not in found:
            raise RuntimeError(f"{split}: s3prl printed no WER.")
        return Score(
            metrics=error_rates(hypotheses, references),
            printed=[
                Value(name=name, value=float(found[name]), unit="percent") for name in ("uer", "wer") if name in found
            ],
            num_utterances=len(references),
        )
