"""The source of the detections for pictures: a list, a report, or a report's JSON file."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..data.geometry import spacing_of, to_lps
from ..data.pairing import is_same_grid
from ..errors import BadOutput
from ..given import is_path
from ..results.conclusion import NONE_FOUND
from ..results.output_formatter import GivenDetections, as_detections, load_report
from ..types import Affine, Detection, NoduleMask, Shape3

__all__ = ["DetectionSource", "FoundNodules", "check_pairing", "read_detections"]

ELSEWHERE = 1.0  # mm; larger differences mean another place

DetectionSource: TypeAlias = GivenDetections


class FoundNodules(NamedTuple):
    """Detections, strongest first, masses, and the report's metadata, summary and time (empty for a plain list).

    `masks` holds those of the detections, then of the masses. They are None unless the source is the result of
    `InferencePipeline.predict`. `review` is that of a reviewed report.
    """

    detections: list[Detection]
    masses: list[Detection]
    masks: list[NoduleMask | None]
    metadata: Mapping[str, Any]
    summary: Mapping[str, Any]
    timestamp: str
    review: Mapping[str, Any] | None = None

    @property
    def conclusion(self) -> str:
        """The findings in sentences."""
        count = len(self.detections)
        plain = f"{count} nodule{'s' * (count > 1)} found." if count else NONE_FOUND
        return str(self.summary.get("conclusion") or plain)


def check_pairing(found: FoundNodules, shape: Shape3, affine: Affine | None) -> None:
    """Refuse detections of another scan. This one has `shape` voxels and, if known, the `affine` (RAS+).

    Raises:
        BadOutput: the report has another grid, or a nodule's world coordinates do not fit this scan.
    """
    theirs_shape = list(found.metadata.get("shape") or shape)
    if theirs_shape != list(shape):
        msg = f"the detections are of another scan: it has {theirs_shape} voxels, this one has {list(shape)}"
        raise BadOutput(msg)
    if affine is None:
        return
    theirs = np.asarray(found.metadata.get("affine") or affine, np.float64)
    if theirs.shape != (4, 4) or not is_same_grid(shape, theirs, shape, affine):
        msg = "the detections are of another scan: it has as many voxels, but another affine"
        raise BadOutput(msg)
    for one in [*found.detections, *found.masses]:
        lps = one.get("coordinates_lps")
        here = to_lps(affine, np.divide(one["coordinates"], spacing_of(affine)))
        if lps is not None and np.linalg.norm(here - lps) > ELSEWHERE:
            msg = f"the detections are of another scan: nodule {one.get('id', '')} lies elsewhere in the world"
            raise BadOutput(msg)


def read_detections(source: DetectionSource, *, reviewed: bool = False) -> FoundNodules:
    """Load the detections from a list, a report mapping, or a JSON file.

    With `reviewed`, nodules that a reader added come last: they have no confidence.

    Raises:
        BadOutput: the file cannot be read, or the source holds no detections.
    """
    where = str(source) if is_path(source) else "the given report"
    content = load_report(source, reviewed=reviewed) if is_path(source) else source  # type: ignore[arg-type]
    report: Mapping[str, Any] = content if isinstance(content, Mapping) else {"detections": content}
    detections = as_detections(report.get("detections"), where, reviewed=reviewed)
    strongest_first = sorted(detections, key=lambda found: -(found["confidence"] or 0))
    masks = dict(enumerate(report.get("masks") or []))  # by id, because detections may have been removed since
    masses = as_detections(report.get("masses") or [], where)
    theirs = [masks.get(found.get("id", -1)) for found in [*strongest_first, *masses]]
    about, summary = report.get("metadata") or {}, report.get("summary") or {}
    when = str(report.get("timestamp") or "")
    return FoundNodules(strongest_first, masses, theirs, about, summary, when, report.get("review"))
