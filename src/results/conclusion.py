"""What a run says of a scan in words: the same in the summary, the picture, the report and the DICOM objects."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..types import Detection, LungsReport

__all__ = ["NONE_FOUND", "conclude", "sensitivity_of", "warnings_of"]

NONE_FOUND = "No nodule above the thresholds. This does not mean that there is none."
NONE_SEARCHED = "No lungs could be searched: {}. That nothing was marked says nothing about nodules."
NOT_MEASURED = "How many nodules this model finds has not been measured."


def conclude(
    detections: Sequence[Detection], masses: Sequence[Detection], lungs: LungsReport, results: Mapping[str, Any]
) -> str:
    """What was found, in sentences; a negative result with how many nodules the model finds.

    `results` are those of the checkpoint.
    """
    found = [
        f"{len(some)} {what}{'es' if what == 'mass' and len(some) > 1 else 's' * (len(some) > 1)}"
        for some, what in ((detections, "nodule"), (masses, "mass"))
        if some
    ]
    if not lungs["recognised"]:
        nothing = NONE_SEARCHED.format(_reason(lungs))
        return f"{' and '.join(found)} marked, but no lungs are recognised." if found else nothing
    sentences = [f"{' and '.join(found)} found."] if found else [NONE_FOUND, sensitivity_of(results)]
    if not lungs["evaluable"]:
        sentences.append(f"Not all of the lungs could be judged: {_reason(lungs)}.")
    return " ".join(sentences)


def warnings_of(masses: Sequence[Detection], lungs: LungsReport) -> list[str]:
    """What must not be overlooked: lungs that could not be judged, and masses."""
    warnings = [] if lungs["evaluable"] else [_reason(lungs)]
    return [*warnings, *(f"a mass of {mass['diameter_mm']:.0f} mm" for mass in masses)]


def sensitivity_of(results: Mapping[str, Any]) -> str:
    """How many nodules a model finds, by the results in its checkpoint.

    `sensitivity` there has `value` (0 to 1), `threshold` (of the confidence) and `of` (which nodules, in words).
    """
    measured = results.get("sensitivity")
    if isinstance(measured, Mapping) and {"value", "threshold", "of"} <= set(measured):
        value, threshold, of = (measured[key] for key in ("value", "threshold", "of"))
    elif "crops_above_half" in results:
        value, threshold, of = results["crops_above_half"], 0.5, "the nodules that readers marked in validation"
    else:
        return NOT_MEASURED
    return f"Of {of}, this model found {value:.0%} at a threshold of {threshold:g}."


def _reason(lungs: LungsReport) -> str:
    return lungs["reason"] or ""
