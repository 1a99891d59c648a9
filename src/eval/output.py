"""The files and the printed table of an evaluation."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..files import whole_files, writable_folder
from .evaluation import Evaluation
from .froc import RATES

__all__ = ["row", "save", "table"]


def save(evaluation: Evaluation, folder: Path) -> None:
    """Write `froc.json`, `froc.csv` (every operating point) and `froc.png` into a folder: all or none.

    Raises:
        BadOutput: the folder cannot be written.
    """
    from .figure import draw_froc  # noqa: PLC0415 - matplotlib

    with whole_files(writable_folder(folder), last="froc.json") as draft:
        with (draft / "froc.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(evaluation.curve._fields)
            writer.writerows(np.stack(evaluation.curve, axis=1).tolist())
        draw_froc(evaluation, draft / "froc.png")
        text = json.dumps(evaluation.figures, indent=2, allow_nan=False)
        (draft / "froc.json").write_text(text + "\n", encoding="utf-8")


def table(figures: dict[str, Any]) -> str:
    """The figures as text: the score with its intervals, then sensitivity by rate, size and type."""
    return "\n".join(_lines(figures))


def _lines(figures: dict[str, Any]) -> Iterator[str]:
    yield f"CPM {figures['cpm']:.4f}: {figures['cpm_variant']}"
    if "cpm_ci95" in figures:
        for key, over in (("cpm_ci95", "scans"), ("cpm_ci95_nodules", "nodules (or their patients)")):
            low, high = figures[key]
            yield f"  95 % {low:.4f} to {high:.4f}, bootstrap over {over}"
    yield f"{figures['detected']} of {figures['nodules']} nodules marked in {figures['scans']} scans"
    yield from _counts(figures)
    yield f"{'false marks a scan':30}{'n':>6}" + "".join(f"{rate:8g}" for rate in RATES) + f"{'CPM':>8}"
    yield row("all", figures)
    for title, key in (("mm", "by_size"), ("", "by_type")):
        for name, group in (figures[key] or {}).items():
            yield row(f"{name} {title}", group)


def _counts(figures: dict[str, Any]) -> Iterator[str]:
    """The counts and remarks that limit what the score means."""
    yield "marks: " + ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in figures["marks"].items())
    for key in ("scans_without_marks", "scans_without_file", "annotations_not_listed", "excluded_not_listed"):
        if figures[key]:
            yield f"{key.replace('_', ' ')}: {figures[key]}"
    if figures["curve_ends_at"] < RATES[-1]:
        yield f"the curve ends at {figures['curve_ends_at']:.3g} false marks a scan and is constant beyond"


def row(name: str, figures: dict[str, Any]) -> str:
    """A line of the table: the number of nodules, sensitivity at each rate, and the CPM."""
    values = [*figures["sensitivity"].values(), figures["cpm"]]
    return f"{name:30}{figures['nodules']:6d}" + "".join(f"{value:8.3f}" for value in values)
