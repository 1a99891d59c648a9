"""Compares baseline and follow-up: pairs, growth, new and resolved nodules, and Lung-RADS with priors."""

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

import numpy as np

from .. import __version__
from ..guidelines.lung_rads import lung_rads, uncategorised
from ..guidelines.nodule import NOT_MEASURED, as_nodule
from ..guidelines.patient import Patient
from ..guidelines.prior import GROWTH_MM, exam_with_prior, lung_rads_with_prior
from ..types import LungRads, LungRadsExam, Vec3
from .exam import Exam, Seen
from .growth import REPEATABILITY, SOURCE, Growth, grown
from .matching import GATES, assign
from .registration import Points, Quality, Registration, register

__all__ = ["SCHEMA", "Comparison", "Followed", "Interval", "compare"]

SCHEMA = "pivot-followup-1"
TWICE = 3.0  # mm beyond the radius; within it, a second measurement found a nodule that is known already
Status = Literal["matched", "new", "resolved", "not visible"]


class Interval(TypedDict):
    """The days from baseline to follow-up; null, with the reason, if they are unknown."""

    days: int | None
    source: str | None
    reason: str | None


class Followed(TypedDict):
    """A nodule of either examination, or of both."""

    number: int
    status: Status  # not visible: the other examination does not show its place
    baseline: Seen | None
    followup: Seen | None
    expected_lps: Vec3  # expected place in the follow-up; for a nodule without baseline, in the baseline
    distance_mm: float | None  # distance from there to the nodule
    growth: Growth | None
    lung_rads: LungRads | None  # of the follow-up
    picture: str | None  # file name


class Comparison(TypedDict):
    """The content of `followup.json`."""

    schema: str
    pivot: str
    baseline: dict[str, Any]
    followup: dict[str, Any]
    interval: Interval
    registration: Quality
    repeatability: dict[str, Any]
    nodules: list[Followed]
    lung_rads: LungRadsExam
    summary: dict[str, int]
    notes: list[str]


def compare(
    baseline: Exam,
    followup: Exam,
    interval: Interval,
    patient: Patient,
    notes: Sequence[str] = (),
    fit: Registration | None = None,
) -> Comparison:
    """The comparison of all nodules and masses. Pass `fit` if the registration is known."""
    fit = fit or register(baseline.lungs, followup.lungs)
    followed = _follow(baseline, followup, fit)
    for number, one in enumerate(followed):
        one["number"] = number
        _judge(one, interval["days"], (baseline, followup), patient)
    present = [one["lung_rads"] for one in followed if one["lung_rads"] is not None]
    return Comparison(
        schema=SCHEMA,
        pivot=__version__,
        baseline=baseline.about,
        followup=followup.about,
        interval=interval,
        registration=fit.quality,
        repeatability={"volume_change_percent_95": 100 * REPEATABILITY, "source": SOURCE},
        nodules=followed,
        lung_rads=exam_with_prior(present, patient, followup.lungs.lungs.report()),
        summary=_summary(followed),
        notes=list(notes),
    )


def _follow(baseline: Exam, followup: Exam, fit: Registration) -> list[Followed]:
    """Pairs first, then the nodules of one examination only."""
    before, after = baseline.seen(), followup.seen()
    there, back = fit.to_followup(_points(before)), fit.to_baseline(_points(after))
    sizes = [one["diameter_mm"] for one in before], [one["diameter_mm"] for one in after]
    pairs = assign(there, _points(after), sizes, GATES[fit.quality["method"]])
    followed = [_pair(before[i], after[j], there[i]) for i, j in pairs]

    for i in sorted(set(range(len(before))) - {i for i, _ in pairs}):
        found = _second_look(followup, there[i], before[i], after)
        followed.append(
            _pair(before[i], found, there[i]) if found else _alone(before[i], there[i], followup, "resolved")
        )
    for j in sorted(set(range(len(after))) - {j for _, j in pairs}):
        found = _second_look(baseline, back[j], after[j], before)
        at = fit.to_followup(_points([found]))[0] if found else back[j]
        followed.append(_pair(found, after[j], at) if found else _alone(after[j], back[j], baseline, "new"))
    return followed


def _second_look(exam: Exam, place: Points, nodule: Seen, known: Sequence[Seen]) -> Seen | None:
    """The nodule at its expected place, if the detector missed it. A `known` nodule there is another one."""
    if not exam.shows(place, nodule["diameter_mm"]):
        return None
    found = exam.look(place, nodule["diameter_mm"])
    if found is None:
        return None
    for other in known:
        distance = np.linalg.norm(np.subtract(other["coordinates_lps"], found["coordinates_lps"]))
        if distance < other["diameter_mm"] / 2 + TWICE:
            return None
    return found


def _pair(before: Seen, after: Seen, expected: Points) -> Followed:
    distance = float(np.linalg.norm(expected - after["coordinates_lps"]))
    return _followed("matched", before, after, expected, round(distance, 2))


def _alone(nodule: Seen, place: Points, other: Exam, status: Literal["new", "resolved"]) -> Followed:
    """A nodule that the other examination lacks, or whose place it does not show."""
    state: Status = status if other.shows(place, nodule["diameter_mm"]) else "not visible"
    before, after = (None, nodule) if status == "new" else (nodule, None)
    return _followed(state, before, after, place, None)


def _followed(
    status: Status, before: Seen | None, after: Seen | None, expected: Points, distance: float | None
) -> Followed:
    x, y, z = (round(float(v), 3) for v in expected)
    return Followed(
        number=0,
        status=status,
        baseline=before,
        followup=after,
        expected_lps=(x, y, z),
        distance_mm=distance,
        growth=None,
        lung_rads=None,
        picture=None,
    )


def _judge(one: Followed, days: int | None, exams: tuple[Exam, Exam], patient: Patient) -> None:
    """Add growth and category."""
    before, after = one["baseline"], one["followup"]
    if before and after:
        first, second = (exam.scan for exam in exams)
        spacings, made = (first.spacing, second.spacing), (first.acquisition, second.acquisition)
        one["growth"] = grown(before["properties"], after["properties"], days, spacings, made)
    if after:
        one["lung_rads"] = _category(one, after, days, patient)


def _category(one: Followed, after: Seen, days: int | None, patient: Patient) -> LungRads:
    nodule, before = as_nodule(after["properties"]), one["baseline"]
    if nodule is None:
        return uncategorised(NOT_MEASURED)
    if one["status"] == "not visible":
        first = Patient(setting=patient.setting, prior_ct=False)
        result = lung_rads(nodule, first)
        return {**result, "assumptions": ["the earlier examination does not show its place", *result["assumptions"]]}
    prior = as_nodule(before["properties"]) if before else None
    if before and prior is None:
        return uncategorised("the earlier examination shows it, but it could not be measured there")
    result = lung_rads_with_prior(nodule, prior, days, patient)
    growth = one["growth"]
    change = growth["mean_diameter_change_mm"] if growth else None
    if growth and growth["trend"] != "growing" and change is not None and change > GROWTH_MM:
        result["assumptions"].append("its growth in diameter lies within the uncertainty of the volume")
    return result


def _summary(followed: Sequence[Followed]) -> dict[str, int]:
    statuses = [one["status"] for one in followed]
    trends = [one["growth"]["trend"] for one in followed if one["growth"]]
    return {
        "matched": statuses.count("matched"),
        "new": statuses.count("new"),
        "resolved": statuses.count("resolved"),
        "not_visible": statuses.count("not visible"),
        "growing": trends.count("growing"),
        "stable": trends.count("stable"),
        "shrinking": trends.count("shrinking"),
    }


def _points(nodules: Sequence[Seen]) -> Points:
    return np.array([one["coordinates_lps"] for one in nodules], dtype=np.float64).reshape(-1, 3)
