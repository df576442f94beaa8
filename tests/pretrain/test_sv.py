"""Pruning while an encoder is fine-tuned for speaker verification: from a folder of speakers to an export with head."""

import itertools
import shutil

import numpy as np
import pytest
import soundfile
import torch
import yaml

from s3prl_pruned.checkpoint import load_checkpoint
from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.formats.folder import load_encoder, model_hash
from s3prl_pruned.objectives.eer import equal_error_rate
from s3prl_pruned.pretrain.command import main
from s3prl_pruned.pretrain.conversion import convert
from s3prl_pruned.pretrain.finish import masked_student
from s3prl_pruned.pretrain.logging import read_log
from s3prl_pruned.pretrain.sv.config import SvDataConfig
from s3prl_pruned.pretrain.sv.data import SpeakerBatches, read_corpus
from s3prl_pruned.pretrain.sv.pretrain_expert import UpstreamPretrainExpert
from s3prl_pruned.pretrain.sv.verifier import Verifier, load_verifier
from tests.tiny_run import tiny_wavlm

MODEL = {
    "sparsity": {"target": {"of": "params", "share": 0.6}, "tolerance": 0.05},
    "head": {"input_dim": 24, "agg_dim": 12},
}
DATA = {
    "sets": ["dev/wav"],
    "train_batch_size": 3,
    "min_seconds": 0.5,
    "max_seconds": 0.6,
    "held_out": 8,
    "num_workers": 0,
}
RUNNER = {
    "runner": {"total_steps": 4, "log_step": 1, "save_step": 2, "max_keep": 20},
    "optimizer": {"lr": 1e-2, "gate_lr": 0.2},
    "pretrain_expert": {"datarc": DATA},
}
SPEAKERS = ["id1", "id2", "id3"]


class Speakers:
    """A folder in VoxCeleb1's layout (tones in noise, a pitch for each speaker), a recipe, and the command line."""

    def __init__(self, root, teacher):
        self.root, self.teacher, self.corpus, self.recipe = root, teacher, root / "VoxCeleb1", root / "recipe"
        rng = np.random.default_rng(0)
        for number, (name, session, index) in enumerate(itertools.product(SPEAKERS, ("a", "b"), range(4))):
            path = self.corpus / "dev" / "wav" / name / session / f"{index}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            time = np.arange(8_800 + 160 * number) / 16_000
            pitch = 150 * (1 + SPEAKERS.index(name))
            soundfile.write(
                path, 0.2 * np.sin(2 * np.pi * pitch * time) + 0.02 * rng.standard_normal(len(time)), 16_000
            )
        self.recipe.mkdir()
        (self.recipe / "config_model.yaml").write_text(yaml.safe_dump(MODEL))
        (self.recipe / "config_runner.yaml").write_text(yaml.safe_dump(RUNNER))

    def train(self, folder, *more):
        where = ["--teacher", str(self.teacher), "--corpus", str(self.corpus), "-p", str(folder), "--device", "cpu"]
        return main(["-u", "wavlm_pruned_sv", "--recipe", str(self.recipe), *where, *more])

    def datarc(self, **changes):
        return from_dict(SvDataConfig, {**DATA, "corpus": str(self.corpus), **changes}, "x")

    def expert(self, **head):
        model = {**MODEL, "teacher": str(self.teacher), "head": {**MODEL["head"], **head}}
        model["student"] = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
        return UpstreamPretrainExpert(self.datarc(), model, "cpu", seed=0, family="wavlm")


@pytest.fixture(scope="module")
def sv(recipe, tmp_path_factory):
    return Speakers(tmp_path_factory.mktemp("sv"), recipe.teacher)


@pytest.fixture(scope="module")
def run(sv):
    return sv.train(sv.root / "run")


def test_the_exported_verifier_and_the_masked_model_give_the_same_embeddings(sv, run, tmp_path):
    verifier = load_verifier(run / "export")
    student, _, provenance = masked_student(run / "states-4.ckpt")
    masked = Verifier(student, sv.expert().model.head.eval(), SPEAKERS)
    wav = read_corpus(sv.datarc()).utterances[0].read()
    other = masked.embed(wav)  # with a new head
    masked.head.load_state_dict(load_checkpoint(run / "states-4.ckpt")["Head"])
    torch.testing.assert_close(verifier.embed(wav), masked.embed(wav), rtol=1e-4, atol=1e-5)
    assert (verifier.embed(wav) - other).abs().max() > 1e-3
    assert verifier.speakers == SPEAKERS and verifier.encoder.num_parameters() < student.num_parameters()
    assert "fine-tuning for speaker verification" in provenance["method"]
    assert "load_verifier(<this folder>).embed(wav)" in (run / "export" / "README.md").read_text()
    convert(run / "states-4.ckpt", tmp_path / "again", "folder")
    convert(run / "export", tmp_path / "copy", "folder")
    for folder in ("again", "copy"):
        torch.testing.assert_close(load_verifier(tmp_path / folder).embed(wav), verifier.embed(wav))


def test_the_error_rate_of_held_out_pairs_is_logged_at_every_save(sv, run):
    lines = read_log(run)
    assert [line["step"] for line in lines if "held_out_eer" in line] == [2, 4]
    verifier, batches = (
        load_verifier(run / "export"),
        SpeakerBatches(read_corpus(sv.datarc()), tiny_wavlm(), sv.datarc(), seed=1337),
    )
    assert len(batches.held_out) == 8
    found = [(item.path.parts[-3], verifier.embed(item.read()[:9_600])) for item in batches.held_out]
    pairs = [(a[0] == b[0], float(a[1] @ b[1])) for a, b in itertools.combinations(found, 2)]
    expected = equal_error_rate(np.array([int(same) for same, _ in pairs]), np.array([score for _, score in pairs]))
    assert lines[-1]["held_out_eer"] == pytest.approx(expected, abs=1e-6)


def test_a_resumed_run_ends_like_an_uninterrupted_one(sv, run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "export")
    (again / "states-4.ckpt").unlink()
    sv.train(again, "-a")
    assert model_hash(again / "export") == model_hash(run / "export")
    for name in ("speaker_head.safetensors", "speaker_head.json"):
        assert (again / "export" / name).read_bytes() == (run / "export" / name).read_bytes()
    assert [line["am_softmax"] for line in read_log(again)] == [line["am_softmax"] for line in read_log(run)]


def test_a_pruned_encoder_is_fine_tuned_without_gates_and_a_dry_run_writes_nothing(sv, run, tmp_path, capsys):
    more = ["--teacher", str(run / "export"), "-o", "self_pinching=null,,runner.total_steps=1"]
    sv.train(tmp_path / "dry", "--dry-run", *more)
    assert "first losses: " in capsys.readouterr().out and not (tmp_path / "dry").exists()
    encoder, provenance = load_encoder(sv.train(tmp_path / "run", *more) / "export")
    assert encoder.spec == load_encoder(run / "export")[0].spec and "without pruning" in provenance["method"]


def test_parts_of_a_batch_add_up_to_its_loss_and_gradients(sv):
    batch = (0.1 * torch.randn(4, 9_600), torch.full((4,), 9_600), torch.tensor([2, 0, 1, 2]))
    found = []
    for parts in ([batch], [tuple(x[:1] for x in batch), tuple(x[1:] for x in batch)]):
        expert = sv.expert()
        expert.model.train()
        expert.begin_step(1, 4, parts)
        records = {}
        for part in parts:
            expert(part, records, 1).backward()
        gradients = {n: p.grad for n, p in expert.model.named_parameters() if p.grad is not None}
        found.append((float(records["am_softmax"]), gradients))
    (loss, gradients), (other, others) = found
    assert other == pytest.approx(loss, rel=1e-5) and gradients.keys() == others.keys()
    assert {"head.layers.weights", "head.connector.weight", "head.objective.W"} <= gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_batches_hold_the_right_speakers_and_no_held_out_utterance(sv):
    corpus = read_corpus(sv.datarc())
    batches = SpeakerBatches(corpus, tiny_wavlm(), sv.datarc(), seed=3)
    held = [item.path.parts[-3] for item in batches.held_out]
    assert sorted(held.count(name) for name in set(held)) == [4, 4]
    assert not {item.id for item in batches.held_out} & {item.id for item in batches.utterances}
    for index in range(len(batches)):
        wavs, lengths, speakers = batches.batch(index)
        assert lengths.tolist() == [wavs.shape[1]] * len(wavs)
        for wav, speaker, item in zip(wavs, speakers.tolist(), batches.members(index), strict=True):
            assert item.path.parts[-3] == corpus.names[speaker]
            assert (item.read().unfold(0, len(wav), 1) == wav).all(1).any(), "a piece of this utterance"
        parts = [batches[index, part, 2] for part in range(min(2, len(wavs)))]
        assert sorted(torch.cat([part[2] for part in parts]).tolist()) == sorted(speakers.tolist())


def test_wrong_data_and_settings_are_refused_with_what_to_do(sv, tmp_path):
    one = tmp_path / "one"
    shutil.copytree(sv.corpus / "dev" / "wav" / "id1", one / "dev" / "wav" / "id1")
    for options, message in (
        (["--corpus", str(one)], "speech of at least 2 speakers is needed, but there is 1, 'id1'"),
        (
            ["-o", "pretrain_expert.datarc.sets=[dev]"],
            "must be <speaker>/<session>/<utterance> below .*such as dev/wav",
        ),
        (["-o", "pretrain_expert.datarc.sets=[test/wav]"], "has no split 'test/wav'"),
        (["-o", "pretrain_expert.datarc.min_seconds=0.2"], "`min_seconds` must give the x-vector at least 16 frames"),
        (["-o", "pretrain_expert.datarc.held_out=5"], "`held_out` must be 0, or at least 8"),
        (["-o", "head.margin=1"], r"`margin` must be in \[0, 1\), but is 1"),
    ):
        with pytest.raises(UserError, match=message):
            sv.train(tmp_path / "run", *options)
    with pytest.raises(UserError, match="no corpus is set. Add --corpus /data/VoxCeleb1"):
        main(["-u", "wavlm_pruned_sv", "--recipe", "self_pinching_sv", "-p", str(tmp_path / "run"), "--device", "cpu"])
    assert not (tmp_path / "run").exists()


def test_a_damaged_or_missing_head_is_refused(run, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(run / "export", folder)
    with pytest.raises(UserError, match="must have at least 16 frames, but has 2"):
        load_verifier(folder).embed(torch.zeros(800))
    (folder / "speaker_head.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match="holds no matching head for speakers"):
        load_verifier(folder)
    (folder / "speaker_head.json").unlink()
    with pytest.raises(UserError, match="holds no matching head for speakers"):
        load_verifier(folder)
