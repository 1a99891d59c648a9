"""What Lung-RADS assumes about an examination, as in the JSON and in words. Reports import no more than this."""

from collections.abc import Iterable

__all__ = ["BASELINE", "SCREENING", "in_words"]

BASELINE = "screening assumption: baseline, no prior"
SCREENING = "screening assumption"  # with a prior examination
WORDS = {BASELINE: "baseline screening CT, no prior CT", SCREENING: "screening CT"}


def in_words(assumptions: Iterable[str]) -> str:
    """The assumptions of a result, from the JSON, for a radiologist."""
    return "; ".join(WORDS.get(assumption, assumption) for assumption in assumptions)
