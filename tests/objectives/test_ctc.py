"""CTC compared with the sum over all paths; greedy decoding and word errors by hand; unknown characters."""

import itertools
import math

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.objectives.ctc import LETTERS, Characters, CtcHead, WordErrors, ctc_loss, frames_needed, greedy


def collapse(path):
    """B of Graves et al. 2006: merge repetitions, then drop blanks."""
    return [output for output, _ in itertools.groupby(path) if output != 0]


def likelihood(probabilities, outputs):
    """The definition: the sum over every path that collapses to `outputs`; (T, V) float64."""
    paths = itertools.product(range(probabilities.shape[1]), repeat=len(probabilities))
    return sum(
        math.prod(float(probabilities[t, output]) for t, output in enumerate(path))
        for path in paths
        if collapse(path) == outputs
    )


def test_the_loss_is_the_negative_log_of_the_sum_over_all_paths():
    logits = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(0))
    transcripts, frames = [[1, 2], [2, 2], [1]], [5, 4, 3]
    targets = torch.tensor([[1, 2], [2, 2], [1, 99]])  # padding is ignored
    loss = ctc_loss(logits, torch.tensor(frames), targets, torch.tensor([2, 2, 1]))
    probabilities = logits.double().softmax(-1)
    expected = -sum(math.log(likelihood(p[:n], y)) for p, n, y in zip(probabilities, frames, transcripts))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    worse = -sum(math.log(likelihood(p[: n - 1], y)) for p, n, y in zip(probabilities, frames, transcripts))
    assert worse != pytest.approx(expected, rel=1e-2), "one frame less must make a difference"


def test_the_loss_is_fp32_under_autocast_and_adds_up_over_micro_batches():
    logits = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(1)) * 20
    frames, targets, lengths = torch.tensor([9, 8, 7, 6]), torch.randint(1, 5, (4, 3)), torch.tensor([3, 2, 1, 3])
    whole = ctc_loss(logits, frames, targets, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ctc_loss(logits, frames, targets, lengths).dtype == torch.float32
        assert torch.equal(ctc_loss(logits, frames, targets, lengths), whole)
    halves = [ctc_loss(logits[s], frames[s], targets[s], lengths[s]) for s in (slice(0, 1), slice(1, 4))]
    assert float(sum(halves)) == pytest.approx(float(whole), rel=1e-5)


def test_frames_needed_is_the_smallest_number_with_a_finite_loss():
    for outputs in ([1], [1, 1], [1, 2, 2, 2], [2, 1, 2]):
        needed = frames_needed(outputs)
        for frames, finite in ((needed, True), (needed - 1, False)):
            args = (torch.tensor([frames]), torch.tensor([outputs]), torch.tensor([len(outputs)]))
            assert math.isfinite(float(ctc_loss(torch.zeros(1, 9, 4), *args))) is finite, (outputs, frames)


def test_greedy_merges_repetitions_before_it_drops_blanks_and_stops_at_the_padding():
    best = torch.tensor([[0, 3, 3, 0, 3, 1, 1, 2], [1, 1, 0, 0, 2, 2, 2, 2], [0, 0, 0, 0, 0, 0, 0, 1]])
    logits = torch.nn.functional.one_hot(best, 4).float()
    assert greedy(logits, torch.tensor([8, 4, 7])) == [[3, 3, 1, 2], [1], []]


def test_decoding_reverses_encoding():
    characters = Characters()
    assert characters.text == LETTERS == " 'ABCDEFGHIJKLMNOPQRSTUVWXYZ" and characters.num_outputs == 29
    assert characters.decode(characters.encode("DON'T STOP")) == "DON'T STOP"
    assert characters.encode(" 'A") == [1, 2, 3]
    assert characters.decode(characters.encode("  A   B ")) == "A B"
    assert Characters.of({"a": "BAB", "b": "CA T"}).text == " ABCT"


def test_characters_outside_the_vocabulary_are_listed_in_one_error():
    texts = {"1-1-0": "ÉTÉ 7", "1-1-1": "FINE", "1-1-2": "É"}
    with pytest.raises(UserError, match="dev: transcripts hold 2 characters outside") as refusal:
        Characters().refuse_unknown(texts, where="dev")
    assert "'7' in 1, such as 1-1-0; 'É' in 2, such as 1-1-0" in str(refusal.value)
    Characters.of(texts).refuse_unknown(texts, where="dev")


@pytest.mark.parametrize("text", ["", "ABA"])
def test_wrong_vocabularies_are_refused(text):
    with pytest.raises(UserError, match="`characters` must be distinct characters"):
        Characters(text)


def test_word_errors_by_hand():
    """Reference of 4 words: one substitution, one insertion; another of 2 words, both deleted."""
    errors = WordErrors.between("PRESS TWO FOR THE SALES", "PRESS ONE FOR SALES") + WordErrors.between("", "HANG UP")
    assert errors == WordErrors(4, 6) and errors.rate == pytest.approx(4 / 6)
    assert WordErrors.between("A B C", "A").rate == 2.0
    with pytest.raises(UserError, match="references are empty"):
        _ = WordErrors().rate


def test_the_head_maps_states_to_outputs_and_drops_in_training_only():
    head = CtcHead(8, 5, dropout=0.5)
    states = torch.randn(2, 3, 8)
    assert head(states).shape == (2, 3, 5)
    assert not torch.equal(head(states), head(states))
    head.eval()
    assert torch.equal(head(states), head(states))
