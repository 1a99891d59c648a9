"""Names, numbers and colours of a scan's findings, the same in every file and picture."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..types import Detection, Location, NoduleMask

__all__ = ["COLOURS", "Finding", "findings_of", "number_of_finding"]

# Okabe and Ito's colours, which most colour-blind people can tell apart. Black and grey are left to tissue.
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


class Finding(NamedTuple):
    """A nodule or mass with its number, from 1, and its mask if it has one."""

    number: int
    kind: str  # Nodule or Mass
    found: Detection
    mask: NoduleMask | None

    @property
    def name(self) -> str:
        """`Nodule 1`."""
        return f"{self.kind} {self.number}"

    @property
    def place(self) -> str:
        """The approximate place in words."""
        where = self.found.get("location") or Location(side=None, third=None)
        side, third = where["side"], where["third"]
        words = "near the midline" if side == "midline" else f"{side} lung" if side else "side not known"
        return f"{words}, {third} third" if third else words

    @property
    def colour(self) -> tuple[int, int, int]:
        """Red, green and blue, 0 to 255."""
        return COLOURS[(self.number - 1) % len(COLOURS)]


def number_of_finding(found: Mapping[str, Any], rank: int) -> int:
    """The number of a finding: its id, or its `rank` if it has none, counted from 1."""
    return int(found.get("id", rank)) + 1


def findings_of(results: Mapping[str, Any]) -> Iterator[Finding]:
    """The nodules and masses of results or of a report, sorted by number."""
    detections, masses = results["detections"], results.get("masses") or []
    masks = results.get("masks") or [None] * (len(detections) + len(masses))
    for rank, (found, mask) in enumerate(zip([*detections, *masses], masks, strict=True)):
        kind = "Nodule" if rank < len(detections) else "Mass"
        yield Finding(number_of_finding(found, rank), kind, found, mask)
