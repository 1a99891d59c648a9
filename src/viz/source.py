"""Where pictures take detections from: a list, a whole report, or the JSON file of one."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..data.geometry import spacing_of, to_lps
from ..data.pairing import is_same_grid
from ..errors import BadOutput
from ..results.conclusion import NONE_FOUND
from ..results.output_formatter import as_detections, load_report
from ..types import Affine, Detection, NoduleMask, Shape3

__all__ = ["DetectionSource", "Found", "check_pairing", "read_detections"]

ELSEWHERE = 1.0  # mm between two statements of one place

DetectionSource: TypeAlias = Iterable[Detection] | Mapping[str, Any] | str | Path


class Found(NamedTuple):
    """Detections, strongest first, masses, and the report's metadata, summary and time (empty for a plain list).

    `masks` are those of the detections, then of the masses; all None, but where the source is what
    `InferencePipeline.predict` gave.
    """

    detections: list[Detection]
    masses: list[Detection]
    masks: list[NoduleMask | None]
    metadata: Mapping[str, Any]
    summary: Mapping[str, Any]
    timestamp: str

    @property
    def conclusion(self) -> str:
        """What was found, in sentences."""
        count = len(self.detections)
        plain = f"{count} nodule{'s' * (count > 1)} found." if count else NONE_FOUND
        return str(self.summary.get("conclusion") or plain)


def check_pairing(found: Found, shape: Shape3, affine: Affine | None) -> None:
    """Refuse what was found in another scan than that of `shape`, placed by `affine` (RAS+) where it is known.

    Raises:
        BadOutput: the report is of another grid, or a nodule lies elsewhere in the world than in the scan, or outside.
    """
    told = list(found.metadata.get("shape") or shape)
    if told != list(shape):
        msg = f"the detections are of another scan: it has {told} voxels, this one has {list(shape)}"
        raise BadOutput(msg)
    if affine is None:
        return
    theirs = np.asarray(found.metadata.get("affine") or affine, np.float64)
    if theirs.shape != (4, 4) or not is_same_grid(shape, theirs, shape, affine):
        msg = "the detections are of another scan: it has as many voxels, which lie elsewhere in the world"
        raise BadOutput(msg)
    for one in [*found.detections, *found.masses]:
        lps = one.get("coordinates_lps")
        here = to_lps(affine, np.divide(one["coordinates"], spacing_of(affine)))
        if lps is not None and np.linalg.norm(here - lps) > ELSEWHERE:
            msg = f"the detections are of another scan: nodule {one.get('id', '')} lies elsewhere in the world"
            raise BadOutput(msg)


def read_detections(source: DetectionSource) -> Found:
    """The detections of a list, of a report mapping, or of the JSON file at a path.

    Raises:
        BadOutput: the file cannot be read, or what was given does not hold detections.
    """
    where = str(source) if isinstance(source, str | Path) else "the given report"
    content = load_report(source) if isinstance(source, str | Path) else source
    report: Mapping[str, Any] = content if isinstance(content, Mapping) else {"detections": content}
    detections = as_detections(report.get("detections"), where)
    strongest_first = sorted(detections, key=lambda found: -found["confidence"])
    masks = dict(enumerate(report.get("masks") or []))  # by id, for detections may have been left out since
    masses = as_detections(report.get("masses") or [], where)
    theirs = [masks.get(found.get("id", -1)) for found in [*strongest_first, *masses]]
    about, summary = report.get("metadata") or {}, report.get("summary") or {}
    return Found(strongest_first, masses, theirs, about, summary, str(report.get("timestamp") or ""))
