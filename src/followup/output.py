"""Writes a comparison: `followup.json`, `followup.txt` and a picture per nodule, all or none."""

import json
from pathlib import Path

from ..files import whole_files
from ..guidelines.assumptions import in_words
from .comparison import Comparison, Followed
from .exam import Exam, Seen
from .picture import draw_pair

__all__ = ["text_table", "write_comparison"]

HEAD = ("no.", "status", "before mm", "now mm", "mm3", "mm3 now", "change", "trend", "VDT days", "Lung-RADS")
WIDTHS = (4, 12, 10, 7, 8, 8, 8, 10, 18, 9)


def write_comparison(comparison: Comparison, baseline: Exam, followup: Exam, folder: Path) -> list[Path]:
    """Write all files into `folder`, or none. The JSON is written last.

    Raises:
        BadOutput: the folder cannot be written to.
    """
    with whole_files(folder, last="followup.json") as draft:
        for one in comparison["nodules"]:
            name = f"followup_nodule_{one['number']}.png"
            draw_pair(one, baseline, followup, draft / name)
            one["picture"] = name
        (draft / "followup.txt").write_text(text_table(comparison) + "\n", encoding="utf-8")
        text = json.dumps(comparison, indent=2, allow_nan=False)
        (draft / "followup.json").write_text(text + "\n", encoding="utf-8")
        names = sorted(path.name for path in draft.iterdir())
    return [folder / name for name in names]


def text_table(comparison: Comparison) -> str:
    """The comparison as text: one line per nodule, and the quality of the registration."""
    interval, fit, exam = comparison["interval"], comparison["registration"], comparison["lung_rads"]
    days = f"{interval['days']} days" if interval["days"] is not None else f"unknown ({interval['reason']})"
    lines = [
        f"Follow-up of {comparison['followup']['scan_id']} against {comparison['baseline']['scan_id']}",
        f"interval: {days}",
        f"registration: {fit['method']}, lungs overlap by {fit['lung_overlap']:.2f}",
        f"correlation: {fit['correlation_rigid']:.2f} rigid, {fit['correlation_deformable']:.2f} deformable",
        "",
        _line(HEAD),
        *(_line(_cells(one)) for one in comparison["nodules"]),
        "",
        f"Lung-RADS of the examination: {exam['category'] or exam['reason']}",
        *(f"assumption: {in_words([assumption])}" for assumption in exam["assumptions"]),
        f"uncertainty of a volume change: {comparison['repeatability']['source']}",
        *(f"note: {note}" for note in (*fit["warnings"], *comparison["notes"])),
        "Research use only. Not for diagnosis.",
    ]
    return "\n".join(lines)


def _line(cells: tuple[str, ...]) -> str:
    return "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()


def _cells(one: Followed) -> tuple[str, ...]:
    growth, result = one["growth"], one["lung_rads"]
    change = growth["volume_change_percent"] if growth else None
    return (
        str(one["number"]),
        one["status"],
        _diameter(one["baseline"]),
        _diameter(one["followup"]),
        _volume(one["baseline"]),
        _volume(one["followup"]),
        "-" if change is None else f"{change:+.0f} %",
        (growth["trend"] if growth else None) or "-",
        _doubling(one),
        (result["category"] if result else None) or "-",
    )


def _diameter(nodule: Seen | None) -> str:
    return f"{nodule['diameter_mm']:.1f}" if nodule else "-"


def _volume(nodule: Seen | None) -> str:
    volume = nodule["properties"]["volume_mm3"] if nodule else None
    return "-" if volume is None else f"{volume:.0f}"


def _doubling(one: Followed) -> str:
    """`210 (160 to 310)`, with an open end if it may not grow at all."""
    growth = one["growth"]
    if not growth or growth["doubling_time_days"] is None or growth["doubling_time_days_95"] is None:
        return "-"
    low, high = growth["doubling_time_days_95"]
    return f"{growth['doubling_time_days']:.0f} ({low:.0f} to {'?' if high is None else f'{high:.0f}'})"
