"""Downloads a public detector from Hugging Face, on request: `pivot models pull NAME`."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from ..errors import BadCheckpoint
from ..files import whole_file, write_json
from .hub import RECORD, is_address, place_of
from .known import KNOWN
from .source import MOST_WEIGHTS

__all__ = ["pull"]

WANTED = re.compile(
    r"configs/(inference|metadata)\.(json|ya?ml)|config\.(json|ya?ml)|(models?/)?model\.(pth?|safetensors)|README\.md"
    r"|LICENSE|plans\.json|dataset\.json|fold_\w+/checkpoint_(final|best)\.pth"
)
TIMEOUT = 60  # seconds without an answer
CHUNK = 2**20
MOST_LISTING = 2**22


def pull(name: str, tell: Callable[[str], None] = print) -> Path:
    """Download a model's files that PIVOT reads into the cache, each verified, and return their folder.

    Args:
        name: of a known model, or an address.
        tell: is called with a line for each file.

    Raises:
        BadCheckpoint: the name is unknown, the model must be fetched by hand, or the network or a check fails.
    """
    known = KNOWN.get(name)
    address = known.source if known else name
    if not is_address(address):
        by_hand = f"download it from {address}, whose licence you must read, and give its files to --checkpoint"
        msg = f"{name} cannot be pulled: {by_hand if known else 'it is none of ' + ', '.join(KNOWN)}"
        raise BadCheckpoint(msg)
    repository, only, folder = place_of(address)
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    hashes = {}
    try:
        names = [only] if only else _listed(f"{hub}/api/models/{repository}")
        for file in names:
            expected = known.sha256.get(file) if known else None
            hashes[file] = _fetch(f"{hub}/{repository}/resolve/main/{file}", folder / file, expected)
            tell(f"{folder / file}  sha256 {hashes[file]}")
    except requests.RequestException as error:
        msg = f"cannot reach {hub} ({type(error).__name__}): download https://huggingface.co/{repository} on a machine "
        msg += f"that can, and put its files into {folder}"
        raise BadCheckpoint(msg) from None
    earlier = json.loads((folder / RECORD).read_text(encoding="utf-8")) if (folder / RECORD).is_file() else {}
    write_json({**earlier, **hashes}, folder / RECORD)
    return folder


def _listed(url: str) -> list[str]:
    """The files of a repository that PIVOT reads."""
    with requests.get(url, timeout=TIMEOUT, stream=True) as answer:
        _accepted(answer)
        content = next(answer.iter_content(MOST_LISTING), b"")
    try:
        siblings: Any = json.loads(content)["siblings"]
        names = [str(one["rfilename"]) for one in siblings]
    except (ValueError, KeyError, TypeError):
        names = []
    wanted = [name for name in names if WANTED.fullmatch(name)]
    if not any(name.endswith((".pt", ".pth", ".safetensors")) for name in wanted):
        msg = f"{url} lists no model of a format that PIVOT knows"
        raise BadCheckpoint(msg)
    return wanted


def _fetch(url: str, target: Path, expected: str | None) -> str:
    """Download a file, and return its SHA-256, which is the expected one or the one that the hub states."""
    plain, size = hashlib.sha256(), 0
    with requests.get(url, timeout=TIMEOUT, stream=True) as answer, whole_file(target) as partial:
        _accepted(answer)
        stated = _stated([*answer.history, answer])
        with partial.open("wb") as file:
            for chunk in answer.iter_content(CHUNK):
                size += len(chunk)
                if size > MOST_WEIGHTS:
                    msg = f"{url} has more than {MOST_WEIGHTS} bytes"
                    raise BadCheckpoint(msg)
                plain.update(chunk)
                file.write(chunk)
        found = plain.hexdigest()
        git = hashlib.sha1(b"blob %d\0" % size + partial.read_bytes(), usedforsecurity=False).hexdigest()
        if (expected or stated) not in (found, git) or (expected and expected != found):
            msg = f"{url} is not the file that was announced: its SHA-256 is {found}, not {expected or stated}"
            raise BadCheckpoint(msg)
    return found


def _stated(answers: list[requests.Response]) -> str | None:
    """The hash that the hub states: the SHA-256 of a large file, git's SHA-1 of a small one."""
    for key in ("X-Linked-Etag", "ETag"):
        for answer in answers:
            if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", value := answer.headers.get(key, "").strip('W/"')):
                return value
    return None


def _accepted(answer: requests.Response) -> None:
    if not answer.ok:
        msg = (
            f"{answer.url} answers {answer.status_code}: check the name; some models ask for a login, and are fetched "
        )
        msg += "by hand"
        raise BadCheckpoint(msg)
