"""Read audio files whose header gives no length or a wrong one, and refuse those whose end is missing.

A program that writes to a pipe cannot go back to fill in the length. It leaves 0, all ones or another very large
number in a WAV, AIFF or AU, -1 in a CAF, 0 in a FLAC, and no header frame in an MP3; all of these are legal. libsndfile
takes most of them as "to the end of the file"; the headers of the others are corrected here, and files without any
length are decoded to their end. A length that is implausibly large for the file's size is not trusted before that many
samples have been decoded.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from s3prl_pruned.config import UserError

_BLOCK = 1 << 18
"""Samples per channel that are decoded at a time where the length is not known."""

_MOST_SAMPLES_PER_BYTE = 64
"""More than speech in any format has (MP3 at 8 kbit/s: 24); only a FLAC of silence has more."""

_NO_LENGTH = 1 << 62
"""libsndfile reports more samples than this where the length is unknown."""

_LARGEST_SIZE = 0x7F000000
"""Bytes. A larger size in a 32-bit header means "unknown" (SoX: 0x7f000000 or 0x7ffff000)."""

_OGG_BEGIN = re.compile(rb"OggS\0[\2\3\6\7]")
"""The header of a stream's first page (RFC 3533)."""

_OGG_TAIL = 1 << 20
"""Bytes at the end of an Ogg file that are searched for streams; they hold its last page (at most 65,307 bytes)."""

_W64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0"

_ONES = b"\xff" * 4
"""The size of a WAV or AU that libsndfile reads as "to the end"."""


class AudioFile(soundfile.SoundFile):
    """An audio file that is read to its true end.

    Args:
        source: the path as bytes, or a file object that holds the content.
        path: the path in messages.
        size: size of the file in bytes.
        open_end: the header does not give the length, whatever libsndfile reports.
    """

    _trusted = True

    def __init__(self, source: bytes | BinaryIO, *, path: Path, size: int, open_end: bool = False):
        super().__init__(source)
        self._path, self._says_length = path, not open_end and self.frames < _NO_LENGTH
        self._trusted = self._says_length and self.frames * self.channels <= size * _MOST_SAMPLES_PER_BYTE

    def seekable(self) -> bool:
        """False for an unknown length: soundfile seeks after reading, which fails at the end of such a FLAC."""
        return self._trusted and super().seekable()

    def count(self) -> int:
        """Samples per channel: from the header if it can be trusted, else by decoding.

        Raises:
            UserError: the file has fewer than its header says.
        """
        return self.frames if self._trusted else sum(map(len, self._blocks()))

    def piece(self, first: int = 0, wanted: int | None = None) -> np.ndarray:
        """Decode ``wanted`` samples from sample ``first`` on, or all that follow: ``(S', channels)`` float32.

        Fewer are returned if the file ends earlier.

        Raises:
            UserError: all are wanted, but the file has fewer than its header says.
        """
        if self._trusted:
            first = min(first, self.frames)
            self.seek(first)
            samples = self.read(-1 if wanted is None else wanted, dtype="float32", always_2d=True)
            if wanted is None:
                self._refuse_fewer(first + len(samples))
            return samples
        blocks, end = [np.zeros((0, self.channels), np.float32)], None if wanted is None else first + wanted
        for block in self._blocks():
            blocks.append(block)
            if end is not None and sum(map(len, blocks)) >= end:
                break
        return np.concatenate(blocks)[first:end]

    def _blocks(self) -> Iterator[np.ndarray]:
        """Decode the whole file in blocks, so that memory is only used for samples that exist."""
        found, block = 0, np.zeros(_BLOCK)
        while len(block) == _BLOCK:
            block = self.read(_BLOCK, dtype="float32", always_2d=True)
            found += len(block)
            yield block
        if self._says_length:
            self._refuse_fewer(found)

    def _refuse_fewer(self, found: int) -> None:
        if found < self.frames:
            raise truncated(self._path, f"{found} of {self.frames} samples are there")


@contextmanager
def open_audio(path: Path, span: tuple[int, int] | None = None) -> Iterator[AudioFile]:
    """Open an audio file to decode it.

    Args:
        path: the file, or with ``span`` one that holds it.
        span: first byte and number of bytes of the audio file within ``path``, an uncompressed archive.

    Raises:
        UserError: it is missing, may not be read, is empty or truncated, or cannot be decoded; also raised
            inside the ``with`` block.
    """
    refuse_unreachable(path, "audio file" if span is None else "archive")
    try:
        with open(path, "rb") if span is None else io.BytesIO(_read_span(path, *span)) as content:
            size = content.seek(0, os.SEEK_END)
            if size == 0:
                raise UserError(f"{path}: must hold audio, but is empty (0 bytes). Copy the file again.")
            _refuse_cut(path, content, size)
            content.seek(0)
            source = os.fsencode(path) if span is None else content  # file names need not be UTF-8
            with _opened(source, content, path=path, size=size) as file:
                yield file
    except (soundfile.SoundFileError, OSError) as error:
        raise _undecodable(path, error) from error


def refuse_unreachable(path: Path, kind: str) -> None:
    """Raise UserError unless ``path`` is a file that can be accessed; ``kind`` says what it should be."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except PermissionError as error:
        raise _undecodable(path, error) from error
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        regular = False
    if not regular:
        raise UserError(f"{path}: no such {kind}.")


def truncated(path: Path, found: str) -> UserError:
    """The error for a file whose end is missing; ``found`` says what shows it."""
    return UserError(f"{path}: is truncated ({found}). Copy the file again or leave it out.")


def _opened(source: bytes | BinaryIO, content: BinaryIO, *, path: Path, size: int) -> AudioFile:
    """``AudioFile`` on the file itself, or on a copy in memory whose header lets libsndfile read all of it."""
    if content.read(4) == b"caff":
        content.seek(0)
        source = content = io.BytesIO(_caf_to_the_end(content.read()))
    content.seek(0)
    file = AudioFile(source, path=path, size=size)
    place = content.tell()  # libsndfile may be reading from `content` itself
    content.seek(0)
    if file.format == "MP3" and not _mp3_says_length(content):
        content.seek(0)
        return AudioFile(_Endless(content.read()), path=path, size=size, open_end=True)
    content.seek(0)
    if file.frames == 0 and (data := _to_the_end(content.read())) is not None:
        return AudioFile(io.BytesIO(data), path=path, size=size)
    content.seek(place)
    return file


class _Endless(io.BytesIO):
    """An MP3 that reports a thousand times its size.

    Without a header frame, mpg123 estimates the length from the file's size and its first frame's bit rate, and
    libsndfile stops there; at a variable bit rate, that may be after a quarter of the file.
    """

    def tell(self) -> int:
        place = super().tell()
        return 1000 * place if place == self.getbuffer().nbytes else place


def _mp3_says_length(file: BinaryIO) -> bool:
    """Whether an MP3 begins with a header frame that holds a number of frames (Xing, Info or VBRI)."""
    head = file.read(10)
    tag = 0
    if head[:3] == b"ID3":
        for byte in head[6:10]:  # seven bits each
            tag = tag * 128 + byte
        tag += 10
    file.seek(tag)
    frame = file.read(2048)
    found = re.search(rb"(?:Xing|Info)(.{4})(.{4})|VBRI.{10}(.{4})", frame, re.DOTALL)
    if found is None:
        return False
    flags, count, vbri = found.groups()
    return any(vbri) if vbri is not None else bool(flags[3] & 1) and any(count)


def _to_the_end(data: bytes) -> bytes | None:
    """A WAV or AU that declares 0 samples, with its size set to "to the end" if samples follow; else None."""
    if data[:4] == b".snd":
        return data[:8] + _ONES + data[12:]
    if data[:4] not in (b"RIFF", b"RF64"):
        return None
    at = 12
    while at + 8 <= len(data) and data[at : at + 4] != b"data":
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + length % 2
    after = data[at + 8 : at + 12]
    if not after or re.fullmatch(rb"[A-Za-z0-9 ]{4}", after):  # the next chunk: there really are no samples
        return None
    return b"RIFF" + _ONES + data[8 : at + 4] + _ONES + data[at + 8 :]


def _caf_to_the_end(data: bytes) -> bytes:
    """A CAF with the true size of its last chunk, the samples, in place of -1, which libsndfile does not accept."""
    at = 8
    while at + 12 <= len(data) and (size := int.from_bytes(data[at + 4 : at + 12], "big", signed=True)) >= 0:
        at += 12 + size
    if data[at : at + 4] != b"data":
        return data
    return data[: at + 4] + (len(data) - at - 12).to_bytes(8, "big") + data[at + 12 :]


def _read_span(path: Path, offset: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) < size:
        raise truncated(path, f"bytes {offset} to {offset + size} are needed, it has {path.stat().st_size}")
    return data


def _refuse_cut(path: Path, file: BinaryIO, size: int) -> None:
    """Refuse files that libsndfile would read as shorter than they are.

    These are WAV, W64, AIFF, AU, NIST and Ogg files whose end is missing, and Ogg files of several streams.
    """
    file.seek(0)
    head = file.read(1024)
    announced = _announced_bytes(head)
    if announced is not None and size + 1 < announced:  # many writers omit the last padding byte
        raise truncated(path, f"{size} of {announced} bytes are there")
    if head[:4] == b"OggS":
        start = max(0, size - _OGG_TAIL)
        file.seek(start)
        tail = file.read()
        if not _ends_an_ogg_stream(tail):
            raise truncated(path, "its last Ogg page is not a stream's end")
        last = tail.rfind(b"OggS")
        other = tail[last + 14 : last + 18] != head[14:18]  # the stream's number (RFC 3533)
        if other or _OGG_BEGIN.search(tail, 0 if start else 1):
            raise UserError(
                f"{path}: must be one Ogg stream, but another follows the first, and libsndfile reads only the first. "
                "Convert it to one WAV or FLAC (ffmpeg -i), or leave it out."
            )


def _announced_bytes(head: bytes) -> int | None:
    """File size that the first 1024 bytes of a WAV, W64, AIFF, AU or NIST file declare; None if they do not."""
    if head[:8] == b"NIST_1A\n":
        return _announced_by_nist(head)
    if head[:16] == _W64:
        size = int.from_bytes(head[16:24], "little")
        return size if 0 < size < _NO_LENGTH else None
    before = 8  # what the size leaves out
    if head[:4] == b"RIFF":
        size = int.from_bytes(head[4:8], "little")
    elif head[:4] in (b"RIFX", b"FORM"):
        size = int.from_bytes(head[4:8], "big")
    elif head[:4] == b".snd":
        before, size = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big")
    elif (
        head[:4] == b"RF64" and head[12:16] == b"ds64"
    ):  # a WAV that may be larger than 4 GiB, its size in the chunk ds64
        size = int.from_bytes(head[20:28], "little")
        return before + size if 0 < size < _NO_LENGTH else None
    else:
        return None
    return before + size if 0 < size < _LARGEST_SIZE else None


def _announced_by_nist(head: bytes) -> int | None:
    """`_announced_bytes` of NIST's SPHERE, whose text header has lines such as `sample_count -i 32000`."""
    fields = dict(re.findall(rb"^(\w+) -i (\d{1,15})\s*$", head, re.MULTILINE))
    length = re.match(rb"NIST_1A\n\s*(\d{1,9})\n", head)
    coding = re.search(rb"^sample_coding -s\d+ (\S+)$", head, re.MULTILINE)
    if length is None or b"sample_count" not in fields or (coding and b"shorten" in coding[1]):
        return None
    bytes_each = 1 if coding and coding[1] in (b"ulaw", b"alaw", b"mu-law") else int(fields.get(b"sample_n_bytes", 2))
    each = bytes_each * int(fields.get(b"channel_count", 1))
    return int(length[1]) + int(fields[b"sample_count"]) * each


def _ends_an_ogg_stream(tail: bytes) -> bool:
    """Whether ``tail`` holds, after its last page header, a whole page marked as last (RFC 3533)."""
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return False
    end_of_stream = page[5] & 4
    return bool(end_of_stream) and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


def _undecodable(path: Path, error: Exception) -> UserError:
    if isinstance(error, PermissionError):
        return UserError(f"{path}: may not be read ({error.strerror}). Change its permissions or leave it out.")
    reason = getattr(error, "error_string", str(error)).strip().rstrip(".")
    return UserError(
        f"{path}: cannot be decoded: {reason}. It is truncated, or not audio that libsndfile reads "
        "(WAV, FLAC, Ogg, Opus, MP3). Copy the file again or leave it out."
    )
