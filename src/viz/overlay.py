"""A picture of a scan with circled and numbered nodules."""

import difflib
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Circle as CirclePatch

from ..data.arrays import GivenScan, as_array
from ..errors import BadConfig
from ..given import number_of, words_for
from ..results.output_formatter import GivenHeatmap, heatmap_of
from ..types import Detection, Vec3
from .outline import draw_zoom, outline_of
from .shares import share
from .slices import (
    FOOTER,
    NORMAL,
    OUTLINE,
    PLANES,
    RISK_COLORS,
    SliceImage,
    Stage,
    StageMark,
    axial_slices,
    circles,
    cut,
    draw_section,
    mark,
    sample,
    save_png,
    stage,
)
from .source import DetectionSource, check_pairing, read_detections

__all__ = ["draw_circles", "find_colormap", "visualize_detections"]

WIDTH, DPI = 15.0, 100  # inches, dots an inch
TITLE_COLUMNS = 110  # letters a line; the heading has three lines
ZOOMS_A_ROW, MOST_ZOOMS = 5, 15


def visualize_detections(
    scan: GivenScan,
    detections: DetectionSource,
    spacing: Vec3 | None,
    output_path: str | Path,
    num_slices: int = 5,
    colormap: str = "hot",
    alpha: float = 0.5,
    heatmap: GivenHeatmap | None = None,
) -> None:
    """Draw the (X, Y, Z) scan in HU with its nodules into a PNG of 1500 pixels width.

    `scan` is a path, or the result of `load_scan` or `read_scan`. An array without an affine needs its `spacing` in mm.

    The picture has three rows. The first has three orthogonal views through the strongest detection. The second has
    close views of the strongest ones, with the outline and both axes if they were measured. The third has
    `num_slices` axial slices through the strongest ones. All are in radiological orientation and the lung window.

    A `heatmap` (0 to 1) is drawn over them with `colormap`. Its opacity is `alpha` where the heatmap is 1.

    Raises:
        BadConfig: the colormap is unknown, or a number is out of range.
        BadOutput: the detections are not PIVOT's or belong to another scan, or the picture cannot be written.
        BadScan: the scan is not a volume, or its spacing contradicts its affine.
    """
    colors = find_colormap(colormap)
    num_slices, alpha = int(number_of(num_slices, "num_slices", 1)), number_of(alpha, "alpha", 0, 1)
    scan, spacing = as_array(scan, spacing)
    heatmap = None if heatmap is None else heatmap_of(heatmap)
    on = stage(scan, spacing)
    found = read_detections(detections)
    check_pairing(found, np.shape(scan), getattr(scan, "affine", None))
    marks = mark(on, found.detections)
    masses = [one._replace(number=f"mass {one.number}") for one in mark(on, found.masses)]
    shown = [*marks, *masses]
    views, strip = _choose(on, shown, num_slices)
    figure, top, close, below = _layout(views, strip, len(marks[:MOST_ZOOMS]))
    for axes, section in zip([*top, *below], [*views, *strip], strict=True):
        draw_section(axes, section, _title(on, section))
        if heatmap is not None:
            _draw_heatmap(axes, section, sample(heatmap, on, scan, section), colors, alpha)
        draw_circles(axes, section, shown)
    if shown:
        for axes, view in zip(top, views, strict=True):
            _draw_crosshair(axes, view, shown[0])
    for axes, nodule, one, mask in zip(close, marks, found.detections, found.masks, strict=False):
        draw_zoom(axes, on, nodule, outline_of(on, nodule, one, mask), _measured(nodule, one))
    _caption(figure, marks, masses, found.conclusion)
    save_png(figure, output_path)


def find_colormap(name: str) -> Colormap:
    """Matplotlib's colormap called `name`.

    Raises:
        BadConfig: the name is unknown.
    """
    try:
        return mpl.colormaps[name]
    except (KeyError, TypeError):
        close = difflib.get_close_matches(str(name), mpl.colormaps, n=1)
        hint = ", ".join(dict.fromkeys([*close, "hot", "inferno", "viridis", "jet"]))
        msg = f"unknown colormap {words_for(name)}: use one of matplotlib's, such as {hint}"
        raise BadConfig(msg) from None


def _choose(on: Stage, marks: list[StageMark], count: int) -> tuple[list[SliceImage], list[SliceImage]]:
    """The three views through the strongest nodule (or the scan's middle), and the axial slices."""
    middle = tuple(step * (n - 1) / 2 for step, n in zip(on.spacing, on.array.shape, strict=True))
    x, y, z = marks[0].centre if marks else middle
    views = [cut(on, plane, on.index(plane, (x, y, z))) for plane in PLANES]
    return views, [
        cut(on, "axial", index) for index in axial_slices(_ranked_slices(on, marks), on.array.shape[2], count)
    ]


def _ranked_slices(on: Stage, marks: list[StageMark]) -> list[int]:
    """The axial slices through the nodules. Those of nodules that an earlier slice shows well come last."""
    first: list[int] = []
    later: list[int] = []
    for nodule in marks:
        shown = any(abs(index * on.spacing[2] - nodule.centre[2]) < nodule.radius / 2 for index in first)
        (later if shown else first).append(on.index("axial", nodule.centre))
    return first + later


def _layout(
    views: list[SliceImage], strip: list[SliceImage], zooms: int
) -> tuple[Figure, list[Axes], list[Axes], list[Axes]]:
    """The figure, and its axes for the views, the close views and the slices."""
    columns = 6 if len(strip) > 10 else max(3, min(5, len(strip)))
    rows, zoom_rows = -(-len(strip) // columns), -(-zooms // ZOOMS_A_ROW)
    top = min(5.4, WIDTH / 3 * max(_shape(view) for view in views))
    row = min(4.5, WIDTH / columns * _shape(strip[0]) + 0.25)
    parts = [top, *([zoom_rows * (WIDTH / ZOOMS_A_ROW + 0.25)] if zooms else []), rows * row]
    height = sum(parts) + 1.25
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="black")
    edges = {"left": 0.01, "right": 0.99, "bottom": 0.4 / height, "top": 1 - 0.65 / height}
    outer = figure.add_gridspec(len(parts), 1, height_ratios=parts, hspace=0.06, **edges)
    above = _grid(figure, outer[0, 0], 1, len(views), len(views))
    close = _grid(figure, outer[1, 0], zoom_rows, ZOOMS_A_ROW, zooms) if zooms else []
    return figure, above, close, _grid(figure, outer[len(parts) - 1, 0], rows, columns, len(strip))


def _grid(figure: Figure, place: SubplotSpec, rows: int, columns: int, count: int) -> list[Axes]:
    """The first `count` axes of a part of the figure."""
    cells = place.subgridspec(rows, columns, wspace=0.03, hspace=0.12)
    return [figure.add_subplot(cells[i // columns, i % columns]) for i in range(count)]


def _measured(nodule: StageMark, found: Detection) -> str:
    """`0: 8.5 mm, solid, 9.1 x 7.8 mm`: effective diameter, type and axes, if known."""
    properties: Any = found.get("properties") or {}
    words = [f"{2 * nodule.radius:.1f} mm", properties.get("nodule_type")]
    if properties.get("long_axis_mm") and properties.get("short_axis_mm"):
        words.append(f"{properties['long_axis_mm']:.1f} x {properties['short_axis_mm']:.1f} mm")
    return f"{nodule.number}: {', '.join(word for word in words if word)}"


def _shape(section: SliceImage) -> float:
    """Height over width of a section in millimetres."""
    (rows, columns), (dx, dy) = section.image.shape, section.pixel
    return float(rows * dy / (columns * dx))


def _title(on: Stage, section: SliceImage) -> str:
    """`axial  z = -115.9 mm`, in LPS, or from the first voxel if the scan has no affine."""
    axis = NORMAL[section.plane]
    middle = [step * (n - 1) / 2 for step, n in zip(on.spacing, on.array.shape, strict=True)]
    middle[axis] = section.position
    x, y, z = middle
    value = on.lps((x, y, z))[axis] if on.in_world else section.position
    return f"{section.plane}  {'xyz'[axis]} = {value:.1f} mm"


def _draw_heatmap(axes: Axes, section: SliceImage, values: npt.NDArray[Any], colors: Colormap, alpha: float) -> None:
    pixels = colors(np.clip(values, 0, 1))
    pixels[..., 3] = alpha * np.clip(values, 0, 1)
    axes.imshow(pixels, extent=section.extent, origin="upper" if section.plane == "axial" else "lower")


def draw_circles(axes: Axes, section: SliceImage, marks: list[StageMark]) -> None:
    """Draw a circle around each crossing nodule, and its number beside it, away from the border."""
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


def _draw_crosshair(axes: Axes, section: SliceImage, nodule: StageMark) -> None:
    """Draw thin lines towards the nodule, with a gap around it."""
    x, y = (value for axis, value in enumerate(nodule.centre) if axis != NORMAL[section.plane])
    left, right, bottom, top = section.extent
    low, high = sorted((bottom, top))
    gap = nodule.radius + 6
    style: dict[str, Any] = {"color": nodule.color, "linewidth": 0.7, "alpha": 0.7}
    axes.hlines([y, y], [left, x + gap], [x - gap, right], **style)
    axes.vlines([x, x], [low, y + gap], [y - gap, high], **style)


def _caption(figure: Figure, marks: list[StageMark], masses: list[StageMark], conclusion: str) -> None:
    """Write the findings, the strongest nodule, the legend of the colours, and the research-use line."""
    height = figure.get_figheight()
    title = conclusion
    for first in (marks or masses)[:1]:
        text = f"{2 * first.radius:.1f} mm, confidence {share(first.confidence)}"
        title += f" Views through no. {first.number}: {text}."
    if masses:
        title += f" Masses: {', '.join(f'{2 * one.radius:.0f} mm' for one in masses)}."
    lines = textwrap.fill(title, TITLE_COLUMNS)
    size = 13 if len(title) <= TITLE_COLUMNS else 9
    figure.text(0.012, 1 - 0.12 / height, lines, ha="left", va="top", color="white", fontsize=size, weight="bold")
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
