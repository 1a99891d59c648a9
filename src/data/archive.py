"""Zip archives of one scan, unpacked without trust in what they say."""

import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from ..errors import BadScan

__all__ = ["unpacked"]

MAX_BYTES = 16 * 2**30  # unpacked
MAX_FILES = 100_000
MAX_RATIO = 200  # unpacked to packed; CT slices reach about 10
RATIO_FREE_BYTES = 2**30  # what may unpack at any ratio: an empty synthetic volume is small, not hostile


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A temporary folder with the files of the archive at `path`; it is gone afterwards, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="pivot-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                _check(archive.infolist())
                archive.extractall(folder)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            msg = f"is not an intact zip archive: {error}"
            raise BadScan(msg) from None
        yield Path(folder)


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
