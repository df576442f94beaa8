"""QbE from the command line to the result: the layer that is best on dev is evaluated on test."""

import argparse
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import TASKS, Value
from s3prl_pruned.superb.results.result import Part, Seconds, read_result
from s3prl_pruned.superb.running import features, features_room
from s3prl_pruned.superb.tasks.driver import DownstreamRun
from s3prl_pruned.superb.tasks.drivers import driver_of, quesst14
from tests.superb.pieces import assert_pieces_give_the_result
from tests.superb_mini import make_corpora

FOLDER = Path("results/fbank/qbe")
SETTINGS = "config.downstream_expert.datarc.num_workers=0,,config.downstream_expert.max_workers=1"


@pytest.fixture(scope="module")
def corpus(workplace):
    return make_corpora(workplace, "qbe")["qbe"]


@pytest.fixture(scope="module")
def qbe(command, corpus):
    def call(*options):
        return command("-d", "qbe", "--corpus", corpus, "-o", SETTINGS, *options)

    return call


@pytest.fixture(scope="module")
def printed(qbe):
    return qbe()


def test_dev_and_test_are_searched_and_scored_by_their_own_queries(printed, corpus):
    result = read_result(FOLDER / "result.json")
    assert [(part.name, part.split) for part in result.parts] == [("layer0", "dev"), ("layer0", "test")]
    documents = {path.stem for path in (corpus / "Audio").glob("*.wav")}
    for part, official in zip(result.parts, ("dev", "eval"), strict=True):
        root = ElementTree.parse(FOLDER / f"layer0-{part.split}" / "benchmark.stdlist.xml").getroot()
        queries = {path.stem for path in (corpus / f"{official}_queries").glob("*.wav")}
        assert {terms.get("termid") for terms in root} == queries and part.num_utterances == len(queries)
        assert all({term.get("file") for term in terms} == documents for terms in root)
        assert 0 <= part.metrics[0].value <= 1 and part.metrics[0].unit == "fraction"
    assert result.values()["mtwv"] == result.parts[1].metrics[0] and result.checkpoint is None
    assert result.rule == "layer 0, the highest MTWV of 1 on dev" and result.rule in printed
    assert_pieces_give_the_result(FOLDER, "queries")


def test_a_finished_task_says_so_and_an_interrupted_one_goes_on(printed, qbe):
    assert "nothing to do" in qbe("-m", "evaluate")
    (FOLDER / "result.json").unlink()
    (FOLDER / "layer0-test" / "evaluation-test.json").unlink()
    again = qbe("-a")
    assert "qbe layer0 test: MTWV" in again and read_result(FOLDER / "result.json").rule
    assert not (FOLDER / "layer0-dev" / "stdout.log").read_text().count("Featurizer") > 1  # dev was not searched again


def test_features_are_extracted_once_for_all_layers(qbe, corpus, monkeypatch):
    """Once per file, while s3prl extracts them for every layer; the searches are the same."""
    extracted, write = [], features._write
    monkeypatch.setattr(
        features, "_write", lambda path, *given, **how: extracted.append(path) or write(path, *given, **how)
    )
    qbe("-u", "wavlm_embedded", "-n", "once")
    files = sum(len(list((corpus / name).glob("*.wav"))) for name in ("dev_queries", "eval_queries", "Audio"))
    assert len(extracted) == len(set(extracted)) == files
    assert not Path("results/once/qbe/features").exists()  # removed once the result is written
    once = read_result(Path("results/once/qbe/result.json"))
    assert [part.name for part in once.parts][:7] == [f"layer{layer}" for layer in range(7)]
    qbe("-u", "wavlm_embedded", "-n", "alone", "-l", "3", "-t", "dev")  # s3prl without our cache
    assert read_result(Path("results/alone/qbe/result-dev.json")).metrics == once.parts[3].metrics
    assert len(extracted) == files


def test_without_room_features_are_extracted_for_every_layer_and_this_is_reported(qbe, monkeypatch):
    full = SimpleNamespace(free=0)
    monkeypatch.setattr(features_room.shutil, "disk_usage", lambda folder: full)
    monkeypatch.setattr(features, "_write", lambda *given, **how: pytest.fail("something is written"))
    printed = qbe("-n", "full")  # FBANK has one layer
    assert printed.count("They are extracted again for every evaluation.") == 2
    assert read_result(Path("results/full/qbe/result.json")).metrics == read_result(FOLDER / "result.json").metrics


def test_queries_are_searched_on_the_cores_of_the_job(corpus, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 5, 7})
    for given, expected in ((None, 3), (2, 2)):
        config = {"downstream_expert": {"datarc": {}, "max_workers": given}}
        args = argparse.Namespace(mode="all", evaluate_split="test")
        driver_of(TASKS["qbe"]).prepare(args, config, corpus=Path(corpus), s3prl_root=None)
        assert config["downstream_expert"]["max_workers"] == expected


def test_there_is_nothing_to_train_and_no_other_split(qbe):
    with pytest.raises(UserError, match="-m train: qbe trains nothing"):
        qbe("-m", "train")
    with pytest.raises(UserError, match="-t eval: qbe has the splits dev, test"):
        qbe("-t", "eval")


@pytest.mark.parametrize(
    "text", ["config.runner.total_steps=10", "config.optimizer.lr=1e-3", "config.specaug.adaptive=false"]
)
def test_settings_of_a_training_are_refused_since_they_are_not_used(command, corpus, text):
    with pytest.raises(UserError, match=f"-o {text}: nothing is trained, so this is not used. Leave it out."):
        command("-d", "qbe", "--corpus", corpus, "-o", text)


def part(layer, split, value):
    metrics = [Value(name="mtwv", value=value, unit="fraction")]
    return Part(
        name=f"layer{layer}",
        split=split,
        num_utterances=1,
        metrics=metrics,
        printed_by_s3prl=[],
        seconds=Seconds(evaluate=0),
    )


@pytest.fixture
def three_layers(monkeypatch, tmp_path):
    """An upstream of three layers, to be evaluated on the test set."""
    monkeypatch.setattr(quesst14, "num_layers", lambda args: 3)

    def asked(**changes):
        args = {"evaluate_split": "test", "upstream_layer_selection": None, "expdir": ""} | changes
        return DownstreamRun(
            task=TASKS["qbe"], driver=driver_of(TASKS["qbe"]), args=argparse.Namespace(**args), config={},
            folder=tmp_path, corpus=tmp_path, embedded=False, splits=[], protocol="official", protocol_note=None,
            config_sha256="",
        )  # fmt: skip

    return asked


def test_the_best_layer_on_dev_is_the_one_of_test(three_layers):
    driver = quesst14.QueryByExample(SimpleNamespace(name="qbe"))
    first = driver.evaluations(three_layers(), [])
    asked = [(one.run.args.upstream_layer_selection, one.run.args.evaluate_split) for one in first]
    assert asked == [(0, "dev"), (1, "dev"), (2, "dev")]
    assert len({one.run.folder for one in first}) == 3
    dev = [part(0, "dev", 0.01), part(1, "dev", 0.03), part(2, "dev", 0.02)]
    (test,) = driver.evaluations(three_layers(), dev)
    assert (test.run.args.upstream_layer_selection, test.run.args.evaluate_split) == (1, "test")
    done = [*dev, part(1, "test", 0.005)]
    assert driver.evaluations(three_layers(), done) == []
    combined = driver.combine(done)
    assert (combined.chosen.split, combined.metrics[0].value) == ("test", 0.005)
    assert combined.rule == "layer 1, the highest MTWV of 3 on dev"


def test_for_split_dev_only_dev_is_searched(three_layers):
    driver = quesst14.QueryByExample(SimpleNamespace(name="qbe"))
    dev = [part(0, "dev", 0.01), part(1, "dev", 0.03)]
    assert driver.evaluations(three_layers(evaluate_split="dev"), dev) == []
    assert driver.combine(dev).metrics[0].value == 0.03


def test_a_named_layer_is_the_only_one_and_no_official_result(qbe):
    qbe("-l", "0", "-n", "named")
    result = read_result(Path("results/named/qbe/result.json"))
    assert result.parts is None and "upstream_layer_selection" in result.protocol_note
