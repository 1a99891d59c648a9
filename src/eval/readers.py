"""The agreement of two readers: `python -m src.eval.readers --one A --other B`, two folders of `*_reviewed.json`.

Of the findings that both read, it counts how often both accepted or rejected them, with Cohen's kappa
(https://doi.org/10.1177/001316446002000104). Of the nodules that readers added, it counts those that both did.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from math import dist
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, FiniteFloat, ValidationError

from ..errors import BadConfig, command
from ..logs import Parser, add_log_options, show_log

__all__ = ["Agreement", "agreement", "kappa", "main", "read_reviews"]

LEAST_RADIUS = 3.0  # mm; added nodules this near are one, if their diameters are smaller or unknown


class _Verdict(BaseModel):
    finding: str
    verdict: Literal["accepted", "rejected"] | None = None


class _Added(BaseModel):
    finding: str
    coordinates_lps: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    diameter_mm: FiniteFloat | None


class _Review(BaseModel):
    findings: list[_Verdict]
    added: list[_Added]


class _Metadata(BaseModel):
    series_uid: str | None = None
    input_sha256: str | None = None


class _Reviewed(BaseModel):
    scan_id: str
    timestamp: str
    metadata: _Metadata
    review: _Review

    @property
    def report(self) -> tuple[str, str]:
        """Identifies the report that was read: only within it do numbers of findings have the same meaning."""
        return self.metadata.input_sha256 or self.metadata.series_uid or self.scan_id, self.timestamp


class Agreement(NamedTuple):
    """The agreement of two readers. `kappa` is null if undefined: both gave the same verdict to every finding."""

    scans: int
    both_accepted: int
    both_rejected: int
    one_accepted: int  # and the other rejected
    other_accepted: int
    read_by_one_only: int  # findings, of either
    share: float | None  # of the findings that both read, 0 to 1; null without any
    kappa: float | None  # -1 to 1
    added_by_both: int
    added_by_one: int
    added_by_other: int


def kappa(both: int, neither: int, one: int, other: int) -> float | None:
    """Cohen's kappa of a table of two readers: both said yes, neither did, only the one, only the other."""
    count = both + neither + one + other
    if not count:
        return None
    expected = ((both + one) * (both + other) + (neither + one) * (neither + other)) / count**2
    return None if expected == 1 else ((both + neither) / count - expected) / (1 - expected)


def agreement(one: Path, other: Path) -> Agreement:
    """The agreement of the reviews in two folders, of the reports that are in both.

    Raises:
        BadConfig: a folder has no reviews, a file is no review, or no report is in both.
    """
    first, second = read_reviews(one), read_reviews(other)
    common = first.keys() & second.keys()
    if not common:
        msg = f"{one} and {other} have no report in common: reviews agree on findings of one report, not of two runs"
        raise BadConfig(msg)
    table: Counter[tuple[str | None, str | None]] = Counter()
    added: Counter[str] = Counter()
    for report in common:
        a, b = first[report], second[report]
        table += Counter(_pairs(a, b))
        together = _together(_kept(a), _kept(b))
        added += Counter(both=together, one=len(_kept(a)) - together, other=len(_kept(b)) - together)
    yes, no = "accepted", "rejected"
    counts = table[yes, yes], table[no, no], table[yes, no], table[no, yes]
    read = sum(counts)
    return Agreement(
        len(common),
        *counts,
        read_by_one_only=sum(number for pair, number in table.items() if None in pair),
        share=sum(counts[:2]) / read if read else None,
        kappa=kappa(*counts),
        added_by_both=added["both"],
        added_by_one=added["one"],
        added_by_other=added["other"],
    )


def read_reviews(folder: Path) -> dict[tuple[str, str], _Review]:
    """The reviews in a folder, by their reports.

    Raises:
        BadConfig: the folder has no reviews, a file is no review, or two are of one report.
    """
    reviews: dict[tuple[str, str], _Review] = {}
    for path in sorted(folder.glob("*_reviewed.json")):
        try:
            read = _Reviewed.model_validate_json(path.read_bytes())
        except OSError as error:
            msg = f"cannot read {path}: {error.strerror}"
            raise BadConfig(msg) from None
        except ValidationError as error:
            first = error.errors()[0]
            msg = f"{path} is no reviewed report: {'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
            raise BadConfig(msg) from None
        if read.report in reviews:
            msg = f"{path}: another file of {folder} reviews the same report: remove one of them"
            raise BadConfig(msg)
        reviews[read.report] = read.review
    if not reviews:
        msg = f"{folder} holds no *_reviewed.json"
        raise BadConfig(msg)
    return reviews


def _pairs(one: _Review, other: _Review) -> Iterable[tuple[str | None, str | None]]:
    """The two verdicts on each finding that either reader read."""
    first, second = ({each.finding: each.verdict for each in review.findings} for review in (one, other))
    shared = sorted(label for label in first.keys() | second.keys() if not label.startswith("a"))
    pairs = ((first.get(label), second.get(label)) for label in shared)
    return [pair for pair in pairs if pair != (None, None)]


def _kept(review: _Review) -> list[_Added]:
    """The added nodules that the reader did not retract."""
    taken_back = {one.finding for one in review.findings if one.verdict == "rejected"}
    return [one for one in review.added if one.finding not in taken_back]


def _together(one: Sequence[_Added], other: Sequence[_Added]) -> int:
    """The number of added nodules that match: nearest first, one to one, within the larger one's radius."""
    near = sorted(
        (dist(a.coordinates_lps, b.coordinates_lps), i, j) for i, a in enumerate(one) for j, b in enumerate(other)
    )
    first, second = set[int](), set[int]()
    for distance, i, j in near:
        radius = max(LEAST_RADIUS, (one[i].diameter_mm or 0) / 2, (other[j].diameter_mm or 0) / 2)
        if distance <= radius and i not in first and j not in second:
            first.add(i)
            second.add(j)
    return len(first)


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the agreement as JSON. Returns the exit code."""
    parser = Parser(prog="python -m src.eval.readers", description="The agreement of two readers.")
    for name in ("--one", "--other"):
        parser.add_argument(name, type=Path, required=True, help="folder with *_reviewed.json of one reader")
    add_log_options(parser)
    options = parser.parse_args(arguments)
    show_log(options.log)
    sys.stdout.write(json.dumps(agreement(options.one, options.other)._asdict(), indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
