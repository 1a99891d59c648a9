"""The data types that modules share.

One geometry rule holds everywhere. Arrays are indexed (x, y, z) as in nibabel. Every 3-vector is x, y, z. Index 0 is
the centre of the first voxel. Lengths are millimetres.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, NotRequired, Self, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from .guidelines import Guidelines

__all__ = [
    "Acquisition",
    "Affine",
    "Candidate",
    "Detection",
    "Expected",
    "FloatArray",
    "Found",
    "LeftOut",
    "Location",
    "LungState",
    "LungsReport",
    "Mark",
    "NoduleMask",
    "NoduleType",
    "Peak",
    "Preprocessed",
    "Properties",
    "Report",
    "Results",
    "Scan",
    "Shape3",
    "SideReport",
    "Triage",
    "Vec3",
    "Volume",
    "spacing_of",
]

Vec3: TypeAlias = tuple[float, float, float]
Shape3: TypeAlias = tuple[int, int, int]
FloatArray: TypeAlias = npt.NDArray[np.float32]
Affine: TypeAlias = npt.NDArray[np.float64]
NoduleType: TypeAlias = Literal["solid", "part-solid", "ground-glass"]
LungState: TypeAlias = Literal["whole", "cut", "partly aerated", "not aerated"]  # cut by the field of view


def spacing_of(affine: Affine) -> Vec3:
    """The voxel spacing in millimetres along x, y and z."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


class Acquisition(NamedTuple):
    """DICOM's statements on how the slices were made. They are missing if the scan has another format."""

    thickness_mm: float | None = None  # SliceThickness, larger than the spacing if slices overlap
    kernel: str = ""  # ConvolutionKernel, in capitals
    image_numbers: tuple[int, ...] = ()  # InstanceNumber of each slice along z, by which viewers call it


@dataclass(frozen=True, eq=False, slots=True)
class Scan:
    """A CT volume in Hounsfield units: `array` of shape (X, Y, Z).

    `affine` (4x4) maps voxel indices to world millimetres in RAS+, as in nibabel. `notes` are the repairs made while
    reading, in words for the user, without patient data. `body_part` is DICOM's BodyPartExamined, in capitals.
    """

    array: npt.NDArray[Any]
    affine: Affine
    scan_id: str = "scan"
    series_uid: str | None = None
    notes: tuple[str, ...] = ()
    body_part: str = ""
    acquisition: Acquisition = field(default_factory=Acquisition)

    @property
    def shape(self) -> Shape3:
        """The number of voxels along x, y and z."""
        x, y, z = self.array.shape
        return x, y, z

    @property
    def spacing(self) -> Vec3:
        """The distance in millimetres between neighbouring voxel centres along x, y and z."""
        return spacing_of(self.affine)


class Volume(np.ndarray[Any, np.dtype[Any]]):
    """A (X, Y, Z) array with its `affine` (RAS+), and the `source`, the scan that was read.

    Arrays derived from it (a slice, a flip, a sum) lose the affine and the source: after `scan[::-1]` they would be
    wrong.
    """

    affine: Affine | None
    source: Scan | None

    def __new__(cls, array: npt.NDArray[Any], affine: Affine, source: Scan | None = None) -> Self:
        """A view of the array with its affine."""
        volume = np.asarray(array).view(cls)
        volume.affine, volume.source = affine, source
        return volume

    def __array_finalize__(self, obj: object) -> None:
        self.affine, self.source = None, None

    @property
    def scan_id(self) -> str:
        """The scan's name."""
        return self.source.scan_id if self.source else "scan"

    @property
    def notes(self) -> tuple[str, ...]:
        """The repairs made while reading."""
        return self.source.notes if self.source else ()


class Peak(TypedDict):
    """A local maximum of a heatmap."""

    coordinates: Vec3  # millimetres from the first voxel of the heatmap, sub-voxel
    coordinates_voxel: Shape3  # the voxel that holds the maximum
    diameter_mm: None  # a heatmap does not contain it
    confidence: float  # the heatmap's value there, 0 to 1


class Properties(TypedDict):
    """The measurements of one nodule; null where one could not be made."""

    volume_mm3: float | None
    mean_intensity: float | None  # HU, over the segmented voxels
    std_intensity: float | None
    min_intensity: float | None
    max_intensity: float | None
    effective_diameter_mm: float | None  # of the sphere of the same volume
    long_axis_mm: float | None  # longest in-plane diameter on the largest axial section
    short_axis_mm: float | None  # longest diameter perpendicular to it, on the same section
    sphericity: float | None  # 0 to 1
    solid_fraction: float | None  # share of the volume denser than ground-glass, 0 to 1
    nodule_type: NoduleType | None
    solid_mm: NotRequired[float | None]  # diameter of the largest connected solid part of a subsolid nodule


class Triage(TypedDict):
    """How suspicious a nodule looks. Without a score the fields are null and `reason` is set."""

    malignancy_score: float | None  # 0 to 1
    risk_category: Literal["low", "intermediate", "high"] | None
    reason: str | None


class Mark(TypedDict):
    """A mark of the network, measured. Positions refer to the input scan's own grid."""

    coordinates: Vec3  # index x spacing, millimetres from the first voxel
    coordinates_voxel: Shape3
    coordinates_lps: Vec3 | None  # world millimetres, LPS; null if the scan has no affine
    diameter_mm: float
    confidence: float  # 0 to 1: the heatmap's value at its peak
    nodule_probability: NotRequired[float | None]  # by the model's validation; null if it was not measured


class Location(TypedDict):
    """The rough place in the lungs; null if the scan shows too little of the body."""

    side: Literal["left", "right", "midline"] | None  # "midline": too near the body's midline for a side
    third: Literal["upper", "middle", "lower"] | None  # of the height of the lungs, not a lobe


class Detection(Mark):
    """One nodule. Its coordinates are the measured body's centre of gravity; without a body, the heatmap's peak."""

    id: int
    peak_lps: Vec3 | None  # the heatmap's peak, as `coordinates_lps`
    image_number: NotRequired[int | None]  # InstanceNumber of the slice of `coordinates`; only for DICOM series
    location: NotRequired[Location]  # missing in reports of earlier versions
    diameter_source: Literal["segmentation", "network"]
    properties: Properties
    triage: Triage
    guidelines: NotRequired[Guidelines]  # set when all nodules of the scan are known
    detectors: NotRequired[list["Found"]]  # which of several detectors gave it
    review: NotRequired[dict[str, Any] | None]  # in a reviewed report: the reader's verdict, null if it was not read


class SideReport(TypedDict):
    """The state of one lung."""

    litres: float  # of aerated lung
    state: LungState


class LungsReport(TypedDict):
    """The state of the lungs, and whether the examination can be evaluated as a whole."""

    recognised: bool
    evaluable: bool
    reason: str | None  # if it is not evaluable
    right: SideReport | None  # null if the body's midline is not found
    left: SideReport | None


class LeftOut(TypedDict):
    """The number of marks above the threshold that are not reported, by reason. Overlapping marks count each."""

    away_from_lungs: int
    too_small: int  # below `size_filter.min_diameter`


class Candidate(TypedDict):
    """A mark of the network below the threshold. It is not measured."""

    coordinates: Vec3  # as in a detection
    coordinates_lps: Vec3 | None
    confidence: float  # 0.1 to the threshold
    nodule_probability: NotRequired[float | None]  # as in a detection
    diameter_mm: float  # the network's estimate
    detectors: NotRequired[list["Found"]]


class Found(TypedDict):
    """A detector that gave a mark, and its own confidence."""

    name: str
    confidence: float


class Expected(TypedDict):
    """A model's measured performance at a threshold, on nodules and scans that were not used in training."""

    threshold: float  # of the confidence
    sensitivity: float  # 0 to 1
    sensitivity_ci95: tuple[float, float]  # over patients
    false_marks_per_scan: float
    of: str  # the nodules that were used, in words


class Report(TypedDict):
    """The content of `*_detections.json`."""

    scan_id: str
    model: str
    timestamp: str
    metadata: dict[str, Any]
    detections: list[Detection]
    masses: list[Detection]  # larger than `size_filter.max_diameter`; their ids follow those of the detections
    candidates: list[Candidate]  # below the threshold, strongest first
    summary: dict[str, Any]
    review: NotRequired[dict[str, Any]]  # what a reader left of the report (`results/reviewed.py`)


class NoduleMask(NamedTuple):
    """A nodule on the input scan's grid: `voxels` (X, Y, Z) bool. Its first voxel has the index `origin`."""

    voxels: npt.NDArray[np.bool_]
    origin: Shape3


class Results(Report):
    """A report with the heatmap: (X, Y, Z) float32 in 0..1 on the input scan's grid."""

    heatmap: Volume
    masks: list[NoduleMask | None]  # one for each detection, then for each mass; None if no boundary was found


class Preprocessed(NamedTuple):
    """A preprocessed scan: (X, Y, Z) float32, normalised, with its own affine (RAS+)."""

    array: FloatArray
    affine: Affine
