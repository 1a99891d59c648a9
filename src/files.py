"""Writing files whole or not at all, and finding those that come with PIVOT."""

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import BadOutput

__all__ = ["shipped", "whole_file", "whole_files", "writable_folder"]

FILES = (".json", ".csv", ".gz", ".nii", ".npy", ".png", ".html", ".pdf", ".dcm")  # what is never a folder
CHECKOUT = "src"  # the package's name in a checkout; an installation calls it `pivot`


def shipped(name: str) -> Path:
    """A file that comes with PIVOT: beside the package in a checkout, inside it in an installation.

    Nowhere else: what another project puts beside an installed package is not PIVOT's.
    """
    package = Path(__file__).resolve().parent
    return (package.parent if package.name == CHECKOUT else package) / name


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary name to write to; it becomes `path` at the end, or vanishes if anything fails.

    The temporary name is unique, so that several may write one path at once: the last to finish stays. It keeps the
    suffixes, by which writers choose their format.

    Raises:
        BadOutput: the folder cannot be made or written to, or the disk is full.
    """
    path = Path(path)
    partial = path.with_name(f".{secrets.token_hex(8)}.partial.{path.name}")
    with _writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            partial.replace(path)
        finally:
            with suppress(OSError):
                partial.unlink()


@contextmanager
def whole_files(folder: str | Path, last: str, stale: Iterable[str] = ()) -> Iterator[Path]:
    """A hidden folder to write to; its files and folders move into `folder` at the end, or none if anything fails.

    The file called `last` arrives after all others, and an earlier one of that name goes before them:
    where it is, they are there and belong to it. With it goes what is called as in `stale`: an earlier run's.

    Raises:
        BadOutput: the folder cannot be made or written to, or the disk is full.
    """
    folder = Path(folder)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".partial.", dir=folder))
        try:
            yield draft
            for name in [last, *sorted(stale)]:
                if name.endswith(FILES) and (folder / name).is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))  # not ours: it stays
                _remove(folder / name)
            _move_all(sorted(draft.iterdir(), key=lambda file: file.name == last), folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def writable_folder(folder: str | Path) -> Path:
    """The folder, made if need be, after a test that a file can be written into it.

    Raises:
        BadOutput: it is a file, or cannot be made or written to.
    """
    folder = Path(folder)
    with _writing(folder):
        if folder.exists() and not folder.is_dir():
            msg = f"cannot write into {folder}: it is a file, give a folder"
            raise BadOutput(msg)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".partial.", dir=folder):
            pass
    return folder


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"cannot write {target}: {error.strerror or error}"
        raise BadOutput(msg) from error


def _move_all(files: list[Path], folder: Path) -> None:
    moved: list[Path] = []
    try:
        for file in files:
            target = folder / file.name
            if file.is_dir() and target.is_dir():
                shutil.rmtree(target)
            moved.append(file.replace(target))
    except OSError:
        for file in moved:
            _remove(file)
        raise


def _remove(path: Path) -> None:
    """The file, or the folder with what is in it, is gone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
