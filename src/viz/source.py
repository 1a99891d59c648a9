"""Where pictures take detections from: a list, a whole report, or the JSON file of one."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ..inference.output_formatter import as_detections, load_report
from ..types import Detection, NoduleMask

__all__ = ["DetectionSource", "Found", "read_detections"]

DetectionSource: TypeAlias = Iterable[Detection] | Mapping[str, Any] | str | Path


class Found(NamedTuple):
    """Detections, strongest first, with the report's metadata and time (empty for a plain list).

    `masks` are theirs; all None, but where the source is what `InferencePipeline.predict` gave. `too_large` are the
    marks that may be masses.
    """

    detections: list[Detection]
    too_large: list[Detection]
    masks: list[NoduleMask | None]
    metadata: Mapping[str, Any]
    timestamp: str


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
    theirs = [masks.get(found.get("id", -1)) for found in strongest_first]
    metadata = report.get("metadata") or {}
    too_large = as_detections(metadata.get("too_large") or [], where)
    return Found(strongest_first, too_large, theirs, metadata, str(report.get("timestamp") or ""))
