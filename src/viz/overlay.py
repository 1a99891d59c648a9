"""A picture of a scan with the detected nodules circled and numbered."""

import difflib
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle as CirclePatch

from ..errors import BadConfig
from ..types import Vec3
from .slices import (
    FOOTER,
    NORMAL,
    OUTLINE,
    RISK_COLORS,
    Mark,
    Plane,
    Section,
    Stage,
    axial_slices,
    circles,
    cut,
    draw_section,
    mark,
    sample,
    save_png,
    stage,
)
from .source import DetectionSource, read_detections

__all__ = ["draw_circles", "find_colormap", "visualize_detections"]

WIDTH, DPI = 15.0, 100  # inches, dots an inch


def visualize_detections(
    scan: npt.NDArray[Any],
    detections: DetectionSource,
    spacing: Vec3,
    output_path: str | Path,
    num_slices: int = 5,
    colormap: str = "hot",
    alpha: float = 0.5,
    heatmap: npt.NDArray[Any] | None = None,
) -> None:
    """Draw the (X, Y, Z) scan in HU with its nodules into a PNG of 1500 pixels width.

    Three orthogonal views through the strongest detection, then `num_slices` axial slices through
    the strongest ones, in radiological orientation. A `heatmap` (0 to 1) is laid over with
    `colormap`, where it is 1 with the opacity `alpha`.

    Raises:
        BadConfig: an unknown colormap, or a number out of range.
        BadOutput: detections that are not PIVOT's, or a picture that cannot be written.
        BadScan: not a volume.
    """
    colors = find_colormap(colormap)
    if num_slices < 1 or not 0 <= alpha <= 1:
        msg = f"num_slices {num_slices} must be at least 1, and alpha {alpha} from 0 to 1"
        raise BadConfig(msg)
    on = stage(scan, spacing)
    marks = mark(on, read_detections(detections).detections)
    views, strip = _choose(on, marks, num_slices)
    figure, top, below = _layout(views, strip)
    for axes, section in zip([*top, *below], [*views, *strip], strict=True):
        draw_section(axes, section, _title(on, section))
        if heatmap is not None:
            _draw_heatmap(axes, section, sample(heatmap, on, scan, section), colors, alpha)
        draw_circles(axes, section, marks)
    if marks:
        for axes, view in zip(top, views, strict=True):
            _draw_crosshair(axes, view, marks[0])
    _caption(figure, marks)
    save_png(figure, output_path)


def find_colormap(name: str) -> Colormap:
    """Matplotlib's colormap of that name.

    Raises:
        BadConfig: there is none.
    """
    try:
        return mpl.colormaps[name]
    except KeyError:
        close = difflib.get_close_matches(name, mpl.colormaps, n=1)
        hint = ", ".join(dict.fromkeys([*close, "hot", "inferno", "viridis", "jet"]))
        msg = f"unknown colormap {name!r}: take one of matplotlib's, such as {hint}"
        raise BadConfig(msg) from None


def _choose(on: Stage, marks: list[Mark], count: int) -> tuple[list[Section], list[Section]]:
    """The three views through the strongest nodule, or the middle, and the axial slices."""
    middle = tuple(step * (n - 1) / 2 for step, n in zip(on.spacing, on.array.shape, strict=True))
    x, y, z = marks[0].centre if marks else middle
    planes: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
    views = [cut(on, plane, on.index(plane, (x, y, z))) for plane in planes]
    return views, [cut(on, "axial", index) for index in axial_slices(_wanted(on, marks), on.array.shape[2], count)]


def _wanted(on: Stage, marks: list[Mark]) -> list[int]:
    """The axial slices through the nodules; last those of nodules that an earlier slice already shows well."""
    first: list[int] = []
    later: list[int] = []
    for nodule in marks:
        shown = any(abs(index * on.spacing[2] - nodule.centre[2]) < nodule.radius / 2 for index in first)
        (later if shown else first).append(on.index("axial", nodule.centre))
    return first + later


def _layout(views: list[Section], strip: list[Section]) -> tuple[Figure, list[Axes], list[Axes]]:
    """A figure as high as its slices need, and the axes for both groups."""
    columns = 6 if len(strip) > 10 else max(3, min(5, len(strip)))
    rows = -(-len(strip) // columns)
    top = min(5.4, WIDTH / 3 * max(_shape(view) for view in views))
    row = min(4.5, WIDTH / columns * _shape(strip[0]) + 0.25)
    height = top + rows * row + 1.25
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="black")
    outer = figure.add_gridspec(
        2,
        1,
        height_ratios=(top, rows * row),
        left=0.01,
        right=0.99,
        bottom=0.4 / height,
        top=1 - 0.65 / height,
        hspace=0.06,
    )
    upper = outer[0, 0].subgridspec(1, len(views), wspace=0.03)
    above = [figure.add_subplot(upper[0, i]) for i in range(len(views))]
    lower = outer[1, 0].subgridspec(rows, columns, wspace=0.03, hspace=0.12)
    return figure, above, [figure.add_subplot(lower[i // columns, i % columns]) for i in range(len(strip))]


def _shape(section: Section) -> float:
    """Height over width of a section in millimetres."""
    (rows, columns), (dx, dy) = section.image.shape, section.pixel
    return float(rows * dy / (columns * dx))


def _title(on: Stage, section: Section) -> str:
    """`axial  z = -115.9 mm`, in LPS; from the first voxel where the scan has no place in the world."""
    axis = NORMAL[section.plane]
    middle = [step * (n - 1) / 2 for step, n in zip(on.spacing, on.array.shape, strict=True)]
    middle[axis] = section.position
    x, y, z = middle
    value = on.lps((x, y, z))[axis] if on.in_world else section.position
    return f"{section.plane}  {'xyz'[axis]} = {value:.1f} mm"


def _draw_heatmap(axes: Axes, section: Section, values: npt.NDArray[Any], colors: Colormap, alpha: float) -> None:
    pixels = colors(np.clip(values, 0, 1))
    pixels[..., 3] = alpha * np.clip(values, 0, 1)
    axes.imshow(pixels, extent=section.extent, origin="upper" if section.plane == "axial" else "lower")


def draw_circles(axes: Axes, section: Section, marks: list[Mark]) -> None:
    """Each crossing nodule's outline, and its number beside it on the side away from the border."""
    left, right, bottom, top = section.extent
    up = 1 if top > bottom else -1
    for circle in circles(section, marks):
        ring = CirclePatch((circle.x, circle.y), circle.radius, fill=False, edgecolor=circle.color, linewidth=1.3)
        axes.add_patch(ring)
        reach = 0.75 * circle.radius + 1.5
        side = -1 if circle.x > left + 0.9 * (right - left) else 1
        axes.text(
            circle.x + side * reach,
            circle.y + up * reach,
            str(circle.number),
            color=circle.color,
            fontsize=10,
            weight="bold",
            ha="left" if side > 0 else "right",
            va="bottom",
            path_effects=OUTLINE,
        )


def _draw_crosshair(axes: Axes, section: Section, nodule: Mark) -> None:
    """Thin lines through the nodule that leave it free."""
    x, y = (value for axis, value in enumerate(nodule.centre) if axis != NORMAL[section.plane])
    left, right, bottom, top = section.extent
    low, high = sorted((bottom, top))
    gap = nodule.radius + 6
    style: dict[str, Any] = {"color": nodule.color, "linewidth": 0.7, "alpha": 0.7}
    axes.hlines([y, y], [left, x + gap], [x - gap, right], **style)
    axes.vlines([x, x], [low, y + gap], [y - gap, high], **style)


def _caption(figure: Figure, marks: list[Mark]) -> None:
    """How many nodules, which is the strongest, what the colours mean, and what this is not for."""
    height = figure.get_figheight()
    title = "No nodule above the thresholds"
    if marks:
        first = marks[0]
        title = f"{len(marks)} nodule{'s' * (len(marks) > 1)}, views through no. {first.number}: "
        title += f"{2 * first.radius:.1f} mm, confidence {first.confidence:.2f}"
    figure.text(0.012, 1 - 0.12 / height, title, ha="left", va="top", color="white", fontsize=13, weight="bold")
    figure.text(0.012, 0.1 / height, FOOTER, ha="left", va="bottom", color="#f4f4f4", fontsize=10)
    names = {color: f"{risk} risk" if risk else "no risk score" for risk, color in RISK_COLORS.items()}
    used = [color for color in names if color in {nodule.color for nodule in marks}]
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            markersize=8,
            markerfacecolor="none",
            markeredgecolor=color,
            label=names[color],
        )
        for color in used
    ]
    if handles:
        place = (0.995, 1 - 0.02 / height)
        figure.legend(
            handles=handles,
            loc="upper right",
            bbox_to_anchor=place,
            ncols=4,
            frameon=False,
            labelcolor="#f4f4f4",
            fontsize=10,
        )
