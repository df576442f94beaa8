"""Training speech comes from free packages only, without the held-out texts, copies and silence."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import soundfile

from benchmarks.speech import debian_speech
from benchmarks.speech.debian import DebianPackage, fetch_package
from benchmarks.speech.debian_speech import PACKAGES, SpeechPackage, fetch_training_speech, hours_by_source
from s3prl_pruned.config import UserError
from s3prl_pruned.data.corpus import embedded_corpus, read_split

FREE = {"BSD-like", "GPL-2", "GPL-2+", "CC-BY-3.0", "CC-BY-SA-3.0"}


def write_noise(path, *, seed, seconds=0.5, rate=22_050, level=0.1):
    """Synthetic noise in place of speech."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = level * np.random.default_rng(seed).standard_normal(int(seconds * rate))
    soundfile.write(path, noise, rate)


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """``fetch_training_speech`` with one package in ``tmp_path``; returns its manifest."""
    root = tmp_path / "package"
    pattern = r".*/say/(?P<language>\w+)/.*\.(wav|ogg)"
    source = SpeechPackage(package="some-data", licence="GPL-2", speech=pattern)
    package = DebianPackage(name="some-data", version="1-1", sha256="0" * 64, root=root)
    monkeypatch.setattr(debian_speech, "PACKAGES", (source,))
    monkeypatch.setattr(debian_speech, "VOICES", {})
    monkeypatch.setattr(debian_speech, "fetch_package", lambda name, folder: package)

    def run():
        manifest = fetch_training_speech(tmp_path / "out")
        return manifest, [json.loads(line) for line in manifest.read_text().splitlines()]

    return root / "usr/share/say", run


def test_every_source_allows_publishing_weights():
    assert {source.licence for source in PACKAGES} <= FREE
    assert {voice.licence for voice in debian_speech.VOICES.values()} <= FREE
    names = {source.package for source in PACKAGES}
    assert not names & {"uqm-voice", "uqm-content", "flight-of-the-amazon-queen", "hedgewars-data"}


def test_speech_becomes_16_khz_flac_once_and_a_second_call_gives_the_same(fetch):
    say, run = fetch
    write_noise(say / "cs" / "a.wav", seed=1)
    write_noise(say / "cs" / "copy.wav", seed=1)
    write_noise(say / "cs" / "short.wav", seed=2, seconds=0.3)
    write_noise(say / "cs" / "silent.wav", seed=3, level=1e-4)
    (say / "cs" / "broken.ogg").write_bytes(b"no audio at all")
    write_noise(say.parent / "music" / "cs" / "song.wav", seed=4)
    manifest, entries = run()
    assert entries == [
        {
            "path": "some-data/say/cs/a.flac",
            "seconds": 0.5,
            "language": "cs",
            "source": "some-data 1-1",
            "licence": "GPL-2",
        }
    ]
    info = soundfile.info(manifest.parent / entries[0]["path"])
    assert (info.samplerate, info.channels, info.format) == (16_000, 1, "FLAC")
    assert hours_by_source(manifest) == {"some-data 1-1": pytest.approx(0.5 / 3600)}
    assert run()[1] == entries


def test_english_recordings_of_held_out_texts_are_left_out(fetch):
    say, run = fetch
    held_out = next(u.text for u in read_split(embedded_corpus(), "test") if u.text.isalpha())
    for number, (language, word) in enumerate([("en", held_out), ("en", "xylophone"), ("cs", held_out)]):
        write_noise(say / language / f"{word.lower()}.wav", seed=number)
    assert {(e["language"], e["path"].split("/")[-1]) for e in run()[1]} == {
        ("en", "xylophone.flac"),
        ("cs", f"{held_out.lower()}.flac"),
    }


@pytest.mark.parametrize(
    ("package", "path", "language"),
    [
        ("tuxpaint-stamps-default", "/stamps/animals/cat_desc_fr.ogg", "fr"),
        ("tuxpaint-stamps-default", "/stamps/animals/cat_desc.ogg", None),
        ("tuxpaint-stamps-default", "/stamps/animals/cat.ogg", "no speech"),
        ("kajongg", "/voices/de/male1/b1.ogg", "de"),
        ("kajongg", "/voices/male1/b1.ogg", None),
        ("klettres-data", "/klettres/pt_BR/alpha/a.ogg", "pt_BR"),
        ("ktuberling-data", "/sounds/sr@latin/hat.opus", "sr@latin"),
    ],
)
def test_speech_is_told_from_effects_by_its_path(package, path, language):
    source = next(source for source in PACKAGES if source.package == package)
    match = re.fullmatch(source.speech, path)
    assert (match["language"] if match else "no speech") == language


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs Debian's dpkg-deb")
def test_package_that_is_already_there_is_unpacked_and_described(tmp_path):
    content = tmp_path / "content"
    (content / "DEBIAN").mkdir(parents=True)
    (content / "DEBIAN/control").write_text(
        "Package: tiny\nVersion: 1.2-3\nArchitecture: all\nMaintainer: Nobody\nDescription: test\n"
    )
    (content / "hello").write_text("hello")
    archive = tmp_path / "kept" / "tiny_1.2-3_all.deb"
    archive.parent.mkdir()
    subprocess.run(["dpkg-deb", "-b", content, archive], check=True, capture_output=True)
    package = fetch_package("tiny", archive.parent)
    assert package.version == "1.2-3"
    assert (package.root / "hello").read_text() == "hello"
    listed = subprocess.run(["sha256sum", archive], check=True, capture_output=True, text=True)
    assert package.sha256 == listed.stdout.split()[0]


def test_missing_tools_and_two_versions_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="`apt-get` is needed .*Run this on Debian"):
        fetch_package("tiny", tmp_path)
    for version in "12":
        (tmp_path / f"tiny_{version}_all.deb").touch()
    with pytest.raises(UserError, match="one archive .* `tiny`, but holds 2"):
        fetch_package("tiny", tmp_path)
