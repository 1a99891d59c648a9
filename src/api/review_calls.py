"""The client's calls for reviews, as steps like those in `calls.py`."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import BadConfig
from ..files import whole_file
from ..given import number_of, numbers_of, words_for
from .calls import Ask, Call, inside, insist, job, url_of

__all__ = ["add_nodule", "download_reviewed", "review", "write_review"]

JSON = {"Content-Type": "application/json"}
REVIEWED = {"json": ".json", "csv": ".csv", "pdf": ".pdf", "sr": "_sr.dcm", "seg": "_seg.dcm"}


def review(number: str, retries: int) -> Call[dict[str, Any]]:
    """The review of a completed job."""
    answer = yield from insist(Ask("GET", f"{url_of(number)}/review"), retries)
    content: dict[str, Any] = answer.json()
    return content


def write_review(number: str, given: object, retries: int) -> Call[dict[str, Any]]:
    """Replace the review at the version that `given` names by the content of `given`."""
    changed = given if isinstance(given, Mapping) else {}
    if not {"version", "findings"} <= set(changed):
        msg = f"review must be what `review` returns, with your changes, not {words_for(given)}"
        raise BadConfig(msg)
    content = {
        "findings": _without(changed["findings"], "by", "at"),
        "comment": changed.get("comment", ""),
        "distances": _without(changed.get("distances"), "length_mm"),
    }
    headers = {"If-Match": f'"{int(number_of(changed["version"], "version", 0))}"', **JSON}
    answer = yield from insist(
        Ask("PUT", f"{url_of(number)}/review", headers, content=_json(content, "review")), retries
    )
    written: dict[str, Any] = answer.json()
    return written


def _without(listed: object, *keys: str) -> object:
    """The mappings of a list without the fields that the service adds. The service refuses unknown fields."""
    if not isinstance(listed, list | tuple):
        return listed
    return [{key: one[key] for key in one if key not in keys} if isinstance(one, Mapping) else one for one in listed]


def add_nodule(number: str, coordinates_lps: object, retries: int) -> Call[dict[str, Any]]:
    """Add a nodule at a point. Not repeated after a lost answer: the nodule may have been added."""
    body = _json({"coordinates_lps": numbers_of(coordinates_lps, "coordinates_lps")}, "coordinates_lps")
    ask = Ask("POST", f"{url_of(number)}/review/nodules", JSON, content=body)
    answer = yield from insist(ask, retries, once=True)
    content: dict[str, Any] = answer.json()
    return content


def download_reviewed(number: str, folder: Path, kinds: Iterable[str], retries: int) -> Call[list[Path]]:
    """Write the reviewed report into a folder, one file of each kind."""
    wanted = [kinds] if isinstance(kinds, str) else list(kinds)
    if unknown := [kind for kind in wanted if kind not in REVIEWED]:
        msg = f"kinds must be some of {', '.join(REVIEWED)}, not {words_for(unknown[0])}"
        raise BadConfig(msg)
    state = yield from job(number, retries)
    paths = []
    for kind in wanted:
        path = inside(folder, f"{state['scan_id']}_reviewed{REVIEWED[kind]}")
        with whole_file(path) as partial:
            yield from insist(Ask("GET", f"{url_of(number)}/review/reviewed.{kind}", sink=partial), retries)
        paths.append(path)
    return paths


def _json(content: object, name: str) -> bytes:
    try:
        return json.dumps(content, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        msg = f"{name} must be what JSON can express ({error})"
        raise BadConfig(msg) from None
