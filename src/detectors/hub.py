"""Detectors on Hugging Face: `hf://owner/name[/file]` in a cache of this machine, which only `pull` fills."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import BadCheckpoint

__all__ = ["RECORD", "cache_folder", "is_address", "local", "place_of"]

ADDRESS = re.compile(r"hf:/{1,2}([\w.-]{1,96}/[\w.-]{1,96})(?:/(.+))?")  # a `Path` has one slash
RECORD = ".pulled.json"  # the SHA-256 of each file that was pulled


def cache_folder() -> Path:
    """The folder that models are pulled into."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pivot" / "models"


def is_address(path: str | Path) -> bool:
    """Whether a path is an address of Hugging Face."""
    return str(path).startswith("hf:/")


def place_of(address: str | Path) -> tuple[str, str | None, Path]:
    """The repository, the file in it, and the folder of the cache.

    Raises:
        BadCheckpoint: it is no such address.
    """
    match = ADDRESS.fullmatch(str(address))
    if match is None or any(part in (".", "..", "") for part in f"{match[1]}/{match[2] or 'x'}".split("/")):
        msg = f"{address} is no address of a model: write hf://owner/name or hf://owner/name/file"
        raise BadCheckpoint(msg)
    return match[1], match[2], cache_folder() / match[1].replace("/", "--")


def local(address: str | Path) -> tuple[Path, Path]:
    """Where the model lies on this machine, and the folder that its links may lead to. Nothing is downloaded.

    Raises:
        BadCheckpoint: it is not there. The message says how to get it. A file is not the one that was pulled.
    """
    repository, file, folder = place_of(address)
    for place, within in ((folder, folder), *_huggingface(repository)):
        found = place / file if file else place
        if found.exists():
            if place == folder:
                _check(folder)
            return found, within
    msg = f"hf://{repository} is not on this machine, and PIVOT downloads nothing unasked: run "
    msg += (
        f"`pivot models pull hf://{repository}`, or put the files of https://huggingface.co/{repository} into {folder}"
    )
    raise BadCheckpoint(msg)


def _huggingface(repository: str) -> Iterator[tuple[Path, Path]]:
    """The snapshot of Hugging Face's own cache, and the folder of its files."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    folder = Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"models--{repository.replace('/', '--')}"
    try:
        revision = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return
    if re.fullmatch(r"\w+", revision):
        yield folder / "snapshots" / revision, folder


def _check(folder: Path) -> None:
    """Raise `BadCheckpoint` if a file differs from the one that was pulled."""
    record = folder / RECORD
    if not record.is_file():
        return  # put there by hand
    for name, digest in json.loads(record.read_text(encoding="utf-8")).items():
        file = folder / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            msg = f"{file} is not the file that was pulled: pull it again"
            raise BadCheckpoint(msg)
