"""Models by URL: downloaded through s3prl's cache; archives are unpacked safely, into one folder."""

import logging
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import CARD, CONFIG, WEIGHTS
from s3prl_pruned.formats.tensor_files import file_sha256
from s3prl_pruned.pretrain.distill.teachers import download

logger = logging.getLogger(__name__)

_LARGEST_FILE = 8 << 30  # bytes; an archive that claims more is not unpacked


def fetch_model(url: str, refresh: bool = False) -> Path:
    """Download a model, in a form that `upstream.load.load_model` takes.

    Args:
        url: URL of a training checkpoint, of a dense checkpoint, or of a zip or tar with an exported folder.
        refresh: download again even if it is in s3prl's cache.

    Returns:
        The downloaded file, or the unpacked folder beside it.

    Raises:
        UserError: the download fails, or the archive is damaged, has no exported folder, or would write outside it.
    """
    path = download(url, refresh=refresh)
    members = _read_members(path)
    return path if members is None else _unpack(path, members)


Members = dict[str, tuple[int, Callable[[], IO[bytes]]]]  # path of a member -> its unpacked bytes, how to open it


def _read_members(path: Path) -> Members | None:
    """Regular files in a zip or tar; None for other files, such as torch checkpoints (which are zips too)."""
    try:
        if zipfile.is_zipfile(path):
            return _zip_members(zipfile.ZipFile(path))
        if tarfile.is_tarfile(path):
            return _tar_members(tarfile.open(path))  # stays open while its members are read
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise _damaged(path, error) from error
    return None


def _zip_members(archive: zipfile.ZipFile) -> Members | None:
    if any(PurePosixPath(name).name == "data.pkl" for name in archive.namelist()):
        return None
    files = [info for info in archive.infolist() if not info.is_dir()]
    return {_name(info.filename): (info.file_size, partial(archive.open, info)) for info in files}


def _tar_members(archive: tarfile.TarFile) -> Members:
    def opened(member: tarfile.TarInfo) -> IO[bytes]:
        file = archive.extractfile(member)
        assert file is not None, "only regular files are opened"
        return file

    return {_name(m.name): (m.size, partial(opened, m)) for m in archive.getmembers() if m.isfile()}


def _name(name: str) -> str:
    return str(PurePosixPath(name))  # tar writes ./config.json


def _unpack(path: Path, members: Members) -> Path:
    """Unpack an exported folder beside `path`, into a folder named after the archive's hash; reuse it if it exists."""
    folder = path.with_name(f"{path.name}.{file_sha256(path)[:12]}")
    if folder.is_dir():
        return folder
    chosen = _choose(path, members)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, open_member in chosen.items():
            with open_member() as source, open(temporary / name, "wb") as target:
                shutil.copyfileobj(source, target)
        temporary.rename(folder)
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
        if not folder.is_dir():  # another process may have been first
            raise _damaged(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _choose(path: Path, members: Members) -> dict[str, Callable[[], IO[bytes]]]:
    """The known files of one folder of the archive, by file name. Nothing else is ever written."""
    for name in members:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise UserError(
                f"{path}: its member {name!r} points outside the archive. Nothing was unpacked; do not trust it."
            )
    parents = [PurePosixPath(name).parent for name in members if PurePosixPath(name).name == CONFIG]
    if len(parents) != 1 or str(parents[0] / WEIGHTS) not in members:
        raise UserError(
            f"{path}: must hold one exported folder ({CONFIG} and {WEIGHTS} side by side), but holds "
            f"{sorted(members)[:6]}. Pack the `export` folder of a run."
        )
    known = {
        name: members[str(parents[0] / name)] for name in (WEIGHTS, CONFIG, CARD) if str(parents[0] / name) in members
    }
    size = sum(size for size, _ in known.values())
    if size > _LARGEST_FILE:
        raise UserError(f"{path}: would unpack to {size:,} bytes, but the limit is {_LARGEST_FILE:,}.")
    if len(known) < len(members):
        logger.warning("%s: has %d files, of which only %s are unpacked.", path, len(members), sorted(known))
    return {name: open_member for name, (_, open_member) in known.items()}


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: is damaged ({type(error).__name__}: {error}). Download it again (-r refreshes).")
