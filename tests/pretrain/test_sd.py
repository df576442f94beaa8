"""Pruning while an encoder is fine-tuned for diarisation: from folders in Kaldi's format to an export with head."""

import shutil

import numpy as np
import pytest
import soundfile
import torch
import yaml

from s3prl_pruned.checkpoint import load_checkpoint
from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.formats.folder import model_hash
from s3prl_pruned.objectives.diarization import frame_errors
from s3prl_pruned.pretrain.command import main
from s3prl_pruned.pretrain.finish import masked_student
from s3prl_pruned.pretrain.logging import read_log
from s3prl_pruned.pretrain.sd.config import SdDataConfig
from s3prl_pruned.pretrain.sd.data import MixtureBatches, read_corpus
from s3prl_pruned.pretrain.sd.diarizer import Diarizer, load_diarizer
from tests.tiny_run import tiny_wavlm

MODEL = {"sparsity": {"target": {"of": "params", "share": 0.6}, "tolerance": 0.05}, "head": {"hidden_size": 8}}
DATA = {"sets": ["train"], "dev_sets": ["dev"], "train_batch_size": 2, "min_seconds": 0.5, "max_seconds": 0.6}
DATA["num_workers"] = 0
RUNNER = {
    "runner": {"total_steps": 4, "log_step": 1, "save_step": 2, "max_keep": 20},
    "optimizer": {"lr": 1e-2, "gate_lr": 0.2},
    "pretrain_expert": {"datarc": DATA},
}


class Mixtures:
    """Folders in Kaldi's format (noise where the speakers are active), a recipe, and the command line."""

    def __init__(self, root, teacher):
        self.root, self.teacher, self.corpus, self.recipe = root, teacher, root / "data", root / "recipe"
        rng = np.random.default_rng(0)
        for name, count in (("train", 5), ("dev", 2)):
            folder = self.corpus / name
            folder.mkdir(parents=True)
            lists = {"wav.scp": [], "segments": [], "utt2spk": []}
            for number in range(count):
                samples, recording = 9_600 + 800 * number, f"{name}{number}"
                wav = np.zeros(samples)
                lists["wav.scp"].append(f"{recording} {recording}.wav")
                for speaker, (start, end) in (("y", (0.05, 0.3)), ("x", (0.2, 0.55))):
                    cut = slice(int(start * 16_000), int(end * 16_000))
                    wav[cut] += 0.1 * rng.standard_normal(cut.stop - cut.start)
                    lists["segments"].append(f"{recording}-{speaker} {recording} {start} {end}")
                    lists["utt2spk"].append(f"{recording}-{speaker} {speaker}")
                soundfile.write(folder / f"{recording}.wav", wav, 16_000)
            for file, lines in lists.items():
                (folder / file).write_text("\n".join(lines) + "\n")
        self.recipe.mkdir()
        (self.recipe / "config_model.yaml").write_text(yaml.safe_dump(MODEL))
        (self.recipe / "config_runner.yaml").write_text(yaml.safe_dump(RUNNER))

    def train(self, folder, *more):
        where = ["--teacher", str(self.teacher), "--corpus", str(self.corpus), "-p", str(folder), "--device", "cpu"]
        return main(["-u", "wavlm_pruned_sd", "--recipe", str(self.recipe), *where, *more])

    def datarc(self):
        return from_dict(SdDataConfig, {**DATA, "corpus": str(self.corpus)}, "x")


@pytest.fixture(scope="module")
def sd(recipe, tmp_path_factory):
    return Mixtures(tmp_path_factory.mktemp("sd"), recipe.teacher)


@pytest.fixture(scope="module")
def run(sd):
    return sd.train(sd.root / "run")


def test_the_export_and_the_masked_model_give_the_same_activity_and_the_logged_error_rate(sd, run):
    diarizer = load_diarizer(run / "export")
    student, _, provenance = masked_student(run / "states-4.ckpt")
    masked = Diarizer(student, load_diarizer(run / "export").head)
    masked.head.load_state_dict(load_checkpoint(run / "states-4.ckpt")["Head"])
    training, dev = read_corpus(sd.datarc(), num_speakers=2)
    batches = MixtureBatches(training, tiny_wavlm(), sd.datarc(), num_speakers=2, seed=0)
    errors = np.zeros(2)
    for mixture in dev:
        wav = mixture.utterance.read()[:9_600]
        activity = diarizer.activity(wav)
        torch.testing.assert_close(activity, masked.activity(wav), rtol=1e-4, atol=1e-5)
        errors += frame_errors(activity.logit()[None], batches.labels(mixture.segments, 0, len(wav))[None])
    lines = read_log(run)
    assert [line["step"] for line in lines if "dev_frame_der" in line] == [2, 4]
    assert lines[-1]["dev_frame_der"] == pytest.approx(errors[0] / errors[1], abs=1e-6)
    assert diarizer.encoder.num_parameters() < student.num_parameters()
    assert "fine-tuning for speaker diarisation" in provenance["method"]
    assert "load_diarizer(<this folder>).activity(wav)" in (run / "export" / "README.md").read_text()


def test_a_resumed_run_ends_like_an_uninterrupted_one(sd, run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "export")
    (again / "states-4.ckpt").unlink()
    sd.train(again, "-a")
    assert model_hash(again / "export") == model_hash(run / "export")
    for name in ("diarization_head.safetensors", "diarization_head.json"):
        assert (again / "export" / name).read_bytes() == (run / "export" / name).read_bytes()


def test_batches_have_the_activity_of_their_crops(sd):
    training, _ = read_corpus(sd.datarc(), num_speakers=2)
    batches = MixtureBatches(training, tiny_wavlm(), sd.datarc(), num_speakers=2, seed=3)
    for index in range(len(batches)):
        wavs, lengths, labels = batches.batch(index)
        assert lengths.tolist() == [wavs.shape[1]] * len(wavs)
        hop = batches._config.hop_samples
        for wav, active in zip(wavs, labels, strict=True):
            heard = [bool(wav[hop * frame : hop * (frame + 1)].abs().mean() > 0.01) for frame in range(len(active))]
            different = sum(a != b for a, b in zip(heard, active.any(1).tolist()))
            assert different <= 2, "a frame at each end of the speech is rounded"
            assert 0 < sum(heard) < len(heard)
        parts = [batches[index, part, 2] for part in range(min(2, len(wavs)))]
        assert sum(float(part[2].sum()) for part in parts) == float(labels.sum())


def test_wrong_data_are_refused_with_what_to_do(sd, tmp_path):
    for file, old, new, message in (
        ("wav.scp", "train0.wav", "cat train0.wav |", "recordings must be files, but train0 is read from a command"),
        ("segments", "train0 0.05 0.3", "train0 0.05", "segments: line 1 must have 4 fields, but has 3"),
        ("segments", "0.05 0.3", "0.5 0.3", "line 1: must have 0 <= start <= end in seconds, but has 0.5 and 0.3"),
        ("segments", "0.05 0.3", "0.05 x", "line 1: start and end must be numbers"),
        ("segments", "train0-y train0", "train0-y other", "but 'other', 'train0-y' are not"),
        ("utt2spk", "train0-y y", "train1-q y", "but 'train0', 'train0-y' are not"),
    ):
        corpus = tmp_path / "corpus"
        shutil.copytree(sd.corpus, corpus)
        path = corpus / "train" / file
        path.write_text(path.read_text().replace(old, new, 1))
        with pytest.raises(UserError, match=message):
            sd.train(tmp_path / "run", "--corpus", str(corpus))
        shutil.rmtree(corpus)
    with pytest.raises(UserError, match="nowhere/train: no such folder. The corpus must hold it, in Kaldi's format"):
        sd.train(tmp_path / "run", "--corpus", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"1 to 1 speakers \(`head.num_speakers`\), but train0 has 2"):
        sd.train(tmp_path / "run", "-o", "head.num_speakers=1")
    with pytest.raises(UserError, match="no corpus is set. Add --corpus"):
        main(["-u", "wavlm_pruned_sd", "-p", str(tmp_path / "run"), "--device", "cpu"])
    assert not (tmp_path / "run").exists()
