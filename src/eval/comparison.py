"""Compares the evaluations of several detectors on the same nodules and scans."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files import write_json
from .evaluation import Evaluation
from .froc import RATES, band
from .output import row

__all__ = ["compared", "save_comparison", "side_by_side"]


def compared(evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Each detector's CPM, and its difference from the first detector's, with 95 % intervals over scans.

    The interval of the difference is paired: both detectors use the same draws of scans. Scans that are hard for both
    therefore widen it less than the intervals of each.
    """
    first, *others = evaluations
    rows = {name: _figures(one) for name, one in evaluations.items()}
    for name in others:
        rows[name]["cpm_difference"] = rows[name]["cpm"] - rows[first]["cpm"]
        if len(drawn := evaluations[name].drawn):
            rows[name]["cpm_difference_ci95"] = [float(v) for v in band(drawn - evaluations[first].drawn)]
    return {"compared_with": first, "detectors": rows}


def side_by_side(evaluations: Mapping[str, Evaluation]) -> str:
    """The comparison as a table."""
    return "\n".join(_lines(evaluations))


def save_comparison(evaluations: Mapping[str, Evaluation], folder: Path) -> None:
    """Write `comparison.json` into a folder.

    Raises:
        BadOutput: the file cannot be written.
    """
    write_json(compared(evaluations), folder / "comparison.json")


def _figures(one: Evaluation) -> dict[str, Any]:
    kept = ("cpm", "cpm_ci95", "sensitivity", "detected", "nodules", "scans")
    return {key: one.figures[key] for key in kept if key in one.figures}


def _lines(evaluations: Mapping[str, Evaluation]) -> Iterator[str]:
    comparison = compared(evaluations)
    yield f"{'false marks a scan':30}{'n':>6}" + "".join(f"{rate:8g}" for rate in RATES) + f"{'CPM':>8}"
    for name, one in evaluations.items():
        yield row(name[-29:], one.figures)
    yield f"CPM minus that of {comparison['compared_with']}:"
    for name, figures in comparison["detectors"].items():
        if "cpm_difference" in figures:
            low, high = figures.get("cpm_difference_ci95", (None, None))
            interval = "" if low is None else f", 95 % {low:+.4f} to {high:+.4f} (paired bootstrap over scans)"
            yield f"  {name}: {figures['cpm_difference']:+.4f}{interval}"
