"""From marks to findings: the heatmap's peaks are measured, filtered, and assessed by the guidelines."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from ..config import PeakDetection, PostProcessing
from ..data.geometry import canonical, map_points, spacing_of, to_lps
from ..data.lungs import Lungs
from ..data.resample import to_grid
from ..guidelines.apply import apply_guidelines
from ..guidelines.patient import Patient
from ..model.validation import Validation
from ..triage.model import score
from ..types import (
    Affine,
    Candidate,
    Detection,
    FloatArray,
    Found,
    LeftOut,
    Location,
    NoduleMask,
    Peak,
    Properties,
    Scan,
    Shape3,
    Vec3,
)
from .post_processing import common_voxels, filter_detections
from .search_plan import BESIDE_LUNG

__all__ = ["Findings", "PlacedPeak", "WorldPoint", "describe_peaks", "draw_heatmap", "find_peaks", "least_confidence"]

Marked = TypeVar("Marked", Detection, Candidate)
WorldPoint: TypeAlias = npt.NDArray[np.float64]  # (3,) mm, RAS+
CANDIDATES_FROM = 0.1  # a peak below the threshold is listed from this confidence on
MEASURED_AT_ONCE = min(8, os.cpu_count() or 1)  # nodules


class PlacedPeak(NamedTuple):
    """A detector's mark: a peak of its heatmap, the peak's place in the world, and the diameter that it gives."""

    peak: Peak
    world: WorldPoint
    diameter: float  # mm
    detectors: tuple[Found, ...] = ()  # which of several gave it


class Findings(NamedTuple):
    """The findings in a scan, numbered consecutively. `masks` holds those of the detections, then of the masses."""

    detections: list[Detection]
    masses: list[Detection]
    masks: list[NoduleMask | None]
    candidates: list[Candidate]
    left_out: LeftOut

    def with_guidelines(self, patient: Patient) -> Self:
        """The same findings, each with its guidelines' recommendations."""
        every = [*self.detections, *self.masses]
        guidelines = apply_guidelines([one["properties"] for one in every], patient)
        assessed: list[Detection] = [{**one, "guidelines": own} for one, own in zip(every, guidelines, strict=True)]
        nodules = len(self.detections)
        return self._replace(detections=assessed[:nodules], masses=assessed[nodules:])

    def with_probabilities(self, validation: Validation | None) -> Self:
        """The same findings, each with its `nodule_probability` by the model's validation."""

        def rated(found: list[Marked]) -> list[Marked]:
            rate = validation.nodule_probability if validation else lambda _: None
            return [{**one, "nodule_probability": rate(one["confidence"])} for one in found]

        return self._replace(
            detections=rated(self.detections), masses=rated(self.masses), candidates=rated(self.candidates)
        )


def find_peaks(heatmap: FloatArray, affine: Affine, rules: PeakDetection, diameters: FloatArray) -> list[PlacedPeak]:
    """The peaks of a heatmap (X, Y, Z) with the `affine` (RAS+), including candidates, strongest first.

    `diameters` are in mm, on the heatmap's grid.
    """
    from .peak_detection import detect_peaks  # noqa: PLC0415 - slow, see `load_writers`

    spacing = spacing_of(affine)
    peaks = detect_peaks(heatmap, least_confidence(rules), rules.min_distance, spacing, rules.method)
    return [
        PlacedPeak(
            peak,
            map_points(affine, np.array(peak["coordinates"]) / spacing),
            float(diameters[peak["coordinates_voxel"]]),
        )
        for peak in peaks
    ]


def least_confidence(rules: PeakDetection) -> float:
    """The confidence from which a mark is at least a candidate."""
    return min(CANDIDATES_FROM, rules.threshold)


def describe_peaks(
    peaks: Sequence[PlacedPeak],
    *,
    scan: Scan,
    lungs: Lungs,
    rules: PostProcessing,
    placed: bool,
) -> Findings:
    """The peaks near the lungs: measured nodules and masses, and candidates below the threshold.

    If the lungs are not certain, all peaks are used.

    Args:
        peaks: the detector's marks.
        scan: the scan as read from its file.
        lungs: the scan's lungs.
        rules: which findings are reported.
        placed: whether the scan's place in the world is known. If not, world coordinates are null.
    """
    from ..measurement.nodule_properties import segment_and_measure  # noqa: PLC0415 - slow, see `load_writers`

    array, affine = canonical(scan.array, scan.affine)  # measurements need the third axis from feet to head
    to_input, to_voxels = np.linalg.inv(scan.affine) @ affine, np.linalg.inv(affine)

    def describe(marked: PlacedPeak) -> tuple[Detection, NoduleMask | None]:
        peak, world, diameter, detectors = marked._replace(diameter=round(marked.diameter, 2))  # as reported
        here = map_points(to_voxels, world) * spacing_of(affine)
        properties, body = segment_and_measure(array, _vec3(here), diameter, spacing_of(affine))
        centre = world if body is None else map_points(affine, np.divide(body.centre, spacing_of(affine)))
        location = lungs.locate(centre) if placed else Location(side=None, third=None)
        nodule = _detection(scan, peak, (world, centre), diameter, properties, placed=placed)
        if detectors:
            nodule["detectors"] = list(detectors)
        return {**nodule, "location": location}, None if body is None else body.on_grid(to_input)

    sure = [one for one in peaks if one.peak["confidence"] >= rules.threshold]
    beside = [
        one for one in peaks if not lungs.certain or lungs.distance_to(one.world) <= one.diameter / 2 + BESIDE_LUNG
    ]
    with ThreadPoolExecutor(MEASURED_AT_ONCE) as pool:
        described = list(pool.map(describe, (one for one in beside if one.peak["confidence"] >= rules.threshold)))
    small = sum(nodule["diameter_mm"] < rules.size_filter.min_diameter for nodule, _ in described)
    found = _filtered(described, rules, LeftOut(away_from_lungs=len(sure) - len(described), too_small=small))
    unsure = (
        _candidate(scan, one, placed=placed)
        for one in beside
        if one.peak["confidence"] < rules.threshold and not _is_inside(scan, one.world, found.masks)
    )
    return found._replace(candidates=list(unsure))


def _candidate(scan: Scan, marked: PlacedPeak, *, placed: bool) -> Candidate:
    index = _index(scan, marked.world)
    candidate = Candidate(
        coordinates=_vec3(index * scan.spacing),
        coordinates_lps=_vec3(to_lps(scan.affine, index)) if placed else None,
        confidence=round(marked.peak["confidence"], 4),
        diameter_mm=round(marked.diameter, 2),
    )
    if marked.detectors:
        candidate["detectors"] = list(marked.detectors)
    return candidate


def _is_inside(scan: Scan, world: WorldPoint, masks: Sequence[NoduleMask | None]) -> bool:
    """Whether a place lies in a reported body."""
    here = NoduleMask(np.ones((1, 1, 1), dtype=bool), _voxel(scan, _index(scan, world)))
    return any(mask is not None and common_voxels(mask, here) for mask in masks)


def _filtered(
    described: Sequence[tuple[Detection, NoduleMask | None]], rules: PostProcessing, left_out: LeftOut
) -> Findings:
    """The findings that the rules keep, numbered consecutively: detections, then masses."""
    found: list[Detection] = [{**nodule, "id": number} for number, (nodule, _) in enumerate(described)]
    masks = [mask for _, mask in described]
    kept, masses = filter_detections(found, rules, masks)
    every = [*kept, *masses]
    numbered: list[Detection] = [{**nodule, "id": number} for number, nodule in enumerate(every)]
    return Findings(
        detections=numbered[: len(kept)],
        masses=numbered[len(kept) :],
        masks=[masks[nodule["id"]] for nodule in every],
        candidates=[],
        left_out=left_out,
    )


def draw_heatmap(heat: FloatArray, affine: Affine, scan: Scan, peaks: Sequence[PlacedPeak]) -> FloatArray:
    """The heatmap on the scan's grid. The voxel at each peak has the peak's own value.

    Interpolation alone would lower a peak, and more so in thick slices.
    """
    drawn = to_grid(heat.clip(0, 1), affine, scan.shape, scan.affine)
    for peak, world, *_ in peaks:
        voxel = _voxel(scan, _index(scan, world))
        drawn[voxel] = max(float(drawn[voxel]), peak["confidence"])
    return drawn


def _index(scan: Scan, world: WorldPoint) -> npt.NDArray[np.float64]:
    """The fractional index (3,) of a place in the scan."""
    return map_points(np.linalg.inv(scan.affine), world)


def _voxel(scan: Scan, index: npt.NDArray[np.float64]) -> Shape3:
    """The scan's voxel nearest to a fractional index."""
    x, y, z = (int(i) for i in np.clip(np.round(index), 0, np.array(scan.shape) - 1))
    return x, y, z


def _detection(
    scan: Scan,
    peak: Peak,
    places: tuple[WorldPoint, WorldPoint],
    guess: float,
    properties: Properties,
    *,
    placed: bool,
) -> Detection:
    """The nodule of a peak. `places` are the peak and the nodule's centre in the world."""
    at_peak, index = (_index(scan, place) for place in places)
    measured = properties["effective_diameter_mm"]
    diameter = round(float(measured if measured is not None else guess), 2)
    return Detection(
        id=0,
        coordinates=_vec3(index * scan.spacing),
        coordinates_voxel=_voxel(scan, index),
        image_number=_image_number(scan, _voxel(scan, index)),
        coordinates_lps=_vec3(to_lps(scan.affine, index)) if placed else None,
        peak_lps=_vec3(to_lps(scan.affine, at_peak)) if placed else None,
        diameter_mm=diameter,
        diameter_source="segmentation" if measured is not None else "network",
        confidence=round(peak["confidence"], 4),
        properties=properties,
        triage=score(properties, diameter),
    )


def _image_number(scan: Scan, voxel: Shape3) -> int | None:
    numbers = scan.acquisition.image_numbers
    return numbers[voxel[2]] if numbers else None


def _vec3(values: npt.NDArray[np.float64]) -> Vec3:
    x, y, z = (round(float(v), 3) for v in values)
    return x, y, z
