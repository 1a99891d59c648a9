"""Decides when a study is complete: by the stated instance counts, or by silence. DICOM has no signal for it."""

import functools
import os
from pathlib import Path
from typing import NamedTuple

from ..data.part10 import read_dicom
from ..errors import lacking
from .settings import Completeness
from .spool import instances, series_in

__all__ = ["SeriesArrival", "arrivals", "has_arrived", "shortfalls"]

STATED = ("NumberOfStudyRelatedInstances", "NumberOfSeriesRelatedInstances")
LOOKED_AT = 4096  # files whose headers are kept, and not read four times a second
CLOCK = 2.0  # seconds; tolerance between the file system and the clock


class SeriesArrival(NamedTuple):
    """The received part of one series."""

    folder: Path
    instances: int
    newest: float  # seconds since the epoch
    interrupted: bool  # an association is sending it, or was interrupted
    stated: int | None  # stated instances of the series
    stated_in_study: int | None  # stated instances of the study


def arrivals(study: Path) -> list[SeriesArrival]:
    """The received part of each series in a study's folder. Raises `OSError` on a failure of the machine."""
    return [_arrival(folder) for folder in series_in(study)]


def has_arrived(series: list[SeriesArrival], rules: Completeness, now: float) -> bool:
    """Whether a study can be run: all stated instances are there, or nothing has arrived for long enough."""
    for one in series:
        if one.newest > now + CLOCK:
            os.utime(one.folder)  # the clock was set back: restart the wait now
    silence = now - max((one.newest for one in series), default=now)
    wait = rules.interrupted_seconds if shortfalls(series) else rules.quiet_seconds
    return _as_stated(series) or silence >= wait


def shortfalls(series: list[SeriesArrival]) -> dict[str, str]:
    """The series that are known to be incomplete, and why."""
    reasons = {} if _as_stated(series) else {one.folder.name: _shortfall(one) for one in series}
    return {uid: reason for uid, reason in reasons.items() if reason}


def _as_stated(series: list[SeriesArrival]) -> bool:
    total = sum(one.instances for one in series)
    return any(one.stated_in_study is not None and total >= one.stated_in_study for one in series)


def _shortfall(one: SeriesArrival) -> str | None:
    if one.stated and one.instances < one.stated:
        return f"only {one.instances} of the {one.stated} instances that it states have arrived"
    if one.interrupted and not one.stated:
        return f"its transfer was interrupted after {one.instances} instances, and not made up for"
    return None


def _arrival(folder: Path) -> SeriesArrival:
    files = instances(folder)
    stated = _stated(files[0], files[0].stat().st_mtime_ns) if files else (None, None)
    return SeriesArrival(
        folder=folder,
        instances=len(files),
        newest=folder.stat().st_mtime,
        interrupted=any(entry.name.startswith(".open-") for entry in folder.iterdir()),
        stated=stated[1],
        stated_in_study=stated[0],
    )


@functools.lru_cache(LOOKED_AT)
def _stated(file: Path, _changed: int) -> tuple[int | None, int | None]:
    """What a file states of its study and its series; empty if the file is damaged."""
    try:
        header = read_dicom(file, stop_before_pixels=True, specific_tags=STATED)
        study, series = (_number(str(header.get(name, ""))) for name in STATED)
    except Exception as error:
        if lacking(error):
            raise
        return None, None  # pydicom raises many types on broken elements
    return study, series


def _number(text: str) -> int | None:
    return int(text) or None if text.isascii() and text.isdigit() else None
