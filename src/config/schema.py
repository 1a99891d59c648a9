"""The configuration of inference: every key with its default and its range."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ..exports import EXPORTS
from ..types import Shape3
from .section import Section, load_section

__all__ = ["AUGMENTATIONS", "Augmentation", "Config", "DetectionsFormat", "Device", "HeatmapFormat", "load_config"]

Probability = Annotated[float, Field(ge=0, le=1)]
Millimetres = Annotated[float, Field(ge=0, le=1000)]
Spacing = Annotated[float, Field(gt=0.1, le=10)]  # mm
Hounsfield = Annotated[float, Field(ge=-100_000, le=100_000)]
Voxels = Annotated[int, Field(ge=1, le=2048)]
Count = Annotated[int, Field(ge=1, le=1024)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
Augmentation = Literal["flip_x", "flip_y", "flip_z", "rotate_90_xy", "rotate_90_xz", "rotate_90_yz"]
AUGMENTATIONS: tuple[Augmentation, ...] = (
    "flip_x",
    "flip_y",
    "flip_z",
    "rotate_90_xy",
    "rotate_90_xz",
    "rotate_90_yz",
)

WINDOW_KEYS = {"patch_size", "stride", "overlap", "blending"}
DetectionsFormat = Literal["json", "csv", "both"]
HeatmapFormat = Literal["nifti", "numpy"]


class ModelSection(Section):
    """The network, and the device it runs on."""

    checkpoint: Path | None = None
    architecture: Literal["unet"] = "unet"
    device: Device = "auto"
    mixed_precision: bool = True  # float16 on CUDA, bfloat16 on CPUs with it in hardware, else float32


class InputSection(Section):
    """The grid and the intensities of the network's input. Unset keys are taken from the checkpoint."""

    spacing: tuple[Spacing, Spacing, Spacing] | None = None  # mm
    clip_range: tuple[Hounsfield, Hounsfield] | None = None
    normalize: bool | None = None
    normalization_method: Literal["minmax", "zscore"] | None = None

    @model_validator(mode="after")
    def _window_is_open(self) -> "InputSection":
        if self.clip_range and self.clip_range[0] >= self.clip_range[1]:
            msg = f"clip_range {list(self.clip_range)} is empty: the first value must be the smaller one"
            raise ValueError(msg)
        return self


class Blending(Section):
    """How overlapping patches are averaged."""

    method: Literal["gaussian", "linear", "average"] = "gaussian"
    sigma: Annotated[float, Field(gt=0, le=10)] = 0.125  # of the patch size; for `gaussian`


class Tta(Section):
    """Test-time augmentation: the mean over flipped and rotated views."""

    enabled: bool = False
    num_augmentations: Annotated[int, Field(ge=1, le=48)] = 8
    augmentations: tuple[Augmentation, ...] = Field(default=AUGMENTATIONS, min_length=1)

    @model_validator(mode="after")
    def _augments(self) -> "Tta":
        if len(set(self.augmentations)) < len(self.augmentations):
            msg = f"augmentations {list(self.augmentations)} has a repeated value: remove it"
            raise ValueError(msg)
        if self.enabled and self.num_augmentations == 1:
            msg = "num_augmentations is 1, which means the scan alone: use 2 or more, or set enabled to false"
            raise ValueError(msg)
        return self


class InferenceSection(Section):
    """How the network is applied to the scan."""

    mode: Literal["sliding_window", "whole_volume"] = "sliding_window"
    patch_size: tuple[Voxels, Voxels, Voxels] = (128, 128, 128)
    stride: tuple[Voxels, Voxels, Voxels] | None = None  # voxels between patches
    # Share of the patch size. Default: 0.5, if `stride` is unset. Above 0.9 a voxel would be computed over 1000 times.
    overlap: Annotated[float, Field(ge=0, le=0.9)] | None = None
    speed: Literal["auto", "accurate", "balanced", "fast"] = "auto"  # see `_choose_speed`
    region: Literal["lungs", "everything"] = "lungs"  # where the network looks
    second_look: bool = True  # at half the resolution, for nodules from 16 mm on
    engine: Literal["auto", "torch", "torchscript", "export", "onnx", "openvino"] = "auto"
    batch_size: Count = 4
    blending: Blending = Blending()
    tta: Tta = Tta()
    device: Device | None = None  # the same setting as `model.device`
    mixed_precision: bool | None = None  # the same setting as `model.mixed_precision`
    cudnn_benchmark: bool = False
    num_workers: Annotated[int, Field(ge=0, le=256)] = 2  # threads that read and write scans
    prefetch_factor: Count = 2  # scans read ahead for each worker
    clear_cache: bool = False

    @model_validator(mode="before")
    @classmethod
    def _choose_speed(cls, data: object) -> object:
        """Replace `auto`: windows if their keys are given, else tiles, which are faster (docs/performance.md).

        The engines that make a graph for each shape get windows, because the shape of tiles differs from scan to scan.
        """
        if not isinstance(data, dict) or data.get("speed", "auto") != "auto":
            return data
        whole, graphs = data.get("mode") == "whole_volume", data.get("engine", "auto") not in ("auto", "torch")
        return {**data, "speed": "accurate" if WINDOW_KEYS & data.keys() or whole or graphs else "fast"}

    @model_validator(mode="after")
    def _stride_and_overlap_agree(self) -> "InferenceSection":
        if self.stride is not None and self.overlap is not None:
            implied = [size * (1 - self.overlap) for size in self.patch_size]
            if any(abs(a - b) >= 1 for a, b in zip(implied, self.stride, strict=True)):
                msg = (
                    f"stride {list(self.stride)} contradicts overlap {self.overlap}, which means a stride of "
                    f"{[round(v, 1) for v in implied]} at patch_size {list(self.patch_size)}: keep one of the two"
                )
                raise ValueError(msg)
        if self.stride and any(a > b for a, b in zip(self.stride, self.patch_size, strict=True)):
            msg = f"stride {list(self.stride)} leaves gaps between patches of {list(self.patch_size)}"
            raise ValueError(msg)
        if self.mode == "whole_volume" and self.speed != "accurate":
            msg = f"speed {self.speed} uses windows, but mode whole_volume has none: keep one of the two"
            raise ValueError(msg)
        return self

    @property
    def step(self) -> Shape3:
        """The distance between neighbouring patches in voxels along x, y and z."""
        if self.stride is not None:
            return self.stride
        overlap = 0.5 if self.overlap is None else self.overlap
        x, y, z = (max(1, round(size * (1 - overlap))) for size in self.patch_size)
        return x, y, z


class PeakDetection(Section):
    """How candidates are found in the heatmap."""

    threshold: Probability = 0.5
    min_distance: Millimetres = 10.0
    method: Literal["local_maxima", "nms"] = "local_maxima"


class Nms(Section):
    """Suppression of weaker detections that overlap a stronger one."""

    enabled: bool = True
    iou_threshold: Probability = 0.3


class SizeFilter(Section):
    """The range of diameters that are reported."""

    min_diameter: Millimetres = 3.0
    max_diameter: Millimetres = 30.0

    @model_validator(mode="after")
    def _range_is_open(self) -> "SizeFilter":
        if self.min_diameter > self.max_diameter:
            msg = f"min_diameter {self.min_diameter} is larger than max_diameter {self.max_diameter}"
            raise ValueError(msg)
        return self


class ConfidenceFilter(Section):
    """The smallest confidence that is reported."""

    min_confidence: Probability = 0.3


class PostProcessing(Section):
    """From heatmap to reported nodules."""

    peak_detection: PeakDetection = PeakDetection()
    nms: Nms = Nms()
    size_filter: SizeFilter = SizeFilter()
    confidence_filter: ConfidenceFilter = ConfidenceFilter()

    @property
    def threshold(self) -> float:
        """The smallest confidence of a reported mark, 0 to 1."""
        return max(self.peak_detection.threshold, self.confidence_filter.min_confidence)


class Formats(Section):
    """File formats of the outputs."""

    detections: DetectionsFormat = "json"
    heatmap: HeatmapFormat = "nifti"
    exports: tuple[str, ...] = ()  # files for other programs, see `exports.EXPORTS`

    @field_validator("exports")
    @classmethod
    def _are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in EXPORTS]
        if unknown or len(set(names)) < len(names):
            msg = f"{unknown[0]} is no format" if unknown else f"{list(names)} has a repeated value"
            msg += f": use {', '.join(EXPORTS)}"
            raise ValueError(msg)
        return names

    @property
    def dicom(self) -> bool:
        """Whether an export is a DICOM object."""
        return any(EXPORTS[name].dicom for name in self.exports)


class Output(Section):
    """Which files are written."""

    save_heatmap: bool = True
    save_detections: bool = True
    save_visualization: bool = True
    save_report: bool = False
    save_dicom: bool = False  # results as DICOM objects; only for DICOM series
    formats: Formats = Formats()

    @property
    def dicom(self) -> bool:
        """Whether DICOM objects are written: as such, or because an export is one."""
        return self.save_dicom or self.formats.dicom


class Visualization(Section):
    """How the pictures look."""

    num_slices: Annotated[int, Field(ge=1, le=25)] = 5
    colormap: Annotated[str, Field(max_length=100)] = "hot"
    overlay_alpha: Probability = 0.5
    save_3d: bool = False


class Config(Section):
    """The whole inference configuration. Every key has the guide's default."""

    model: ModelSection = ModelSection()
    input: InputSection = InputSection()
    inference: InferenceSection = InferenceSection()
    post_processing: PostProcessing = PostProcessing()
    output: Output = Output()
    visualization: Visualization = Visualization()

    @model_validator(mode="before")
    @classmethod
    def _one_device(cls, data: Any) -> Any:  # noqa: ANN401 - whatever the YAML holds
        """Take `device` and `mixed_precision` from either of their two sections."""
        if not isinstance(data, dict):
            return data
        data = {key: {} if value is None else value for key, value in data.items()}  # `output:` without keys
        model, inference = data.get("model") or {}, data.get("inference") or {}
        if not (isinstance(model, dict) and isinstance(inference, dict)):
            return data
        for key in ("device", "mixed_precision"):
            one, other = model.get(key), inference.get(key)
            if one is not None and other is not None and one != other:
                msg = f"model.{key} is {one!r}, but inference.{key} is {other!r}: keep one of the two"
                raise ValueError(msg)
        shared = {key: inference[key] for key in ("device", "mixed_precision") if inference.get(key) is not None}
        return {**data, "model": {**model, **shared}}


def load_config(source: "Config | dict[str, Any] | str | Path | None" = None) -> Config:
    """A `Config` from a YAML file, a mapping, another `Config`, or nothing (the defaults).

    Raises:
        BadConfig: as for `load_section`.
    """
    return source if isinstance(source, Config) else load_section(Config, source)
