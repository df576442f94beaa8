"""Where a teacher comes from: s3prl's hub, a file, the embedded one, or random weights that are called so."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.export.formats import CONFIG, WEIGHTS, file_sha256, load_encoder
from s3prl_pruned.models import families
from s3prl_pruned.models.convert import load_official
from s3prl_pruned.models.encoder import SpeechEncoder

logger = logging.getLogger(__name__)

EMBEDDED_TEACHER = Path(__file__).parents[2] / "embedded" / "teacher" / "model.safetensors"
# The checkpoints that s3prl 0.4.18's hub entries of the same names download (upstream/wavlm/hubconf.py).
_HUB = {
    name: f"https://huggingface.co/s3prl/converted_ckpts/resolve/main/{name}.pt"
    for name in ("wavlm_base", "wavlm_base_plus", "wavlm_large")
}


@dataclass
class Teacher:
    """A dense encoder in evaluation mode, and what the screens and cards say of it."""

    encoder: SpeechEncoder
    name: str
    sha256: str | None
    """Of its weights file; None for random weights."""
    note: str | None = None
    """Such as "random teacher"; travels into every card, table and screen that comes of it."""


def load_teacher(source: str, seed: int = 0) -> Teacher:
    """Find and load a teacher.

    Args:
        source: see `ModelConfig.teacher`.
        seed: of the random weights, for `random`.

    Raises:
        UserError: no such source, or its file is damaged or of another architecture.
    """
    if source == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Teacher(SpeechEncoder(families.wavlm_embedded()).eval(), "random", None, "random teacher")
    if source == "embedded":
        return Teacher(load_official(EMBEDDED_TEACHER), "embedded", file_sha256(EMBEDDED_TEACHER))
    if source in _HUB:
        return _from_file(download(_HUB[source]), source)
    if Path(source).exists():
        return _from_file(Path(source), source)
    raise UserError(
        f"`teacher` must be one of {[*_HUB, 'embedded', 'random']} or an existing checkpoint, but is {source!r}."
    )


def _from_file(path: Path, name: str) -> Teacher:
    if not path.is_dir():
        return Teacher(load_official(path), name, file_sha256(path))
    if not (path / CONFIG).is_file():
        raise UserError(f"{path}: is a folder without {CONFIG}; a teacher is a checkpoint file or an exported encoder.")
    encoder, provenance = load_encoder(path)
    return Teacher(encoder, name, file_sha256(path / WEIGHTS), provenance.get("teacher_note"))


def download(url: str, *, refresh: bool = False) -> Path:
    """Fetch a file through s3prl's own download, into s3prl's own cache.

    Args:
        url: of one file.
        refresh: fetch it although it is in the cache.

    Raises:
        UserError: it cannot be fetched.
    """
    from s3prl_pruned import compat

    compat.apply()
    from s3prl.util.download import _urls_to_filepaths

    try:
        return Path(_urls_to_filepaths(url, refresh=refresh))
    except Exception as error:  # s3prl lets whatever its HTTP clients raise through
        raise UserError(
            f"{url}: cannot be downloaded ({type(error).__name__}: {error}). Download it by hand and give its path: "
            "--teacher WavLM-Base.pt for a teacher, -k for an upstream."
        ) from error
