"""SID and SV: real voices in VoxCeleb1's layout.

An utterance joins consecutive clips of one voice, scaled to one level; each clip is in one utterance. A voice also
reveals its package (microphone, codec), so SID is easier than with a single channel; the trials of SV therefore pair
different voices of one package as often as voices of two packages.
"""

from __future__ import annotations

import itertools

import numpy as np

from benchmarks.mini_superb.clips import distinct, generator, join, level
from benchmarks.mini_superb.sources import VOICE_PACKAGES, Sources
from benchmarks.mini_superb.writer import CorpusWriter, Record
from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE

TEST_VOICES = (
    "kajongg/female1 kajongg/female2 kajongg/male1 kajongg/male2 tuxpaint/be tuxpaint/bg tuxpaint/ca tuxpaint/el "
    "tuxpaint/ro ktuberling/gl ktuberling/nn ktuberling/sl ktuberling/uk ktuberling/wa"
).split()
"""Voices in ``test/wav``. None of them is in ``dev/wav``, nor any of their languages in the volunteers' recordings."""

SECONDS = 2.6
"""Minimum seconds of speech per utterance: s3prl trains SV on files longer than 2 s without silence."""

LONGEST_CLIP = 6.0
"""Seconds; longer clips are left out, so that utterances have similar lengths."""

UTTERANCES = {"full": 10, "tiny": 4}
"""Maximum number of utterances of each voice."""

FEWEST = 4
"""Voices with fewer utterances are left out."""

TINY_VOICES = {"dev": 4, "test": 4}
HELD_OUT = {"full": 2, "tiny": 1}
"""Utterances of each voice in SID's dev list, and as many in its test list."""

FIRST_ID = {"dev": 10001, "test": 10270}
"""VoxCeleb1's numbers: its test speakers begin at id10270, and s3prl's SID has 1251 classes from id10001."""

NON_TARGETS_PER_TARGET = 1


def write_voxceleb(writer: CorpusWriter, sources: Sources, *, tiny: bool) -> Record:
    """Write ``VoxCeleb1/``: the audio, SID's list, and trials over ``test/wav`` and ``dev/wav``.

    Raises:
        UserError: if fewer than two voices are found on either side.
    """
    variant = "tiny" if tiny else "full"
    seen: set[str] = set()
    utterances: dict[str, dict[str, list[np.ndarray]]] = {"dev": {}, "test": {}}
    for voice, clips in sources.voices().items():
        side = "test" if voice in TEST_VOICES else "dev"
        if tiny and len(utterances[side]) == TINY_VOICES[side]:
            continue
        generator("voxceleb", voice).shuffle(clips)
        short = (level(wav) for _, wav in distinct(clips, seen) if len(wav) <= LONGEST_CLIP * SAMPLE_RATE)
        speech = join(short, seconds=SECONDS)
        found = list(itertools.islice(speech, UTTERANCES[variant]))
        if len(found) >= FEWEST:
            utterances[side][voice] = found
    if min(map(len, utterances.values())) < 2:
        raise UserError("SID and SV need at least two voices in both dev and test, but there are fewer.")
    lines, paths = [], {"dev": {}, "test": {}}
    for side, voices in utterances.items():
        for number, (voice, wavs) in enumerate(voices.items()):
            names = [f"id{FIRST_ID[side] + number}/session{k // 4:02d}/{k % 4 + 1:05d}.wav" for k in range(len(wavs))]
            for name, wav in zip(names, wavs, strict=True):
                writer.audio(f"VoxCeleb1/{side}/wav/{name}", wav, split=side, speaker=voice)
            paths[side][voice] = names
            lines += [
                f"{part} {name}\n" for name, part in zip(names, _parts(len(names), HELD_OUT[variant]), strict=True)
            ]
    # VoxCeleb's own name for the list, and the name of s3prl's copy.
    for name in ("iden_split.txt", "veri_test_class.txt"):
        writer.text(f"VoxCeleb1/{name}", "".join(sorted(lines, key=lambda line: line.split()[::-1])))
    writer.text("VoxCeleb1/veri_test.txt", _trials(paths["test"], "test"))
    writer.text("VoxCeleb1/veri_dev.txt", _trials({v: names[:4] for v, names in paths["dev"].items()}, "dev"))
    speakers = {side: {f"id{FIRST_ID[side] + n}": voice for n, voice in enumerate(paths[side])} for side in paths}
    writer.text("VoxCeleb1/vox1_meta.csv", _speaker_table(speakers))
    note = "Utterances join clips of one voice; SID's classes are the voices of both folders."
    described = sources.describe(VOICE_PACKAGES)
    return {"tasks": ["sid", "sv"], "synthetic": False, "note": note, "sources": described}


def _parts(count: int, held_out: int) -> list[int]:
    """SID's split of one voice's utterances: 1 train, 2 dev, 3 test."""
    return [1] * (count - 2 * held_out) + [2] * held_out + [3] * held_out


def _trials(voices: dict[str, list[str]], side: str) -> str:
    """All pairs within a voice, and as many between voices, half of these within a package if possible."""
    draw = generator("trials", side)
    targets = [(a, b) for names in voices.values() for a, b in itertools.combinations(names, 2)]
    pairs = list(itertools.combinations(sorted(voices), 2))
    same = [pair for pair in pairs if pair[0].partition("/")[0] == pair[1].partition("/")[0]]
    other = [pair for pair in pairs if pair not in same]
    chosen: dict[tuple[str, str], None] = {}
    for kind in itertools.islice(itertools.cycle([same or other, other or same]), 50 * len(targets)):
        first, second = draw.choice(kind)
        chosen[draw.choice(voices[first]), draw.choice(voices[second])] = None
        if len(chosen) == NON_TARGETS_PER_TARGET * len(targets):
            break
    lines = [f"1 {a} {b}\n" for a, b in targets] + [f"0 {a} {b}\n" for a, b in chosen]
    return "".join(sorted(lines, key=lambda line: (line.split()[1:], line)))


def _speaker_table(speakers: dict[str, dict[str, str]]) -> str:
    rows = [f"{number}\t{voice}\t{side}\n" for side, voices in speakers.items() for number, voice in voices.items()]
    return "VoxCeleb1 ID\tvoice\tSet\n" + "".join(rows)
