"""Findings as markups of 3D Slicer: a point for each, and rulers along both axes of the measured ones."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..files import write_json
from ..results.found import Finding, findings_of
from ..types import Results, Scan, Volume
from .outline import outline_of
from .slices import Stage, mark, stage

__all__ = ["export"]

SCHEMA = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"
ALONG_AXES = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
Points = npt.NDArray[np.float64]


def export(scan: Scan, results: Results, path: Path) -> None:
    """Write one `.mrk.json`, in world millimetres (LPS). The rulers end at the same points as in the pictures."""
    on = stage(Volume(scan.array, scan.affine), scan.spacing)
    findings = list(findings_of(results))
    points = [_point(number, one.name, _lps(one, on), _words(one)) for number, one in enumerate(findings, start=1)]
    rulers = [ruler for one in findings for ruler in _rulers(one, on)]
    content = {"@schema": SCHEMA, "markups": [_markup("Fiducial", "Lung nodules", points, (255, 80, 70)), *rulers]}
    write_json(content, path)


def _lps(one: Finding, on: Stage) -> list[float]:
    return [round(value, 3) for value in on.lps(on.place(one.found["coordinates"]))]


def _words(one: Finding) -> str:
    kind = one.found["properties"]["nodule_type"] or "type not measured"
    return f"{one.found['diameter_mm']:.1f} mm, {kind}, confidence {one.found['confidence']:.2f}"


def _rulers(one: Finding, on: Stage) -> Iterator[dict[str, Any]]:
    (nodule,) = mark(on, [one.found])
    outline = outline_of(on, nodule, one.found, one.mask)
    if outline is None:
        return
    height = outline.slice_index * on.spacing[2]
    for name, ends in (("long", outline.ends), ("short", outline.across)):
        places = [[round(value, 3) for value in on.lps((float(x), float(y), height))] for x, y in ends]
        points = [_point(number, "", place, "") for number, place in enumerate(places, start=1)]
        yield _markup("Line", f"{one.name}, {name} axis", points, one.colour)


def _point(number: int, label: str, place: list[float], words: str) -> dict[str, Any]:
    return {
        "id": str(number),
        "label": label,
        "description": words,
        "position": place,
        "orientation": ALONG_AXES,
        "selected": True,
        "locked": True,
        "visibility": True,
        "positionStatus": "defined",
    }


def _markup(kind: str, name: str, points: list[dict[str, Any]], colour: tuple[int, int, int]) -> dict[str, Any]:
    return {
        "type": kind,
        "name": name,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": True,
        "controlPoints": points,
        "display": {"visibility": True, "color": [value / 255 for value in colour], "textScale": 3.0},
    }
