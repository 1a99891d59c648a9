"""What a published detector needs besides its weights, as values: its grid, its windows, and what its output means."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar

from pydantic import Field, ValidationError, model_validator
from torch import nn

from ..config import Section, explain
from ..data.cubic import cubic_grid, cubic_resample
from ..data.geometry import canonical
from ..data.intensity import normalize_intensity
from ..data.resample import Box, check_size, new_grid, resample
from ..errors import BadCheckpoint
from ..model.checkpoint import About, Checkpoint, Preprocessing
from ..types import Affine, FloatArray, Preprocessed, Scan, Shape3
from .source import Source

__all__ = ["BoxOutput", "Foreign", "Grid", "Laid", "MapOutput", "Together", "Windows", "checked", "foreign", "together"]

Spacing = Annotated[float, Field(ge=0.2, le=10)]
Hounsfield = Annotated[float, Field(ge=-100_000, le=100_000)]
Side = Annotated[int, Field(ge=8, le=1024)]
Probability = Annotated[float, Field(ge=0, le=1)]
Voxels = Annotated[float, Field(gt=0, le=1024)]
Library: TypeAlias = Literal["MONAI", "nnU-Net"]
Anchor: TypeAlias = tuple[Voxels, Voxels, Voxels]
S = TypeVar("S", bound=Section)


class Laid(NamedTuple):
    """A scan on a detector's grid: the shape and affine (RAS+), and the scan, or a box of it, in its intensities."""

    shape: Shape3
    affine: Affine
    prepared: Callable[[Box | None], Preprocessed]


class Grid(Section):
    """The axes, voxels and intensities of a detector's input, and the library whose resampling it was trained with."""

    axes: Annotated[str, Field(pattern="^[RL][AP][SI]$")] = "RAS"  # the ends that they run to
    spacing: tuple[Spacing, Spacing, Spacing]  # mm
    clip_range: tuple[Hounsfield, Hounsfield]  # HU
    output_range: tuple[Annotated[float, Field(ge=-10, le=10)], Annotated[float, Field(ge=-10, le=10)]] = (0.0, 1.0)
    like: Library = "MONAI"

    @model_validator(mode="after")
    def _ranges_are_open(self) -> "Grid":
        if self.clip_range[0] >= self.clip_range[1] or self.output_range[0] >= self.output_range[1]:
            msg = f"clip_range {list(self.clip_range)} and output_range {list(self.output_range)} must rise"
            raise ValueError(msg)
        return self

    def laid(self, scan: Scan) -> Laid:
        """The scan on this grid.

        Raises:
            BadScan: it is too large.
        """
        array, affine = canonical(scan.array, scan.affine, self.axes)
        if self.like == "nnU-Net":
            cubic = cubic_grid(array, affine, self.spacing)
            return Laid(
                cubic.shape,
                cubic.affine,
                lambda box: self._scaled(*cubic_resample(array, cubic, self.clip_range, box)),
            )
        shape, moved = new_grid((array.shape[0], array.shape[1], array.shape[2]), affine, self.spacing, plain=True)
        check_size(shape, self.spacing)

        def prepared(box: Box | None) -> Preprocessed:
            volume, part = resample(array, affine, self.spacing, box, plain=True)
            return self._scaled(normalize_intensity(volume, self.clip_range), part)

        return Laid(shape, moved, prepared)

    def _scaled(self, volume: FloatArray, affine: Affine) -> Preprocessed:
        """Intensities of 0 to 1 in the detector's range."""
        low, high = self.output_range
        return Preprocessed(volume if (low, high) == (0.0, 1.0) else volume * (high - low) + low, affine)


class Windows(Section):
    """The windows that a network sees, and how they are averaged: as the library lays and weights them."""

    patch_size: tuple[Side, Side, Side] = (128, 128, 128)
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.5
    blending: Literal["gaussian", "constant"] = "gaussian"
    sigma: Annotated[float, Field(gt=0, le=1)] = 0.125  # of the patch size, for `gaussian`
    like: Library = "MONAI"


class MapOutput(Section):
    """A segmentation network's output: one of its channels is the nodules' probability."""

    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    channel: Annotated[int, Field(ge=0, le=999)] = 1

    def check_fits(self, channels: int, where: str) -> None:
        """Raise `BadCheckpoint` if a network with so many output channels has no such output."""
        if self.channel >= channels or (self.activation == "softmax" and channels < 2):
            msg = f"{where}: output.channel {self.channel} with {self.activation} does not suit {channels} channels "
            msg += "(one channel: `output: {activation: sigmoid, channel: 0}`)"
            raise BadCheckpoint(msg)


class BoxOutput(Section):
    """A RetinaNet's output: its anchors, and which boxes are kept."""

    anchors: Annotated[tuple[Anchor, ...], Field(min_length=1, max_length=32)] = ((6, 8, 4), (8, 6, 5), (10, 10, 6))
    scales: Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1, max_length=6)] = (1, 2, 4)
    score_thresh: Probability = 0.02
    topk_candidates_per_level: Annotated[int, Field(ge=1, le=100_000)] = 1000
    nms_thresh: Probability = 0.22
    detections_per_img: Annotated[int, Field(ge=1, le=1000)] = 300

    def check_fits(self, network: Any, where: str) -> None:  # noqa: ANN401 - MONAI's RetinaNet
        """Raise `BadCheckpoint` if a network has other anchors."""
        if network.num_anchors != len(self.anchors):
            msg = (
                f"{where}: the network has {network.num_anchors} anchors for a voxel, but {len(self.anchors)} are given"
            )
            raise BadCheckpoint(msg)


@dataclass(frozen=True, eq=False, kw_only=True)
class Foreign(Checkpoint):
    """A detector that PIVOT did not train."""

    grid: Grid
    windows: Windows
    output: MapOutput | BoxOutput
    license: str | None = None

    @property
    def is_one_file(self) -> bool:
        """See `Checkpoint`."""
        return self.path.suffix.lower() == ".zip"

    @property
    def identity(self) -> dict[str, Any]:
        """See `Checkpoint`."""
        return {
            **super().identity,
            "architecture": self.about.architecture,
            "license": self.license,
            "grid": self.grid.model_dump(mode="json"),
            "windows": self.windows.model_dump(mode="json"),
            "output": self.output.model_dump(mode="json"),
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class Together(Checkpoint):
    """Several detectors that search together. `model` is that of the first."""

    members: tuple[Checkpoint, ...]
    is_one_file = False

    @property
    def identity(self) -> dict[str, Any]:
        """See `Checkpoint`."""
        return {**super().identity, "fusion": "noisy-or", "members": [one.identity for one in self.members]}


def together(members: Sequence[Checkpoint]) -> Together:
    """The detectors as one. Two of the same name are told apart by numbers.

    Raises:
        BadCheckpoint: one of them is there twice.
    """
    hashes = [one.sha256 for one in members]
    if len(set(hashes)) < len(hashes):
        msg = f"{members[-1].path} is given twice: give different detectors, or one alone"
        raise BadCheckpoint(msg)
    first, names = members[0], [one.about.name for one in members]
    return Together(
        model=first.model,
        about=About(architecture="ensemble", hyperparameters={}, name=" + ".join(names)),
        sha256=hashlib.sha256("".join(hashes).encode()).hexdigest(),
        path=first.path,
        members=tuple(members),
    )


def foreign(
    source: Source,
    network: nn.Module,
    architecture: tuple[str, dict[str, Any]],
    recipe: tuple[Grid, Windows, MapOutput | BoxOutput],
    *,
    name: str | None = None,
    version: str = "1",
    licence: str | None = None,
) -> Foreign:
    """The detector of a network from a source. `architecture` is its name and its arguments."""
    grid, windows, output = recipe
    low, high = grid.clip_range
    about = About(
        architecture=architecture[0],
        hyperparameters=architecture[1],
        preprocessing=Preprocessing(spacing=grid.spacing, clip_range=(low, high)),
        name=name or source.path.resolve().stem,
        version=version,
    )
    return Foreign(
        model=network,
        about=about,
        sha256=source.sha256,
        path=source.path,
        grid=grid,
        windows=windows,
        output=output,
        license=licence,
    )


def checked(kind: type[S], data: object, where: str) -> S:
    """The values as a section of the class `kind`.

    Raises:
        BadCheckpoint: a key or value is wrong. The message lists all of them.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        problems = "\n".join(f"  {line}" for line in explain(error, kind))
        msg = f"{where} cannot be used:\n{problems}"
        raise BadCheckpoint(msg) from None
