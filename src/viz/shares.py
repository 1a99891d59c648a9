"""Confidences, scores and risk categories as text."""

from ..types import Detection

__all__ = ["risk_of", "share"]


def share(value: float | None) -> str:
    """A value from 0 to 1 with two decimals. Only 0 gives 0.00, and only 1 gives 1.00. None gives `none`."""
    if value is None:
        return "none"
    text = f"{value:.2f}"
    if value < 1 and text == "1.00":
        return ">0.99"
    return "<0.01" if value > 0 and text == "0.00" else text


def risk_of(found: Detection) -> str | None:
    """The risk category of a detection; None without a score."""
    return (found.get("triage") or {}).get("risk_category")
