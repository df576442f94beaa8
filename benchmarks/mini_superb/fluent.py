"""IC: commands to a smart home in the layout of Fluent Speech Commands, SYNTHETIC speech by espeak-ng.

The 31 intents are those of Lugosch et al. 2019 (action, object, location); the wordings are our own. No voice is in two
splits, and one wording of each intent occurs in the test set only.
"""

from __future__ import annotations

import csv
import io
import uuid

from benchmarks.mini_superb.clips import SEED, generator
from benchmarks.mini_superb.espeak import SyntheticVoice
from benchmarks.mini_superb.sources import Sources
from benchmarks.mini_superb.writer import CorpusWriter, Record

ROOT = "fluent_speech_commands_dataset"

INTENTS: dict[tuple[str, str, str], tuple[str, str, str]] = {
    ("change language", "none", "none"): ("Switch the language", "Use another language", "Speak a different language"),
    ("change language", "Chinese", "none"): ("Speak Chinese", "Set the language to Chinese", "Go on in Chinese"),
    ("change language", "English", "none"): ("Speak English", "Set the language to English", "Go on in English"),
    ("change language", "German", "none"): ("Speak German", "Set the language to German", "Go on in German"),
    ("change language", "Korean", "none"): ("Speak Korean", "Set the language to Korean", "Go on in Korean"),
    ("activate", "music", "none"): ("Play some music", "Start the music", "I want to hear music"),
    ("deactivate", "music", "none"): ("Stop the music", "No more music", "Turn that music off"),
    ("activate", "lamp", "none"): ("Switch on the lamp", "Turn the lamp on", "I need the lamp on"),
    ("deactivate", "lamp", "none"): ("Switch off the lamp", "Turn the lamp off", "Put out the lamp"),
    ("activate", "lights", "none"): ("Lights on", "Turn the lights on", "Let there be lights on"),
    ("activate", "lights", "kitchen"): ("Kitchen lights on", "Turn on the kitchen lights", "Lights on in the kitchen"),
    ("activate", "lights", "bedroom"): ("Bedroom lights on", "Turn on the bedroom lights", "Lights on in the bedroom"),
    ("activate", "lights", "washroom"): (
        "Washroom lights on",
        "Turn on the washroom lights",
        "Lights on in the washroom",
    ),
    ("deactivate", "lights", "none"): ("Lights off", "Turn the lights off", "Everything dark with lights off"),
    ("deactivate", "lights", "kitchen"): (
        "Kitchen lights off",
        "Turn off the kitchen lights",
        "Lights off in the kitchen",
    ),
    ("deactivate", "lights", "bedroom"): (
        "Bedroom lights off",
        "Turn off the bedroom lights",
        "Lights off in the bedroom",
    ),
    ("deactivate", "lights", "washroom"): (
        "Washroom lights off",
        "Turn off the washroom lights",
        "Lights off in the washroom",
    ),
    ("increase", "volume", "none"): ("Make it louder", "Volume up", "Increase the volume"),
    ("decrease", "volume", "none"): ("Make it quieter", "Volume down", "Decrease the volume"),
    ("increase", "heat", "none"): ("Make it warmer", "Heat up", "Increase the heat"),
    ("increase", "heat", "kitchen"): ("Make the kitchen warmer", "Kitchen heat up", "Increase the heat in the kitchen"),
    ("increase", "heat", "bedroom"): ("Make the bedroom warmer", "Bedroom heat up", "Increase the heat in the bedroom"),
    ("increase", "heat", "washroom"): (
        "Make the washroom warmer",
        "Washroom heat up",
        "Increase the heat in the washroom",
    ),
    ("decrease", "heat", "none"): ("Make it cooler", "Heat down", "Decrease the heat"),
    ("decrease", "heat", "kitchen"): (
        "Make the kitchen cooler",
        "Kitchen heat down",
        "Decrease the heat in the kitchen",
    ),
    ("decrease", "heat", "bedroom"): (
        "Make the bedroom cooler",
        "Bedroom heat down",
        "Decrease the heat in the bedroom",
    ),
    ("decrease", "heat", "washroom"): (
        "Make the washroom cooler",
        "Washroom heat down",
        "Decrease the heat in the washroom",
    ),
    ("bring", "newspaper", "none"): ("Bring the newspaper", "Get me the newspaper", "I want my newspaper"),
    ("bring", "juice", "none"): ("Bring some juice", "Get me some juice", "I want my juice"),
    ("bring", "socks", "none"): ("Bring the socks", "Get me the socks", "I want my socks"),
    ("bring", "shoes", "none"): ("Bring the shoes", "Get me the shoes", "I want my shoes"),
}
"""(action, object, location): two wordings for all splits, and one for the test set only."""

ACCENTS = "en-us en-gb en-gb-scotland en-gb-x-rp en-gb-x-gbclan en-029".split()
VARIANTS = "m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 Andy Annie Lee".split()

VOICES = {"full": {"train": 9, "valid": 3, "test": 4}, "tiny": {"train": 1, "valid": 1, "test": 1}}
"""Speakers of each split; each says every intent once."""


def write_fluent(writer: CorpusWriter, sources: Sources, *, tiny: bool) -> Record:
    """Write ``fluent_speech_commands_dataset/``: three CSVs and the audio."""
    draw = generator("fluent")
    variants = VARIANTS[:]
    draw.shuffle(variants)
    counts = VOICES["tiny" if tiny else "full"]
    for split, count in counts.items():
        rows = []
        for _ in range(count):
            variant = variants.pop()
            voice = SyntheticVoice(
                accent=draw.choice(ACCENTS), variant=variant, pitch=draw.randint(35, 65), speed=draw.randint(140, 185)
            )
            speaker = _name("speaker", variant).replace("-", "")[:16]
            for intent, wordings in INTENTS.items():
                text = draw.choice(wordings if split == "test" else wordings[:2])
                path = f"wavs/speakers/{speaker}/{_name(speaker, text)}.wav"
                writer.audio(f"{ROOT}/{path}", sources.say(text, voice), split=split, speaker=speaker)
                rows.append((len(rows), path, speaker, text, *intent))
        writer.text(f"{ROOT}/data/{split}_data.csv", _csv(rows))
    note = "Wordings are our own; a third of the test set's wordings is heard there only."
    return {"tasks": ["ic"], "synthetic": True, "note": note, "sources": sources.describe(["espeak-ng"])}


def _name(*parts: str) -> str:
    """A UUID that depends only on ``parts``: the official files are named by UUIDs."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, " ".join(("mini_superb", str(SEED), *parts))))


def _csv(rows: list[tuple]) -> str:
    text = io.StringIO()
    header = ("", "path", "speakerId", "transcription", "action", "object", "location")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()
