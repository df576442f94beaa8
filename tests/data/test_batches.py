"""A batch depends only on the seed and its index; an epoch holds every utterance once."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.synthetic_audio import write_synthetic_corpus
from s3prl_pruned.config import UserError
from s3prl_pruned.data.batches import RandomCropBatches, in_parts
from s3prl_pruned.data.manifest import Utterance, scan_corpus
from s3prl_pruned.data.waveforms import read_waveform

LENGTHS = [16_000 + 1000 * i for i in range(11)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic")
    write_synthetic_corpus(root, lengths=LENGTHS)
    return scan_corpus(root)


def batches(corpus, **changes):
    options = {"batch_size": 3, "max_seconds": 1.5, "seed": 7, "normalize": False, **changes}
    return RandomCropBatches(corpus, **options)


def imagined(lengths):
    """Utterances whose files do not exist: membership must not read audio."""
    return [Utterance(str(i), Path(f"{i}.flac"), length) for i, length in enumerate(lengths)]


def test_a_batch_is_a_pure_function_of_seed_and_index(corpus):
    forward, jumping = batches(corpus), batches(corpus)
    run = {index: forward.batch(index) for index in range(10)}
    for index in (9, 0, 5, 5, 3):
        for ours, theirs in zip(jumping.batch(index), run[index]):
            assert torch.equal(ours, theirs)


def test_another_seed_or_epoch_gives_other_batches(corpus):
    one, other = batches(corpus), batches(corpus, seed=8)
    per_epoch = one.batches_per_epoch
    order = [one.members(index) for index in range(per_epoch)]
    assert [other.members(index) for index in range(per_epoch)] != order
    assert [one.members(per_epoch + index) for index in range(per_epoch)] != order


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(16_000, 480_000), min_size=1, max_size=60),
    batch_size=st.integers(1, 7),
    window=st.integers(1, 5),
    seed=st.integers(0, 2**40),
)
def test_an_epoch_is_every_utterance_once(lengths, batch_size, window, seed):
    corpus = imagined(lengths)
    made = batches(corpus, batch_size=batch_size, window=window, seed=seed)
    for epoch in (0, 3):
        numbers = range(epoch * len(made), (epoch + 1) * len(made))
        members = [made.members(number) for number in numbers]
        assert sorted(int(utt.id) for batch in members for utt in batch) == list(range(len(lengths)))
        assert all(1 <= len(batch) <= batch_size for batch in members)


def test_utterances_of_similar_length_share_a_batch():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(16_000, 240_000, (600,), generator=generator).tolist()

    def lost(window):
        made = batches(imagined(lengths), batch_size=6, max_seconds=15.0, window=window)
        groups = [[utt.num_samples for utt in made.members(i)] for i in range(len(made))]
        return sum(length - min(group) for group in groups for length in group) / sum(lengths)

    assert lost(window=20) < 0.06
    assert lost(window=1) > 0.3


def test_all_are_cropped_to_the_shortest_and_never_padded(corpus):
    made = batches(corpus)
    for index in range(len(made)):
        members = made.members(index)
        wavs, lengths = made.batch(index)
        expected = min(24_000, min(utt.num_samples for utt in members))
        assert wavs.dtype == torch.float32 and wavs.shape == (len(members), expected)
        assert lengths.tolist() == [expected] * len(members)
        for wav, utterance in zip(wavs, members):
            whole = read_waveform(utterance.path)
            assert any(torch.equal(wav, piece) for piece in whole.unfold(0, expected, 1))


@pytest.mark.parametrize("crop_lengths", [1, 3, 16])
def test_batches_have_only_the_allowed_lengths_and_lose_at_most_a_step(corpus, crop_lengths):
    exact, made = batches(corpus), batches(corpus, crop_lengths=crop_lengths)
    allowed = [24_000 * step // crop_lengths for step in range(1, crop_lengths + 1)]
    for index in range(2 * len(made)):
        (wavs, _), (whole, _) = made.batch(index), exact.batch(index)
        length, before = wavs.shape[1], whole.shape[1]
        assert length in allowed or length == before < allowed[0]
        assert 0 <= before - length <= 24_000 // crop_lengths
        assert length == made._common_length(made._lengths[made._members(index)])


@pytest.mark.parametrize("crop_lengths", [3, 7, 66])
def test_an_utterance_of_an_allowed_length_is_not_cropped(corpus, crop_lengths):
    made = batches(corpus, crop_lengths=crop_lengths)
    for step in range(1, crop_lengths + 1):
        length = made.max_samples * step // crop_lengths
        assert made._cut(length) == length
        shorter = made.max_samples * (step - 1) // crop_lengths
        assert made._cut(length - 1) == (shorter or length - 1)


def test_the_place_of_a_crop_changes_from_epoch_to_epoch(corpus):
    made = batches(corpus[:1], max_seconds=1.0, min_seconds=0.5)
    long = batches([utt for utt in corpus if utt.num_samples == max(LENGTHS)], max_seconds=1.0)
    assert torch.equal(made.batch(0)[0], made.batch(1)[0]), "16000 samples fit whole"
    assert not torch.equal(long.batch(0)[0], long.batch(1)[0])


def test_normalization_is_over_the_whole_utterance_before_the_crop(corpus):
    plain, normalized = batches(corpus), batches(corpus, normalize=True)
    for ours, raw, utterance in zip(normalized.batch(2)[0], plain.batch(2)[0], plain.members(2)):
        whole = read_waveform(utterance.path)
        expected = (raw - whole.mean()) / (whole.var(unbiased=False) + 1e-5).sqrt()
        torch.testing.assert_close(ours, expected)


def test_short_utterances_are_left_out_and_counted(corpus, caplog):
    with caplog.at_level(logging.WARNING):
        made = batches(corpus, min_seconds=1.25)
    assert sorted(utt.num_samples for utt in made.left_out) == [16_000, 17_000, 18_000, 19_000]
    assert "4 of 11 utterances are shorter than 1.25 s" in caplog.text
    assert sum(len(made.members(i)) for i in range(len(made))) == 7
    with pytest.raises(UserError, match="at least `min_seconds` = 9 s, but none of the corpus's 11"):
        batches(corpus, min_seconds=9, max_seconds=10)


@pytest.mark.parametrize("options", [{"batch_size": 5}, {"max_batch_seconds": 9.0}])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_parts_of_all_processes_add_up_to_the_batch(corpus, options, normalize, monkeypatch):
    monkeypatch.setattr("s3prl_pruned.data.batches.BUCKETS", 2)
    made = batches(corpus, normalize=normalize, **options)
    for number in range(2 * len(made)):
        whole, lengths = made.batch(number)
        for parts in range(1, len(whole) + 1):
            shares = [made[number, part, parts] for part in range(parts)]
            assert max(len(wavs) for wavs, _ in shares) - min(len(wavs) for wavs, _ in shares) <= 1
            for part, (wavs, own) in enumerate(shares):
                assert torch.equal(wavs, whole[part::parts]) and torch.equal(own, lengths[part::parts])
    assert 1 < made.smallest == min(len(made.members(number)) for number in range(len(made)))


def test_crops_fit_a_file_that_is_a_little_shorter_than_listed(corpus):
    wrong = [replace(utterance, num_samples=utterance.num_samples + 3000) for utterance in corpus]
    made = batches(wrong, max_seconds=10.0)
    for number in range(len(made)):
        wavs, lengths = made.batch(number)
        shortest = min(utterance.num_samples for utterance in made.members(number)) - 3000
        assert wavs.shape[1] == shortest and set(lengths.tolist()) == {shortest}


@pytest.fixture
def damaged(tmp_path):
    """Twelve utterances, one of which has lost its second half since the corpus was scanned."""
    paths = write_synthetic_corpus(tmp_path, lengths=[20_000] * 12)
    corpus = scan_corpus(tmp_path)
    paths[5].write_bytes(paths[5].read_bytes()[:10_000])
    return corpus, paths[5]


def test_an_undecodable_file_is_skipped_counted_and_named(damaged, caplog):
    corpus, path = damaged
    made = batches(corpus, max_bad_fraction=0.1)
    with caplog.at_level(logging.WARNING):
        sizes = [len(made.batch(index)[0]) for index in range(2 * len(made))]
    assert sum(sizes) == 2 * 11
    assert list(made.bad) == [path.relative_to(path.parents[3]).with_suffix("").as_posix()]
    assert caplog.text.count(str(path)) == 1 and "skipped in training (1 so far)" in caplog.text


def test_a_part_without_a_decodable_file_takes_another_of_the_batch(damaged):
    corpus, path = damaged
    made = batches(corpus, max_bad_fraction=0.1)
    (number,) = (n for n in range(len(made)) if path in [utterance.path for utterance in made.members(n)])
    whole, parts = made.batch(number)[0], [made.batch(number, part, 3)[0] for part in range(3)]
    assert len(whole) == 2 and [len(part) for part in parts] == [1, 1, 1]
    assert all(any(torch.equal(part[0], wav) for wav in whole) for part in parts)


def test_too_many_undecodable_files_stop_the_run(damaged):
    made = batches(damaged[0], max_bad_fraction=0.05)
    with pytest.raises(UserError, match="1 of 12 audio files cannot be read, and at most 5 % may be"):
        for index in range(len(made)):
            made.batch(index)


def test_a_batch_without_a_decodable_file_is_an_error(damaged):
    corpus, path = damaged
    made = batches([utt for utt in corpus if utt.path == path], max_bad_fraction=1.0)
    with pytest.raises(UserError, match="none of the files of one batch can be decoded: train-clean"):
        made.batch(0)


def test_a_batch_whose_files_are_lost_is_replaced_by_the_next(damaged):
    corpus, path = damaged
    made = batches(corpus, batch_size=1, max_bad_fraction=0.1)
    lost = next(index for index in range(len(made)) if made.members(index)[0].path == path)
    number, ((place, wav),) = made.read(lost)
    assert (number, place) == (lost + 1, 0) and torch.equal(wav, made.members(number)[0].read())
    assert all(len(made.batch(index)[0]) == 1 for index in range(2 * len(made)))


@pytest.mark.parametrize("change", ["gone", "shorter"])
def test_a_file_that_changes_during_a_run_is_skipped_counted_and_named(tmp_path, caplog, change):
    paths = write_synthetic_corpus(tmp_path, lengths=[40_000] * 12)
    made = batches(scan_corpus(tmp_path), max_bad_fraction=0.1, max_seconds=2.0)
    if change == "gone":
        paths[5].unlink()
    else:
        soundfile.write(paths[5], read_waveform(paths[5])[:20_000], 16_000)
    shapes = [made.batch(index)[0].shape for index in range(len(made))]
    assert sorted(shapes) == [(2, 32_000), (3, 32_000), (3, 32_000), (3, 32_000)], "no batch is cropped to what is left"
    reason = "no such audio file" if change == "gone" else "was listed with 40000 samples at 16 kHz, but has 20000"
    assert f"{paths[5]}: {reason}" in caplog.text and "skipped in training (1 so far)" in caplog.text


def test_a_data_loader_prefetches_the_same_batches(corpus):
    made = batches(corpus)
    loader = torch.utils.data.DataLoader(made, batch_size=None, sampler=range(3, 6), num_workers=1)
    for index, (wavs, _) in zip(range(3, 6), loader):
        assert torch.equal(wavs, made.batch(index)[0])


@pytest.mark.parametrize(
    "change, rule",
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1, but is 0"),
        ({"seed": -1}, "`seed` must be at least 0, but is -1"),
        ({"min_seconds": 0.0}, "`min_seconds` must be at least 0.025, but is 0.0"),
        ({"max_seconds": 0.5}, "`max_seconds` must be at least 1.0, but is 0.5"),
    ],
)
def test_settings_out_of_range_are_refused(corpus, change, rule):
    with pytest.raises(UserError, match=rule):
        batches(corpus, **change)


@pytest.mark.parametrize("bound", [None, 8.0])
def test_the_largest_batch_is_found_among_those_of_all_epochs(bound):
    lengths = torch.randint(16_000, 64_000, (101,), generator=torch.Generator().manual_seed(0)).tolist()
    found = batches(imagined(lengths), batch_size=4, max_seconds=3.5, window=3, max_batch_seconds=bound)
    numbers = range(3, 3 * found.batches_per_epoch)

    def samples(number: int) -> tuple[int, int]:
        members = found.members(number)
        return len(members), min(56_000, *(member.num_samples for member in members))

    def size(utterances: int, length: int) -> float:
        return utterances * length**1.5

    sizes = [size(*samples(number)) for number in numbers]
    assert found.largest(numbers, size) == numbers[sizes.index(max(sizes))]
    assert len(set(sizes)) > 10, "there is a choice"


def test_the_parts_of_a_batch_add_up_to_it():
    wavs, lengths = torch.arange(7 * 16_000).view(7, 16_000), torch.arange(7)
    for seconds, sizes in ((None, [7]), (7.0, [7]), (6.9, [4, 3]), (2.5, [2, 2, 2, 1]), (0.5, [1] * 7)):
        parts = in_parts((wavs, lengths), seconds)
        assert [len(part[0]) for part in parts] == sizes
        for whole, cut in zip((wavs, lengths), zip(*parts, strict=True), strict=True):
            assert torch.equal(torch.cat(cut), whole)
