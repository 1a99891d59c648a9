"""Confidences and scores in words."""

__all__ = ["share"]


def share(value: float) -> str:
    """A value from 0 to 1 with two decimals, which says 0.00 and 1.00 only of 0 and 1."""
    text = f"{value:.2f}"
    if value < 1 and text == "1.00":
        return ">0.99"
    return "<0.01" if value > 0 and text == "0.00" else text
