"""Unpacks zip archives of one scan. Nothing that an archive states about itself is trusted."""

import stat
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from ..errors import BadScan

__all__ = ["unpacked"]

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)  # no LZMA: its memory use is set by the archive
MAX_BYTES = 16 * 2**30  # unpacked size
MAX_FILES = 100_000
MAX_RATIO = 200  # unpacked size over packed size; CT slices reach about 10
RATIO_FREE_BYTES = 2**30  # below this size any ratio is allowed: an empty synthetic volume is harmless


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A temporary folder with the files of the archive at `path`; removed on exit, also after an error."""
    with tempfile.TemporaryDirectory(prefix="pivot-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                _check(archive.infolist())
                for member in archive.infolist():
                    _extract(archive, member, folder)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            msg = f"is not an intact zip archive: {error}"
            raise BadScan(msg) from None
        yield Path(folder)


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: str) -> None:
    """Unpack one member. Its checksum and its size must match what the archive states."""
    size = Path(archive.extract(member, folder)).stat().st_size
    if not member.is_dir() and size != member.file_size:
        msg = f"is not an intact zip archive: {member.filename} has {size} bytes, not the {member.file_size} it states"
        raise BadScan(msg)


def _check(members: list[zipfile.ZipInfo]) -> None:
    for member in members:
        if member.flag_bits & 1:
            msg = f"the archive is encrypted ({member.filename}): unpack it first"
            raise BadScan(msg)
        if _leaves_the_folder(member.filename):
            msg = f"the archive holds an unsafe path ({member.filename}): pack the folder again"
            raise BadScan(msg)
        if stat.S_ISLNK(member.external_attr >> 16):
            msg = f"the archive holds a link ({member.filename}): pack the files themselves"
            raise BadScan(msg)
        if member.compress_type not in METHODS:
            msg = f"the archive is packed by method {member.compress_type} ({member.filename}): pack it with deflate"
            raise BadScan(msg)
    name, count = Counter(member.filename.rstrip("/") for member in members).most_common(1)[0] if members else ("", 0)
    if count > 1:
        msg = f"the archive holds {name} twice: pack the folder again"
        raise BadScan(msg)
    size, packed = sum(m.file_size for m in members), sum(m.compress_size for m in members)
    if size > MAX_BYTES or len(members) > MAX_FILES:
        msg = f"the archive would unpack to {len(members)} files and {size} bytes (limits: {MAX_FILES}, {MAX_BYTES})"
        raise BadScan(msg)
    if size > max(RATIO_FREE_BYTES, MAX_RATIO * packed):
        msg = f"the archive would unpack to {size / max(packed, 1):.0f} times its size: the limit is {MAX_RATIO} times"
        raise BadScan(msg)


def _leaves_the_folder(name: str) -> bool:
    windows = PureWindowsPath(name)
    return bool(windows.drive or windows.root) or ".." in windows.parts or ".." in PurePosixPath(name).parts
