"""The measured outline of a nodule on its largest axial section, and a close view of it."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from scipy import ndimage
from skimage.measure import find_contours

from ..data.geometry import turn_box
from ..measurement.axes import axes_of
from ..measurement.nodule_properties import segment_and_measure
from ..types import Detection, NoduleMask
from .slices import OUTLINE, Stage, StageMark, around, cut, draw_section

__all__ = ["Outline", "draw_zoom", "outline_of"]

FINER = 4  # an outline is drawn in steps of 1/4 pixel


class Outline(NamedTuple):
    """A closed `line` (n, 2) in an axial slice, with the ends (2, 2) of its axes, in mm of the stage."""

    slice_index: int
    line: npt.NDArray[np.float64]
    ends: npt.NDArray[np.float64]  # of the longest diameter
    across: npt.NDArray[np.float64]  # of the longest perpendicular to it


def outline_of(on: Stage, nodule: StageMark, found: Detection, mask: NoduleMask | None = None) -> Outline | None:
    """The outline of a measured nodule: of its `mask`, or else of a new segmentation. None if it was not measured."""
    if found.get("diameter_source") != "segmentation":
        return None
    if mask:
        voxels, origin = turn_box(mask.voxels, mask.origin, on.from_input)
    elif body := segment_and_measure(on.array, nodule.centre, 2 * nodule.radius, on.spacing)[1]:
        voxels, origin = body.mask, body.origin
    else:
        return None
    largest = int(voxels.sum(axis=(0, 1)).argmax())
    section = np.pad(voxels[..., largest].astype(np.float32), 1)
    line = max(find_contours(ndimage.zoom(section, FINER, order=1, grid_mode=True, mode="nearest"), 0.5), key=len)
    line = ((line + 0.5) / FINER - 1.5 + origin[:2]) * on.spacing[:2]
    axes = axes_of(line[:-1])
    return Outline(origin[2] + largest, line, axes.ends, axes.across)


def draw_zoom(axes: Axes, on: Stage, nodule: StageMark, outline: Outline | None, title: str) -> None:
    """Draw an axial slice around the nodule, with its outline and both axes if there is one."""
    index = outline.slice_index if outline else on.index("axial", nodule.centre)
    section = cut(on, "axial", index)
    draw_section(axes, section, title, around(section, nodule, max(12.0, 2.5 * nodule.radius)))
    if outline:
        axes.plot(*outline.line.T, color=nodule.color, linewidth=1.3)
        for ends in (outline.ends, outline.across):
            axes.plot(*ends.T, color="white", linewidth=1.1, linestyle=(0, (3, 1.5)), path_effects=OUTLINE)
