"""What a scan's files hold, as one short name: by it a later run knows whether results are of the same scan."""

import hashlib
from pathlib import Path

from .formats import format_of
from .metaimage import metaimage
from .nrrd import nrrd

__all__ = ["content_hash"]

# Formats whose voxels may be in files beside.
HEADERS = {".mhd": metaimage, ".mha": metaimage, ".nrrd": nrrd, ".nhdr": nrrd}


def content_hash(path: str | Path) -> str:
    """The SHA-256 of the bytes of a scan's file, of it and the files that its header names, or of all in its folder.

    What the files are called does not count, but for their order.

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
