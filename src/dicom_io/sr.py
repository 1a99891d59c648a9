"""The nodules as a DICOM structured report: Comprehensive 3D SR with the template TID 1500."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from highdicom.seg import Segmentation
from highdicom.sr import (
    AlgorithmIdentification,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    GraphicTypeValues,
    GraphicTypeValues3D,
    ImageRegion3D,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PersonObserverIdentifyingAttributes,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    ReferencedSegment,
    RelationshipTypeValues,
    Scoord3DContentItem,
    ScoordContentItem,
    SourceImageForRegion,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes

from ..guidelines.assumptions import in_words
from ..results.conclusion import NONE_FOUND
from ..results.reviewed import distances_in_words, rejected_in_words, verdict_in_words
from ..types import Detection
from .codes import (
    ABSENT,
    CENTER,
    CERTAINTY,
    COMMENT,
    CT,
    LUNG,
    LUNG_RADS,
    LUNG_RADS_CATEGORIES,
    MEASURED,
    NODULE,
    PERCENT,
    PRESENCE,
    REPORT,
    SIDES,
    SUSPICION,
)
from .context import MANUFACTURER, Context
from .seg import segmented

__all__ = ["measurement_report"]

Group = (
    MeasurementsAndQualitativeEvaluations
    | PlanarROIMeasurementsAndQualitativeEvaluations
    | VolumetricROIMeasurementsAndQualitativeEvaluations
)


def measurement_report(context: Context, seg: Segmentation | None) -> Comprehensive3DSR:
    """One measurement group for each nodule and mass, or one that states that there are none.

    A nodule with a mask refers to its segment in `seg` (TID 1411), any other to a point (TID 1410). Each also has its
    centre on its image, because OHIF draws points of a series only from that. For a reviewed report, each group holds
    the reader's verdict, and the report lists the rejected findings.
    """
    numbers = {nodule["id"]: number for number, (nodule, _) in enumerate(segmented(context), 1)}
    nodules = [*context.results["detections"], *context.results["masses"]]
    groups = [_group(context, nodule, seg, numbers.get(nodule["id"])) for nodule in nodules] or [_none(context)]
    report = MeasurementReport(
        observation_context=_observer(context),
        procedure_reported=CT,
        imaging_measurements=groups,
        title=REPORT,
    )
    review: Mapping[str, Any] = context.results.get("review", {"findings": []})
    comments = [f"Rejected by a reader: {label}: {why}." for label, why in rejected_in_words(review)]
    comments += [f"Distance measured by a reader: {text}." for text in distances_in_words(review)]
    report[0].ContentSequence.extend(_comment(text) for text in comments)
    evidence = [*context.images, *([seg] if seg else [])]
    made = Comprehensive3DSR(evidence=evidence, content=report, is_complete=True, **context.common("SR"))
    made = context.finished(made)
    if not str(review).isascii():  # readers write in any language
        made.SpecificCharacterSet = "ISO_IR 192"
    return made


def _observer(context: Context) -> ObservationContext:
    """The program and the model as observers, and the reader who last changed the review, if any."""
    pivot, model = context.versions
    device = DeviceObserverIdentifyingAttributes(
        uid=context.uid("device"),
        name=MANUFACTURER,
        manufacturer_name=MANUFACTURER,
        model_name=f"{pivot}, {model}",
        serial_number=context.results["metadata"]["checkpoint"]["sha256"][:16],
    )
    reader = context.results.get("review", {}).get("by")
    person = reader and ObserverContext(codes.DCM.Person, PersonObserverIdentifyingAttributes(name=_as_name(reader)))
    return ObservationContext(
        observer_person_context=person or None,
        observer_device_context=ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device),
    )


def _as_name(reader: str) -> str:
    """The name of a reader's key as a DICOM person name. Characters with a meaning in DICOM are replaced."""
    return "".join("_" if letter in "\\^=" or not letter.isprintable() else letter for letter in reader)[:64]


def _none(context: Context) -> Group:
    absent = QualitativeEvaluation(name=PRESENCE, value=ABSENT)
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=context.uid("none"), identifier="No nodule"),
        finding_type=NODULE,
        finding_sites=[FindingSite(LUNG)],
        algorithm_id=_algorithm(context),
        qualitative_evaluations=[absent],
    )
    group[0].ContentSequence.append(_comment(str(context.results["summary"].get("conclusion") or NONE_FOUND)))
    return group


def _group(context: Context, nodule: Detection, seg: Segmentation | None, segment: int | None) -> Group:
    identifier, uid = context.tracking(nodule)
    place = np.array([nodule["coordinates_lps"]], dtype=np.float64)
    where: Mapping[str, Any] = nodule.get("location") or {}
    shared: dict[str, Any] = {
        "tracking_identifier": TrackingIdentifier(uid=uid, identifier=identifier),
        "finding_type": NODULE,
        "finding_sites": [FindingSite(LUNG, SIDES.get(str(where.get("side"))))],
        "algorithm_id": _algorithm(context),
        "measurements": list(_measurements(nodule)),
        "qualitative_evaluations": list(_evaluations(nodule)),
    }
    point = (GraphicTypeValues3D.POINT, place, context.frame_of_reference)
    if seg is None or segment is None:
        group: Group = PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=ImageRegion3D(*point), **shared)
    else:
        reference = ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=segment,
            source_series=SourceSeriesForSegmentation(context.original.SeriesInstanceUID),
        )
        group = VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=reference, **shared)
        # In addition to its segment, because many viewers draw only points.
        centre = Scoord3DContentItem(CENTER, *point, None, RelationshipTypeValues.CONTAINS)
        group[0].ContentSequence.append(centre)
    items = group[0].ContentSequence
    first_point = next(place for place, item in enumerate(items) if item.ValueType == "SCOORD3D")
    items.insert(first_point, _on_image(context, nodule))  # first, because OHIF takes the first of a group
    items.extend(_comment(text) for text in _remarks(nodule))
    return group


def _on_image(context: Context, nodule: Detection) -> ScoordContentItem:
    """The centre as (column, row) on the nearest image; (0.5, 0.5) is the centre of the first pixel."""
    image = context.images[nodule["coordinates_voxel"][2]]
    down, across = (float(step) for step in image.PixelSpacing)
    x, y, _ = nodule["coordinates"]
    at = np.array([[x / across + 0.5, y / down + 0.5]])
    made = ScoordContentItem(CENTER, GraphicTypeValues.POINT, at, relationship_type=RelationshipTypeValues.CONTAINS)
    made.ContentSequence = Sequence([SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID)])
    return made


def _algorithm(context: Context) -> AlgorithmIdentification:
    pivot, model = context.versions
    return AlgorithmIdentification(name=f"{MANUFACTURER} {model}", version=pivot, manufacturer=MANUFACTURER)


def _measurements(nodule: Detection) -> Iterator[Measurement]:
    """The measurements, then confidence and score, both in percent."""
    values = {**nodule["properties"], "effective_diameter_mm": nodule["diameter_mm"]}
    for key, (name, unit) in MEASURED.items():
        value = values[key]
        if isinstance(value, float):
            yield Measurement(name=name, value=round(value, 2), unit=unit)
    confidence: float | None = nodule["confidence"]  # None for a nodule that a reader added
    if confidence is not None:
        yield Measurement(name=CERTAINTY, value=round(100 * confidence, 2), unit=PERCENT)
    score = nodule["triage"]["malignancy_score"]
    if score is not None:
        yield Measurement(name=SUSPICION, value=round(100 * score, 2), unit=PERCENT)


def _evaluations(nodule: Detection) -> Iterator[QualitativeEvaluation]:
    category = _lung_rads(nodule).get("category")
    if category:
        yield QualitativeEvaluation(name=LUNG_RADS, value=LUNG_RADS_CATEGORIES[category])


def _lung_rads(nodule: Detection) -> Mapping[str, Any]:
    return nodule["guidelines"]["lung_rads"] if "guidelines" in nodule else {}


def _remarks(nodule: Detection) -> Iterator[str]:
    """The reader's verdict, and remarks on the limits of the numbers."""
    if "review" in nodule:
        yield f"Review: {verdict_in_words(nodule)}."
    location = nodule.get("location")
    if location and location["side"]:
        third = f", {location['third']} third" if location["third"] else ""
        yield f"Place, estimated: {location['side']}{third}."
    properties, triage, lung_rads = nodule["properties"], nodule["triage"], _lung_rads(nodule)
    yield f"Type: {properties['nodule_type'] or 'not measured'}."
    if nodule["diameter_source"] == "network":
        yield "No boundary was found: the diameter is the model's rough guess."
    if triage["malignancy_score"] is None:
        yield f"No score: {triage['reason']}."
    else:
        yield f"Score: how likely readers would rate it malignant by eye, {triage['risk_category']}; not of cancer."
    if lung_rads.get("category"):
        yield f"Lung-RADS v2022. Assumptions: {in_words(lung_rads['assumptions']) or 'none'}."


def _comment(text: str) -> TextContentItem:
    return TextContentItem(COMMENT, text, RelationshipTypeValues.CONTAINS)
