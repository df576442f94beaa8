"""No damaged file ends a command with a traceback: every reader takes it or refuses it with a `UserError`.

A small fuzzer: bytes change (`odd_bytes`), or values of a well-formed file do (`odd_values`), in every place.
"""

import json
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings

from s3prl_pruned import checkpoint
from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.formats import microsoft, registry
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_families, tiny_whisper
from s3prl_pruned.pretrain import objectives, recipes, run_folder
from s3prl_pruned.pretrain.asr.recognizer import read_test
from s3prl_pruned.pretrain.logging import read_log
from s3prl_pruned.pretrain.training_checkpoint import CUT
from s3prl_pruned.report import timing, tradeoff_report
from s3prl_pruned.sparsity.latency import read_latency_table
from s3prl_pruned.superb.results.given import read_given
from s3prl_pruned.superb.results.result import read_json, read_result
from s3prl_pruned.superb.running.run_folder import read_begun
from s3prl_pruned.superb.score.scored_models import saved_models
from s3prl_pruned.superb.tasks.paths import read_paths
from s3prl_pruned.timing.shapes import read_structure
from tests import dphubert_checkpoints
from tests.damage import odd_bytes, odd_values
from tests.formats import fairseq_student as students
from tests.whisper_files import openai_checkpoint, write_huggingface

WELL_FORMED = Path(__file__).parent / "compatibility" / "written_by_0_1_0"
SHAPES = tiny_families()
DISTILL = objectives.OBJECTIVES["distill"]
PATHS = "asr: corpora/asr\ns3prl_root: s3prl\n"
GIVEN = "- model: a\n  params_millions: 3.5\n  source: b\n  asr: {wer: {value: 10.6, unit: percent}}\n"


def amount(number):
    """Each test draws this often, and its slow twin a hundred times as often."""
    few = settings(max_examples=number, suppress_health_check=list(HealthCheck), deadline=None)
    many = settings(few, max_examples=100 * number)
    return pytest.mark.parametrize("draws", [few, pytest.param(many, marks=pytest.mark.slow)], ids=["few", "many"])


def fuzz(draws, strategy, write, read):
    """Write what is drawn, and read it: that ends well or with a `UserError`."""

    @draws
    @given(strategy)
    def run(drawn):
        write(drawn)
        try:
            read()
        except UserError as error:
            assert str(error).strip()

    run()


def table_of(kind):
    """What `--table` does with a report's document."""

    def read(path):
        data = kind.check_document(read_json(path), str(path))
        with kind.FILES.damage_named(str(path)):
            kind.markdown(data)

    return read


def model_recipe(path):
    return from_dict(DISTILL.model, recipes.load_recipe(path, recipes.MODEL_FILE), str(path))


def runner_recipe(path):
    return from_dict(DISTILL.runner, recipes.load_recipe(path, recipes.RUNNER_FILE), str(path))


READERS = {
    "latency table": ("latency_table.json", read_latency_table),
    "timing": ("timing.json", table_of(timing)),
    "tradeoff": ("tradeoff.json", table_of(tradeoff_report)),
    "table of scores": ("results/superb_score.json", saved_models),
    "result": ("results/fbank-seed1/sid/result.json", read_result),
    "downstream run": ("results/fbank-seed1/sid/run.json", lambda path: read_begun(path.parent)),
    "run": ("pretrain/small-seed1/run.json", lambda path: run_folder.read_run(path.parent, DISTILL)),
    "test result": ("pretrain/asr/test.json", lambda path: read_test(path.parent)),
    "structure": ("exports/low_rank/config.json", read_structure),
    "recipe of a model": ("recipes/target_cnn/config_model.yaml", model_recipe),
    "recipe of a run": ("recipes/target_cnn/config_runner.yaml", runner_recipe),
    "paths": (PATHS, read_paths),
    "given scores": (GIVEN, read_given),
}
"""A well-formed file of each kind (its path, or its text), and what reads it."""


def example(name):
    source, read = READERS[name]
    is_text = "\n" in source
    path = Path("paths.yaml") if is_text else Path(source)
    return path.name, source if is_text else (WELL_FORMED / source).read_text(encoding="utf-8"), read


@pytest.mark.parametrize("name", READERS)
@amount(30)
def test_odd_values_in_text_files(name, draws, tmp_path):
    file, text, read = example(name)
    is_yaml = file.endswith("yaml")
    dump = yaml.safe_dump if is_yaml else json.dumps
    data = yaml.safe_load(text) if is_yaml else json.loads(text)
    read(write_text(tmp_path / file, text))
    strategy = odd_values(data).map(dump).map(lambda made: made.encode("utf-8", "replace"))
    fuzz(draws, strategy, (tmp_path / file).write_bytes, lambda: read(tmp_path / file))


def write_text(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", READERS)
@amount(20)
def test_odd_bytes_in_text_files(name, draws, tmp_path):
    file, text, read = example(name)
    fuzz(draws, odd_bytes(text.encode()), (tmp_path / file).write_bytes, lambda: read(tmp_path / file))


@amount(60)
def test_odd_bytes_in_logs(draws, tmp_path):
    content = (WELL_FORMED / "pretrain/small-seed1/log.jsonl").read_bytes()
    fuzz(draws, odd_bytes(content), (tmp_path / "log.jsonl").write_bytes, lambda: read_log(tmp_path))


# --- models --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model of each format that is read, and a training checkpoint."""
    root = tmp_path_factory.mktemp("models")
    wavlm, hubert = (random_encoder(SHAPES[name], seed=1) for name in ("wavlm_base", "hubert_base"))
    pruned = random_encoder(SHAPES["wavlm_base"], seed=1, spec=random_spec(SHAPES["wavlm_base"], seed=2))
    registry.write(root / "folder", "folder", pruned, {"teacher_note": None})
    registry.write(root / "huggingface", "huggingface", hubert)
    registry.write(root / "microsoft.pt", "microsoft", wavlm)
    for name in ("s3prl", "fairseq", "torchaudio"):
        registry.write(root / f"{name}.pt", name, hubert)
    microsoft.save_safetensors(wavlm, root / "microsoft.safetensors", dtype=torch.float16)
    students.distil(root / "distilhubert.pt")
    students.light(root / "lighthubert.pt", cfg={**students.TINY, "_name": "student_hubert"})
    students.mask(root / "maskhubert.pt", inside=True)
    students.star(root / "starhubert.pt", inside=True)
    whisper = random_encoder(tiny_whisper(ffn_dim=96), seed=1)
    torch.save(openai_checkpoint(whisper), root / "whisper.pt")
    write_huggingface(root / "huggingface_whisper", whisper)
    (unfinished,) = (WELL_FORMED / "unfinished" / "heads_and_rows").glob("states-*.ckpt")
    (root / "checkpoint.ckpt").write_bytes(unfinished.read_bytes())
    torch.save(dphubert_checkpoints.checkpoint(), root / "dphubert.pt")
    torch.save(dphubert_checkpoints.in_training(), root / "training.pt")
    return root


FOLDERS = {
    "folder": ("config.json", "model.safetensors"),
    "huggingface": ("config.json", "preprocessor_config.json", "model.safetensors"),
    "huggingface_whisper": ("config.json", "preprocessor_config.json", "model.safetensors"),
}
STUDENTS = ("distilhubert.pt", "lighthubert.pt", "maskhubert.pt", "starhubert.pt")
FILES = (
    *("microsoft.pt", "microsoft.safetensors", "s3prl.pt", "fairseq.pt", "torchaudio.pt", "dphubert.pt"),
    *("whisper.pt", "training.pt", "checkpoint.ckpt", *STUDENTS),
)
ALL_FILES = [*FILES, *(f"{folder}/{file}" for folder, files in FOLDERS.items() for file in files)]


def reader_of(file):
    """Reads the model that the file, in a copy of `models`, belongs to."""
    shape = SHAPES["hubert_base"] if file.name == "torchaudio.pt" else None
    model = file.parent if file.parent.name in FOLDERS else file
    return lambda: registry.read(model, shape=shape, also=(CUT,))


def copied(models, name, tmp_path):
    """A copy of the model that this file belongs to; returns the file."""
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    for each in [models / name] if "/" not in name else (models / name).parent.iterdir():
        (file.parent / each.name).write_bytes(each.read_bytes())
    reader_of(file)()
    return file


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_FILES)
@amount(12)
def test_odd_bytes_in_models(name, draws, models, tmp_path):
    file = copied(models, name, tmp_path)
    fuzz(draws, odd_bytes(file.read_bytes()), file.write_bytes, reader_of(file))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL_FILES if name.endswith(".json")])
@amount(15)
def test_odd_values_in_models_configurations(name, draws, models, tmp_path):
    file = copied(models, name, tmp_path)
    strategy = odd_values(json.loads(file.read_text())).map(json.dumps)
    fuzz(draws, strategy, file.write_text, reader_of(file))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith(".safetensors")])
@amount(8)
def test_odd_values_in_torch_files(name, draws, models, tmp_path):
    """Also other types and shapes in the place of tensors."""
    file = copied(models, name, tmp_path)
    content = torch.load(file, weights_only=True)
    fuzz(draws, odd_values(content), lambda made: torch.save(made, file), reader_of(file))


@amount(40)
def test_odd_bytes_in_checkpoints(draws, tmp_path):
    """As `-a` looks for the newest, and reads it."""
    file = tmp_path / "states-1.ckpt"
    checkpoint.save_checkpoint(file, {"Step": 1, "Student": {"weight": torch.arange(30.0)}, "Config": {"runner": {}}})
    fuzz(
        draws,
        odd_bytes(file.read_bytes()),
        file.write_bytes,
        lambda: checkpoint.newest(tmp_path) and checkpoint.load_checkpoint(file),
    )
