"""The context of all DICOM objects of a scan: series, results, UIDs and date."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydicom.dataset import Dataset
from pydicom.valuerep import DA, DT, TM

from ..data.headers import open_dicom
from ..data.loader import dicom_slices
from ..data.slices import Slice
from ..data.stacks import Stack
from ..errors import BadScan
from ..quiet import quiet_libraries
from ..types import Detection, Results, Shape3

if TYPE_CHECKING:
    from highdicom.base import SOPClass  # importing it takes as long as reading a scan

__all__ = ["MANUFACTURER", "Context", "check_series", "nodule_name", "open_context", "shape_of"]

MANUFACTURER = "PIVOT"
SERIES_NUMBERS = {"SR": 9001, "SEG": 9002, "PM": 9003, "SC": 9004, "PDF": 9005, "RTSTRUCT": 9006, "KO": 9007}
DESCRIPTIONS = {
    "SR": "Lung nodules: measurements",
    "SEG": "Lung nodules: segmentation",
    "PM": "Lung nodules: heatmap",
    "SC": "Lung nodules: key images",
    "PDF": "Lung nodules: report",
    "RTSTRUCT": "Lung nodules: outlines",
    "KO": "Lung nodules: key slices",
}
# Type 2 attributes of the patient and the study: required in an object, but may be empty.
IDENTITY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
)
# Attributes that must be the same in all slices. The UIDs must not be empty.
SHARED = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PatientID",
    "PatientName",
    "PatientBirthDate",
)
DIGITS = 4  # digits of a float in a digest; the number of threads may change the last bits

T = TypeVar("T", bound="SOPClass")


@dataclass(frozen=True, eq=False, repr=False)
class Context:
    """A series, the results of its scan, and the identifiers of the objects.

    `images` are the headers of the slices in the order of the scan's third axis, without pixels and without data that
    identifies the patient. `original` is the first slice's header as read, with that data.
    """

    images: Sequence[Dataset]
    original: Dataset
    results: Results
    identity: str
    when: datetime

    @property
    def frame_of_reference(self) -> str:
        """The frame of reference UID."""
        return str(self.original.FrameOfReferenceUID)

    @property
    def versions(self) -> tuple[str, str]:
        """The version of PIVOT, and the model's name with its version."""
        about = self.results["metadata"]
        model = about["checkpoint"]
        return about["versions"]["pivot"], f"{model['name']} {model['version']}"

    def uid(self, *what: object) -> str:
        """The UID of an object of these results. The same results of the same series always give the same UID."""
        return _uid(self.identity, *what)

    def tracking(self, nodule: Detection) -> tuple[str, str]:
        """The tracking identifier and UID of a nodule, always the same for the same place in the same series."""
        series = self.original.SeriesInstanceUID
        return nodule_name(nodule), _uid("nodule", series, nodule["id"], nodule["coordinates_voxel"])

    def common(self, kind: str, instance: int = 1) -> dict[str, Any]:
        """The common arguments of the constructors of objects of this `kind`."""
        return {
            "series_instance_uid": self.uid(kind, "series"),
            "series_number": SERIES_NUMBERS[kind],
            "series_description": DESCRIPTIONS[kind],
            "sop_instance_uid": self.uid(kind, instance),
            "instance_number": instance,
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": MANUFACTURER,
            "software_versions": list(self.versions),
            "device_serial_number": self.results["metadata"]["checkpoint"]["sha256"][:16],
            "series_date": self.when.date(),
            "series_time": self.when.time(),
            "content_date": self.when.date(),
            "content_time": self.when.time(),
        }

    def finished(self, made: T) -> T:
        """The object with the patient and the study of the series, without private elements or random UIDs."""
        made.copy_patient_and_study_information(self.original)
        if "Rows" in made:
            made.BodyPartExamined = "CHEST"
        made.InstanceCreationDate, made.InstanceCreationTime = DA(self.when.date()), TM(self.when.time())
        if "SpecificCharacterSet" in self.original:
            made.SpecificCharacterSet = self.original.SpecificCharacterSet
        for item in made.get("ContributingEquipmentSequence", ()):
            item.ContributionDateTime = DT(self.when)
        for sequence in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
            for item in made.get(sequence, ()):
                item.DimensionOrganizationUID = self.uid(made.SOPInstanceUID, "dimensions")
        made.remove_private_tags()
        return made


@quiet_libraries()
def check_series(series: str | Path) -> None:
    """Refuse, before any work is done, a DICOM series for which no objects could be written later.

    Raises:
        BadScan: it is no DICOM series, or attributes that the objects need are missing or contradictory.
    """
    with dicom_slices(series) as stack:
        try:
            _headers(stack)
        except BadScan as error:
            msg = f"{series}: {error}"
            raise BadScan(msg) from error.__cause__


def open_context(stack: Stack, results: Results) -> Context:
    """The context of a scan's results, from its series.

    Raises:
        BadScan: the files are multi-frame, the scan does not belong to the results, or a header lacks required
            attributes.
    """
    headers = _headers(stack)
    _check_results(headers, results)
    identity = _identity(headers, results)
    original = _header(stack, stack.slices[0])
    for header in headers:
        _forget_patient(header)
    return Context(
        images=headers,
        original=original,
        results=results,
        identity=identity,
        when=datetime.fromisoformat(_made(results)).astimezone().replace(tzinfo=None),  # local time, as in DICOM
    )


def _made(results: Results) -> str:
    """When the results were made or, for a reviewed report, last changed by the reader."""
    return str(results.get("review", {}).get("at") or results["timestamp"])


def shape_of(results: Results) -> Shape3:
    """The voxels of the scan along each axis. A reviewed report has no heatmap, so its metadata is used."""
    x, y, z = results["metadata"].get("shape") or results["heatmap"].shape
    return int(x), int(y), int(z)


def nodule_name(nodule: Detection) -> str:
    """The name of a nodule or mass in all objects, counted from 1."""
    return f"Nodule {nodule['id'] + 1}"


def _headers(stack: Stack) -> list[Dataset]:
    """The headers of all slices with the required attributes. Those that can be derived are filled in."""
    if len({one.path for one in stack.slices}) < len(stack.slices):
        msg = "DICOM objects of multi-frame CT are not written: convert the series to one file for each slice"
        raise BadScan(msg)
    if stack.resampled:
        msg = "its slices are unevenly spaced, and DICOM objects must refer to slices as they are: run without --dicom"
        raise BadScan(msg)
    headers = [_header(stack, one) for one in stack.slices]
    for name in SHARED:
        _check_shared(name, {str(header.get(name) or "") for header in headers}, needed=name.endswith("UID"))
    instances = {str(header.SOPInstanceUID or "") for header in headers}
    if len(instances) < len(headers) or "" in instances:
        what = "no value" if "" in instances else "the same value in several slices"
        msg = f"has {what} of SOPInstanceUID, by which DICOM objects refer to slices: export the series again"
        raise BadScan(msg)
    return headers


def _header(stack: Stack, one: Slice) -> Dataset:
    header = open_dicom(one.path, stop_before_pixels=True)
    for name in ("SOPClassUID", "SOPInstanceUID"):
        setattr(header, name, header.get(name) or header.file_meta.get(f"MediaStorage{name}"))
    # Type 2 in a CT image, so often empty, but type 1 in objects that refer to it: use the distance between slices.
    header.SliceThickness = one.about.thickness or round(float(stack.grid[1] - stack.grid[0]), 6)
    return header


def _check_shared(name: str, values: set[str], *, needed: bool) -> None:
    if len(values) > 1 or (needed and "" in values):
        what = f"{len(values)} different values" if len(values) > 1 else "no value"
        msg = f"has {what} of {name}, so DICOM objects cannot refer to it: export the series again"
        raise BadScan(msg)


def _check_results(headers: Sequence[Dataset], results: Results) -> None:
    shape, theirs = [int(headers[0].Columns), int(headers[0].Rows), len(headers)], list(shape_of(results))
    if shape != theirs:
        msg = f"the results are of another scan: it has {theirs} voxels, the series has {shape}"
        raise BadScan(msg)
    if headers[0].SeriesInstanceUID != results["metadata"]["series_uid"]:
        msg = "the results are of another series: give the series that was searched"
        raise BadScan(msg)


def _forget_patient(header: Dataset) -> None:
    """Empty the patient's and the study's attributes: odd values must not stop writing, nor appear in errors."""
    for name in IDENTITY:
        setattr(header, name, None)
    header.pop("SpecificCharacterSet", None)


def _identity(headers: Sequence[Dataset], results: Results) -> str:
    """A text that identifies the results: images, version, model, settings and findings."""
    about = results["metadata"]
    config = about["config"]
    how = {key: config["inference"][key] for key in ("mode", "patch_size", "stride", "overlap", "blending", "tta")}
    images = sorted(str(header.SOPInstanceUID) for header in headers)
    review = [results["review"]] if "review" in results else []
    found = _rounded([images, how, config["post_processing"], results["detections"], *review])
    return json.dumps([about["versions"]["pivot"], about["checkpoint"]["sha256"], found], sort_keys=True)


def _rounded(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}"
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _uid(*what: object) -> str:
    """A UID under the root 2.25 that depends only on the arguments (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(what)).int}"
