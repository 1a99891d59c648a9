"""Key images: pictures of the strongest nodules, for archives that show only pictures."""

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..types import Detection, NoduleMask, Results, Scan, Volume
from .outline import draw_zoom, outline_of
from .overlay import draw_circles
from .shares import share
from .slices import PLANES, Stage, StageMark, around, cut, draw_section, mark, stage
from .source import read_detections

__all__ = ["key_images"]

MOST = 10  # pictures of a scan
WARNING = "NOT FOR DIAGNOSIS - research software"
SIZE, DPI = 10.24, 100  # inches, dots an inch


def key_images(scan: Scan, results: Results) -> list[npt.NDArray[np.uint8]]:
    """An RGB picture (1024, 1024, 3) of each of the strongest nodules: a whole slice, and three planes through it."""
    on = stage(Volume(scan.array, scan.affine), scan.spacing)
    found = read_detections(results)
    marks = mark(on, found.detections[:MOST])
    return [_key_image(on, *one) for one in zip(marks, found.detections, found.masks, strict=False)]


def _key_image(on: Stage, nodule: StageMark, found: Detection, mask: NoduleMask | None) -> npt.NDArray[np.uint8]:
    figure = Figure(figsize=(SIZE, SIZE), dpi=DPI, facecolor="black")
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.01, top=0.9, wspace=0.02, hspace=0.08)
    whole, close, *others = figure.subplots(2, 2).flat
    half = max(25.0, 3 * nodule.radius)
    for axes, plane in zip((whole, *others), PLANES, strict=True):
        section = cut(on, plane, on.index(plane, nodule.centre))
        draw_section(axes, section, plane, None if plane == "axial" else around(section, nodule, half))
        draw_circles(axes, section, [nodule])
    draw_zoom(close, on, nodule, outline_of(on, nodule, found, mask), "axial, largest section")
    title = f"Nodule {nodule.number}: {2 * nodule.radius:.1f} mm, confidence {share(nodule.confidence)}"
    figure.text(0.5, 0.985, WARNING, ha="center", va="top", color="#ff5a4f", fontsize=15, weight="bold")
    figure.text(0.5, 0.95, title, ha="center", va="top", color="white", fontsize=13)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.array(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
