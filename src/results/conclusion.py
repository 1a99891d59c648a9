"""A run's conclusion in words: the same in the summary, the picture, the report and the DICOM objects."""

from collections.abc import Sequence

from ..types import Detection, Expected, LungsReport

__all__ = ["NONE_FOUND", "conclude", "warnings_of"]

NONE_FOUND = "No nodule above the thresholds. This does not mean that there is none."
NONE_SEARCHED = "No lungs could be searched: {}. That nothing was marked says nothing about nodules."
NOT_MEASURED = "How many nodules this model finds at this threshold has not been measured."


def conclude(
    detections: Sequence[Detection], masses: Sequence[Detection], lungs: LungsReport, expected: Expected | None
) -> str:
    """The findings in sentences. A negative result states the model's sensitivity.

    `expected` is the result of `Validation.expected_at`.
    """
    found = [
        f"{len(some)} {what}{'es' if what == 'mass' and len(some) > 1 else 's' * (len(some) > 1)}"
        for some, what in ((detections, "nodule"), (masses, "mass"))
        if some
    ]
    if not lungs["recognised"]:
        nothing = NONE_SEARCHED.format(_reason(lungs))
        return f"{' and '.join(found)} marked, but no lungs are recognised." if found else nothing
    sentences = [f"{' and '.join(found)} found."] if found else [NONE_FOUND, _in_words(expected)]
    if not lungs["evaluable"]:
        sentences.append(f"Not all of the lungs could be judged: {_reason(lungs)}.")
    return " ".join(sentences)


def warnings_of(masses: Sequence[Detection], lungs: LungsReport) -> list[str]:
    """Warnings of high importance: lungs that could not be judged, and masses."""
    warnings = [] if lungs["evaluable"] else [_reason(lungs)]
    return [*warnings, *(f"a mass of {mass['diameter_mm']:.0f} mm" for mass in masses)]


def _in_words(expected: Expected | None) -> str:
    if expected is None:
        return NOT_MEASURED
    sensitivity, threshold = expected["sensitivity"], expected["threshold"]
    return f"Of {expected['of']}, this model found {sensitivity:.0%} at a threshold of {threshold:g}."


def _reason(lungs: LungsReport) -> str:
    return lungs["reason"] or ""
