"""Writing files whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import BadOutput

__all__ = ["whole_file", "writable_folder"]


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary name to write to; it becomes `path` at the end, or vanishes if anything fails.

    The temporary name keeps the suffixes, by which writers choose their format.

    Raises:
        BadOutput: the folder cannot be made or written to, or the disk is full.
    """
    path = Path(path)
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror or error}"
        raise BadOutput(msg) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def writable_folder(folder: str | Path) -> Path:
    """The folder, made if need be, after a test that a file can be written into it.

    Raises:
        BadOutput: it is a file, or cannot be made or written to.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        msg = f"cannot write into {folder}: it is a file, give a folder"
        raise BadOutput(msg)
    with whole_file(folder / ".writable") as probe:
        probe.touch()
    (folder / ".writable").unlink()
    return folder
