"""The model card of an export: structure, size, time, licence and three ways to load it, of which two are run here."""

import re
from pathlib import Path

import pytest
import soundfile
import torch
import yaml

from s3prl_pruned.formats.card import card_head, model_card, with_times
from s3prl_pruned.formats.folder import load_encoder, save_encoder
from s3prl_pruned.models.accelerate.int8 import quantize_int8
from s3prl_pruned.models.dummies import random_encoder, random_spec
from s3prl_pruned.upstream import hubconf
from s3prl_pruned.upstream.register import NAMES
from tests.tiny_run import tiny_wavlm

OLD = Path(__file__).resolve().parents[1] / "compatibility" / "written_by_0_1_0"
SHAPE = tiny_wavlm()
PROVENANCE = {"teacher": {"name": "wavlm_base_plus", "sha256": None}, "sparsity": {"inert_share": 0.1234}}


def pruned():
    return random_encoder(SHAPE, seed=0, spec=random_spec(SHAPE, seed=1))


def card_of(encoder, **more):
    return model_card(encoder, {**PROVENANCE, **more}, "0" * 64)


def section(card, title):
    return re.search(rf"^## {title}\n\n(.*?)(?=^## |\Z)", card, flags=re.MULTILINE | re.DOTALL)[1]


def test_the_structure_has_each_head_with_its_dims():
    """Read back from the text alone, it is the spec's."""
    encoder = pruned()
    rows = [line.split("|")[1:-1] for line in section(card_of(encoder), "Structure").splitlines() if line[:1] == "|"]
    found = []
    for row in rows[2:]:
        groups = re.findall(r"((?:\d+, )*\d+): (\d+)/(\d+)", row[-1])
        found.append({int(i): (int(qk), int(vo)) for names, qk, vo in groups for i in names.split(", ")})
    expected = [
        {head.index: (len(head.qk), len(head.vo)) for head in layer.heads} if layer.attention else {}
        for layer in encoder.spec.layers
    ]
    assert found == expected and sum(map(len, expected)) > 3
    heads, ffn = sum(map(len, expected)), sum(len(layer.ffn) for layer in encoder.spec.layers if layer.feed_forward)
    summary = section(card_of(encoder), "Structure").splitlines()[0]
    assert f" {heads} of {SHAPE.num_layers * SHAPE.num_heads} heads and {ffn} of" in summary
    dense = section(card_of(random_encoder(SHAPE, seed=0)), "Structure")
    every = ", ".join(map(str, range(SHAPE.num_heads)))
    assert dense.count(f"| {every}: {SHAPE.head_dim}/{SHAPE.head_dim} |") == SHAPE.num_layers


def test_sizes_and_the_inert_share(tmp_path):
    encoder = pruned()
    text = section(card_of(encoder), "Size")
    assert "| share of the prunable weights in inert units (scaled by less than 0.02) |  | 12.3 % |" in text
    assert "inert" not in section(model_card(encoder, {}, "0" * 64), "Size"), "where nothing is known, nothing is said"
    for each in (encoder, quantize_int8(encoder)):
        save_encoder(tmp_path / f"{len(list(tmp_path.iterdir()))}", each, PROVENANCE)
    fp32, int8 = ((tmp_path / name / "model.safetensors").stat().st_size for name in "01")
    told = [size_of_weights((tmp_path / name / "README.md").read_text()) for name in "01"]
    assert int8 < fp32 and told == pytest.approx([fp32 / 1e6, int8 / 1e6], abs=0.06)  # MB with one digit, and a header


def size_of_weights(card):
    return float(re.search(r"\| size of the weights \| [\d.]+ MB \| ([\d.]+) MB \|", card)[1])


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"license": "mit"}, "Licence: mit."),
        ({}, "Licence: not recorded. The terms of what it was made from (wavlm_base_plus) apply."),
        ({"teacher": None}, "Licence: not recorded. The terms of what it was made from apply."),
    ],
)
def test_the_licence_is_told_or_where_to_look(more, line):
    assert line in card_of(pruned(), **more).splitlines()
    head = yaml.safe_load(card_head(pruned(), {**PROVENANCE, **more}).split("---\n")[1])
    assert head.get("license") == more.get("license")


def test_the_time_is_told_when_it_was_measured_and_can_be_told_anew():
    card = card_of(pruned())
    assert "Not measured yet" in section(card, "Time")
    once = with_times(card, "| 5 s | 30.2 ms |")
    assert section(once, "Time") == "| 5 s | 30.2 ms |\n\n" and "Not measured" not in once
    for title in ("Size", "Structure", "Provenance", "Use"):
        assert section(once, title) == section(card, title)
    assert with_times(with_times(card, "old"), "| 5 s | 30.2 ms |") == once


def test_a_card_of_an_older_version_gets_its_time_before_the_provenance():
    old = (OLD / "pretrain" / "small-seed1" / "export" / "README.md").read_text()
    assert "## Time" not in old
    timed = with_times(old, r"30 ms \1")
    assert timed.replace("## Time\n\n30 ms \\1\n\n", "") == old
    assert timed.index("## Time") < timed.index("## Provenance")
    assert with_times("# text", "30 ms") == "# text\n\n## Time\n\n30 ms\n\n"


def test_an_older_export_is_read_and_its_card_written_anew_has_all_it_had(tmp_path):
    folder = OLD / "pretrain" / "small-seed1" / "export"
    encoder, provenance = load_encoder(folder)
    save_encoder(tmp_path / "again", encoder, provenance)
    again = (tmp_path / "again" / "README.md").read_text()
    lines = [line for line in (folder / "README.md").read_text().splitlines() if "host:" not in line]
    missing = [line for line in lines if line.strip(" |-") and line.rstrip(" |") not in again.replace("|  |", "| |")]
    assert missing == []


def test_the_cards_lines_load_the_export_by_s3prl_and_by_itself(tmp_path):
    """Its lines of Python are run as they stand, but that the path is filled in; both ways give the same states."""
    export, wav = tmp_path / "export", tmp_path / "speech.wav"
    save_encoder(export, pruned(), PROVENANCE)
    use = section((export / "README.md").read_text(), "Use").replace("<this folder>", str(export))
    soundfile.write(wav, (0.1 * torch.randn(8_000, generator=torch.Generator().manual_seed(0))).numpy(), 16_000)
    blocks = re.findall(r"(?:^    .*\n)+", use, flags=re.MULTILINE)
    shell, by_s3prl, alone, to_hugging_face = [re.sub("^    ", "", block, flags=re.MULTILINE) for block in blocks]
    assert shell.startswith("python run_downstream.py -u wavlm_pruned -k ") and "--to huggingface" in to_hugging_face
    found = {}
    exec(alone.replace("speech.wav", str(wav)), found)
    name = re.search(r'S3PRLUpstream\("(\w+)", "(.*)"\)', by_s3prl)
    assert name[1] in NAMES and "s3prl_pruned.register()" in by_s3prl  # s3prl itself: tests/contract
    samples = torch.from_numpy(soundfile.read(wav, dtype="float32")[0])
    with torch.no_grad():
        states = getattr(hubconf, name[1])(name[2]).eval()([samples])["hidden_states"]
    assert len(states) == SHAPE.num_layers + 1
    expected = torch.stack([state[0] for state in states])
    assert found["states"].shape == expected.shape
    assert (found["states"] - expected).abs().max() <= 2e-5 * max(1.0, float(expected.abs().max()))


def test_an_int8_card_names_no_way_that_cannot_be():
    assert "huggingface" not in card_of(quantize_int8(pruned())) and "huggingface" in card_of(pruned())
