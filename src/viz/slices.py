"""The common parts of pictures: slices in radiological orientation, nodules on them, PNG files.

A `Stage` is a scan with its axes in standard order: x to the patient's left, y to the back, z to the head. Positions
on it are millimetres from its first voxel.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage

from ..data.geometry import RAS_TO_LPS, affine_from_spacing, canonical, map_points
from ..data.pairing import check_spacing, overlap
from ..errors import BadConfig, BadOutput, BadScan
from ..files import whole_file
from ..given import path_of
from ..results.found import number_of_finding
from ..types import Affine, Detection, FloatArray, Vec3
from .shares import risk_of

__all__ = [
    "FOOTER",
    "NORMAL",
    "OUTLINE",
    "PLANES",
    "RISK_COLORS",
    "WINDOW",
    "Circle",
    "Plane",
    "SliceImage",
    "Stage",
    "StageMark",
    "View",
    "around",
    "axial_slices",
    "circles",
    "cut",
    "draw_section",
    "heatmap_affine",
    "mark",
    "sample",
    "save_png",
    "stage",
]

Plane: TypeAlias = Literal["axial", "coronal", "sagittal"]
View: TypeAlias = tuple[float, float, float, float]  # left, right, bottom and top edge in mm
NORMAL: dict[Plane, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
LETTERS: dict[Plane, str] = {"axial": "RLAP", "coronal": "RLHF", "sagittal": "APHF"}  # left, right, top, bottom
SAME_SPACE = 0.8  # least intersection over union of a heatmap and its scan; a coarser grid ends a little earlier
FOOTER = "Research use only. Not for diagnosis."
UNSIZED = 8.0  # mm, of the circle around a nodule that could not be measured
WINDOW = (-1350.0, 150.0)  # HU: the lung window, level -600, width 1500
RISK_COLORS: dict[str | None, str] = {"high": "#ff5a4f", "intermediate": "#ffb02e", "low": "#6fdc6f", None: "#4fd0ff"}
FAST = 3  # zlib level: twice as fast as 6, and 5 % larger
OUTLINE = [patheffects.Stroke(linewidth=2.6, foreground="black", alpha=0.7), patheffects.Normal()]


@dataclass(frozen=True, eq=False)
class Stage:
    """A (X, Y, Z) array in standard axis order with its `spacing` in mm.

    `affine` (RAS+) maps its voxels to the world, or to the array itself if the scan has no geometry (then `in_world` is
    false). `from_input` maps an index of the given scan to an index of `array`.
    """

    array: npt.NDArray[Any]
    spacing: Vec3
    affine: Affine
    in_world: bool
    from_input: Affine
    input_spacing: Vec3

    def place(self, coordinates: Vec3) -> Vec3:
        """A detection's `coordinates` as millimetres from the first voxel of the stage."""
        index = map_points(self.from_input, np.divide(coordinates, self.input_spacing))
        x, y, z = (index * self.spacing).tolist()
        return x, y, z

    def lps(self, position: Vec3) -> Vec3:
        """A position as world millimetres in LPS."""
        x, y, z = map_points(RAS_TO_LPS @ self.affine, np.divide(position, self.spacing)).tolist()
        return x, y, z

    def index(self, plane: Plane, position: Vec3) -> int:
        """The index of the plane's slice nearest to a position."""
        axis = NORMAL[plane]
        return int(np.clip(round(position[axis] / self.spacing[axis]), 0, self.array.shape[axis] - 1))


class SliceImage(NamedTuple):
    """One slice: `image` of shape (rows, columns) whose pixel centres lie `pixel` mm apart."""

    plane: Plane
    image: npt.NDArray[Any]
    pixel: tuple[float, float]  # mm between columns, between rows
    position: float  # mm of the slice along the plane's normal
    thickness: float  # mm

    @property
    def extent(self) -> View:
        """The edges in mm on the stage. In an axial slice y runs down."""
        (rows, columns), (dx, dy) = self.image.shape, self.pixel
        low, high = -dy / 2, (rows - 0.5) * dy
        return (-dx / 2, (columns - 0.5) * dx, *((high, low) if self.plane == "axial" else (low, high)))


class StageMark(NamedTuple):
    """A nodule on the stage."""

    number: int | str
    centre: Vec3  # mm
    radius: float  # mm
    confidence: float | None  # None: a reader added it
    color: str


class Circle(NamedTuple):
    """A nodule's circle on a slice, in mm along the picture's horizontal and vertical axis."""

    number: int | str
    x: float
    y: float
    radius: float
    color: str


def stage(scan: npt.NDArray[Any], spacing: Vec3) -> Stage:
    """A (X, Y, Z) scan in standard orientation. A scan without an `affine` is assumed to have it already."""
    if np.ndim(scan) != 3 or 0 in np.shape(scan):
        msg = f"a picture needs a scan of shape (X, Y, Z), not {np.shape(scan)}"
        raise BadScan(msg)
    check_spacing(scan, spacing)
    x, y, z = (float(step) for step in spacing)
    given: Affine | None = getattr(scan, "affine", None)
    affine: Affine = np.asarray(RAS_TO_LPS @ affine_from_spacing((x, y, z)) if given is None else given, np.float64)
    array, placed = canonical(np.asarray(scan), affine)
    from_input = np.linalg.inv(placed) @ affine
    sx, sy, sz = (np.abs(from_input[:3, :3]) @ (x, y, z)).tolist()
    return Stage(array, (sx, sy, sz), placed, given is not None, from_input, (x, y, z))


def mark(on: Stage, detections: Iterable[Detection]) -> list[StageMark]:
    """The detections as marks on a stage, numbered from 1 on."""
    return [
        StageMark(
            number_of_finding(found, rank),
            on.place(found["coordinates"]),
            (UNSIZED if found["diameter_mm"] is None else found["diameter_mm"]) / 2,
            found["confidence"],
            RISK_COLORS.get(risk_of(found), RISK_COLORS[None]),
        )
        for rank, found in enumerate(detections)
    ]


def cut(on: Stage, plane: Plane, index: int) -> SliceImage:
    """One slice of the stage."""
    axis = NORMAL[plane]
    across, down = (step for other, step in enumerate(on.spacing) if other != axis)
    image = on.array[tuple(index if other == axis else slice(None) for other in range(3))].T
    return SliceImage(plane, image, (across, down), index * on.spacing[axis], on.spacing[axis])


def heatmap_affine(heatmap: npt.NDArray[Any], on: Stage, scan: npt.NDArray[Any]) -> Affine:
    """The affine of a heatmap in the stage's world. The heatmap has its own `affine`, or the scan's grid.

    Raises:
        BadConfig: the heatmap has neither, or lies elsewhere in the world.
    """
    own: Affine | None = getattr(heatmap, "affine", None) if on.in_world else None
    if own is not None:
        x, y, z = on.array.shape
        a, b, c = heatmap.shape
        if overlap((a, b, c), own, (x, y, z), on.affine) < SAME_SPACE:
            msg = "the heatmap is of another scan: it lies elsewhere in the world"
            raise BadConfig(msg)
        return own
    if np.shape(heatmap) != np.shape(scan):
        msg = (
            f"the heatmap of shape {np.shape(heatmap)} cannot be laid over the scan of shape {np.shape(scan)}: "
            "give both with an affine, or a heatmap on the scan's own grid"
        )
        raise BadConfig(msg)
    return on.affine @ on.from_input


def sample(heatmap: npt.NDArray[Any], on: Stage, scan: npt.NDArray[Any], section: SliceImage) -> FloatArray:
    """The heatmap on a section's pixels; 0 outside the heatmap.

    Raises:
        BadConfig: as for `heatmap_affine`.
    """
    own = heatmap_affine(heatmap, on, scan)
    to_heatmap = np.linalg.inv(own) @ on.affine
    axis = NORMAL[section.plane]
    index = np.indices([1 if other == axis else n for other, n in enumerate(on.array.shape)])
    index[axis] = round(section.position / section.thickness)
    where = map_points(to_heatmap, np.moveaxis(index, 0, -1))
    values: FloatArray = ndimage.map_coordinates(np.asarray(heatmap, np.float32), np.moveaxis(where, -1, 0), order=1)
    return values.squeeze(axis).T


def circles(section: SliceImage, marks: Iterable[StageMark]) -> list[Circle]:
    """The circles of all nodules that cross the section, which has half its thickness on each side."""
    axis = NORMAL[section.plane]
    crossing = []
    for nodule in marks:
        distance = max(0.0, abs(nodule.centre[axis] - section.position) - section.thickness / 2)
        if distance < nodule.radius:
            x, y = (value for other, value in enumerate(nodule.centre) if other != axis)
            crossing.append(Circle(nodule.number, x, y, (nodule.radius**2 - distance**2) ** 0.5, nodule.color))
    return crossing


def axial_slices(wanted: Sequence[int], depth: int, count: int) -> list[int]:
    """`count` of `depth` slices, from the head down: the first of `wanted`, then evenly spread ones."""
    chosen = list(dict.fromkeys(wanted))[:count]
    rest = [index for index in range(depth) if index not in chosen]
    missing = min(count, depth) - len(chosen)
    spread = [int((part + 0.5) * len(rest) / missing) for part in range(missing)]
    return sorted([*chosen, *(rest[index] for index in spread)], reverse=True)


def around(section: SliceImage, nodule: StageMark, half: float) -> View:
    """The part of a section within `half` mm of the nodule."""
    x, y = (value for axis, value in enumerate(nodule.centre) if axis != NORMAL[section.plane])
    down = half if section.plane == "axial" else -half
    return x - half, x + half, y + down, y - down


def draw_section(axes: Axes, section: SliceImage, title: str, view: View | None = None) -> None:
    """Draw the slice, or its part in `view`, in the lung window, with orientation letters, scale bar and title."""
    axes.imshow(
        section.image,
        cmap="gray",
        vmin=WINDOW[0],
        vmax=WINDOW[1],
        extent=section.extent,
        origin="upper" if section.plane == "axial" else "lower",
        interpolation="hanning",
    )
    axes.set_axis_off()
    text: dict[str, Any] = {"color": "#f4f4f4", "fontsize": 9, "path_effects": OUTLINE}
    places = ((0.015, 0.5, "left", "center"), (0.985, 0.5, "right", "center"), (0.5, 0.985, "center", "top"))
    for letter, (x, y, ha, va) in zip(LETTERS[section.plane], (*places, (0.5, 0.015, "center", "bottom")), strict=True):
        axes.text(x, y, letter, ha=ha, va=va, transform=axes.transAxes, **text)
    axes.set_title(title, color="#f4f4f4", fontsize=9, pad=3, y=1)  # `y` saves a search
    left, right, bottom, top = view or section.extent
    bar = 50.0 if right - left > 120 else 10.0
    x, y = right - 0.04 * (right - left), bottom + 0.05 * (top - bottom)
    axes.plot([x - bar, x], [y, y], color="#f4f4f4", linewidth=2, solid_capstyle="butt", path_effects=OUTLINE)
    axes.text(x - bar / 2, y + 0.015 * (top - bottom), f"{bar / 10:.0f} cm", ha="center", va="bottom", **text)
    axes.set(xlim=(left, right), ylim=(bottom, top))


def save_png(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, whole or not at all.

    Raises:
        BadOutput: the name does not end in .png, or the folder cannot be written.
    """
    target = path_of(path, "output_path", BadOutput)
    if target.suffix.lower() != ".png":
        msg = f"cannot write the picture {target}: its name must end in .png"
        raise BadOutput(msg)
    with whole_file(target) as partial:
        figure.savefig(partial, format="png", facecolor=figure.get_facecolor(), pil_kwargs={"compress_level": FAST})
