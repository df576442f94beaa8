"""Sources of teachers: s3prl's hub, a file, the embedded teacher, or random weights, which are labelled as such."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.registry import read
from s3prl_pruned.models import families
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.pretrain.recipes import whole_recipe

logger = logging.getLogger(__name__)

EMBEDDED_TEACHER = Path(__file__).parents[2] / "embedded" / "teacher" / "model.safetensors"
# s3prl 0.4.18's hub entries (upstream/*/hubconf.py), and the URLs of their checkpoints.
_CHECKPOINTS = {
    "wavlm_base": "wavlm_base",
    "wavlm_base_plus": "wavlm_base_plus",
    "wavlm_large": "wavlm_large",
    "hubert_base": "hubert_base_ls960",
    "hubert_large_ll60k": "hubert_large_ll60k",
    "wav2vec2_base_960": "wav2vec_small",
    "wav2vec2_large_960": "libri960_big",
    "wav2vec2_large_ll60k": "wav2vec_vox_new",
    "xlsr_53": "xlsr_53_56k",
    "xls_r_300m": "xlsr2_300m",
    "data2vec_base_960": "audio_base_ls",
    "data2vec_large_ll60k": "vox_pretrained",
}
_LIGHTHUBERT = "https://huggingface.co/mechanicalsea/lighthubert/resolve/main"
_HUB = {
    name: f"https://huggingface.co/s3prl/converted_ckpts/resolve/main/{file}.pt" for name, file in _CHECKPOINTS.items()
} | {
    "distilhubert": "https://huggingface.co/leo19941227/distilhubert/resolve/main/distilhubert_ls960_4-8-12.ckpt",
    **{f"lighthubert_{which}": f"{_LIGHTHUBERT}/lighthubert_{which}.pt" for which in ("small", "base", "stage1")},
}


@dataclass
class Teacher:
    """A dense encoder in evaluation mode, and its description for the screen and for cards."""

    encoder: SpeechEncoder
    name: str
    sha256: str | None
    """SHA-256 of its weights file; None for random weights."""
    note: str | None = None
    """A note such as "random teacher", shown in every card, table and screen with results of this teacher."""


def load_teacher(source: str, seed: int = 0, *, family: str | None = None, objective: str = "distill") -> Teacher:
    """Find and load a teacher.

    Args:
        source: see `ModelConfig.teacher`.
        seed: seed of the random weights, for `random`.
        family: required family, one of `models.shape.FAMILIES`; None accepts any (and makes a random WavLM).
        objective: name of the objective, for advice in messages.

    Raises:
        UserError: there is no such source, or its file is damaged, of another architecture, or of another family.
    """
    teacher = _find(source, seed, family)
    found = teacher.encoder.config.family
    if family not in (None, found):
        named = next((name for name in _HUB if name.startswith(str(family))), "tiny.en.pt")  # the hub has no Whisper
        recipe = whole_recipe(str(family), objective)
        raise UserError(
            f"`teacher` must be a {family} encoder, but {source!r} is a {found}. Name one (--teacher {named}, or the "
            f"path of a checkpoint), use a recipe (--recipe {recipe}), or train -u {found}_pruned_{objective}."
        )
    return teacher


def _find(source: str, seed: int, family: str | None) -> Teacher:
    if source == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            shape = families.embedded_size(family or "wavlm")
            return Teacher(SpeechEncoder(shape).eval(), "random", None, "random teacher")
    if source == "embedded":
        return _from_file(EMBEDDED_TEACHER, "embedded")
    if source in _HUB:
        return _from_file(download(_HUB[source]), source)
    if Path(source).exists():
        return _from_file(Path(source), source)
    raise UserError(
        f"`teacher` must be one of {[*_HUB, 'embedded', 'random']} or an existing checkpoint, but is {source!r}."
    )


def _from_file(path: Path, name: str) -> Teacher:
    loaded = read(path)
    return Teacher(loaded.encoder, name, loaded.sha256, loaded.note)


def download(url: str, *, refresh: bool = False) -> Path:
    """Download a file with s3prl's download function, into s3prl's cache.

    Args:
        url: URL of one file.
        refresh: download even if it is in the cache.

    Raises:
        UserError: it cannot be downloaded.
    """
    from s3prl_pruned import compat

    compat.apply()
    from s3prl.util.download import _urls_to_filepaths

    try:
        return Path(_urls_to_filepaths(url, refresh=refresh))
    except Exception as error:  # s3prl does not catch exceptions of its HTTP clients
        raise UserError(
            f"{url}: cannot be downloaded ({type(error).__name__}: {error}). Download it by hand and pass its path: "
            "--teacher WavLM-Base.pt for a teacher, -k for an upstream."
        ) from error
