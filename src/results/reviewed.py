"""A report with a reader's review: what the reader accepted, corrected and added."""

from collections.abc import Mapping, Sequence
from typing import Any

from .found import number_of_finding

__all__ = ["findings_to_read", "labels_of", "reviewed"]

ADDED = "marked by a reader: the network gives no confidence, and so no score"


def findings_to_read(report: Mapping[str, Any]) -> list[str]:
    """The labels of the nodules and masses: their numbers, from 1."""
    return [str(number_of_finding(one, rank)) for rank, one in enumerate([*report["detections"], *report["masses"]])]


def labels_of(report: Mapping[str, Any], added: Sequence[Mapping[str, Any]]) -> list[str]:
    """The labels of all that can be read: nodules and masses, candidates (`c1`), and the reader's own (`a1`)."""
    candidates = [f"c{number}" for number in range(1, len(report.get("candidates") or []) + 1)]
    return [*findings_to_read(report), *candidates, *(str(one["finding"]) for one in added)]


def reviewed(report: Mapping[str, Any], review: Mapping[str, Any]) -> dict[str, Any]:
    """The report as the reader sees it. Only what was rejected is left out of `detections` and `masses`.

    A corrected type takes the place of the measured one. Nodules that the reader added follow the others; their
    confidence is null. Each finding has its verdict as `review`, which is null where there is none: it was not read.
    `review` of the report holds the review, with what was rejected and accepted candidates.
    """
    verdicts = {one["finding"]: one for one in review["findings"]}

    def read(found: Mapping[str, Any], label: str) -> dict[str, Any]:
        verdict = verdicts.get(label)
        properties = found["properties"]
        if verdict and verdict["nodule_type"]:
            properties = {**properties, "nodule_type": verdict["nodule_type"]}
        return {**found, "properties": properties, "review": verdict}

    def kept(kind: str, first: int) -> list[dict[str, Any]]:
        named = [(one, str(number_of_finding(one, first + rank))) for rank, one in enumerate(report[kind])]
        return [read(one, label) for one, label in named if not _is_rejected(verdicts.get(label))]

    detections, masses = kept("detections", 0), kept("masses", len(report["detections"]))
    following = 1 + max((one["id"] for one in [*report["detections"], *report["masses"]]), default=-1)
    added = [
        read(_added(one, following + rank), one["finding"])
        for rank, one in enumerate(review["added"])
        if not _is_rejected(verdicts.get(one["finding"]))
    ]
    return {**report, "detections": [*detections, *added], "masses": masses, "review": dict(review)}


def _is_rejected(verdict: Mapping[str, Any] | None) -> bool:
    return verdict is not None and verdict["verdict"] == "rejected"


def _added(nodule: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A nodule of the reader's as a detection."""
    return {
        "id": number,
        **{key: nodule[key] for key in ("coordinates", "coordinates_voxel", "coordinates_lps", "diameter_mm")},
        "diameter_source": None if nodule["diameter_mm"] is None else "segmentation",
        "confidence": None,
        "properties": nodule["properties"],
        "triage": {"malignancy_score": None, "risk_category": None, "reason": ADDED},
    }
