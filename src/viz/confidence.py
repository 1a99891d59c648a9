"""A chart of the nodules' confidences."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ..results.found import number_of_finding
from ..types import Detection
from .shares import risk_of, share
from .slices import FOOTER, save_png
from .source import DetectionSource, read_detections

__all__ = ["plot_confidence_distribution"]

MANY = 15  # nodules; a histogram is added above this
SHOWN = 60  # bars at most, the strongest
COLORS: dict[str | None, str] = {"high": "#c0392b", "intermediate": "#e08e0b", "low": "#3c8d40", None: "#3b7ea1"}
THRESHOLDS = ("threshold", "peak_threshold", "confidence_threshold", "min_confidence")


def plot_confidence_distribution(detections: DetectionSource, output_path: str | Path) -> None:
    """Draw one bar for each nodule, strongest first, with its size and its risk's colour, into a PNG.

    With more than 15 nodules a histogram follows. Thresholds are drawn if the report has them.

    Raises:
        BadOutput: the detections are not PIVOT's, or the picture cannot be written.
    """
    read = read_detections(detections)
    found = read.detections
    many = len(found) > MANY
    shown = found[:SHOWN]
    width = max(7.0, 2.0 + 0.32 * len(shown))
    figure = Figure(figsize=(min(width, 15.0), 7.6 if many else 4.6), dpi=120, layout="constrained")
    axes = figure.subplots(2 if many else 1, 1, squeeze=False)[:, 0]
    limits = dict(_thresholds(read.metadata))
    _draw_bars(axes[0], shown, limits, len(found))
    if many:
        _draw_histogram(axes[1], [nodule["confidence"] for nodule in found], limits)
    figure.supxlabel(FOOTER, fontsize=8, color="#555555")
    save_png(figure, output_path)


def _risk(nodule: Detection) -> str | None:
    risk = risk_of(nodule)
    return risk if risk in COLORS else None


def _draw_bars(axes: Axes, shown: list[Detection], limits: dict[str, float], total: int) -> None:
    heights = [nodule["confidence"] for nodule in shown]
    axes.bar(range(len(shown)), heights, color=[COLORS[_risk(nodule)] for nodule in shown], width=0.7)
    crowded = len(shown) > 20
    for x, nodule in enumerate(shown):
        diameter = nodule["diameter_mm"]
        label = f"{diameter:.0f}" if crowded else f"{share(nodule['confidence'])}\n{diameter:.1f} mm"
        axes.text(x, nodule["confidence"] + 0.015, label, ha="center", va="bottom", fontsize=7 if crowded else 8)
    axes.set_xticks(
        range(len(shown)), [str(number_of_finding(nodule, x)) for x, nodule in enumerate(shown)], fontsize=8
    )
    axes.set(ylim=(0, 1.2), xlim=(-0.7, max(len(shown), 6) - 0.3), xlabel="nodule", ylabel="confidence")
    axes.set_yticks(np.linspace(0, 1, 6))
    part = f", the {len(shown)} strongest shown" if len(shown) < total else ""
    unit = "; numbers on the bars: diameter in mm" if crowded else ""
    axes.set_title(f"{total} nodule{'s' * (total != 1)}{part}{unit}", loc="left", fontsize=11)
    if not shown:
        axes.set_xticks([])
        axes.text(0.5, 0.5, "No nodule above the thresholds", transform=axes.transAxes, ha="center", fontsize=13)
    for name, value in limits.items():
        axes.axhline(value, color="#333333", linewidth=0.9, linestyle="--")
        axes.text(1.005, value, f"{name}\n{value:g}", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    _tidy(axes)
    _draw_legend(axes, shown)


def _draw_legend(axes: Axes, shown: list[Detection]) -> None:
    counts = Counter(_risk(nodule) for nodule in shown)
    names = {risk: f"{risk} risk" if risk else "no risk score" for risk in COLORS}
    handles = [
        Patch(color=color, label=f"{names[risk]} ({counts[risk]})") for risk, color in COLORS.items() if counts[risk]
    ]
    if handles:
        axes.legend(handles=handles, loc="upper right", ncols=4, frameon=False, fontsize=8)


def _draw_histogram(axes: Axes, confidences: list[float], limits: dict[str, float]) -> None:
    axes.hist(confidences, bins=np.linspace(0, 1, 21).tolist(), color="#3b7ea1", edgecolor="white")
    axes.set(xlim=(0, 1), xlabel="confidence", ylabel="nodules")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    for value in limits.values():
        axes.axvline(value, color="#333333", linewidth=0.9, linestyle="--")
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _thresholds(metadata: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The confidence thresholds in a report's metadata, at any depth."""
    for key, value in metadata.items():
        if isinstance(value, Mapping):
            yield from _thresholds(value)
        elif key in THRESHOLDS and isinstance(value, int | float) and not isinstance(value, bool):
            yield key.replace("_", " "), float(value)
