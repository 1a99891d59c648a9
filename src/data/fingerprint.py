"""A digest of a scan's files. A later run compares it to know whether results belong to the same scan."""

import hashlib
from pathlib import Path

from .formats import format_of
from .metaimage import metaimage
from .nrrd import nrrd

__all__ = ["content_hash"]

# Formats whose voxels may be in separate files.
HEADERS = {".mhd": metaimage, ".mha": metaimage, ".nrrd": nrrd, ".nhdr": nrrd}


def content_hash(path: str | Path) -> str:
    """The SHA-256 of a scan's bytes: of its file with the files that its header names, or of a whole folder.

    File names do not enter the digest; they only set the order.

    Raises:
        BadScan: the header cannot be read.
        OSError: a file cannot be read.
    """
    whole = hashlib.sha256()
    for file in _files(Path(path)):
        with file.open("rb") as content:
            whole.update(hashlib.file_digest(content, "sha256").digest())
    return whole.hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    stated = HEADERS.get(format_of(path))
    return [path, *(part.path for part in stated(path).parts if part.path != path)] if stated else [path]
