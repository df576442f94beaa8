"""PR and SF from the command line to the result, run by s3prl on tiny corpora in the official layouts."""

import re
from pathlib import Path
from types import SimpleNamespace

import editdistance
import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.results.result import read_result
from s3prl_pruned.superb.tasks.drivers import libriphone
from s3prl_pruned.superb.tasks.drivers.ctc import ListedUtterances
from s3prl_pruned.superb.tasks.drivers.libriphone import PHONES, lexicon_sha256, read_lexicon
from tests.superb.pieces import assert_pieces_give_the_result
from tests.superb_mini import make_corpora, settings

SETTINGS = {
    "pr": settings(corpus__batch_size=2, corpus__num_workers=0, model__project_dim=8),
    "sf": settings(corpus__batch_size=2, corpus__num_workers=0, model__project_dim=8, model__RNNs__dim="[4,4]"),
}


@pytest.fixture(scope="module")
def corpora(workplace):
    return make_corpora(workplace, "pr", "sf")


@pytest.fixture(scope="module", params=SETTINGS)
def finished(request, command, corpora):
    """A task that was trained by one command and evaluated by another, their output, and its command."""
    name = request.param

    def again(*options):
        return command("-d", name, "--corpus", corpora[name], "-o", SETTINGS[name], *options)

    trained = again("-m", "train")
    assert not (Path("results/fbank") / name / "result.json").exists()
    return SimpleNamespace(
        name=name, corpus=corpora[name], trained=trained, printed=again("-m", "evaluate"), again=again,
        folder=Path("results/fbank") / name,
    )  # fmt: skip


def arks(folder):
    return [
        dict(line.split(" ", 1) for line in (folder / f"test-{kind}.ark").read_text().splitlines())
        for kind in ("hyp", "ref")
    ]


def expected_references(name, corpus):
    """References by utterance, computed from the corpus's own files."""
    if name == "pr":
        lexicon = dict(line.split("\t") for line in (corpus / "lexicon.txt").read_text().splitlines())
        lines = [
            line.split() for path in corpus.glob("test-clean/*/*/*.trans.txt") for line in path.read_text().splitlines()
        ]
        return {key: " ".join(lexicon[word] for word in words) for key, *words in lines}
    found = {}
    for line in (corpus / "all.iob.snips.txt").read_text().splitlines():
        key, text = line.split(" ", 1)
        if (corpus / "test" / f"{key}.wav").is_file():
            words, tags = (part.split()[1:-1] for part in text.split("\t"))
            pieces = []
            for place, (word, tag) in enumerate(zip(words, tags)):
                begins = tag != "O" and tags[place - 1 : place] != [tag]
                ends = tag != "O" and tags[place + 1 : place + 2] != [tag]
                pieces.append(f"{f'B-{tag} ' * begins}{word}{f' E-{tag}' * ends}")
            found[key] = " ".join(pieces)
    return found


def test_the_references_are_what_the_corpus_says(finished):
    _, references = arks(finished.folder)
    assert references == expected_references(finished.name, finished.corpus)
    assert read_result(finished.folder / "result.json").num_utterances == len(references) > 1
    assert_pieces_give_the_result(finished.folder)


def test_the_metrics_are_those_of_the_kept_texts_and_what_s3prl_printed(finished):
    result = read_result(finished.folder / "result.json")
    hypotheses, references = arks(finished.folder)
    if finished.name == "pr":
        edits = sum(editdistance.eval(hypotheses[key].split(), references[key].split()) for key in references)
        assert result.values()["per"].value == pytest.approx(
            edits / sum(len(text.split()) for text in references.values())
        )
    assert [value.name for value in result.metrics] == {"pr": ["per"], "sf": ["slot_type_f1", "slot_value_cer"]}[
        finished.name
    ]
    for value in result.metrics:
        (line,) = re.findall(rf"^test {value.name}: (\S+)$", finished.printed, flags=re.MULTILINE)
        assert float(line) == pytest.approx(value.value) and value.unit == "fraction"
    assert [value.value for value in result.printed_by_s3prl] == pytest.approx(
        [value.value for value in result.metrics]
    )


def test_the_checkpoint_is_the_best_on_dev(finished):
    checkpoint = read_result(finished.folder / "result.json").checkpoint
    name = {"pr": "per", "sf": "slot_type_f1"}[finished.name]
    on_dev = [float(value) for value in re.findall(rf"^dev {name}: (\S+)$", finished.trained, flags=re.MULTILINE)]
    assert len(on_dev) == 2
    if finished.name == "sf" and max(on_dev) == 0:
        assert checkpoint.file == "states-2.ckpt" and "never got above 0" in checkpoint.rule
        return
    best = min(on_dev) if finished.name == "pr" else max(on_dev)
    assert (checkpoint.file, checkpoint.step) == ("dev-best.ckpt", 1 + on_dev.index(best))
    assert (checkpoint.dev.name, checkpoint.dev.value) == (name, pytest.approx(best))


def test_s3prl_takes_no_setting_out_of_the_checkpoint(finished):
    """It pops ``num_workers`` at the first split, and uses twelve for all others."""
    config = torch.load(finished.folder / "states-2.ckpt", weights_only=True)["Config"]
    assert config["downstream_expert"]["corpus"]["num_workers"] == 0


def test_a_finished_task_says_so_and_a_checkpoint_is_evaluated_by_name(finished):
    assert "nothing to do" in finished.again()
    finished.again("-m", "evaluate", "-t", "dev", "-i", finished.folder / "states-1.ckpt")
    result = read_result(finished.folder / "result-dev.json")
    assert (result.split, result.checkpoint.file, result.checkpoint.rule) == ("dev", "states-1.ckpt", "named by -i")


def test_a_split_or_metric_that_the_task_lacks_is_refused(finished):
    with pytest.raises(UserError, match=f"-t other: {finished.name} has the splits dev, test"):
        finished.again("-t", "other")
    with pytest.raises(UserError, match="config.downstream_expert.metric: must "):
        finished.again("-n", "other", "-o", f"{SETTINGS[finished.name]},,config.downstream_expert.metric=[wer]")


def test_batches_are_runs_of_utterances_of_like_length():
    utterances = [(f"{length}.wav", list(range(length))) for length in (3, 9, 1, 7, 5)]
    dataset = ListedUtterances(utterances, bucket_size=2)
    assert len(dataset) == 5
    runs = [[file for file, _ in dataset[index]] for index in range(5)]
    assert runs == [["9.wav", "7.wav"], ["7.wav", "5.wav"], ["5.wav", "3.wav"], ["3.wav", "1.wav"], ["3.wav", "1.wav"]]
    assert [file for file, _ in ListedUtterances(utterances, bucket_size=16)[4]] == [
        "9.wav",
        "7.wav",
        "5.wav",
        "3.wav",
        "1.wav",
    ]
    assert ListedUtterances(utterances, bucket_size=1)[1] == ("7.wav", list(range(7)))


def test_a_word_has_its_first_pronunciation_in_any_order_of_lines(tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("A\tAH0\nA EY1\nTEA T IY1\n")
    second.write_text("TEA T EH1\nTWO T UW1\n")
    lexicon = read_lexicon([first, second])
    assert lexicon == {"A": "AH0", "TEA": "T IY1", "TWO": "T UW1"}
    assert (
        lexicon_sha256(lexicon)
        == lexicon_sha256(dict(reversed(lexicon.items())))
        != lexicon_sha256(lexicon | {"A": "EY1"})
    )
    for line in ("AT", "AT AE T", "AT AE1 t", ""):
        first.write_text(f"A AH0\n{line}\n")
        with pytest.raises(UserError, match="a.txt, line 2: must be `WORD PHONE PHONE ...` in ARPABET"):
            read_lexicon([first])


def test_there_are_39_phones_vowels_in_three_stresses_and_two_noises():
    assert len(PHONES) == 2 + 15 * 3 + 24 and len({phone.rstrip("012") for phone in PHONES[2:]}) == 39
    assert PHONES[:4] == ["SIL", "SPN", "AA0", "AA1"] and PHONES[-1] == "ZH"


def test_only_the_benchmarks_lexicon_is_official(corpora, command, tmp_path, monkeypatch):
    """Identified by the files' git hashes; here the corpus's own lexicon takes their place."""
    (tmp_path / "empty").write_bytes(b"")
    assert (
        libriphone._git_blob(tmp_path / "empty") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    )  # as `git hash-object`
    blob = libriphone._git_blob(corpora["pr"] / "lexicon.txt")
    notes = {}
    for name, blobs in (("another", libriphone.LEXICON_BLOBS), ("benchmark", (blob,))):
        monkeypatch.setattr(libriphone, "LEXICON_BLOBS", blobs)
        notes[name] = command("-d", "pr", "--corpus", corpora["pr"], "-o", SETTINGS["pr"], "-n", name, "-m", "train")
    assert "utterances in test-clean, lexicon)" not in notes["benchmark"]
    assert re.search(r"custom protocol \(.*\blexicon\)", notes["another"])
    assert not re.search(r"custom protocol \(.*\blexicon\)", notes["benchmark"])


def test_an_interrupted_training_goes_on_from_its_last_checkpoint(finished):
    """The last test of this file: it changes the finished run."""
    for name in ("result.json", "states-2.ckpt"):
        (finished.folder / name).unlink()
    again = finished.again("-a")
    assert (
        f"Resuming from {finished.folder / 'states-1.ckpt'}" in again and (finished.folder / "states-2.ckpt").is_file()
    )
    assert read_result(finished.folder / "result.json").num_utterances > 1
