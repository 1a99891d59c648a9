"""The content of a report, in order."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .. import __version__
from ..results.reviewed import distances_in_words, rejected_in_words, verdict_in_words
from ..triage.model import default_model
from ..types import Scan, Volume
from .model_card import model_card
from .report_blocks import RESEARCH_USE, Block, BlockGroup, Facts, Heading, Rows, Text
from .report_nodule import SUMMARY_HEADER, ReportNodule, guideline_text, nodule_blocks, summary_row
from .slices import WINDOW, Stage, mark, stage
from .source import FoundNodules

__all__ = ["report_blocks"]

SHORT = (
    "Score: how likely radiologists are to rate the nodule malignant by eye, from 0 to 1. It is not a probability of "
    "cancer. Place: estimated from the middle of the body and the height of the lungs."
)
MEASURES = (
    "Each nodule is segmented in the image. Diameter: of the sphere with the same volume; the model's rough guess if "
    "the nodule could not be segmented. Axes: the longest diameter on the largest axial section, and the longest "
    "diameter perpendicular to it. Solid part: share of the volume denser than ground-glass. Density: mean ± standard "
    "deviation (minimum to maximum). Position: to the left, back and head in the scanner's frame (LPS), or from the "
    "first voxel along the file's axes (scan). Do not compare volumes of different programs, or of different versions."
)
PLACES = (
    "Place: left or right of the body's midline, which is estimated from spine and ribs, and the third of the lungs' "
    "height, which is not a lobe. Within 10 mm of the midline no side is given. If the scan does not show the midline "
    "or the whole height of the lungs, no place is given."
)
PICTURES = (
    f"Pictures: lung window, {WINDOW[0]:g} to {WINDOW[1]:g} HU. R, L, A, P, H, F: the patient's right, left, front, "
    "back, head, feet. The circle has the nodule's diameter. The close view shows the measured outline, and its two "
    "axes as broken lines. Image numbers are the DICOM InstanceNumber, or the slice in the file."
)
LIMITS = (
    (
        "PIVOT can miss nodules, above all small and ground-glass ones, and can mark vessels, scars and pleura. "
        "A scan without a mark can still show a nodule."
    ),
    (
        "PIVOT used this scan alone: no earlier scan, no history, no other finding. This report is neither a diagnosis "
        "nor a recommendation."
    ),
)


def report_blocks(scan: Scan, found: FoundNodules, *, pictures: bool) -> list[Block]:
    """The whole report of a scan with its detections. Without `pictures` it is text and tables alone."""
    on = stage(Volume(scan.array, scan.affine), scan.spacing)
    nodules = [
        ReportNodule(marked, one, kind, mask)
        for (marked, one), mask, kind in zip(
            zip(mark(on, [*found.detections, *found.masses]), [*found.detections, *found.masses], strict=True),
            found.masks,
            ["Nodule"] * len(found.detections) + ["Mass"] * len(found.masses),
            strict=True,
        )
    ]
    return [
        Heading("Lung nodules on chest CT", 1),
        Text(RESEARCH_USE),
        Heading("Scan"),
        Facts(list(_scan_facts(scan, on, found))),
        Heading("Summary"),
        *_summary(nodules, found),
        *_review(nodules, found),
        *(
            BlockGroup([*([Heading("Nodules")] * (not rank)), *nodule_blocks(nodule, on if pictures else None)])
            for rank, nodule in enumerate(nodules)
        ),
        Heading("Method"),
        *(Text(text) for text in _method(found.metadata)),
        Heading("Model"),
        *model_card(found.metadata.get("checkpoint") or {}),
        Heading("Limits"),
        *(Text(text) for text in LIMITS),
    ]


def _scan_facts(scan: Scan, on: Stage, found: FoundNodules) -> Iterator[tuple[str, str]]:
    yield "Name", scan.scan_id
    yield "Voxels", " x ".join(map(str, scan.shape))
    yield "Spacing", _triple(scan.spacing, 2)
    yield "Size", _triple([n * step for n, step in zip(scan.shape, scan.spacing, strict=True)], 0)
    yield "Axial slices", f"{on.array.shape[2]}, {on.spacing[2]:.2f} mm apart"
    checkpoint = found.metadata.get("checkpoint") or {}
    yield "Model", f"{checkpoint['name']}, version {checkpoint.get('version')}" if "name" in checkpoint else "not known"
    yield "Analysed on", found.timestamp or "a date not known"
    yield "PIVOT", str((found.metadata.get("versions") or {}).get("pivot", __version__))
    for note in scan.notes:
        yield "Note", note


def _triple(values: Sequence[float], digits: int) -> str:
    return f"{' x '.join(f'{value:.{digits}f}' for value in values)} mm"


def _summary(nodules: Sequence[ReportNodule], found: FoundNodules) -> Iterator[Block]:
    yield Text(found.conclusion)
    exam = found.summary.get("lung_rads")
    if exam:
        yield Text(f"Lung-RADS v2022 category of the examination: {guideline_text(exam, exam['category'])}.")
        if exam["category"] and exam["management"]:
            yield Text(f"Management by Lung-RADS: {exam['management']}.")
    if not nodules:
        return
    risks = Counter(nodule.triage.get("risk_category") for nodule in nodules)
    counts = ", ".join(f"{risks[risk]} {risk or 'without a score'}" for risk in ("high", "intermediate", "low", None))
    yield Text(f"By risk category: {counts}.")
    yield Rows(SUMMARY_HEADER, [summary_row(nodule) for nodule in nodules])
    yield Text(SHORT)


def _review(nodules: Sequence[ReportNodule], found: FoundNodules) -> Iterator[Block]:
    """What a reader said about the findings; empty for a report without a review."""
    if found.review is None:
        return
    yield Heading("Review")
    by, at = found.review["by"], found.review["at"]
    who = f"Last changed by {by}, {at}." if by else "Nobody has read it."
    yield Text(f"{who} The names are those of the service's keys. The guidelines were not applied anew.")
    if nodules:
        yield Facts([(f"{one.kind} {one.mark.number}", verdict_in_words(one.found)) for one in nodules])
    rejected = list(rejected_in_words(found.review))
    if rejected:
        yield Text("Rejected, and so left out above:")
        yield Facts([(f"Finding {label}", why) for label, why in rejected])
    distances = list(distances_in_words(found.review))
    if distances:
        yield Text("Distances measured by the reader:")
        yield Facts([(f"Distance {number}", text) for number, text in enumerate(distances, 1)])
    if found.review["comment"]:
        yield Text(f"Comment: {found.review['comment']}")


def _method(metadata: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "A neural network gives each point of the scan a value from 0 to 1: how much it looks like a nodule."
        + _rules(metadata.get("config") or {})
    )
    yield "Confidence: the largest of these values in the nodule. It ranks nodules and is not a probability."
    yield MEASURES
    yield from _score(metadata)
    yield PLACES
    yield PICTURES


def _rules(config: Mapping[str, Any]) -> str:
    """The thresholds that were applied, if the given report holds them."""
    rules = config.get("post_processing")
    if not rules:
        return ""
    peaks, size = rules["peak_detection"], rules["size_filter"]
    return (
        f" Peaks of at least {peaks['threshold']:g}, {peaks['min_distance']:g} mm apart, are nodules if their "
        f"confidence is at least {rules['confidence_filter']['min_confidence']:g} and their "
        f"diameter {size['min_diameter']:g} to {size['max_diameter']:g} mm."
    )


def _score(metadata: Mapping[str, Any]) -> Iterator[str]:
    """The meaning of the score of the triage model that was used."""
    model = default_model()
    given = metadata.get("triage") or {"model": model.name, "score": model.label}
    yield (
        "Score: how likely radiologists are to rate the nodule malignant by eye, from 0 to 1. It is not a probability "
        "of cancer. It comes from the nodule's axes and density alone. "
        f"The triage model {given['model']} was fitted to this: {given['score']}."
    )
    if given["model"] == model.name:
        low, high = model.cutoffs.low, model.cutoffs.high
        yield f"Risk category: low below {low:g}, high from {high:g}, intermediate between."
