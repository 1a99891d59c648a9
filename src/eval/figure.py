"""The picture of an FROC curve."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from .evaluation import Evaluation
from .froc import RATES

__all__ = ["draw_froc"]


def draw_froc(evaluation: Evaluation, path: Path) -> None:
    """Draw sensitivity over false marks a scan (logarithmic), the band over scans and the score, as PNG."""
    figure = Figure(figsize=(6.4, 4.8), dpi=120, layout="constrained")
    axes = figure.subplots()
    figures = evaluation.figures
    rates = RATES.tolist()
    x = sorted({*rates, *(v for v in evaluation.curve.false_per_scan.tolist() if rates[0] < v < rates[-1])})
    axes.plot(x, evaluation.curve.at(np.array(x)), color="#1f5f8b", label=_label(evaluation))
    axes.plot(rates, list(figures["sensitivity"].values()), "o", color="#1f5f8b", markersize=4)
    if evaluation.band:
        axes.fill_between(*evaluation.band, color="#1f5f8b", alpha=0.15, linewidth=0, label="95 %, over scans")
    axes.set(xscale="log", xlim=(rates[0], rates[-1]), ylim=(0, 1))
    axes.set_xticks(rates, ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes.minorticks_off()
    axes.set_xlabel("false marks a scan")
    axes.set_ylabel("sensitivity")
    axes.set_title(f"{figures['nodules']} nodules in {figures['scans']} scans")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, format="png")


def _label(evaluation: Evaluation) -> str:
    figures = evaluation.figures
    interval = figures.get("cpm_ci95")
    return f"CPM {figures['cpm']:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")
