"""A reader's review of a job: its content and its storage.

Each job has one review, with a version that each change increments. A change names the version that it is based on, so
that no reader overwrites another's changes unnoticed.
"""

import json
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from math import dist
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import Engine, and_, insert, select, update
from sqlalchemy.exc import IntegrityError

from ..results.reviewed import findings_to_read, labels_of
from ..types import NoduleType
from .database import reviews
from .problems import BadRequest
from .schemas import PackedMask, Progress, ReadState

__all__ = ["Added", "NodulePoint", "Review", "ReviewIn", "add", "change", "load", "load_all", "read", "save", "shown"]

MOST, MOST_ADDED, MOST_DISTANCES = 1000, 100, 200
MOST_REPORTS = 4096  # reports whose labels are cached
FAR = 10_000.0  # mm; scanners are smaller
EMPTY: dict[str, Any] = {"findings": [], "added": [], "distances": [], "comment": "", "by": None, "at": None}
Label = Annotated[str, Field(pattern="^[ac]?[1-9][0-9]{0,3}$", description="1, c1 (candidate) or a1 (added)")]
Reason = Literal["vessel", "lymph node", "scar", "pleura", "bone", "artefact", "duplicate", "other"]
Millimetres = Annotated[float, Field(ge=-FAR, le=FAR, allow_inf_nan=False)]


class Verdict(BaseModel):
    """What a reader says of one finding. A rejected finding has a reason."""

    model_config = ConfigDict(extra="forbid")

    finding: Label
    verdict: Literal["accepted", "rejected"] | None = None
    reason: Reason | None = None
    nodule_type: Annotated[NoduleType | None, Field(description="the correct type; null: as measured")] = None
    comment: Annotated[str, Field(max_length=1000)] = ""

    @model_validator(mode="after")
    def _reason_of_rejection(self) -> Self:
        if (self.verdict == "rejected") != (self.reason is not None):
            msg = f"finding {self.finding}: a rejected finding has a reason, and no other has"
            raise ValueError(msg)
        return self


class Distance(BaseModel):
    """A line that a reader measured on a slice of a plane; its ends are LPS mm."""

    model_config = ConfigDict(extra="forbid")

    from_lps: tuple[Millimetres, Millimetres, Millimetres]
    to_lps: tuple[Millimetres, Millimetres, Millimetres]
    plane: Literal["axial", "coronal", "sagittal"]


class Measured(Distance):
    """A distance with its length."""

    length_mm: float


class ReviewIn(BaseModel):
    """A whole review, as a client sends it. A finding that is not in it was not read.

    Distances that are null stay as they are.
    """

    model_config = ConfigDict(extra="forbid")

    findings: Annotated[list[Verdict], Field(max_length=MOST)]
    comment: Annotated[str, Field(max_length=4000)] = ""
    distances: Annotated[list[Distance] | None, Field(max_length=MOST_DISTANCES)] = None


class NodulePoint(BaseModel):
    """A point of the scan, world LPS mm."""

    model_config = ConfigDict(extra="forbid")

    coordinates_lps: tuple[Millimetres, Millimetres, Millimetres]


class Signed(Verdict):
    """A verdict with the name of the key that gave it, and the time (UTC)."""

    by: str
    at: str


class Added(BaseModel):
    """A nodule that a reader added, measured by the service."""

    finding: Label
    coordinates: tuple[float, float, float]
    coordinates_voxel: tuple[int, int, int]
    coordinates_lps: tuple[float, float, float]
    diameter_mm: Annotated[float | None, Field(description="null: it cannot be segmented")]
    properties: dict[str, float | str | None]
    outline: Annotated[PackedMask | None, Field(description="its mask; null: it has none")] = None
    by: str
    at: str


class Review(BaseModel):
    """The review of a job. Version 0: nobody has written one."""

    version: int
    findings: list[Signed]
    added: list[Added]
    distances: list[Measured]
    comment: str
    by: str | None
    at: str | None
    progress: Progress


def load(engine: Engine, job: str) -> tuple[int, dict[str, Any]]:
    """The version and the content of a job's review."""
    with engine.connect() as connection:
        row = connection.execute(select(reviews).where(reviews.c.job == job)).one_or_none()
    return (0, EMPTY) if row is None else (row.version, {**EMPTY, **row.content})


def load_all(engine: Engine, numbers: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The contents of the reviews of some jobs, by the jobs' ids."""
    with engine.connect() as connection:
        rows = connection.execute(select(reviews).where(reviews.c.job.in_(list(numbers))))
        return {row.job: {**EMPTY, **row.content} for row in rows}


def save(engine: Engine, job: str, version: int, content: Mapping[str, Any]) -> bool:
    """Save the review after `version`. False if another one was saved first, or the job was removed."""
    values = {"version": version + 1, "content": dict(content)}
    if version:
        mine = and_(reviews.c.job == job, reviews.c.version == version)
        with engine.begin() as connection:
            return connection.execute(update(reviews).where(mine).values(**values)).rowcount == 1
    try:
        with engine.begin() as connection:
            connection.execute(insert(reviews).values(job=job, **values))
    except IntegrityError:
        return False
    return True


def change(old: Mapping[str, Any], new: ReviewIn, report: Mapping[str, Any], reader: str) -> dict[str, Any]:
    """The review `new`. Verdicts that differ from the old review are signed by the reader.

    Raises:
        BadRequest: a finding is repeated, or not in the report.
    """
    labels = [one.finding for one in new.findings]
    known = {*labels_of(report, old["added"])}
    if unknown := sorted({label for label in labels if label not in known or labels.count(label) > 1}):
        msg = f"the job has no such finding, or it stands twice: {', '.join(unknown[:5])}"
        raise BadRequest(msg)
    before = {one["finding"]: one for one in old["findings"]}
    stamp = {"by": reader, "at": _now()}

    def signed(verdict: Verdict) -> dict[str, Any]:
        said = verdict.model_dump()
        earlier = before.get(verdict.finding)
        same = earlier is not None and {key: earlier[key] for key in said} == said
        return {**earlier} if earlier is not None and same else {**said, **stamp}

    distances = old["distances"] if new.distances is None else [_measured(one) for one in new.distances]
    said = {"findings": [signed(one) for one in new.findings], "comment": new.comment, "distances": distances}
    return {**old, **said, **stamp}


def _measured(line: Distance) -> dict[str, Any]:
    return {**line.model_dump(), "length_mm": round(dist(line.from_lps, line.to_lps), 2)}


def add(old: Mapping[str, Any], measured: Mapping[str, Any], reader: str) -> dict[str, Any]:
    """The review with one more nodule, accepted by the reader who adds it.

    Raises:
        BadRequest: the review has too many nodules.
    """
    number = len(old["added"]) + 1
    if number > MOST_ADDED:
        msg = f"the review has {MOST_ADDED} added nodules, the limit"
        raise BadRequest(msg)
    label, stamp = f"a{number}", {"by": reader, "at": _now()}
    verdict = {**Verdict(finding=label, verdict="accepted").model_dump(), **stamp}
    added = [*old["added"], {"finding": label, **measured, **stamp}]
    return {**old, "findings": [*old["findings"], verdict], "added": added, **stamp}


def shown(version: int, content: Mapping[str, Any], report: Mapping[str, Any]) -> Review:
    """The review as the service shows it."""
    progress = _progress(content, findings_to_read(report))
    return Review.model_validate({"version": version, **content, "progress": progress})


def read(content: Mapping[str, Any] | None, report: Path) -> ReadState | None:
    """The reading progress of a job, from its review and its report.

    None if the job was removed, or an earlier release made its report: one job must not break the list of all jobs.
    """
    try:
        labels = _to_read(report)
    except (OSError, KeyError, ValueError):
        return None
    said = content or EMPTY
    names = sorted({one["by"] for one in said["findings"] if one["verdict"]})
    return ReadState(**_progress(said, labels).model_dump(), by=names, at=said["at"])


def _progress(content: Mapping[str, Any], labels: Iterable[str]) -> Progress:
    asked = [*labels, *(one["finding"] for one in content["added"])]
    said = {one["finding"] for one in content["findings"] if one["verdict"]}
    return Progress(read=len(said.intersection(asked)), total=len(asked))


@lru_cache(maxsize=MOST_REPORTS)
def _to_read(report: Path) -> tuple[str, ...]:
    """The labels to read in a report. Cached: a report does not change."""
    return tuple(findings_to_read(json.loads(report.read_bytes())))


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
