"""The lungs for pictures: their surface, and roughly where in them a nodule lies.

`src.data.aeration` finds where lung is thick and aerated, to tell marks apart; a surface needs emphysema, the hila and
thin edges as well.
"""

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from scipy import ndimage

from ..data.aeration import BODY, coarse_means, inside_body
from ..data.geometry import map_points, spacing_of
from ..data.lungs import Mask
from ..types import Affine, FloatArray, Vec3
from .slices import Stage

__all__ = ["Lungs", "Place", "locate", "lungs_of"]

Side: TypeAlias = Literal["left", "right", "midline"]
Third: TypeAlias = Literal["upper", "middle", "lower"]
AIR, OPEN_AIR = -400.0, -940.0  # HU: below tissue; below nearly all lung
LEAST, LEAST_PART = 1e5, 0.15  # mm3, and of the larger lung: what is smaller is a crop, or gas in the bowel
CLOSING = 2  # voxels: fills vessels
END = 0.05  # of the largest section: the lungs begin and end there, which leaves out the windpipe
MIDLINE = 10.0  # mm to either side where left and right are not told apart


class Lungs(NamedTuple):
    """The lungs on a coarse (X, Y, Z) grid that runs left, back, head, placed by its `affine` (RAS+)."""

    mask: Mask
    affine: Affine


class Place(NamedTuple):
    """Roughly where a nodule lies: None where the scan does not show enough of the lungs to say."""

    side: Side | None
    third: Third | None  # of the height of the lungs; a third is not a lobe


def lungs_of(on: Stage) -> Lungs | None:
    """Both lungs with their large airways, or None where the scan shows no lung of 100 ml."""
    coarse, affine = coarse_means(on.array, on.affine)
    air = (coarse < AIR) & ~_outside(coarse) & inside_body(coarse > BODY)
    labels, _ = ndimage.label(ndimage.binary_opening(air))
    sizes = np.bincount(labels.ravel()) * np.prod(spacing_of(affine))
    sizes[0] = 0
    large = np.flatnonzero(sizes >= max(LEAST, LEAST_PART * sizes.max()))
    if not large.size:
        return None
    mask = ndimage.binary_closing(np.pad(np.isin(labels, large), CLOSING), iterations=CLOSING)
    return Lungs(mask[(slice(CLOSING, -CLOSING),) * 3], affine)


def locate(lungs: Lungs | None, on: Stage, position: Vec3) -> Place:
    """Side and third of a position in mm on the stage."""
    if lungs is None:
        return Place(None, None)
    x, _, z = map_points(np.linalg.inv(lungs.affine) @ on.affine, np.divide(position, on.spacing))
    columns, areas = np.flatnonzero(lungs.mask.any(axis=(1, 2))), lungs.mask.sum(axis=(0, 1))
    offset = (x - (columns[0] + columns[-1]) / 2) * spacing_of(lungs.affine)[0]
    side: Side = "midline" if abs(offset) < MIDLINE else "left" if offset > 0 else "right"
    levels = np.flatnonzero(areas >= END * areas.max())
    if levels[0] == 0 or levels[-1] == len(areas) - 1:  # cut lungs have no thirds
        return Place(side, None)
    share = (z - levels[0]) / (levels[-1] - levels[0])
    return Place(side, "lower" if share < 1 / 3 else "middle" if share < 2 / 3 else "upper")


def _outside(coarse: FloatArray) -> Mask:
    """Air around the body: what is as thin as air and connected with the sides of the slices.

    Lungs that reach the border of a narrow field of view are denser, and stay.
    """
    labels, _ = ndimage.label(coarse < OPEN_AIR)
    border = np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()])
    outside = np.isin(labels, np.unique(border[border > 0]))
    with_skin: Mask = ndimage.binary_dilation(outside, iterations=2)  # its partial volume
    return with_skin
