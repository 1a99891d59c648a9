"""One nodule in a report."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..guidelines.assumptions import in_words
from ..results.found import Finding
from ..results.reviewed import verdict_in_words
from ..types import Detection, NoduleMask
from .report_blocks import Block, Facts, Heading
from .report_views import nodule_views
from .shares import share
from .slices import Stage, StageMark

__all__ = ["SUMMARY_HEADER", "ReportNodule", "guideline_text", "nodule_blocks", "summary_row"]

SUMMARY_HEADER = ("No.", "Image", "Diameter", "Type", "Place (estimated)", "Confidence", "Score", "Risk category")
UNKNOWN = "not measured"
ALONE = ("Lung-RADS v2022", "Management")  # the management stands below its category
MEANING = {
    "high": "most nodules of such a score were rated malignant by eye",
    "intermediate": "readers were divided over nodules of such a score",
    "low": "few nodules of such a score were rated malignant by eye",
}


class ReportNodule(NamedTuple):
    """A nodule or mass with its mark on the stage. Its measurements may be missing."""

    mark: StageMark
    found: Detection
    kind: str = "Nodule"  # or Mass
    mask: NoduleMask | None = None

    @property
    def place(self) -> str:
        """Its approximate place."""
        return Finding(int(self.mark.number), self.kind, self.found, self.mask).place

    @property
    def diameter(self) -> str:
        """Its diameter with the unit."""
        diameter: float | None = self.found["diameter_mm"]  # None: a reader added it, and it cannot be segmented
        return UNKNOWN if diameter is None else f"{diameter:.1f} mm"

    @property
    def properties(self) -> Mapping[str, Any]:
        """Its measurements."""
        return self.found.get("properties") or {}

    @property
    def triage(self) -> Mapping[str, Any]:
        """Its triage score."""
        return self.found.get("triage") or {}


def summary_row(nodule: ReportNodule) -> list[str]:
    """The nodule's row in the summary table."""
    score = nodule.triage.get("malignancy_score")
    return [
        f"{nodule.mark.number}{', mass' if nodule.kind == 'Mass' else ''}",
        _image(nodule.found),
        nodule.diameter,
        str(nodule.properties.get("nodule_type") or UNKNOWN),
        nodule.place,
        share(nodule.mark.confidence),
        "none" if score is None else share(score),
        str(nodule.triage.get("risk_category") or "none"),
    ]


def nodule_blocks(nodule: ReportNodule, on: Stage | None) -> list[Block]:
    """The report's part about a nodule, with a picture if a stage is given."""
    views = [nodule_views(on, nodule.mark, nodule.found, nodule.mask, _axial_image(on, nodule.found))] if on else []
    return [Heading(f"{nodule.kind} {nodule.mark.number}", 3), *views, Facts(list(_facts(nodule)), ALONE)]


def _facts(nodule: ReportNodule) -> Iterator[tuple[str, str]]:
    measured, found = nodule.properties, nodule.found
    source = {"segmentation": ", measured", "network": ", the model's guess"}.get(found.get("diameter_source", ""), "")
    yield "Diameter", f"{nodule.diameter}{source}"
    if "review" in found:
        yield "Review", verdict_in_words(found)
    yield "Axes", _numbers(measured, "{long_axis_mm:.1f} x {short_axis_mm:.1f} mm")
    yield "Volume", _numbers(measured, "{volume_mm3:.0f} mm³")
    yield "Type", str(measured.get("nodule_type") or UNKNOWN)
    yield "Solid part", _numbers(measured, "{solid_fraction:.0%}")
    density = "{mean_intensity:.0f} ± {std_intensity:.0f} ({min_intensity:.0f} to {max_intensity:.0f}) HU"
    yield "Density", _numbers(measured, density)
    yield "Sphericity", _numbers(measured, "{sphericity:.2f} of 1")
    sure = nodule.mark.confidence
    yield "Confidence", "none: a reader added it" if sure is None else f"{share(sure)} of 1"
    if found.get("nodule_probability") is not None:
        yield "Nodule probability", f"{share(found['nodule_probability'])} of 1, by the model's validation"
    yield "Place (estimated)", nodule.place
    yield "Position", _position(found)
    yield "Image", _image(found)
    yield "Score", _score(nodule.triage)
    yield from _guidelines(found.get("guidelines") or {})


def _guidelines(rules: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The Lung-RADS category, or why it is missing. The other guidelines are included if they have a result."""
    lung_rads = rules.get("lung_rads")
    if lung_rads:
        yield "Lung-RADS v2022", guideline_text(lung_rads, lung_rads["category"])
        if lung_rads["category"] and lung_rads["management"]:
            yield "Management", lung_rads["management"]
    fleischner = rules.get("fleischner") or {}
    advice = [
        f"{risk} risk: {fleischner[f'{risk}_risk']}" for risk in ("low", "high") if fleischner.get(f"{risk}_risk")
    ]
    if advice:
        yield "Fleischner 2017", guideline_text(fleischner, "; ".join(advice))
    brock = rules.get("brock") or {}
    if brock.get("2a"):
        upper, other = (f"{brock['2a'][place]:.1%}" for place in ("upper_lobe", "other_lobe"))
        yield "Brock 2a", guideline_text(brock, f"{upper} probability of cancer in an upper lobe, {other} elsewhere")
    bts = rules.get("bts") or {}
    if bts.get("management"):
        yield "BTS 2015", guideline_text(bts, bts["management"])


def guideline_text(rule: Mapping[str, Any], result: str | None) -> str:
    """A guideline's result with its assumptions and reason."""
    if result is None:
        return f"none: {rule['reason']}"
    notes = [rule["reason"]] if rule["reason"] else []
    notes += [f"assumptions: {in_words(rule['assumptions'])}"] if rule["assumptions"] else []
    return f"{result} ({'; '.join(notes)})" if notes else result


def _numbers(measured: Mapping[str, Any], form: str) -> str:
    """The form filled in, or `UNKNOWN` if a value is missing."""
    try:
        return form.format_map(measured)
    except (KeyError, TypeError):  # absent, or None
        return UNKNOWN


def _position(found: Detection) -> str:
    """The world coordinates or, if unknown, those in the scan."""
    lps = found.get("coordinates_lps")
    values, system = (lps, "LPS") if lps else (found["coordinates"], "scan")
    return f"{', '.join(f'{value:.1f}' for value in values)} mm ({system})"


def _image(found: Detection) -> str:
    """The number of its image or, without one, of its slice along the file's third axis, from 1."""
    number = found.get("image_number")
    if number is not None:
        return str(number)
    voxel = found.get("coordinates_voxel")
    return f"slice {voxel[2] + 1}" if voxel else "not known"


def _axial_image(on: Stage, found: Detection) -> str:
    """The name of the axial slice through the nodule; empty if the file's slices lie in another plane."""
    image = _image(found)
    if not on.from_input[2, 2] or not found.get("coordinates_voxel"):
        return ""
    return f"image {image}" if image.isdecimal() else image


def _score(triage: Mapping[str, Any]) -> str:
    score, risk = triage.get("malignancy_score"), triage.get("risk_category")
    if score is None or risk not in MEANING:
        return f"none: {triage.get('reason') or 'not scored'}"
    return f"{share(score)} of 1, {risk}: {MEANING[risk]}"
