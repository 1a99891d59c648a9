"""Writes files whole or not at all, and finds the files shipped with PIVOT."""

import csv
import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import BadOutput

__all__ = [
    "as_module",
    "here_or_shipped",
    "shipped",
    "whole_file",
    "whole_files",
    "writable_folder",
    "write_csv",
    "write_json",
]

# Suffixes of files, never of folders.
FILES = (".json", ".csv", ".gz", ".nii", ".npy", ".png", ".html", ".pdf", ".dcm", ".txt", ".ctbl")
SHIPPED = ("checkpoints/best_model.pth", "configs/inference.yaml", "calibration/triage_calibration.json")
CHECKOUT = "src"  # the package's name in a checkout; in an installation it is `pivot`


def shipped(name: str) -> Path:
    """A file shipped with PIVOT: beside the package in a checkout, inside it in an installation.

    Files beside an installed package are not used: they belong to other projects.
    """
    package = Path(__file__).resolve().parent
    return (package.parent if package.name == CHECKOUT else package) / name


def here_or_shipped(path: Path) -> Path:
    """The path; if nothing exists there and PIVOT ships a file of this name, the path of the shipped one.

    So the guide's `checkpoints/best_model.pth` works in any folder.
    """
    return shipped(path.as_posix()) if path.as_posix() in SHIPPED and not path.exists() else path


def as_module(name: str) -> str:
    """The command of a module of PIVOT: `python -m src.<name>` in a checkout, `python -m pivot.<name>` installed."""
    return f"python -m {__name__.partition('.')[0]}.{name}"


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary name to write to. The file is renamed to `path` at the end, or removed on failure.

    The temporary name is unique. If several processes write one path at once, the last to finish wins. It keeps the
    suffixes, because writers choose their format by them.

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


def write_json(content: object, path: str | Path, indent: int = 1) -> None:
    """Write `content` as JSON, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=indent, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(header: Iterable[str], rows: Iterable[Iterable[object]], path: str | Path) -> None:
    """Write a table, whole or not at all. None gives an empty field."""
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


@contextmanager
def whole_files(folder: str | Path, last: str, stale: Iterable[str] = ()) -> Iterator[Path]:
    """A hidden folder to write to. Its files and folders move into `folder` at the end; none of them on failure.

    The file called `last` is moved last, and an earlier file of this name is removed first. So if it exists, all files
    exist and belong together. Files named in `stale`, from an earlier run, are removed too.

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
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))  # not PIVOT's: it is kept
                _remove(folder / name)
            _move_all(sorted(draft.iterdir(), key=lambda file: file.name == last), folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def writable_folder(folder: str | Path) -> Path:
    """Make the folder if it is missing, and test that a file can be written into it.

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
    """Remove the file, or the folder with its content."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
