"""Sorts slices along the normal onto a regular grid. Repairs what can be repaired, and refuses the rest."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import BadScan
from .pixels import read_pixels
from .slices import Slice

__all__ = ["TOLERANCE", "Stack", "extent", "heights_of", "on_grid", "stacked", "typical_step"]

TOLERANCE = 0.5  # mm; larger displacements of a voxel are reported
GAP, DUPLICATE = 1.5, 0.1  # of the median distance between slices
SAME = 1e-3  # mm, or components of a unit vector
RUN = 3  # this many other steps in a row are a second spacing; fewer are missing slices
WIDEST = 12.0  # mm; wider gaps are not interpolated
ROUND = 0.02  # of the image's width: tolerance of the stated diameter
LEAST_TILT = 0.1  # degrees; smaller angles are misaligned slices, not a tilt
THIN = 0.75  # of the distance between slices; thinner slices leave gaps
COMMON = 0.1  # fraction of steps no wider than the step of the resampled grid

Vector = npt.NDArray[np.float64]


class Stack(NamedTuple):
    """Slices sorted along their normal, without duplicates, and the heights (mm along it) of the volume's planes."""

    slices: list[Slice]
    grid: Vector
    notes: tuple[str, ...]

    @property
    def resampled(self) -> bool:
        """Whether the planes of the volume differ from the slices."""
        return len(self.grid) != len(self.slices) or bool(np.abs(self.grid - heights_of(self.slices)).max() > TOLERANCE)


def stacked(slices: Sequence[Slice]) -> Stack:
    """The slices of one series as a stack.

    Raises:
        BadScan: slices do not belong together, are missing, are tilted, or are spaced too unevenly.
    """
    _check_uniform(slices)
    first = slices[0]
    ordered, notes = _without_duplicates(
        sorted(slices, key=lambda one: (one.position @ first.normal, one.number, one.path.name))
    )
    _check_straight(ordered)
    heights = heights_of(ordered)
    _check_complete(ordered, np.diff(heights))
    grid, uneven = _grid(heights)
    return Stack(ordered, grid, (*notes, *uneven, *_statements(ordered, heights)))


def heights_of(slices: Sequence[Slice]) -> Vector:
    """Positions of slices along the normal of the first, in millimetres."""
    return np.array([one.position for one in slices]) @ slices[0].normal


def extent(slices: Sequence[Slice]) -> tuple[float, float]:
    """The lowest and the highest position of slices along the normal of the first."""
    heights = heights_of(slices)
    return float(heights.min()), float(heights.max())


def typical_step(slices: Sequence[Slice]) -> float:
    """The median distance between slices at distinct positions; 0 for a single position."""
    steps = np.diff(np.sort(heights_of(slices)))
    steps = steps[steps > SAME]
    return float(np.median(steps)) if steps.size else 0.0


def on_grid(array: npt.NDArray[Any], heights: Vector, grid: Vector) -> npt.NDArray[Any]:
    """The volume (X, Y, planes), interpolated linearly from slices at `heights` to planes at `grid`."""
    planes = np.empty((*array.shape[:2], len(grid)), array.dtype, order="F")
    for k, height in enumerate(grid):
        above = int(np.clip(np.searchsorted(heights, height), 1, len(heights) - 1))
        share = float(np.clip((height - heights[above - 1]) / (heights[above] - heights[above - 1]), 0, 1))
        plane = array[..., above - 1] * (1 - share) + array[..., above] * share
        planes[..., k] = np.rint(plane) if array.dtype.kind == "i" else plane
    return planes


def _check_uniform(slices: Sequence[Slice]) -> None:
    """Refuse slices that differ in size, pixel spacing or orientation."""
    reach = max(slices[0].size)  # pixels over which deviations add up
    span = reach * float(max(slices[0].spacing))
    for name, values, least in (
        ("sizes", [one.size for one in slices], SAME),
        ("pixel spacings", [one.spacing for one in slices], TOLERANCE / 2 / reach),
        ("orientations", [np.concatenate([one.along_row, one.along_column]) for one in slices], TOLERANCE / 2 / span),
    ):
        deviation = np.abs(np.array(values) - np.median(values, axis=0)).max(axis=1)
        odd = [one for one, amount in zip(slices, deviation, strict=True) if amount > least]
        if odd:
            msg = f"mixes {name} in one series, at {_named(odd)}: export each series into its own folder"
            raise BadScan(msg)


def _without_duplicates(slices: list[Slice]) -> tuple[list[Slice], tuple[str, ...]]:
    heights = heights_of(slices)
    distinct = [b - a for a, b in pairwise(heights) if b - a > SAME]
    if not distinct:
        msg = f"all {len(slices)} slices lie at the same position: export the series again"
        raise BadScan(msg)
    limit = DUPLICATE * float(np.median(distinct))
    kept, last, dropped = [slices[0]], heights[0], list[Slice]()
    for one, height in zip(slices[1:], heights[1:], strict=True):
        if height - last >= limit:
            kept.append(one)
            last = height
        elif _same_pixels(one, kept[-1]):
            dropped.append(one)
        else:
            what = f"{_name(kept[-1])} and {_name(one)} lie at the same position with different pixels"
            msg = f"{what}: put each phase or reconstruction into its own folder"
            raise BadScan(msg)
    return kept, (f"duplicate slices dropped: {_named(dropped)}",) if dropped else ()


def _same_pixels(one: Slice, other: Slice) -> bool:
    (a, _), (b, _) = next(read_pixels(one.path, [one])), next(read_pixels(other.path, [other]))
    return np.array_equal(a, b)


def _check_straight(slices: list[Slice]) -> None:
    """Refuse slices whose origins are off the line along the normal."""
    shifts = np.array([one.position - slices[0].position for one in slices])
    normal = slices[0].normal
    along = shifts @ normal
    drift = np.linalg.norm(shifts - np.outer(along, normal), axis=1)
    if drift.max() > TOLERANCE:
        angle = np.degrees(np.arctan2(drift[-1], along[-1]))
        tilt = f" (gantry tilt of {angle:.1f} degrees)" if angle >= LEAST_TILT else ""
        what = f"slices are shifted in plane by up to {drift.max():.1f} mm (by ImagePositionPatient){tilt}"
        msg = f"{what}: straighten the series first, for example with dcm2niix, which writes a *_Tilt file"
        raise BadScan(msg)


def _check_complete(slices: list[Slice], steps: Vector) -> None:
    """Refuse gaps that a second spacing does not explain."""
    median = float(np.median(steps))
    wide = steps > GAP * median
    if not wide.any():
        return
    numbers = np.abs(np.diff([one.number for one in slices]))
    runs = [list(run) for run in np.split(np.arange(len(steps)), np.flatnonzero(np.diff(wide)) + 1)]
    even = [run for run in runs if len(run) >= RUN and np.ptp(steps[run]) < DUPLICATE * steps[run].mean()]
    second = np.isin(np.arange(len(steps)), [i for run in even for i in run])
    gaps = np.flatnonzero(wide & ~(second & (numbers <= 1)))
    if gaps.size:
        where = "; ".join(f"between {_name(slices[i])} and {_name(slices[i + 1])}" for i in gaps[:3])
        more = f" and in {len(gaps) - 3} more places" if len(gaps) > 3 else ""
        msg = f"slices are missing {where}{more} (the others are {median:.4g} mm apart): export the whole series"
        raise BadScan(msg)
    if steps.max() > WIDEST:
        what = f"has two spacings (by ImagePositionPatient), {median:.4g} mm and {steps.max():.4g} mm"
        msg = f"{what}, too wide to interpolate ({WIDEST:g} mm): put the part with the narrower one into its own folder"
        raise BadScan(msg)


def _grid(heights: Vector) -> tuple[Vector, tuple[str, ...]]:
    """Evenly spaced heights from the first slice to the last; the slices' own if they are even."""
    even = np.linspace(heights[0], heights[-1], len(heights))
    steps = np.diff(heights)
    off = float(np.abs(heights - even).max())
    if off <= min(TOLERANCE, float(np.median(steps)) / 2):
        return even, ()
    count, fine = len(heights), float(np.quantile(steps, COMMON, method="lower"))
    if steps.max() > GAP * fine:  # a second spacing: keep the finer one
        count = int(np.ceil((heights[-1] - heights[0]) / fine - DUPLICATE)) + 1
    grid = np.linspace(heights[0], heights[-1], count)
    note = (
        f"slices are {steps.min():.4g} to {steps.max():.4g} mm apart (by ImagePositionPatient): resampled to "
        f"{count} planes {grid[1] - grid[0]:.4g} mm apart"
    )
    return grid, (note,)


def _statements(slices: list[Slice], heights: Vector) -> tuple[str, ...]:
    """Notes on attributes that contradict the positions and the pixel spacing. The latter are used."""
    first, step = slices[0], float(np.median(np.diff(heights)))
    width, pixel = float(first.spacing[0] * first.size[0]), float(first.spacing[0])
    between, diameter = first.about.between or step, first.about.diameter or width
    most = TOLERANCE / (len(slices) - 1), max(ROUND * width, 2 * pixel)
    statements = (
        ("SpacingBetweenSlices", "ImagePositionPatient", between, step, most[0]),
        ("ReconstructionDiameter", "PixelSpacing", diameter, width, most[1]),
    )
    thickness = first.about.thickness or step
    gaps = f"slices of {thickness:g} mm (SliceThickness) are {step:.4g} mm apart: the gaps between them are not shown"
    return (
        *((gaps,) if thickness < THIN * step else ()),
        *(
            f"{name} {stated:g} mm contradicts {used}, {size:.4g} mm, which was used"
            for name, used, stated, size, limit in statements
            if abs(stated - size) > limit
        ),
    )


def _name(one: Slice) -> str:
    return f"instance {one.number} (z {one.position @ one.normal:.2f} mm)"


def _named(slices: list[Slice]) -> str:
    more = f" and {len(slices) - 5} more" if len(slices) > 5 else ""
    return ", ".join(map(_name, slices[:5])) + more
