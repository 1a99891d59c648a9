"""Finds the lungs in a scan, roughly and fast, and describes each side."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ..types import Affine, FloatArray, LungState, Vec3
from .coarse import BODY, coarse_means, distance_to, hulls_of, inside_body
from .geometry import spacing_of
from .lungs import Lung, Lungs, Mask
from .midline import Midline, find_midline
from .plausibility import is_drawn

__all__ = ["find_lungs", "lung_surface"]

# Mean HU of a coarse voxel in lung. Bowel gas and the air around the body are lower; emphysema is mostly within.
AERATED = (-975.0, -600.0)
OPENING = 3  # coarse voxels; skin and bowel walls have lung's HU by partial volume, but are thinner
OPEN_AIR = -940.0  # HU; below: air around the body. Nearly all lung is denser
SKIN = 2  # coarse voxels of partial volume between air and skin
AROUND = 30.0  # mm around the lungs in which distances are computed
# The field of view cuts a side if this much of its lung meets the air around the body or the first or last slice, or if
# this much less of the body is in view than on the other side.
CUT_LITRES, CUT_END, CUT_BODY = 0.02, 0.18, 0.6
END = 10.0  # mm from an end of a lung, where its section should be small
BLUNT = 0.37  # of the largest section; above, the lung does not taper: something fills the rest
NOT_AERATED, HALF = 0.25, 0.5  # of the other lung's litres; below, a side is not aerated, or only in part
FAR, MISSING = 15.0, 0.15  # mm; fraction of the other lung whose mirror image is further than that from lung
LARGE = 0.25  # of the largest section; smaller levels do not count
BEFORE_SPINE = 30.0  # mm in front of the spine's back; a lung that ends there is filled behind
FILLED_BEHIND = 0.35  # of the levels
HEIGHT = 0.05  # of the largest section: marks the ends of the lungs
SURFACE, THIN, VESSELS = -400.0, 4, 2  # HU, edge of tissue; coarse voxels around thick lung; widths to fill


class _Half(NamedTuple):
    """One side of the chest: its columns, its lung, and how far the body reaches from the middle, in mm."""

    columns: Mask  # (X,)
    lung: Mask  # (x, Y, Z), these columns only
    litres: float
    reach: float
    meets_air: float  # litres

    @property
    def sections(self) -> npt.NDArray[np.intp]:
        """The area of each level, in voxels."""
        return np.asarray(self.lung.sum(axis=(0, 1)))


def find_lungs(array: npt.NDArray[np.generic], affine: Affine) -> Lungs:
    """The lungs in (X, Y, Z) HU, x to the left, y to the back, z to the head; `affine` is RAS+."""
    coarse, wide = coarse_means(array, affine)
    inside = inside_body(coarse > BODY)
    aerated = (coarse > AERATED[0]) & (coarse < AERATED[1]) & inside
    # Lung at the border of the image counts: the field of view may cut through it.
    lung = ndimage.binary_opening(np.pad(aerated, OPENING, mode="edge"), iterations=OPENING)
    lung = lung[(slice(OPENING, -OPENING),) * 3]
    spacing = spacing_of(wide)
    around = _distance_around(hulls_of(lung), spacing)
    levels = np.flatnonzero(lung.any(axis=(0, 1)))
    middle = find_midline(coarse[:, :, levels[0] : levels[-1] + 1], spacing) if levels.size else None
    if middle is None:
        return Lungs(lung, around, wide, None, None, None, None, doubtful=True, drawn=is_drawn(array))
    air = lung & _near_open_air(coarse)
    right, left = _halves(lung, air, inside, middle, spacing)
    filled = [
        _is_filled(own, other, around, middle, spacing, levels[0]) for own, other in ((right, left), (left, right))
    ]
    states = [
        _state(own, other, filled=doubt) for own, other, doubt in zip((right, left), (left, right), filled, strict=True)
    ]
    low, high = sorted((middle.spine, middle.symmetry))
    return Lungs(
        lung=lung,
        around=around,
        affine=wide,
        midline=(low, high),
        height=_height([half for half, state in zip((right, left), states, strict=True) if state == "whole"]),
        right=Lung(right.litres, states[0]),
        left=Lung(left.litres, states[1]),
        doubtful=any(filled),
        drawn=is_drawn(array),
    )


def lung_surface(array: npt.NDArray[np.generic], affine: Affine) -> tuple[Mask, Affine]:
    """The lungs for a picture, with thin edges, emphysema and hila: a coarse mask (X, Y, Z) and its affine (RAS+)."""
    lungs = find_lungs(array, affine)
    coarse, wide = coarse_means(array, affine)
    near = ndimage.binary_dilation(lungs.lung, iterations=THIN)
    air = np.pad(near & (coarse < SURFACE) & ~_near_open_air(coarse), VESSELS)
    filled: Mask = np.asarray(ndimage.binary_closing(air, iterations=VESSELS), dtype=bool)
    return filled[(slice(VESSELS, -VESSELS),) * 3] & lungs.recognised, wide


def _distance_around(enclosed: Mask, spacing: Vec3) -> FloatArray:
    """The distance in mm to the lungs' hull; infinite beyond `AROUND`, which halves the time."""
    around = np.full(enclosed.shape, np.inf, np.float32)
    boxes = ndimage.find_objects(enclosed.astype(np.int8))
    for box in boxes:
        wide = tuple(
            slice(max(0, side.start - int(AROUND / step)), side.stop + int(AROUND / step))
            for side, step in zip(box, spacing, strict=True)
        )
        around[wide] = distance_to(enclosed[wide], spacing)
    return around


def _near_open_air(coarse: FloatArray) -> Mask:
    """All within two voxels of the air around the body or of the sides of the image."""
    padded = np.pad(coarse < OPEN_AIR, ((1, 1), (1, 1), (0, 0)), constant_values=True)
    labels, _ = ndimage.label(padded)
    near: Mask = np.asarray(ndimage.binary_dilation(labels == labels[0, 0, 0], iterations=SKIN))
    return near[1:-1, 1:-1]


def _halves(lung: Mask, air: Mask, inside: Mask, middle: Midline, spacing: Vec3) -> Iterator[_Half]:
    """The two sides: the patient's right, then left."""
    places = np.arange(len(lung)) - middle.middle
    body = inside.any(axis=(1, 2))
    voxel = float(np.prod(spacing)) / 1e6
    for columns in (places <= 0, places > 0):
        own = lung[columns]
        reach = np.abs(places[columns & body]).max(initial=0) * spacing[0]
        yield _Half(columns, own, round(float(own.sum()) * voxel, 2), float(reach), float(air[columns].sum()) * voxel)


def _state(own: _Half, other: _Half, *, filled: bool) -> LungState:
    sections = own.sections
    ends = max(sections[0], sections[-1]) / max(1, sections.max())
    if own.reach < CUT_BODY * other.reach or own.meets_air > CUT_LITRES or ends > CUT_END:
        return "cut"
    if own.litres <= NOT_AERATED * other.litres:
        return "not aerated"
    return "partly aerated" if filled else "whole"


def _is_filled(own: _Half, other: _Half, around: FloatArray, middle: Midline, spacing: Vec3, lowest: int) -> bool:
    """Whether fluid or tissue may fill a lung, in whole or in part."""
    return (
        own.litres < HALF * other.litres
        or _missing(own, other, around, middle) > MISSING
        or _ends_bluntly(own, spacing)
        or _filled_behind(own, middle, spacing, lowest)
    )


def _missing(own: _Half, other: _Half, around: FloatArray, middle: Midline) -> float:
    """The fraction of the other lung whose mirror image is far from the lungs' hull."""
    mirrored = np.rint(2 * middle.middle - np.flatnonzero(other.columns)).astype(int)
    seen = (mirrored >= 0) & (mirrored < len(own.columns))
    lung = other.lung[seen]
    return float((lung & (around[mirrored[seen]] > FAR)).sum() / max(1, lung.sum()))


def _ends_bluntly(half: _Half, spacing: Vec3) -> bool:
    """Whether the lung ends inside the image without tapering."""
    sections, step = half.sections, round(END / spacing[2])
    levels = np.flatnonzero(sections)
    if not levels.size:
        return True
    low, high = levels[0], levels[-1]
    limit = BLUNT * sections.max()
    below = low > 0 and sections[min(low + step, high)] > limit
    above = high < len(sections) - 1 and sections[max(high - step, low)] > limit
    return bool(below or above)


def _filled_behind(half: _Half, middle: Midline, spacing: Vec3, lowest: int) -> bool:
    """Whether the lung mostly ends in front of the spine, as above fluid in a supine patient."""
    sections = half.sections
    levels = np.flatnonzero(sections > LARGE * sections.max())
    filled = np.asarray(half.lung.any(axis=0))[:, levels]
    deepest = len(filled) - 1 - filled[::-1].argmax(axis=0)
    before = (deepest - middle.back[levels - lowest]) * spacing[1] < -BEFORE_SPINE
    return bool(before.size and before.mean() > FILLED_BEHIND)


def _height(whole: list[_Half]) -> tuple[int, int] | None:
    """The levels where both lungs begin and end; None if the image may end before them."""
    if not whole:
        return None
    sections = np.sum([half.sections for half in whole], axis=0)
    levels = np.flatnonzero(sections >= HEIGHT * sections.max())
    if levels[0] == 0 or levels[-1] == len(sections) - 1:
        return None
    return int(levels[0]), int(levels[-1])
