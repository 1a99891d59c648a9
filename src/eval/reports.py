"""PIVOT's own `*_detections.json` files as the marks of an evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from ..errors import BadConfig
from .tables import MarkTable

__all__ = ["read_reports"]


class _Mark(BaseModel):
    coordinates_lps: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    confidence: FiniteFloat


class _Metadata(BaseModel):
    series_uid: str | None = None


class _Report(BaseModel):
    scan_id: str
    metadata: _Metadata
    detections: list[_Mark] = Field(default_factory=list)


def read_reports(folder: Path, series: Sequence[str]) -> MarkTable:
    """The detections of every `*_detections.json` in a folder, with their world coordinates.

    A report belongs to the listed scan with its `series_uid`, or else with its `scan_id`. Listed scans without a report
    are counted in `scans_without_file`.

    Raises:
        BadConfig: there are no reports. A report is not PIVOT's, has no world coordinates, or belongs to a scan that is
            not listed. Two reports belong to one scan.
    """
    paths = sorted(folder.glob("*_detections.json"))
    if not paths:
        msg = f"{folder} holds no *_detections.json"
        raise BadConfig(msg)
    places = {name: place for place, name in enumerate(series)}
    source: dict[int, Path] = {}
    scan, marks = list[int](), list[_Mark]()
    for path in paths:
        report = _read(path)
        place = _place(path, report, places)
        if place in source:
            msg = f"{path} and {source[place].name} both belong to the scan {series[place]!r}: remove one of them"
            raise BadConfig(msg)
        source[place] = path
        scan += [place] * len(report.detections)
        marks += report.detections
    points = np.array([mark.coordinates_lps for mark in marks], dtype=np.float64).reshape(-1, 3)
    confidence = np.array([mark.confidence for mark in marks], dtype=np.float64)
    return MarkTable(np.array(scan, dtype=np.intp), points, confidence, len(series) - len(source))


def _read(path: Path) -> _Report:
    try:
        return _Report.model_validate_json(path.read_bytes())
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise BadConfig(msg) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        msg = f"{path} cannot be evaluated: {where}: {first['msg']}"
        raise BadConfig(msg) from None


def _place(path: Path, report: _Report, places: Mapping[str, int]) -> int:
    for name in (report.metadata.series_uid, report.scan_id):
        if name is not None and name in places:
            return places[name]
    msg = f"{path}: neither series_uid {report.metadata.series_uid!r} nor scan_id {report.scan_id!r} is a listed scan"
    raise BadConfig(msg)
