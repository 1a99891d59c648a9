# ruff: noqa: ARG001 - the documented arguments of what is not built
"""The interactive page with the chest in three dimensions."""

from pathlib import Path
from typing import Any

import numpy.typing as npt

from ..errors import not_built
from .source import DetectionSource

__all__ = ["render_3d_volume"]


def render_3d_volume(
    scan: npt.NDArray[Any] | str | Path,
    heatmap: npt.NDArray[Any] | str | Path,
    detections: DetectionSource,
    output_path: str | Path,
    interactive: bool = True,  # noqa: FBT001, FBT002 - the documented call
) -> None:
    """Write an HTML page that shows a scan's nodules in three dimensions.

    Raises:
        NotBuilt: always, until the page exists.
    """
    not_built("the 3D page", "open the scan and its heatmap together in 3D Slicer or ITK-SNAP")
