"""SF: requests with slots in the layout of Audio SNIPS, SYNTHETIC speech by espeak-ng.

Texts are our own; speakers have Audio SNIPS' names, so that the official lists of each split apply. No speaker and no
text is in two splits.
"""

from __future__ import annotations

import itertools
from collections import Counter

from benchmarks.mini_superb.clips import generator
from benchmarks.mini_superb.espeak import SyntheticVoice
from benchmarks.mini_superb.sources import Sources
from benchmarks.mini_superb.writer import CorpusWriter, Record

SPEAKERS = {
    "train": "Ivy Joanna Joey Justin Kendra Kimberly Matthew Salli".split(),
    "valid": "Aditi Amy Geraint Nicole".split(),
    "test": "Brian Emma Raveena Russell".split(),
}
"""As in s3prl's ``ctc/snips.yaml``; the names are those of Audio SNIPS, the voices are not."""

UTTERANCES = {"full": {"train": 28, "valid": 12, "test": 18}, "tiny": {"train": 2, "valid": 1, "test": 1}}
"""Utterances of each speaker."""

VOICES = list(
    zip(
        itertools.cycle(("en-us", "en-gb", "en-gb-x-rp", "en-029")),
        "f1 m1 f2 m2 f3 m3 f4 m4 f5 m5 m6 m7 m8 Annie Andy Lee".split(),
    )
)
"""Accent and variant of each speaker, in the order of the splits."""

SLOTS: dict[str, tuple[str, ...]] = {
    "artist": (
        "NINA SIMONE",
        "MILES DAVIS",
        "BACH",
        "THE BEATLES",
        "BILLIE HOLIDAY",
        "JOHNNY CASH",
        "MOZART",
        "EDITH PIAF",
    ),
    "playlist": ("MORNING COFFEE", "ROAD TRIP", "RAINY DAYS", "DEEP SLEEP", "KITCHEN DANCE", "LONG RUN"),
    "music_item": ("SONG", "ALBUM", "TRACK", "TUNE"),
    "city": ("BERLIN", "NEW ORLEANS", "LISBON", "TORONTO", "OSLO", "MEXICO CITY", "BOSTON", "CAPE TOWN"),
    "timeRange": ("TOMORROW", "THIS EVENING", "NEXT FRIDAY", "AT NOON", "IN TWO HOURS", "TODAY"),
    "condition_description": ("RAINY", "SUNNY", "FOGGY", "SNOWING", "WINDY"),
    "restaurant_type": ("CAFE", "BAR", "STEAKHOUSE", "BAKERY"),
    "party_size_number": ("TWO", "FIVE", "SEVEN", "TEN", "FOUR"),
    "movie_name": ("THE LAST TRAIN", "SILENT RIVER", "A WINTER IN PARIS", "BLUE HARBOUR", "THE GLASS KEY"),
    "object_type": ("NOVEL", "TEXTBOOK", "SAGA", "CHRONICLE"),
    "rating_value": ("ONE", "THREE", "FOUR", "FIVE"),
}
"""Values by slot type (names of SNIPS' slots)."""

REQUESTS: dict[str, tuple[str, ...]] = {
    "AddToPlaylist": ("ADD {artist} TO MY {playlist} PLAYLIST", "PUT THIS {music_item} ON {playlist}"),
    "PlayMusic": ("PLAY A {music_item} BY {artist}", "I WANT TO HEAR {artist}"),
    "GetWeather": (
        "WILL IT BE {condition_description} IN {city} {timeRange}",
        "WHAT IS THE WEATHER IN {city} {timeRange}",
    ),
    "BookRestaurant": (
        "BOOK A {restaurant_type} IN {city} FOR {party_size_number}",
        "TABLE FOR {party_size_number} AT A {restaurant_type} {timeRange}",
    ),
    "SearchScreeningEvent": ("WHERE IS {movie_name} SHOWN {timeRange}", "FIND THE CINEMA THAT HAS {movie_name}"),
    "RateBook": (
        "GIVE THIS {object_type} {rating_value} STARS",
        "RATE THE CURRENT {object_type} {rating_value} OUT OF SIX",
    ),
}
"""Wordings by intent."""


def write_snips(writer: CorpusWriter, sources: Sources, *, tiny: bool) -> Record:
    """Write ``SNIPS/``: audio of each split, all texts with their slots, and the list of slots by frequency."""
    draw = generator("snips")
    requests = [(intent, wording) for intent, wordings in REQUESTS.items() for wording in wordings]
    voices = iter(VOICES)
    used: set[str] = set()
    lines: list[str] = []
    count: Counter[str] = Counter(O=0)
    for split, speakers in SPEAKERS.items():
        for speaker in speakers:
            accent, variant = next(voices)
            voice = SyntheticVoice(
                accent=accent, variant=variant, pitch=draw.randint(40, 60), speed=draw.randint(145, 180)
            )
            number = 0
            while number < UTTERANCES["tiny" if tiny else "full"][split]:
                intent, wording = draw.choice(requests)
                words, slots = _fill(wording, {slot: draw.choice(values) for slot, values in SLOTS.items()})
                text = " ".join(words)
                if text in used:
                    continue
                used.add(text)
                name = f"{speaker}-snips-{split}-{number}"
                writer.audio(
                    f"SNIPS/{split}/{name}.wav", sources.say(text.lower(), voice), split=split, speaker=speaker
                )
                lines.append(f"{name} BOS {text} EOS\tO {' '.join(slots)} {intent}\n")
                count.update(slots)
                number += 1
    writer.text("SNIPS/all.iob.snips.txt", "".join(lines))
    # s3prl skips the first line, O, the most frequent; a final newline would be another slot.
    ordered = sorted(count.keys() | SLOTS.keys(), key=lambda slot: (-count[slot], slot))
    writer.text("SNIPS/slots.txt", "\n".join(ordered))
    note = "Texts are our own; speakers bear Audio SNIPS' names, the voices are espeak-ng's."
    return {"tasks": ["sf"], "synthetic": True, "note": note, "sources": sources.describe(["espeak-ng"])}


def _fill(wording: str, values: dict[str, str]) -> tuple[list[str], list[str]]:
    """Words of a request and the slot of each (``O``: none); a slot's words have its name without B- and I-."""
    words, slots = [], []
    for part in wording.split():
        slot = part.strip("{}") if part.startswith("{") else "O"
        said = values[slot].split() if slot != "O" else [part]
        words += said
        slots += [slot] * len(said)
    return words, slots
