"""What the benchmarks of Whisper's decoder do besides decoding: rates, windows, corpus, plan, table, and errors."""

import io
import json
import sys
import zipfile

import numpy as np
import pytest
import soundfile
import torch

from benchmarks.whisper.corpus import GAP_SAMPLES, TEST_VOICES, WINDOW_SAMPLES, make_corpus, transcripts_of, windows
from benchmarks.whisper.decode import load_decoder, rates, whole_window
from benchmarks.whisper.zero_shot import SETTINGS, PlannedZeroShot, as_markdown, collect, draw, load_settings
from s3prl_pruned.config import UserError
from s3prl_pruned.models.dummies import random_encoder, tiny_whisper
from s3prl_pruned.superb.metrics.edits import word_and_character_error_rates


def test_rates_are_the_benchmarks_own_with_intervals_around_them():
    references = {"a": "PRESS ONE", "b": "YOU ARE NO LONGER MUTED", "c": "BYE", "d": "P"}
    found = {"a": "PRESS WON", "b": "YOU ARE LONGER MUTED", "c": "BYE", "d": "PEE"}
    made = rates(found, references)
    for rate in word_and_character_error_rates(found, references):
        value, low, high = made[rate.name]
        assert value == pytest.approx(rate.value) and low < value < high


def test_the_decoder_gets_all_frames_of_a_padded_window():
    encoder, wav = random_encoder(tiny_whisper(window="padded"), seed=0), torch.randn(3000)
    states = whole_window(encoder, wav)
    assert states.shape == (1, 25, 24)
    with torch.no_grad():
        torch.testing.assert_close(states[:, :9], encoder(wav[None]).hidden_states[-1], atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="at most 8000 samples to be decoded at once, but has 8001"):
        whole_window(encoder, torch.zeros(8001))


def test_a_missing_decoder_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "whisper", None)
    with pytest.raises(UserError, match="pip install --no-deps openai-whisper"):
        load_decoder(tmp_path / "tiny.en.pt")


def test_windows_hold_all_recordings_in_order_with_silence_between():
    rng = np.random.default_rng(0)
    recordings = [rng.integers(1, 9, size, dtype=np.int16) for size in (100, 3 * WINDOW_SAMPLES, 70_000, 410_000)]
    joined = np.concatenate([part for wav in recordings for part in (wav, np.zeros(GAP_SAMPLES, np.int16))])
    made = list(windows(recordings))
    assert len(made) == len(joined) // WINDOW_SAMPLES == 4 and {len(window) for window in made} == {WINDOW_SAMPLES}
    assert (np.concatenate(made) == joined[: len(made) * WINDOW_SAMPLES]).all()


@pytest.fixture
def package(tmp_path):
    """Folder of an unpacked package: lines of each test voice, a long one of another, and one not used."""
    root = tmp_path / "packages" / "uqm-voice"
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(root / "x-voice.uqm", "w") as archive:
        for voice, seconds in [
            *((name, (2.0, 0.5, 3.0)) for name in TEST_VOICES),
            ("orz", (40,)),
            ("commander", (40,)),
        ]:
            for number, duration in enumerate(seconds):
                wav = io.BytesIO()
                soundfile.write(wav, 0.1 * rng.standard_normal(round(11_025 * duration)), 11_025, format="OGG")
                archive.writestr(f"3dovoice/{voice}/{voice}-{number}.ogg", wav.getvalue())
            texts = (
                "#(A)\t{0}-0.ogg\nHello again,\nHuman.\n\n#(no_recording)\nYes?\n\n"
                "#(B) {0}-1.ogg\nShort.\n#(C) {0}-2.ogg\nIn 2155."
            )
            archive.writestr(f"3dovoice/{voice}/{voice}.txt", texts.format(voice))
    return root


def test_a_corpus_has_windows_to_train_on_and_labelled_utterances_of_other_voices(package, monkeypatch):
    from benchmarks.speech import debian
    from s3prl_pruned.data.corpus import read_split

    fetched = debian.DebianPackage(name="uqm-voice", version="1", sha256="0", root=package)
    monkeypatch.setattr(debian, "fetch_package", lambda name, folder: fetched)
    hours = make_corpus(package.parents[1])
    found = read_split(package.parents[1], "test")
    assert [(item.id, item.text) for item in found] == [
        (f"{voice}-1-0000", "HELLO AGAIN HUMAN") for voice in TEST_VOICES
    ]
    assert hours["test"] == pytest.approx(len(TEST_VOICES) * 2 / 3600, rel=1e-3)
    train = package.parents[1] / "train"
    assert {path.name for path in train.iterdir()} == {"orz", "embedded"} and len(list((train / "orz").iterdir())) == 1
    assert all(soundfile.info(path).frames == WINDOW_SAMPLES for path in train.rglob("*.flac"))
    with zipfile.ZipFile(package / "x-voice.uqm") as archive:
        assert list(transcripts_of(archive, "orz").values()) == ["HELLO AGAIN HUMAN"]
        with pytest.raises(UserError, match="has no texts of the voice 'yehat'"):
            transcripts_of(archive, "yehat")


@pytest.fixture
def planned(tmp_path):
    return PlannedZeroShot(
        settings=load_settings(SETTINGS),
        checkpoint=tmp_path / "tiny.en.pt",
        corpus=tmp_path / "corpus",
        folder=tmp_path,
    )


def test_the_plan_prunes_each_row_to_each_target_and_decodes_both_test_sets(planned):
    jobs = {job.name: job for job in planned.jobs()}
    rows, targets = planned.settings.rows, planned.settings.targets
    assert sum(name.startswith("pretrain/") for name in jobs) == len(rows) * len(targets) * len(planned.settings.seeds)
    second = jobs["second_stage/dphubert-0.3-seed1"]
    assert second.after == ("pretrain/dphubert-0.3-seed1",) and "runner.total_steps=333," in second.command[-1]
    first = jobs["pretrain/dphubert-0.3-seed1"]
    assert first.command[-1].endswith("gates.kinds=[head,int],,sparsity.target_sparsity=0.3")
    assert first.command[first.command.index("-u") + 1] == "whisper_pruned_distill"
    decoding = jobs["decode/dphubert-0.3-seed1.corpus"]
    assert decoding.after == (second.name,) and str(second.done.parent) in decoding.command


def test_the_table_and_the_figure_are_of_what_is_decoded(planned, tmp_path):
    with pytest.raises(UserError, match="no model is decoded yet"):
        collect(planned)
    row = planned.settings.rows[0]
    names = {"whole": 0.0, planned.name(row, 0.3, 1): 0.301, planned.name(row, 0.5, 1): 0.502}
    for name, sparsity in names.items():
        for test in ("embedded", "corpus"):
            rate = [100 * sparsity + 10, 5.0, 70.0]
            found = {
                "sha256": "0",
                "sparsity": sparsity,
                "parameters": 5_000_000,
                "wer": rate,
                "cer": rate,
                "texts": {},
            }
            planned.decoded(name, test).parent.mkdir(exist_ok=True)
            planned.decoded(name, test).write_text(json.dumps({"utterances": 50, "results": [found]}))
    planned.decoded(planned.name(row, 0.65, 1), "corpus").write_text("{}")  # only one of two is decoded
    data = collect(planned)
    assert [(found["method"], found["target"]) for found in data["rows"]] == [
        ("whole", 0.0), ("proposed", 0.3), ("proposed", 0.5)
    ]  # fmt: skip
    assert "30.1 %" in as_markdown(data) and "60.2 (5.0-70.0)" in as_markdown(data)
    assert draw(data, tmp_path / "x.png").is_file()
