"""Several detectors as one. Marks within millimetres of each other become one mark with a joint confidence."""

from collections.abc import Sequence

import numpy as np

from ..config import PeakDetection
from ..data.lungs import Lungs
from ..data.resample import to_grid
from ..types import FloatArray, Found, Scan
from .detector import Answer, Detector, Search
from .findings import PlacedPeak, WorldPoint
from .sliding_window import Progress

__all__ = ["Ensemble", "fused"]

NEAR = 5.0  # mm; marks nearer than this, or than half of the larger diameter, are merged


class Ensemble:
    """See `Detector`. Each detector searches the scan by itself, one after the other.

    Args:
        detectors: with their names for reports.
    """

    def __init__(self, detectors: Sequence[tuple[str, Detector]]) -> None:
        self.detectors = detectors

    @property
    def precision(self) -> str:
        """The number formats that the device computes in."""
        return " + ".join(dict.fromkeys(one.precision for _, one in self.detectors))

    @property
    def engine(self) -> str:
        """The engines that compute the networks."""
        return " + ".join(dict.fromkeys(one.engine for _, one in self.detectors))

    def prepare(self, scan: Scan, lungs: Lungs) -> Search:
        """See `Detector`."""

        def search(rules: PeakDetection, progress: Progress | None) -> Answer:
            answers = [
                one.prepare(scan, lungs)(rules, _part(progress, number, len(self.detectors)))
                for number, (_, one) in enumerate(self.detectors)
            ]
            first = answers[0]
            return Answer(
                fused([(name, answer.peaks) for (name, _), answer in zip(self.detectors, answers, strict=True)]),
                _joint(answers),
                first.affine,
                sum(answer.windows for answer in answers),
                sum(answer.retried for answer in answers),
                everywhere=all(answer.everywhere for answer in answers),
            )

        return search


def _part(progress: Progress | None, number: int, count: int) -> Progress | None:
    """The progress of one detector as a part of all: each has an equal share."""
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, count * total)


def _joint(answers: Sequence[Answer]) -> FloatArray:
    """The heatmaps as one on the grid of the first, by the noisy-or of `fused`."""
    first, *others = answers
    none = 1 - first.heat.clip(0, 1)
    for other in others:
        x, y, z = first.heat.shape
        none *= 1 - to_grid(other.heat.clip(0, 1), other.affine, (x, y, z), first.affine)
    joint: FloatArray = 1 - none
    return joint


def fused(found: Sequence[tuple[str, Sequence[PlacedPeak]]]) -> list[PlacedPeak]:
    """Merge the marks of several detectors, each with its name, into one list, most confident first.

    The most confident mark takes the nearest mark of each other detector within reach: `NEAR`, or half of the larger
    diameter. Place and diameter are means weighted by confidence. The joint confidence is the noisy-or, 1 - (1-a)(1-b):
    the probability that at least one detector is right if their errors are independent. It is never below the
    confidence of any detector.
    """
    marks = [(name, mark) for name, peaks in found for mark in peaks]
    marks.sort(key=lambda pair: -pair[1].peak["confidence"])
    groups: list[dict[str, PlacedPeak]] = []
    for name, mark in marks:
        reached = [group for group in groups if name not in group and _distance(group, mark) < _reach(group, mark)]
        if reached:
            min(reached, key=lambda group: _distance(group, mark))[name] = mark
        else:
            groups.append({name: mark})
    return sorted(map(_fused, groups), key=lambda mark: -mark.peak["confidence"])


def _distance(group: dict[str, PlacedPeak], mark: PlacedPeak) -> float:
    """The distances from the group's most confident mark, in mm."""
    return float(np.linalg.norm(next(iter(group.values())).world - mark.world))


def _reach(group: dict[str, PlacedPeak], mark: PlacedPeak) -> float:
    return max(NEAR, next(iter(group.values())).diameter / 2, mark.diameter / 2)


def _fused(group: dict[str, PlacedPeak]) -> PlacedPeak:
    marks = list(group.values())
    confidences = np.array([mark.peak["confidence"] for mark in marks])
    place: WorldPoint = np.average([mark.world for mark in marks], axis=0, weights=confidences)
    diameter = float(np.average([mark.diameter for mark in marks], weights=confidences))
    joint = float(1 - np.prod(1 - confidences))
    found = tuple(Found(name=name, confidence=round(mark.peak["confidence"], 4)) for name, mark in group.items())
    return PlacedPeak({**marks[0].peak, "confidence": joint}, place, diameter, found)
