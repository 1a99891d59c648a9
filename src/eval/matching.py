"""Which marks hit which findings, by the rules of LUNA16.

Source: the evaluation page (https://luna16.grand-challenge.org/Evaluation/) and its script
`noduleCADEvaluationLUNA16.py`. Our results equal those of the script.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .tables import FindingTable, MarkTable

__all__ = ["MOST_MARKS", "Matched", "match", "treated_diameter"]

MOST_MARKS = 100  # of one scan
UNKNOWN_DIAMETER = 10.0  # mm, for findings whose diameter is negative

Hits = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]  # marks and the findings they hit, pair by pair


class Matched(NamedTuple):
    """The result of matching: found and missed nodules, and false marks."""

    best: npt.NDArray[np.float64]  # (nodules,) probability of the strongest mark inside, -inf if missed
    nodule_scan: npt.NDArray[np.intp]  # (nodules,)
    false: npt.NDArray[np.float64]  # (false marks,) their probabilities
    false_scan: npt.NDArray[np.intp]  # (false marks,)
    counts: dict[str, int]  # of marks by result

    @property
    def detected(self) -> int:
        """The number of nodules that a mark hits."""
        return int(np.isfinite(self.best).sum())


def match(marks: MarkTable, nodules: FindingTable, excluded: FindingTable | None = None) -> Matched:
    """Every nodule's strongest mark, and the false marks.

    A mark hits a nodule if its distance to the centre is less than half the diameter. One mark may hit two nodules.
    Further marks in a nodule are ignored, and so are marks in an excluded finding alone.
    """
    kept = _strongest(marks)
    inside, found = _hits(kept, nodules)
    best = np.full(len(nodules.scan), -np.inf)
    np.maximum.at(best, found, kept.probability[inside])
    hit = np.zeros(len(kept.scan), dtype=bool)
    hit[inside] = True
    ignored = np.zeros_like(hit)
    if excluded is not None:
        ignored[_hits(kept, excluded)[0]] = True
        ignored &= ~hit
    false = ~hit & ~ignored
    counts = {
        "given": len(marks.scan),
        "beyond_100_of_a_scan": len(marks.scan) - len(kept.scan),
        "in_nodules": int(hit.sum()),
        "in_excluded_findings": int(ignored.sum()),
        "false": int(false.sum()),
    }
    return Matched(best, nodules.scan, kept.probability[false], kept.scan[false], counts)


def treated_diameter(findings: FindingTable) -> npt.NDArray[np.float64]:
    """The diameters (n,) in mm that are used for hits: 10 mm if the given one is negative."""
    return np.where(findings.diameter < 0, UNKNOWN_DIAMETER, findings.diameter)


def _strongest(marks: MarkTable) -> MarkTable:
    """The marks ordered by scan. A scan with more than 100 keeps those stronger than its 101st."""
    order = np.lexsort((-marks.probability, marks.scan))
    scan, probability = marks.scan[order], marks.probability[order]
    first = np.searchsorted(scan, scan)
    rank_101 = first + MOST_MARKS
    beyond = np.minimum(rank_101, len(scan) - 1)
    crowded = (rank_101 < len(scan)) & (scan[beyond] == scan)
    keep = ~crowded | (probability > probability[beyond])
    return MarkTable(scan[keep], marks.point[order][keep], probability[keep])


def _hits(marks: MarkTable, findings: FindingTable) -> Hits:
    """All pairs of a mark and a finding that it hits. The marks are ordered by scan."""
    first = np.searchsorted(marks.scan, findings.scan)
    number = np.searchsorted(marks.scan, findings.scan, side="right") - first
    finding = np.repeat(np.arange(len(findings.scan)), number)
    within = np.arange(len(finding)) - np.repeat(np.cumsum(number) - number, number)
    mark = first[finding] + within
    x, y, z = (marks.point[mark] - findings.point[finding]).T
    near = x * x + y * y + z * z < (treated_diameter(findings)[finding] / 2) ** 2
    return mark[near], finding[near]
