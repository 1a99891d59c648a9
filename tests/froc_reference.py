"""A simple reference implementation of LUNA16's FROC, independent of `src.eval`."""

from itertools import pairwise

Point = tuple[float, float, float]
Valued = list[tuple[Point, float]]  # marks with probabilities, or findings with diameters
Scans = list[tuple[Valued, Valued, Valued]]  # marks, nodules and excluded findings of each scan

RATES = (0.125, 0.25, 0.5, 1, 2, 4, 8)


def inside(point: Point, centre: Point, diameter: float) -> bool:
    diameter = 10 if diameter < 0 else diameter
    return sum((a - b) ** 2 for a, b in zip(point, centre, strict=True)) < (diameter / 2) ** 2


def admitted(marks: Valued) -> Valued:
    """The marks (point, probability) of one scan that are evaluated."""
    if len(marks) <= 100:
        return marks
    cut = sorted((p for _, p in marks), reverse=True)[100]
    return [mark for mark in marks if mark[1] > cut]


def outcome(scans: Scans) -> tuple[list[float], list[float], int]:
    """The probabilities of found nodules and of false positives, and the number of nodules."""
    found, false, total = list[float](), list[float](), 0
    for given, nodules, excluded in scans:
        marks = admitted(given)
        total += len(nodules)
        for nodule in nodules:
            hits = [p for point, p in marks if inside(point, *nodule)]
            if hits:
                found.append(max(hits))
        false += [p for point, p in marks if not any(inside(point, *finding) for finding in nodules + excluded)]
    return found, false, total


def sensitivities(scans: Scans) -> list[float]:
    """The sensitivity at each rate, by linear interpolation along the curve."""
    found, false, total = outcome(scans)
    points = [(0.0, 0.0)]
    for threshold in sorted({*found, *false}, reverse=True):
        # In the order of LUNA16's script, because its rounding decides where the curve rises exactly at a rate.
        x = sum(p >= threshold for p in false) / max(len(false), 1) * len(false) / len(scans)
        points.append((x, sum(p >= threshold for p in found) / total))
    return [_height(points, rate) for rate in RATES]


def _height(points: list[tuple[float, float]], rate: float) -> float:
    height = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x1 <= rate:
            height = y1
        elif x0 <= rate:
            height = y0 + (y1 - y0) * (rate - x0) / (x1 - x0)
    return height
