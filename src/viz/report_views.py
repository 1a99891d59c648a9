"""The picture of one nodule in a report: a whole slice, and three orthogonal views through its centre."""

import io

from matplotlib.figure import Figure

from ..types import Detection, NoduleMask
from .outline import draw_zoom, outline_of
from .overlay import draw_circles
from .report_blocks import Picture
from .slices import Plane, Stage, StageMark, around, cut, draw_section

__all__ = ["nodule_views"]

PLANES: tuple[Plane, ...] = ("axial", "axial", "coronal", "sagittal")
SIZE = (7.4, 1.8)  # inches


def nodule_views(on: Stage, nodule: StageMark, found: Detection, mask: NoduleMask | None, image: str = "") -> Picture:
    """A whole axial slice titled `image`, a close view with outline and both axes, and coronal and sagittal parts."""
    figure = Figure(figsize=SIZE, dpi=200, facecolor="black")
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.02, top=0.88, wspace=0.03)
    panels = figure.subplots(1, len(PLANES))
    outline = outline_of(on, nodule, found, mask)
    half = max(25.0, 3 * nodule.radius)
    for number, (axes, plane) in enumerate(zip(panels, PLANES, strict=True)):
        if number == 1 and outline:
            draw_zoom(axes, on, nodule, outline, "axial, outline and axes")
            continue
        section = cut(on, plane, on.index(plane, nodule.centre))
        whole = f"{plane}, {image}" if image else plane
        title, part = (f"{plane}, {2 * half:.0f} mm", around(section, nodule, half)) if number else (whole, None)
        draw_section(axes, section, title, part)
        draw_circles(axes, section, [nodule])
    file = io.BytesIO()
    figure.savefig(file, format="jpeg", facecolor="black", pil_kwargs={"quality": 88})
    return Picture(file.getvalue(), SIZE[1] / SIZE[0])
