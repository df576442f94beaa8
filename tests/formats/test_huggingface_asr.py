"""Exported recognisers work in transformers: fine-tuning by `Trainer`, transcription by `pipeline`, same head."""

import json
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

from s3prl_pruned import compat
from s3prl_pruned.config import UserError
from s3prl_pruned.formats.registry import read, write
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_families
from s3prl_pruned.pretrain.asr.recognizer import load_recognizer
from s3prl_pruned.pretrain.conversion import convert

transformers = pytest.importorskip("transformers", reason="only the extras `transformers` and `test` install it")
compat.torchaudio_extension()  # transformers' pipelines import torchaudio

LETTERS = " 'ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@pytest.fixture(autouse=True)
def own_modules(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])


def head_files(encoder, letters=LETTERS):
    """A head that outputs many letters for noise."""
    with torch.no_grad():
        states = encoder.encode_raw(noise(3)[None]).hidden_states[-1][0]
    weight = torch.randn(len(letters) + 1, states.shape[1], generator=torch.Generator().manual_seed(0))
    head = {"projection.weight": weight, "projection.bias": -weight @ states.mean(0)}
    alphabet = json.dumps({"characters": letters}).encode()
    return {"ctc_head.safetensors": safetensors.torch.save(head), "ctc_head.json": alphabet}


def noise(seed, samples=16_000):
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def pipeline(folder):
    return transformers.pipeline(
        "automatic-speech-recognition", model=str(folder), trust_remote_code=True, device="cpu"
    )


@pytest.mark.parametrize("name", ["wavlm_large", "wav2vec2_base"])
def test_an_exported_recogniser_keeps_its_head_and_transcribes_the_same_in_a_pipeline(tmp_path, name):
    shape = tiny_families()[name]
    spec = random_spec(shape, seed=3) if name == "wavlm_large" else None  # also a dense model
    encoder = random_encoder(shape, seed=1, spec=spec)
    write(tmp_path / "ours", "folder", encoder, {"teacher_note": None}, files=head_files(encoder))
    convert(tmp_path / "ours", tmp_path / "theirs", "huggingface")
    recogniser, recognise = load_recognizer(tmp_path / "ours"), pipeline(tmp_path / "theirs")
    wavs = [noise(seed, samples) for seed, samples in ((3, 16_000), (4, 9_000), (5, 30_000))]
    expected = [recogniser.transcribe(wav) for wav in wavs]
    assert [" ".join(recognise(wav.numpy())["text"].split()) for wav in wavs] == expected
    assert len(set("".join(expected))) > 8 and any(" " in text for text in expected)
    assert len(recognise.tokenizer) == recognise.model.config.vocab_size == len(LETTERS) + 1
    assert recognise.tokenizer("AB C'").input_ids == [LETTERS.index(c) + 1 for c in "AB C'"]
    card = yaml.safe_load((tmp_path / "theirs" / "README.md").read_text().split("---\n")[1])
    assert card["pipeline_tag"] == "automatic-speech-recognition"
    convert(tmp_path / "theirs", tmp_path / "back", "folder")
    assert load_recognizer(tmp_path / "back").transcribe(wavs[0]) == expected[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ctc_head.safetensors", b"half", "ctc_head.safetensors: is damaged"),
        ("ctc_head.json", b"[]", "ctc_head.json: is missing or damaged"),
        ("ctc_head.json", b'{"characters": 3}', "`characters` must be a text, but is 3"),
        (
            "ctc_head.json",
            json.dumps({"characters": LETTERS[:-1] + "|"}).encode(),
            "which transformers reads as a space",
        ),
        ("ctc_head.json", b'{"characters": "ab"}', "must have 3 outputs for ctc_head.json, but has 29"),
    ],
)
def test_a_damaged_head_is_one_error_and_nothing_is_written(tmp_path, name, content, message):
    encoder = random_encoder(tiny_families()["hubert_base"], seed=1)
    with pytest.raises(UserError, match=message):
        write(tmp_path / "x", "huggingface", encoder, files={**head_files(encoder), name: content})
    assert not (tmp_path / "x").exists()


def test_a_recogniser_is_fine_tuned_by_trainer_and_transcribes_by_pipeline(tmp_path):
    """With `accelerate`: padded batches, checkpointed layers, some weights frozen; saved and loaded again."""
    pytest.importorskip("accelerate", reason="only the extra `test` installs it")
    shape = tiny_families()["wavlm_base"]
    encoder = random_encoder(shape, seed=1, spec=random_spec(shape, seed=3))
    write(tmp_path / "export", "huggingface", encoder, {"teacher_note": None})
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCD"]
    (tmp_path / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
    processor = transformers.Wav2Vec2Processor(
        feature_extractor=transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "export"),
        tokenizer=transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json")),
    )
    model = transformers.AutoModelForCTC.from_pretrained(
        tmp_path / "export", trust_remote_code=True, vocab_size=len(letters), ctc_zero_infinity=True
    )
    model.freeze_feature_encoder()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    def batch(items):
        inputs = processor([wav for wav, _ in items], sampling_rate=16_000, padding=True, return_tensors="pt")
        labels = processor.tokenizer([text for _, text in items], padding=True, return_tensors="pt")
        return {**inputs, "labels": labels.input_ids.masked_fill(labels.attention_mask == 0, -100)}

    speech = [(noise(i, 8_000 + 900 * i).numpy(), ("AB CD", "D", "BAD", "CAB")[i % 4]) for i in range(8)]
    settings = transformers.TrainingArguments(
        str(tmp_path / "run"),
        max_steps=4,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        logging_steps=1,
        save_steps=2,
        remove_unused_columns=False,
        report_to=[],
        use_cpu=True,
        gradient_checkpointing=True,
    )
    trainer = transformers.Trainer(
        model=model, args=settings, data_collator=batch, train_dataset=speech, processing_class=processor
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(losses) == 4 and np.isfinite(losses).all()
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert "lm_head.weight" in changed and any("fc1" in name for name in changed)
    assert not any("feature_extractor" in name for name in changed)

    again = transformers.AutoModelForCTC.from_pretrained(tmp_path / "run" / "checkpoint-2", trust_remote_code=True)
    again.freeze_feature_encoder()
    resumed = transformers.Trainer(
        model=again, args=settings, data_collator=batch, train_dataset=speech, processing_class=processor
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert resumed.state.global_step == 4

    trainer.save_model(tmp_path / "tuned")
    recognise = pipeline(tmp_path / "tuned")
    wav = speech[3][0]
    with torch.no_grad():
        logits = model.eval()(**processor(wav, sampling_rate=16_000, return_tensors="pt")).logits
    assert recognise(wav)["text"] == processor.batch_decode(logits.argmax(-1))[0]
    assert isinstance(recognise(np.tile(wav, 6), chunk_length_s=1, stride_length_s=0.2)["text"], str)
    found = read(tmp_path / "tuned").encoder.state_dict()
    tuned = model.base_model.encoder.state_dict()
    assert found.keys() == tuned.keys() and all(torch.equal(found[name], tuned[name]) for name in tuned)
