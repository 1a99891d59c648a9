"""A run's findings as a bundle of FHIR R4 resources: a report, an observation per finding, and the study."""

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files import write_json
from ..types import Results, Scan
from .found import Finding, findings_of
from .output_formatter import rounded

__all__ = ["export"]

LOINC, SNOMED, UCUM = "http://loinc.org", "http://snomed.info/sct", "http://unitsofmeasure.org"
NOBODY = {"display": "not stated: PIVOT reads nothing that tells who the patient is"}
DCM = "http://dicom.nema.org/resources/ontology/DCM"
SIDES = {"left": ("44029006", "Left lung structure"), "right": ("3341006", "Right lung structure")}
# Each property's system, code, display text, unit and UCUM code.
MEASURED = {
    "long_axis_mm": (SNOMED, "103339001", "Long axis", "mm", "mm"),
    "short_axis_mm": (SNOMED, "103340004", "Short axis", "mm", "mm"),
    "volume_mm3": (SNOMED, "118565006", "Volume", "mm3", "mm3"),
    "mean_intensity": (DCM, "112181", "Mean Attenuation Coefficient", "HU", "[hnsf'U]"),
}
ADVICE = {  # the result of each guideline, and its name
    "lung_rads": {"category": "Lung-RADS v2022 category"},
    "fleischner": {"low_risk": "Fleischner 2017, low risk", "high_risk": "Fleischner 2017, high risk"},
    "bts": {"management": "BTS 2015 management"},
}
BROCK = "Brock 2a probability of cancer,"  # followed by: upper lobe, or other lobe


def export(scan: Scan, results: Results, path: Path) -> None:
    """Write a Bundle of type collection: DiagnosticReport, ImagingStudy (of a DICOM series) and Observations.

    All are preliminary, because nobody has verified them. They contain no patient: add one when you store them.
    """
    findings = [one._replace(found=rounded(one.found)) for one in findings_of(results)]
    observations = [_observation(one, results) for one in findings]
    study = [_study(scan.series_uid, results)] if scan.series_uid else []
    report = {
        "resourceType": "DiagnosticReport",
        "id": _id(results, "report"),
        "status": "preliminary",
        "category": [_concept(LOINC, "18748-4", "Diagnostic imaging study")],
        "code": _concept(LOINC, "24627-2", "CT Chest"),
        "subject": NOBODY,
        "issued": results["timestamp"],
        "result": [{"reference": _url(one)} for one in observations],
        "conclusion": f"{results['summary'].get('conclusion', '')} Research use only, not a medical device.".strip(),
    }
    if study:
        report["imagingStudy"] = [{"reference": _url(study[0])}]
    bundle = {
        "resourceType": "Bundle",
        "type": "collection",
        "timestamp": results["timestamp"],
        "entry": [{"fullUrl": _url(one), "resource": one} for one in (report, *study, *observations)],
    }
    write_json(bundle, path)


def _study(series_uid: str, results: Results) -> dict[str, Any]:
    return {
        "resourceType": "ImagingStudy",
        "id": _id(results, "study"),
        "status": "available",
        "subject": NOBODY,
        "series": [{"uid": series_uid, "modality": {"system": DCM, "code": "CT"}}],
    }


def _observation(one: Finding, results: Results) -> dict[str, Any]:
    where: Mapping[str, Any] = one.found.get("location") or {}
    code, words = SIDES.get(str(where.get("side")), ("39607008", "Lung structure"))
    return {
        "resourceType": "Observation",
        "id": _id(results, one.number),
        "status": "preliminary",
        "code": {**_concept(SNOMED, "27925004", "Nodule"), "text": one.name},
        "subject": NOBODY,
        "effectiveDateTime": results["timestamp"],
        "bodySite": _concept(SNOMED, code, words),
        "valueQuantity": _quantity(one.found["diameter_mm"], "mm", "mm"),
        "component": list(_components(one.found)),
    }


def _components(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The measurements of a finding other than its diameter."""
    for key, (system, code, words, unit, ucum) in MEASURED.items():
        value = (found.get("properties") or {}).get(key)
        if value is not None:
            yield {"code": _concept(system, code, words), "valueQuantity": _quantity(value, unit, ucum)}
    kind = (found.get("properties") or {}).get("nodule_type")
    if kind:
        yield {"code": {"text": "Nodule type"}, "valueString": kind}
    confidence = _quantity(found["confidence"], "of 1", "1")
    yield {"code": {"text": "Confidence of the detector, not a probability"}, "valueQuantity": confidence}
    score = found["triage"]["malignancy_score"]
    if score is not None:
        text = "Probability that readers rate the nodule malignant by eye, not of cancer"
        yield {"code": {"text": text}, "valueQuantity": _quantity(score, "of 1", "1")}
    yield from _guidelines(found.get("guidelines") or {})


def _guidelines(rules: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The results of the guidelines that have one."""
    for name, results in ADVICE.items():
        for key, words in results.items():
            if (rules.get(name) or {}).get(key):
                yield {"code": {"text": words}, "valueString": rules[name][key]}
    for lobe, value in ((rules.get("brock") or {}).get("2a") or {}).items():
        yield {"code": {"text": f"{BROCK} {lobe.replace('_', ' ')}"}, "valueQuantity": _quantity(value, "of 1", "1")}


def _concept(system: str, code: str, words: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code, "display": words}]}


def _quantity(value: float, unit: str, ucum: str) -> dict[str, Any]:
    return {"value": round(value, 4), "unit": unit, "system": UCUM, "code": ucum}


def _id(results: Results, part: object) -> str:
    """An id that is always the same for the same part of the same run."""
    run = [results["scan_id"], results["timestamp"], results["model"], part]
    return str(uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(run)))


def _url(resource: Mapping[str, Any]) -> str:
    return f"urn:uuid:{resource['id']}"
