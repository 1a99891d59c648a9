"""Applies all guidelines to all nodules of a scan."""

from collections.abc import Sequence

from ..types import Guidelines, Properties
from . import brock, bts, fleischner, lung_rads
from .nodule import NOT_MEASURED, as_nodule
from .patient import Patient

__all__ = ["SOURCES", "apply_guidelines"]

SOURCES = {
    "lung_rads": lung_rads.SOURCE,
    "fleischner": fleischner.SOURCE,
    "brock": brock.SOURCE,
    "bts": bts.SOURCE,
}


def apply_guidelines(found: Sequence[Properties], patient: Patient) -> list[Guidelines]:
    """The result of each guideline for each nodule of a scan, in order; null, with a reason, if it does not apply."""
    nodules = [as_nodule(properties) for properties in found]
    solid = [nodule.nodule_type == "solid" for nodule in nodules if nodule]
    return [
        _not_measured()
        if nodule is None
        else Guidelines(
            lung_rads=lung_rads.lung_rads(nodule, patient),
            fleischner=fleischner.fleischner(nodule, patient, _number(solid.count(nodule.nodule_type == "solid"))),
            brock=brock.brock(nodule, patient, len(found)),
            bts=bts.bts(nodule, patient),
        )
        for nodule in nodules
    ]


def _number(count: int) -> fleischner.Number:
    return "multiple" if count > 1 else "single"


def _not_measured() -> Guidelines:
    return Guidelines(
        lung_rads=lung_rads.uncategorised(NOT_MEASURED),
        fleischner=fleischner.unrecommended(NOT_MEASURED),
        brock=brock.not_estimated(NOT_MEASURED),
        bts=bts.unmanaged(NOT_MEASURED),
    )
