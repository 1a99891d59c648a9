"""Applies a reader's review to a report: accepted, corrected and added findings."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .found import number_of_finding

__all__ = ["distances_in_words", "findings_to_read", "labels_of", "rejected_in_words", "reviewed", "verdict_in_words"]

ADDED = "marked by a reader: the network gives no confidence, and so no score"
CORRECTED = "a reader corrected the type: the guideline was applied to the measured one"
CHANGED = "a reader changed the findings: the category was given before"
NONE_LEFT = "No nodule is left after the review. This does not mean that there is none."


def findings_to_read(report: Mapping[str, Any]) -> list[str]:
    """The labels of the nodules and masses: their numbers, from 1."""
    return [str(number_of_finding(one, rank)) for rank, one in enumerate([*report["detections"], *report["masses"]])]


def labels_of(report: Mapping[str, Any], added: Sequence[Mapping[str, Any]]) -> list[str]:
    """The labels of all findings to read: nodules and masses, candidates (`c1`), and the reader's own (`a1`)."""
    candidates = [f"c{number}" for number in range(1, len(report.get("candidates") or []) + 1)]
    return [*findings_to_read(report), *candidates, *(str(one["finding"]) for one in added)]


def reviewed(report: Mapping[str, Any], review: Mapping[str, Any]) -> dict[str, Any]:
    """The report after the review. Only rejected findings are removed from `detections` and `masses`.

    A corrected type replaces the measured one, and that finding's guidelines become null. Nodules that the reader added
    follow the others; their confidence is null. Each finding has its verdict as `review`; null means that it was not
    read. The report's `review` holds the review with the rejected findings and the accepted candidates. The summary
    states the reader's changes. If they may change the examination's category, it becomes null.
    """
    verdicts = {one["finding"]: one for one in review["findings"]}

    def read(found: Mapping[str, Any], label: str) -> dict[str, Any]:
        verdict = verdicts.get(label)
        if not (verdict and verdict["nodule_type"]):
            return {**found, "review": verdict}
        properties = {**found["properties"], "nodule_type": verdict["nodule_type"]}
        return {**found, "properties": properties, **_without_guidelines(found), "review": verdict}

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
    left = {"detections": [*detections, *added], "masses": masses}
    return {**report, **left, "summary": _summary(report, left, verdicts, len(added)), "review": dict(review)}


def verdict_in_words(found: Mapping[str, Any]) -> str:
    """The reader's verdict on a finding of a reviewed report, with name and time."""
    verdict = found.get("review")
    if not verdict or not (verdict["verdict"] or verdict["nodule_type"] or verdict["comment"]):
        return "not read: no reader has confirmed it"
    status = "added by the reader" if found["confidence"] is None else (verdict["verdict"] or "no verdict")
    kind = f", type corrected to {verdict['nodule_type']}" if verdict["nodule_type"] else ""
    return f"{status}{kind}{_signed(verdict)}"


def rejected_in_words(review: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The rejected findings: the label, and the reason with name and time."""
    for one in review["findings"]:
        if _is_rejected(one):
            yield one["finding"], f"{one['reason']}{_signed(one)}"


def distances_in_words(review: Mapping[str, Any]) -> Iterator[str]:
    """The lengths that a reader measured."""
    for one in review.get("distances", ()):
        yield f"{one['length_mm']:.1f} mm, {one['plane']}"


def _signed(verdict: Mapping[str, Any]) -> str:
    printable = "".join(letter if letter.isprintable() else " " for letter in verdict["comment"]).strip()
    return f" ({verdict['by']}, {verdict['at']})" + (f": {printable}" if printable else "")


def _summary(
    report: Mapping[str, Any],
    left: Mapping[str, Sequence[Mapping[str, Any]]],
    verdicts: Mapping[str, Mapping[str, Any]],
    added: int,
) -> dict[str, Any]:
    """The summary of the remaining findings: first the review, then the search."""
    summary, asked = dict(report["summary"]), findings_to_read(report)
    given = [verdicts[label]["verdict"] for label in asked if label in verdicts]
    if not verdicts and not added:
        return summary
    accepted, rejected = given.count("accepted"), given.count("rejected")
    unread = len(asked) - accepted - rejected
    count = len(left["detections"]) + len(left["masses"])
    words = [f"{count} finding{'s' * (count != 1)} after the review." if count else NONE_LEFT]
    words += [f"Of {len(asked)} found: {accepted} accepted, {rejected} rejected, {unread} not read. Added: {added}."]
    before = str(summary.get("conclusion") or "")
    summary |= {"num_detections": len(left["detections"])}
    summary |= {"conclusion": " ".join([*words, *([f"The search said: {before}"] if before else [])])}
    corrected = any(verdicts[label]["nodule_type"] for label in asked if label in verdicts)
    if summary.get("lung_rads") and (rejected or added or corrected):
        summary["lung_rads"] = _null(summary["lung_rads"], CHANGED)
    return summary


def _without_guidelines(found: Mapping[str, Any]) -> dict[str, Any]:
    """The finding's guidelines without their results, which depend on the measured type."""
    if "guidelines" not in found:
        return {}
    return {"guidelines": {name: _null(rule, CORRECTED) for name, rule in found["guidelines"].items()}}


def _null(rule: Mapping[str, Any], reason: str) -> dict[str, Any]:
    return {**dict.fromkeys(rule), "assumptions": [], "reason": reason}


def _is_rejected(verdict: Mapping[str, Any] | None) -> bool:
    return verdict is not None and verdict["verdict"] == "rejected"


def _added(nodule: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A nodule that the reader added, as a detection."""
    return {
        "id": number,
        **{key: nodule[key] for key in ("coordinates", "coordinates_voxel", "coordinates_lps", "diameter_mm")},
        "diameter_source": None if nodule["diameter_mm"] is None else "segmentation",
        "confidence": None,
        "nodule_probability": None,
        "properties": nodule["properties"],
        "triage": {"malignancy_score": None, "risk_category": None, "reason": ADDED},
    }
