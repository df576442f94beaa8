"""README and docs: their commands and Python examples are run, in a copy of the repository, shortened.

They run in the order of the pages, since some use what others wrote. In the place of public models and corpora are
models of the same formats with random weights and tiny corpora in the official layouts, so that no number made here
means anything. What cannot be run here is named with the reason. Every other command is run, so that a new one does not
escape.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
import yaml

from benchmarks.mini_superb.build import make_mini_superb
from s3prl_pruned.formats import registry
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_whisper
from s3prl_pruned.models.families import embedded_size
from tests.document_commands import PAGES, REPO, commands, examples
from tests.formats import fairseq_student
from tests.mini_superb_sources import FakeSources
from tests.whisper_files import openai_checkpoint

SHORT_RUN = {
    "runner": {"total_steps": 2, "log_step": 1, "save_step": 1},
    "pretrain_expert": {
        "datarc": {"train_batch_size": 2, "max_seconds": 1, "min_seconds": 0.3, "num_workers": 0, "held_out": 2}
    },
}
PRETRAIN = "-o " + ",,".join(
    [f"runner.{key}={value}" for key, value in SHORT_RUN["runner"].items()]
    + [f"pretrain_expert.datarc.{key}={value}" for key, value in SHORT_RUN["pretrain_expert"]["datarc"].items()]
)
TASK = (
    "-o config.runner.total_steps=2,,config.runner.save_step=1,,config.runner.eval_step=1,,config.runner.log_step=1,,"
    "config.runner.gradient_accumulate_steps=1"
)
WORKERS = ",,config.downstream_expert.datarc.num_workers=0,,config.downstream_expert.datarc.batch_size=4"
SUITE = f"--tasks ks --no-probe --paths data/mini_superb/paths.yaml {TASK}{WORKERS}"
TIMING = "--lengths 0.3 --repeats 1"

NOT_HERE = {
    "make": "installs into .venv from a package index; .ci/run and `make slow` call these targets",
    "pip install": "a package index",
    "git clone": "the address of the repository; the tests run in a copy of it",
    "g++": "needs ONNX Runtime's C++ headers",
    "bash superb_jobs/": "a Slurm cluster; tests/plan/test_job_scripts.py runs what the scripts hold",
    "./run.sh": "a recipe of ESPnet",
    "python -m s3prl_pruned -m espnet2": "ESPnet; tests/test_main.py runs another module in its place",
    "python -m benchmarks.mini_superb": "downloads speech; the fixture makes it of other sources",
    "python -m benchmarks.experiments": "31 pruning runs; tests/benchmarks/test_experiments.py",
    "python -m benchmarks.whisper": "openai-whisper, and a decoder that is trained",
    "python tools/superb_score.py result/downstream/": "runs of s3prl itself; tests/superb/results/s3prl_runs/",
    "python tools/superb_suite.py -u wavlm_pruned --submission": "official results; tests/report/test_submission.py",
    "from transformers import pipeline": "an export with a CTC head; tests/formats/test_huggingface_asr.py",
}
"""The beginning of commands and examples that cannot be run here: why, and what runs in their place."""

LOCAL = {
    "/data/LibriSpeech": "data/mini_superb/LibriSpeech",
    "/data/speech_commands": "data/mini_superb",
    "--nproc_per_node=8": "--nproc_per_node=2",
    "states-100000.ckpt": "states-2.ckpt",
    "states-500.ckpt": "states-2.ckpt",
    "/seed{seed}/": "/embedded/",
    "--timing timing.json": "--timing downstream_runs/timing_peers.json",
    "wavlm_base_plus": "WavLM-Base.pt",
    "s3prl:hubert_base": "hubert_base_ls960.pt",
    ', device="cuda", compiled=True': "",
    "--device cuda": "--device cpu",
    "--compiled": "",
    "MODEL": "embedded",
    "TEACHER": "embedded",
}
"""What stands in a command or example, and what is there in its place."""

SHORTER = {
    "run_pretrain.py": PRETRAIN,
    "wavlm_pruned_distill --recipe": "--teacher embedded",
    "--recipe dphubert_base": "--teacher hubert_base_ls960.pt",
    "--second-stage dphubert_base_stage2": "--second-stage short_stage2",
    "--recipe best_base": ",,distill.num_pairs=6",
    "torchrun": "-p result/torchrun ,,pretrain_expert.datarc.train_batch_size=5",
    "run_downstream.py": TASK,
    "run_downstream.py -u wavlm_pruned -d asr": "--force",
    "run_downstream.py -u wavlm_pruned -d asr --corpus": WORKERS,
    "-d ks": WORKERS,
    "tools/superb_suite.py": SUITE,
    "--lr-search": "--lr 1e-3 --lr-share 1",
    "--jobs 16": "--jobs 2 --results result/searched",
    "--tasks asr --lr-search": "--results result/asr --seeds 1",
    "tools/timing.py --baseline": TIMING,
    "tools/timing.py --peers": TIMING,
    "--baseline s3prl:wavlm_base --models result": "--baseline WavLM-Base.pt",
    "--models ours:wavlm_base": "--models ours:wavlm_embedded --lengths 1 --repeats 1",
    "tools/sweep.py": f"--recipe rows_embedded=0.2 heads_embedded=0.25 --tasks ks {PRETRAIN} --teacher embedded "
    f"--paths data/mini_superb/paths.yaml --task-override {TASK.removeprefix('-o ')}{WORKERS}",
    "tools/tradeoff.py result": "--repeats 1",
    "benchmarks.long_audio": "--minutes 0.5",
    "benchmarks.layer_clusters": "--utterances 2",
    "benchmarks.one_pass": "--steps 4 --prune-steps 2 -- -o pretrain_expert.datarc.num_workers=0",
    "benchmarks.memory": "--recipes wavlm_base_s80",
}
"""What stands in a command, and what is added to it. The last value of an option counts; values of -o are joined."""

ALL = [(page.stem, words) for page in PAGES for words in commands(page, others=True)]
CODE = [(page.stem, code) for page in PAGES for code in examples(page)]


def reasons(text):
    """Why a command or an example is not run here."""
    return [reason for begin, reason in NOT_HERE.items() if text.startswith(begin)]


RUN = [pytest.param(w, id=f"{page}: {' '.join(w)}") for page, w in ALL if not reasons(" ".join(w))]
EXAMPLES = [pytest.param(code, id=f"{page}: {code[:60]}") for page, code in CODE if not reasons(code)]


def test_a_command_is_run_or_named_with_a_reason():
    texts = [" ".join(words) for _, words in ALL] + [code for _, code in CODE]
    assert all(len(reasons(text)) < 2 for text in texts)
    assert [key for key in NOT_HERE if not any(text.startswith(key) for text in texts)] == []
    assert [key for key in (*SHORTER, *LOCAL) if not any(key in text for text in texts)] == []
    assert len(RUN) > 40 and len(EXAMPLES) > 5


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the repository as a fresh clone has it, with models and corpora that the pages name."""
    folder = tmp_path_factory.mktemp("fresh") / "s3prl_pruned"
    left_out = {".git", ".venv", ".venv-espnet", "result", "results", "data", "gpu", "build", "dist", "site"}
    top = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*_cache")
    shutil.copytree(
        REPO, folder, ignore=lambda path, names: {*top(path, names), *(left_out if Path(path) == REPO else ())}
    )
    make_mini_superb(folder / "data" / "mini_superb", tiny=True, sources=FakeSources(folder / "data" / "sources"))
    corpus = folder / LOCAL["/data/LibriSpeech"]
    for name in ("train-clean-360", "train-other-500"):
        shutil.copytree(corpus / "train-clean-100", corpus / name)
    _write_models(folder)
    stage = folder / "upstream_configs" / "short_stage2"
    stage.mkdir()
    (stage / "config_model.yaml").write_text("base: dphubert_base_stage2\n")
    (stage / "config_runner.yaml").write_text(yaml.safe_dump({"base": "dphubert_base_stage2", **SHORT_RUN}))
    speech = folder / "s3prl_pruned" / "embedded" / "speech" / "dev"
    wavs = sorted(path for path in speech.rglob("*") if path.suffix in (".ogg", ".opus", ".flac"))
    samples, rate = soundfile.read(wavs[0])
    for name in ("speech.wav", "meeting.wav", "recordings/a.wav", "meetings/b.wav"):
        (folder / name).parent.mkdir(exist_ok=True)
        soundfile.write(folder / name, samples, rate)
    return folder


def _write_models(folder):
    """Random weights in the files that the pages name."""
    for family, name, file in (
        ("hubert", "fairseq", "hubert_base_ls960.pt"),
        ("hubert", "dphubert", "pruned_hubert_base.pth"),
        ("wavlm", "microsoft", "WavLM-Base.pt"),
        ("wavlm", "dphubert", "pruned_wavlm.pth"),
    ):
        registry.write(folder / file, name, random_encoder(embedded_size(family), seed=0))
    config = embedded_size("wavlm")
    pruned = random_encoder(config, seed=1, spec=random_spec(config, seed=1))
    registry.write(folder / "my_export", "folder", pruned)
    fairseq_student.light(folder / "lighthubert_small.pt")
    torch.save(
        openai_checkpoint(random_encoder(tiny_whisper(ffn_dim=96, num_layers=4, max_frames=100), seed=0)),
        folder / "tiny.en.pt",
    )


def shortened(words):
    """A command as it is run here."""
    text = " ".join(words)
    added = [piece for key, more in SHORTER.items() if key in text for piece in more.split()]
    for old, new in LOCAL.items():
        words = shlex.split(shlex.join(words).replace(old, new))
    options, overrides = [], []
    for word in [*words, *added]:
        if word.startswith(",,"):
            overrides.append(word.strip(","))
        elif options[-1:] == ["-o"]:
            overrides.append(word)
            options.pop()
        else:
            options.append(word)
    return [*options, *(["-o", ",,".join(overrides)] if overrides else [])]


def call(clone, words):
    """What a command prints; it must succeed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(clone),
        "XDG_CACHE_HOME": str(clone.parent / "cache"),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(words, cwd=clone, env=environment, capture_output=True, text=True, timeout=1000)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("words", RUN)
def test_a_command_runs(clone, words):
    words = shortened(words)
    programs = {
        "python": [sys.executable],
        "torchrun": [sys.executable, "-m", "torch.distributed.run"],
        "s3prl-pruned": [sys.executable, "-m", "s3prl_pruned.commands"],
    }
    written = {
        "tools/export.py": words[3:4],
        "tools/convert_checkpoint.py": words[3:4],
        "tools/tradeoff.py": ["result/tradeoff"],
        "tools/sweep.py": ["result/sweep"],
    }
    for name in written.get(words[1], []):  # several pages write to one name, and nothing is overwritten
        path = clone / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    call(clone, [*programs[words[0]], *words[1 : words.index(">") if ">" in words else None]])


@pytest.mark.slow
@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_runs(clone, code):
    for old, new in LOCAL.items():
        code = code.replace(old, new)
    call(clone, [sys.executable, "-c", code])
