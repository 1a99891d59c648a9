"""Where pictures take detections from: a list, a whole report, or the JSON file of one."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ..errors import BadOutput
from ..types import Detection

__all__ = ["DetectionSource", "Found", "read_detections"]

DetectionSource: TypeAlias = Iterable[Detection] | Mapping[str, Any] | str | Path


class Found(NamedTuple):
    """Detections, strongest first, and the report's metadata (empty for a plain list)."""

    detections: list[Detection]
    metadata: Mapping[str, Any]


def read_detections(source: DetectionSource) -> Found:
    """The detections of a list, of a report mapping, or of the JSON file at a path.

    Raises:
        BadOutput: the file cannot be read, or what was given does not hold detections.
    """
    where = str(source) if isinstance(source, str | Path) else "the given report"
    content = _read_json(Path(source)) if isinstance(source, str | Path) else source
    report = content if isinstance(content, Mapping) else {"detections": content}
    listed, metadata = report.get("detections"), report.get("metadata") or {}
    if not isinstance(listed, Iterable) or isinstance(listed, str | Mapping) or not isinstance(metadata, Mapping):
        msg = f"{where} holds no list `detections`: give PIVOT's detections JSON, or a list of detections"
        raise BadOutput(msg)
    detections: list[Detection] = list(listed)
    for position, detection in enumerate(detections):
        if not isinstance(detection, Mapping) or not {"coordinates", "diameter_mm", "confidence"} <= set(detection):
            msg = f"{where}: detections[{position}] lacks coordinates, diameter_mm or confidence; it is not PIVOT's"
            raise BadOutput(msg)
    return Found(sorted(detections, key=lambda found: -found["confidence"]), metadata)


def _read_json(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"cannot read the detections {path}: {error.strerror}"
        raise BadOutput(msg) from None
    except ValueError as error:
        msg = f"{path} is not a detections JSON: {error}"
        raise BadOutput(msg) from None
