"""A coarse region of the lungs, for pictures and rough places; it is not meant for finding nodules."""

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ..types import Affine, FloatArray, Vec3
from .coarse import shrink
from .slices import Stage

__all__ = ["Lungs", "Mask", "Place", "find_lungs", "locate"]

Mask: TypeAlias = npt.NDArray[np.bool_]
Side: TypeAlias = Literal["left", "right", "midline"]
Third: TypeAlias = Literal["upper", "middle", "lower"]
STEP = 3.0  # mm: about the voxel that lungs are looked for in
AIR, OPEN_AIR = -400.0, -940.0  # HU: below tissue; below nearly all lung
SMALLEST = 100_000.0  # mm3 of a lung, or of its visible part
END = 0.05  # of the largest section: the lungs begin and end there, which leaves out the windpipe
MIDLINE = 10.0  # mm to either side where left and right are not told apart


class Lungs(NamedTuple):
    """The lungs on a coarse (X, Y, Z) grid that runs left, back, head, and where that lies on its stage."""

    mask: Mask
    to_index: Affine  # from an index of `mask` to one of the stage's array
    start: Vec3  # mm of the first voxel's centre from that of the stage
    step: Vec3  # mm between voxels


class Place(NamedTuple):
    """Roughly where a nodule lies: None where the scan does not show enough of the lungs to say."""

    side: Side | None
    third: Third | None  # of the height of the lungs; a third is not a lobe


def find_lungs(on: Stage) -> Lungs | None:
    """Both lungs with their large airways, or None where the scan shows no lung of 100 ml."""
    coarse, to_index = shrink(on.array, on.spacing, STEP)
    steps = to_index.diagonal()[:3] * on.spacing
    air = (coarse < AIR) & ~_outside(coarse) & _within_body(coarse)
    labels, _ = ndimage.label(ndimage.binary_opening(air))
    sizes = np.bincount(labels.ravel())[1:] * steps.prod()
    large = [label for label, size in enumerate(sizes, start=1) if size >= max(SMALLEST, 0.15 * sizes.max(initial=0))]
    if not large:
        return None
    mask = ndimage.binary_closing(np.pad(np.isin(labels, large), 2), iterations=2)[2:-2, 2:-2, 2:-2]
    return Lungs(mask, to_index, _vec3(to_index[:3, 3] * on.spacing), _vec3(steps))


def locate(lungs: Lungs | None, position: Vec3) -> Place:
    """Side and third of a position in mm on the stage."""
    if lungs is None:
        return Place(None, None)
    columns, levels = np.flatnonzero(lungs.mask.any(axis=(1, 2))), _levels(lungs.mask)
    offset = position[0] - lungs.start[0] - (columns[0] + columns[-1]) / 2 * lungs.step[0]
    side: Side = "midline" if abs(offset) < MIDLINE else "left" if offset > 0 else "right"
    if levels[0] == 0 or levels[-1] == lungs.mask.shape[2] - 1:  # cut lungs have no thirds
        return Place(side, None)
    share = ((position[2] - lungs.start[2]) / lungs.step[2] - levels[0]) / max(1, levels[-1] - levels[0])
    return Place(side, "lower" if share < 1 / 3 else "middle" if share < 2 / 3 else "upper")


def _levels(mask: Mask) -> npt.NDArray[np.intp]:
    """The slices that show more of the lungs than the windpipe."""
    areas = mask.sum(axis=(0, 1))
    return np.flatnonzero(areas >= END * areas.max())


def _outside(coarse: FloatArray) -> Mask:
    """Air around the body: what is as thin as air and connected with the sides of the slices.

    Lungs that reach the border of a narrow field of view are denser, and stay.
    """
    labels, _ = ndimage.label(coarse < OPEN_AIR)
    border = np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()])
    outside = np.isin(labels, np.unique(border[border > 0]))
    with_skin: Mask = ndimage.binary_dilation(outside, iterations=2)  # its partial volume
    return with_skin


def _within_body(coarse: FloatArray) -> Mask:
    """Where the body lies both in front and behind, as it does not around a mattress."""
    labels, _ = ndimage.label(ndimage.binary_opening(coarse >= AIR))
    body = labels == 1 + np.argmax(np.bincount(labels.ravel(), minlength=2)[1:])
    in_front, behind = (np.logical_or.accumulate(part, axis=1) for part in (body, body[:, ::-1]))
    within: Mask = in_front & behind[:, ::-1]
    return within


def _vec3(values: npt.NDArray[np.floating]) -> Vec3:
    x, y, z = values.tolist()
    return x, y, z
