"""The input of timings: noise of fixed lengths, a corpus, or a batch of mixed lengths; and how it is batched."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.data.corpus import embedded_corpus
from s3prl_pruned.data.manifest import Utterance
from s3prl_pruned.data.sources import open_corpus
from s3prl_pruned.data.waveforms import FRAME_SAMPLES, SAMPLE_RATE


@dataclass(kw_only=True)
class Workload:
    """The same utterances for all models, batched in one or several ways."""

    title: str
    arrangements: dict[str, list[list[Tensor]]]
    """Name -> batches of waveforms (S,), fp32. Ratios are relative to the baseline in the first arrangement.

    `even`: all of one length. `single`: one utterance at a time. `bucketed`: utterances of similar length together,
    padded to the longest. `padded`: all in one batch, padded to the longest. `unpadded`: bucketed by exact length,
    without padding.
    """
    readers: dict[int, Callable[[], Tensor]] = field(default_factory=dict, repr=False)
    """By a waveform's `id`: a function that loads it again, from its file if any, and copies it to the device."""

    def load(self, batch: list[Tensor]) -> list[Tensor]:
        """The same batch, with each waveform loaded again."""
        return [self.readers[id(wav)]() for wav in batch]

    @property
    def utterances(self) -> list[Tensor]:
        """All waveforms (S,)."""
        return [wav for batch in next(iter(self.arrangements.values())) for wav in batch]

    @property
    def audio_s(self) -> float:
        """Seconds of audio without padding."""
        return sum(len(wav) for wav in self.utterances) / SAMPLE_RATE


def fixed(seconds: float, *, batch: int, seed: int, device: str) -> Workload:
    """A batch of noise: `batch` utterances of `seconds` each.

    Raises:
        UserError: if utterances are shorter than one frame, or there are none.
    """
    samples = _samples(seconds)
    if batch < 1:
        raise UserError(f"`batch` must be at least 1, but is {batch}.")
    generator = torch.Generator().manual_seed(seed)
    host = 0.1 * torch.randn(batch, samples, generator=generator)
    wavs = list(host.to(device))
    title = f"{seconds:g} s" + f" x {batch}" * (batch > 1)
    return Workload(title=title, arrangements={"even": [wavs]}, readers=_copiers(wavs, list(host), device))


def mixed(shortest: float, longest: float, utterances: int, *, seed: int, device: str) -> Workload:
    """Noise of lengths evenly spread over a range, in one padded batch, and bucketed without padding.

    Args:
        shortest: shortest length in seconds.
        longest: longest length in seconds.
        utterances: number of utterances, 2 or more.
        seed: seed of the noise.
        device: torch device.

    Raises:
        UserError: if utterances are shorter than one frame, the range is empty, or there are too few utterances.
    """
    if shortest >= longest or utterances < 2:
        raise UserError(
            "`mixed` needs two lengths, the shorter first, and 2 utterances or more, but has "
            f"{shortest:g}-{longest:g} and {utterances}."
        )
    first, last = _samples(shortest), _samples(longest)
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.linspace(first, last, utterances, dtype=torch.float64).round().long().tolist()
    host = [0.1 * torch.randn(length, generator=generator) for length in lengths]
    host = [host[i] for i in torch.randperm(utterances, generator=generator).tolist()]
    wavs = [wav.to(device) for wav in host]
    return Workload(
        title=f"{utterances} x {shortest:g}-{longest:g} s",
        arrangements={"padded": [wavs], "unpadded": unpadded(wavs)},
        readers=_copiers(wavs, host, device),
    )


def corpus(source: str | None, *, limit: int | None, bucket_s: float, device: str) -> list[Workload]:
    """A corpus, one utterance at a time and in length-bucketed batches: two workloads, each with its own baseline.

    Args:
        source: a corpus as in `open_corpus`; None for the dev split of the embedded speech.
        limit: take only this many utterances, spread over the corpus; None for all.
        bucket_s: maximum seconds of a bucketed batch, padding included.
        device: torch device.

    Raises:
        UserError: if the corpus cannot be read, or a limit is not positive.
    """
    if bucket_s <= 0 or (limit is not None and limit < 1):
        raise UserError(f"`bucket-seconds` and `limit` must be positive, but are {bucket_s:g} and {limit}.")
    found = open_corpus(embedded_corpus(), ["dev"]) if source is None else open_corpus(source)
    if limit is not None and limit < len(found):
        found = [found[i * len(found) // limit] for i in range(limit)]
    wavs = [utterance.read().to(device) for utterance in found]
    title = f"{'embedded dev' if source is None else 'corpus'}, {len(wavs)} utterances"
    readers: dict[int, Callable[[], Tensor]] = {
        id(wav): partial(_read, utterance, device) for wav, utterance in zip(wavs, found, strict=True)
    }
    ways = {"one at a time": {"single": [[wav] for wav in wavs]}, "bucketed": {"bucketed": bucketed(wavs, bucket_s)}}
    return [
        Workload(title=f"{title}, {way}", arrangements=arrangements, readers=readers)
        for way, arrangements in ways.items()
    ]


def _read(utterance: Utterance, device: str) -> Tensor:
    return utterance.read().to(device)


def _copiers(wavs: list[Tensor], host: list[Tensor], device: str) -> dict[int, Callable[[], Tensor]]:
    return {id(wav): partial(source.to, device, copy=True) for wav, source in zip(wavs, host, strict=True)}


def bucketed(wavs: Sequence[Tensor], seconds: float) -> list[list[Tensor]]:
    """Batches of similar length, at most `seconds` each with padding (a longer utterance is a batch of its own)."""
    batches: list[list[Tensor]] = []
    for wav in sorted(wavs, key=len):  # the last utterance is the longest of its batch
        if batches and (len(batches[-1]) + 1) * len(wav) <= seconds * SAMPLE_RATE:
            batches[-1].append(wav)
        else:
            batches.append([wav])
    return batches


def unpadded(wavs: Sequence[Tensor]) -> list[list[Tensor]]:
    """Batches of utterances of exactly the same length."""
    return [list(group) for _, group in itertools.groupby(sorted(wavs, key=len), key=len)]


def _samples(seconds: float) -> int:
    samples = round(seconds * SAMPLE_RATE)
    if samples < FRAME_SAMPLES:
        frame = f"{FRAME_SAMPLES} samples, {FRAME_SAMPLES / SAMPLE_RATE:g} s"
        raise UserError(f"an utterance must be at least one frame ({frame}), but is {seconds:g} s.")
    return samples


def parse_lengths(text: str | None, batch: int) -> list[tuple[float, int]]:
    """Parse `--lengths`, such as "1,12x5", into pairs of seconds and utterances per batch.

    Args:
        text: lengths separated by commas; None for none.
        batch: utterances for lengths that name none.

    Raises:
        UserError: if the text has another form.
    """
    found = []
    for part in text.split(",") if text else []:
        utterances, x, seconds = part.partition("x")
        try:
            found.append((float(seconds), int(utterances)) if x else (float(part), batch))
        except ValueError:
            raise UserError(
                f"`lengths` must be seconds with ',' between them, such as 1,12x5, but is {text!r}."
            ) from None
    return found


def parse_range(text: str | None) -> tuple[float, float] | None:
    """Two lengths of what `--mixed` was given, such as "4-10"; None for None.

    Raises:
        UserError: if the text has another form.
    """
    if text is None:
        return None
    try:
        shortest, longest = map(float, text.split("-"))
    except ValueError:
        raise UserError(f"`mixed` must be two lengths in seconds, such as 4-10, but is {text!r}.") from None
    return shortest, longest
