"""QbE: s3prl's ``quesst14_dtw`` on QUESST 2014: queries searched in utterances by dynamic time warping.

Nothing is trained.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, ClassVar

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import Value
from s3prl_pruned.superb.metrics.mtwv import STDLIST, best_layer, read_ground_truth, read_trials, score_stdlist
from s3prl_pruned.superb.results.result import Part, SplitRead
from s3prl_pruned.superb.tasks import corpora
from s3prl_pruned.superb.tasks.driver import Combined, DownstreamRun, Driver, Evaluation, EvaluationMetrics
from s3prl_pruned.superb.tasks.upstreams import build_upstream

OFFICIAL_NAMES = {"dev": "dev", "test": "eval"}
"""QUESST's own name of a split, by s3prl's ``-t``."""

LANGUAGE = "nnenglish"
"""SUPERB searches only the queries in non-native English."""


class QueryByExample(Driver):
    """Every layer of the upstream is evaluated on the development set, and the layer with the highest MTWV on test.

    The folders are ``layer<n>-dev`` and ``layer<n>-test``. With ``-l`` only one layer is evaluated, which is no
    official result.
    """

    trains = False
    criterion = None
    official_sizes: ClassVar[dict[str, int]] = {"dev_queries": 138, "eval_queries": 138, "Audio": 2_438}

    def extracts_once(self, run: DownstreamRun) -> bool:
        """All layers share features, unless ``-l`` names one, or larger batches make padding change features."""
        of_one = run.config["downstream_expert"]["datarc"]["batch_size"] == 1
        return of_one and run.args.upstream_layer_selection is None

    def prepare(
        self, args: argparse.Namespace, config: dict[str, Any], *, corpus: Path, s3prl_root: Path | None
    ) -> list[SplitRead]:
        """Check the lists of queries and utterances, and that the ground truth holds them all."""
        if args.mode == "train":
            raise UserError("-m train: qbe trains nothing. Leave -m out, or give -m evaluate.")
        if args.evaluate_split not in OFFICIAL_NAMES:
            raise UserError(f"-t {args.evaluate_split}: qbe has the splits {', '.join(OFFICIAL_NAMES)}.")
        names = {"dev": "dev_queries", "test": "eval_queries", "utterances": "Audio"}
        lists = {key: f"scoring/language_key_{OFFICIAL_NAMES.get(key, key)}.lst" for key in names}
        truths = [f"scoring/groundtruth_quesst14_{name}/" for name in OFFICIAL_NAMES.values()]
        corpora.require(corpus, [*lists.values(), *truths], layout=f"the folder quesst14Database of {self.task.corpus}")
        found = {key: _read_list(corpus, listing) for key, listing in lists.items()}
        _check_ground_truth(corpus, found)
        expert = config["downstream_expert"]
        expert["datarc"]["dataset_root"] = str(corpus)
        # None would mean every core of the machine, even if a scheduler gave this job fewer.
        expert["max_workers"] = expert["max_workers"] or len(os.sched_getaffinity(0))
        return [
            SplitRead(key=key, folder=names[key], num_utterances=len(files), sha256=corpora.digest(corpus, files))
            for key, files in found.items()
        ]

    def evaluations(self, run: DownstreamRun, done: list[Part]) -> list[Evaluation]:
        """First every layer on dev, then the best layer on the split of ``-t``."""
        split = run.args.evaluate_split
        if run.args.upstream_layer_selection is not None:
            return [] if done else [Evaluation(name="", run=run, checkpoint=None, rule="named by -l")]
        if not done:
            return [_of_layer(run, layer, "dev") for layer in range(num_layers(run.args))]
        if done[-1].split == split:
            return []
        return [_of_layer(run, _best(done), split)]

    def read_metrics(self, evaluation: Evaluation, text: str) -> EvaluationMetrics:
        """MTWV of the scores that s3prl wrote; s3prl prints no metric."""
        run = evaluation.run
        name = OFFICIAL_NAMES[run.args.evaluate_split]
        root = Path(run.config["downstream_expert"]["datarc"]["dataset_root"])
        stdlist = run.folder / STDLIST
        found = score_stdlist(stdlist, root / "scoring" / f"groundtruth_quesst14_{name}")
        searched = [query for query, *_ in read_trials(stdlist)]
        queries, utterances = len(set(searched)), run.num_utterances("utterances")
        if len(searched) != queries * utterances:
            raise UserError(
                f"{stdlist}: must hold every query with all {utterances} utterances, but holds {len(searched)} pairs "
                f"of {queries} queries."
            )
        return EvaluationMetrics(
            metrics=[Value(name="mtwv", value=found.mtwv, unit="fraction")], printed=[], num_utterances=queries
        )

    def combine(self, parts: list[Part]) -> Combined:
        """The value on test of the layer that is best on dev."""
        dev = [part for part in parts if part.split == "dev"]
        if not dev or len(parts) == 1:
            return super().combine(parts)
        layer = _best(dev)
        chosen = next(part for part in parts if (part.name, part.split) == (f"layer{layer}", parts[-1].split))
        return Combined(
            metrics=chosen.metrics, chosen=chosen, rule=f"layer {layer}, the highest MTWV of {len(dev)} on dev"
        )


def num_layers(args: argparse.Namespace) -> int:
    """The number of layers that ``-l`` can choose from, counted in the upstream's output for a second of silence.

    Raises:
        UserError: if ``-s`` names an output without layers.
    """
    import torch

    upstream = build_upstream(args).eval()
    with torch.no_grad():
        features = upstream([torch.zeros(16_000)]).get(args.upstream_feature_selection)
    if not isinstance(features, (list, tuple)):
        raise UserError(
            f"-s {args.upstream_feature_selection}: must be a list of layers, such as hidden_states, but is not."
        )
    return len(features)


def _of_layer(run: DownstreamRun, layer: int, split: str) -> Evaluation:
    changed = {"upstream_layer_selection": layer, "evaluate_split": split}
    of_layer = run.below(f"layer{layer}-{split}", args=changed)
    return Evaluation(name=f"layer{layer}", run=of_layer, checkpoint=None, rule="")


def _best(dev: list[Part]) -> int:
    return best_layer({int(part.name.removeprefix("layer")): part.metrics[0].value for part in dev})


def _read_list(corpus: Path, listing: str) -> list[str]:
    """The files of the language that SUPERB uses, as paths below the corpus.

    Lines are ``<folder>/Audio/<file>.wav <language>``.
    """
    files = []
    for number, line in enumerate((corpus / listing).read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if len(fields) != 2 or "/" not in fields[0]:
            raise UserError(f"{corpus / listing}, line {number}: must be `<path> <language>`, but is {line!r}.")
        if fields[1] == LANGUAGE:
            files.append(fields[0].partition("/")[2])
    if not files:
        raise UserError(f"{corpus / listing}: must hold files of the language {LANGUAGE}, but holds none.")
    corpora.refuse_missing_files(corpus, files, listing)
    return files


def _check_ground_truth(corpus: Path, found: dict[str, list[str]]) -> None:
    """All queries and utterances must be in the ground truth; checked before hours of searching."""
    utterances = {Path(file).stem for file in found["utterances"]}
    for key, name in OFFICIAL_NAMES.items():
        folder = corpus / "scoring" / f"groundtruth_quesst14_{name}"
        truth = read_ground_truth(folder)
        alone = sorted(
            (utterances - set(truth.utterances)) | ({Path(file).stem for file in found[key]} - set(truth.queries))
        )
        if alone:
            raise UserError(
                f"{folder}: must name every utterance and query of {LANGUAGE}, but lacks {', '.join(alone[:3])}."
            )
