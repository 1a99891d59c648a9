"""The table of findings at the end of a run, in 80 columns."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .progress import Event, Listener

if TYPE_CHECKING:
    from ..results.found import Finding

__all__ = ["recording", "results_table"]

COLUMNS = "{:8}{:25}{:>6}{:>7}  {:13}{:>9}  {:>8}"  # 78
KEPT = ("scan_id", "detections", "masses", "lung_rads", "lungs", "seconds", "outputs")  # of an event
NAME = 34  # columns of a scan's name
UNKNOWN = "-"


def recording(listener: Listener, finished: list[Event]) -> Listener:
    """The listener. It also adds the events of finished scans to `finished`."""

    def record(event: Event) -> None:
        if event["event"] == "finished":
            finished.append({key: event[key] for key in KEPT})
        listener(event)

    return record


def results_table(finished: Sequence[Event], *, alone: bool) -> Iterator[str]:
    """For one scan (`alone`): a row for each nodule and mass, and the files. For many scans: a line for each."""
    for scan in finished:
        if alone:
            yield from _findings(scan)
        else:
            yield _line(scan)


def _findings(scan: Event) -> Iterator[str]:
    from ..results.found import findings_of  # noqa: PLC0415 - for which `--help` must not wait
    from ..results.output_formatter import load_report  # noqa: PLC0415

    found = list(findings_of(load_report(scan["outputs"][-1])))
    if found:
        yield COLUMNS.format("no.", "place (estimated)", "image", "mm", "type", "Lung-RADS", "conf.")
    for one in found:
        yield _row(one).rstrip()
    for path in scan["outputs"]:
        if not Path(path).name.startswith("."):
            yield f"file: {path}"


def _row(one: "Finding") -> str:
    image = one.found.get("image_number")
    rules = one.found.get("guidelines")
    return COLUMNS.format(
        f"{one.number}{' mass' if one.kind == 'Mass' else ''}",
        one.place,
        UNKNOWN if image is None else image,
        f"{one.found['diameter_mm']:.1f}",
        one.found["properties"]["nodule_type"] or "not measured",
        (rules["lung_rads"]["category"] if rules else None) or UNKNOWN,
        f"{one.found['confidence']:.2f}",
    )


def _line(scan: Event) -> str:
    name = scan["scan_id"] if len(scan["scan_id"]) <= NAME else f"{scan['scan_id'][: NAME - 3]}..."
    masses = f"{scan['masses']:2} mass{'es' * (scan['masses'] != 1)}" if scan["masses"] else ""
    nodules = f"{scan['detections']:3} nodule{'s' * (scan['detections'] != 1)}"
    category = scan["lung_rads"] or UNKNOWN
    return f"{name:{NAME}} {nodules:11} {masses:9}  Lung-RADS {category:2} {scan['seconds']:6.1f} s"
