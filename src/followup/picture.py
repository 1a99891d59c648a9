"""One nodule in both examinations: axial slices side by side, at the same scale."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..data.geometry import RAS_TO_LPS, map_points
from ..types import Vec3, Volume
from ..viz.overlay import draw_circles
from ..viz.slices import FOOTER, Stage, StageMark, cut, draw_section, save_png, stage
from .comparison import Followed
from .exam import Exam, Seen

__all__ = ["draw_pair"]

COLORS = {"matched": "#4fd0ff", "new": "#ff5a4f", "resolved": "#6fdc6f", "not visible": "#ffb02e"}
LEAST_HALF = 25.0  # mm from the middle of a panel to its edge
SIZE = (8.4, 4.9)  # inches


def draw_pair(one: Followed, baseline: Exam, followup: Exam, path: Path) -> None:
    """Write the picture: baseline on the left, follow-up on the right, with a circle around the nodule.

    An examination without the nodule is centred on its expected place.
    """
    figure = Figure(figsize=SIZE, dpi=130, facecolor="black")
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.06, top=0.86, wspace=0.03)
    sizes = [seen["diameter_mm"] for seen in (one["baseline"], one["followup"]) if seen]
    half = max(LEAST_HALF, 1.5 * max(sizes))
    panels = zip(figure.subplots(1, 2), (baseline, followup), ("baseline", "followup"), strict=True)
    for axes, exam, name in panels:
        seen: Seen | None = one[name]  # type: ignore[literal-required] # ty: the two names above
        on = stage(Volume(exam.scan.array, exam.scan.affine), exam.scan.spacing)
        centre = _place(on, seen["coordinates_lps"] if seen else one["expected_lps"])
        section = cut(on, "axial", on.index("axial", centre))
        x, y, _ = centre
        draw_section(axes, section, _title(name, seen), (x - half, x + half, y + half, y - half))
        if seen:
            marked = StageMark(one["number"], centre, seen["diameter_mm"] / 2, 1.0, COLORS[one["status"]])
            draw_circles(axes, section, [marked])
    figure.text(0.012, 0.97, _heading(one), ha="left", va="top", color="white", fontsize=12, weight="bold")
    figure.text(0.012, 0.015, FOOTER, ha="left", va="bottom", color="#f4f4f4", fontsize=9)
    save_png(figure, path)


def _place(on: Stage, lps: Vec3) -> Vec3:
    index = map_points(np.linalg.inv(on.affine), map_points(RAS_TO_LPS, lps))
    x, y, z = (index * on.spacing).tolist()
    return x, y, z


def _title(name: str, seen: Seen | None) -> str:
    title = {"baseline": "baseline", "followup": "follow-up"}[name]
    if seen is None:
        return f"{title}: not seen here"
    volume = seen["properties"]["volume_mm3"]
    return f"{title}: {seen['diameter_mm']:.1f} mm" + ("" if volume is None else f", {volume:.0f} mm³")


def _heading(one: Followed) -> str:
    """`Nodule 2: matched, growing (+62 % volume)`."""
    growth = one["growth"]
    text = f"Nodule {one['number']}: {one['status']}"
    if growth and growth["trend"]:
        text += f", {growth['trend']} ({growth['volume_change_percent']:+.0f} % volume)"
    return text
