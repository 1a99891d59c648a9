"""Checkpoints: weights with their description (`About`). Reading one runs none of its code.

A `.pth` file holds one mapping of both. A `.safetensors` file holds the description as JSON in its metadata. A
TorchScript `.pt` file holds it as JSON in an extra file.
"""

import hashlib
import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from ..errors import BadCheckpoint
from ..files import here_or_shipped, shipped, whole_file
from ..given import path_of
from .unet import CHANNELS, UNet
from .validation import Validation

__all__ = [
    "EXTRA_FILE",
    "About",
    "Checkpoint",
    "default_checkpoint",
    "first_line",
    "legacy_jit",
    "load_model",
    "open_checkpoint",
    "save_checkpoint",
]

FORMAT = "pivot-checkpoint-1"
EXTRA_FILE = "pivot.json"
LAST_LAYER = "head.2."  # the prefix of the weights of the detector's last layer


class Preprocessing(BaseModel):
    """The grid and intensities that a model was trained with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)  # mm
    clip_range: tuple[float, float] = (-1000.0, 400.0)  # HU
    normalize: bool = True
    normalization_method: str = "minmax"


class About(BaseModel):
    """The description in a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    format: str = FORMAT
    architecture: str = "unet"
    hyperparameters: dict[str, Any]
    preprocessing: Preprocessing = Preprocessing()
    trained_heads: tuple[str, ...] = ("heatmap", "diameter_mm")
    second_stage: None = None  # unused; earlier versions wrote it
    name: str
    version: str = "1"
    training: dict[str, Any] = Field(default_factory=dict)
    results: dict[str, Any] = Field(default_factory=dict)  # of the training's own validation
    validation: Validation | None = None


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded network in eval mode, its description, and the SHA-256 of its file."""

    model: nn.Module
    about: About
    sha256: str
    path: Path = field(repr=False)

    @property
    def is_one_file(self) -> bool:
        """Whether the file at `path` is all of it."""
        return True

    @property
    def identity(self) -> dict[str, Any]:
        """Which model it is, for reports."""
        return {"name": self.about.name, "version": self.about.version, "sha256": self.sha256}


def default_checkpoint() -> Path:
    """The shipped weights."""
    return shipped("checkpoints/best_model.pth")


def save_checkpoint(path: str | Path, state: Mapping[str, torch.Tensor], about: About) -> None:
    """Write weights to `.pth` or `.safetensors`, whole or not at all.

    Kernels are stored as float16. Vectors keep their type: they are small, and variances may exceed float16's 65504.

    Raises:
        BadCheckpoint: a weight is NaN, infinite, or too large for its stored type.
        BadOutput: the file cannot be written.
    """
    stored = {key: value.half() if _is_kernel(value) else value for key, value in state.items()}
    _check_finite(path, stored)
    if Path(path).suffix == ".safetensors":
        tensors = {key: value.contiguous() for key, value in stored.items()}
        content = save(tensors, {"pivot": about.model_dump_json()})
    else:
        buffer = io.BytesIO()
        torch.save({**about.model_dump(mode="json"), "state_dict": stored}, buffer)
        content = buffer.getvalue()
    with whole_file(path) as partial:
        partial.write_bytes(content)


def load_model(path: str | Path | None = None) -> Checkpoint:
    """The model in a `.pth`, `.safetensors` or TorchScript file. Default: the shipped one.

    Raises:
        BadCheckpoint: the file is missing, damaged or not PIVOT's, or holds pickled code.
    """
    path = default_checkpoint() if path is None else here_or_shipped(path_of(path, "the checkpoint", BadCheckpoint))
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        msg = f"cannot read the checkpoint {path}: {error.strerror}"
        raise BadCheckpoint(msg) from None
    if path.suffix == ".safetensors":
        about, state = _read_safetensors(path)
    elif _is_torchscript(path):
        return Checkpoint(*_read_torchscript(path), digest, path)
    else:
        about, state = _read_pth(path)
    return Checkpoint(_build(path, about, state), about, digest, path)


def open_checkpoint(given: Checkpoint | str | Path | None) -> Checkpoint:
    """A loaded checkpoint as it is, or the checkpoint at a path, by `load_model`."""
    return given if isinstance(given, Checkpoint) else load_model(given)


def _read_pth(path: Path) -> tuple[About, Mapping[str, torch.Tensor]]:
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        msg = f"{path} is not a checkpoint, or holds pickled code: PIVOT loads plain tensors only, and ran nothing"
        raise BadCheckpoint(msg) from None
    except Exception as error:  # noqa: BLE001 - a garbled pickle raises anything, IndexError included
        msg = f"{path} is damaged or not a checkpoint ({first_line(error)})"
        raise BadCheckpoint(msg) from None
    if not isinstance(data, dict) or not isinstance(data.get("state_dict"), dict):
        msg = f"{path} holds no PIVOT checkpoint: expected a mapping with `format`, `architecture` and `state_dict`"
        raise BadCheckpoint(msg)
    state = data.pop("state_dict")
    return _about(path, data), state


def _read_safetensors(path: Path) -> tuple[About, Mapping[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        msg = f"{path} is damaged or not a safetensors file ({first_line(error)})"
        raise BadCheckpoint(msg) from None
    return _about(path, _json(path, metadata.get("pivot"))), state


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/", 1)[-1] == "constants.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # no archive, or a garbled one
        return False


def _read_torchscript(path: Path) -> tuple[nn.Module, About]:
    extra = {EXTRA_FILE: ""}
    try:
        with legacy_jit():
            model = torch.jit.load(path, map_location="cpu", _extra_files=extra)
    except (RuntimeError, ValueError) as error:
        msg = f"{path} is damaged or not TorchScript ({first_line(error)})"
        raise BadCheckpoint(msg) from None
    return model.eval(), _about(path, _json(path, extra[EXTRA_FILE]))


@contextmanager
def legacy_jit() -> Iterator[None]:
    """Suppress torch's warning that TorchScript is deprecated. It is a documented format of PIVOT."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
        yield


def _json(path: Path, text: str | bytes | None) -> dict[str, Any]:
    try:
        data = json.loads(text or "")
    except ValueError:
        data = None
    if not isinstance(data, dict):
        msg = f"{path} holds no description of its model: it was not written by PIVOT"
        raise BadCheckpoint(msg)
    return data


def _about(path: Path, data: dict[str, Any]) -> About:
    if data.get("format") != FORMAT:
        msg = f"{path} has format {data.get('format')!r}, this version of PIVOT reads {FORMAT!r}"
        raise BadCheckpoint(msg)
    try:
        return About.model_validate(data)
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
        msg = f"{path} has a wrong description: check {keys}"
        raise BadCheckpoint(msg) from None


def _build(path: Path, about: About, state: Mapping[str, torch.Tensor]) -> nn.Module:
    if about.architecture != "unet":
        msg = f"{path} holds a {about.architecture!r}, and this version of PIVOT builds only 'unet'"
        raise BadCheckpoint(msg)
    try:
        model = UNet(**about.hyperparameters)
        model.load_state_dict({key: _trained_channels(key, value) for key, value in state.items()})
    except (RuntimeError, TypeError, ValueError) as error:
        msg = f"the weights in {path} do not fit its hyper-parameters {about.hyperparameters} ({first_line(error)})"
        raise BadCheckpoint(msg) from None
    _check_finite(path, state)
    return model.eval()


def _trained_channels(key: str, value: torch.Tensor) -> torch.Tensor:
    """The weight without the third output channel of earlier versions: an untrained malignancy score."""
    return value[: len(CHANNELS)] if key.startswith(LAST_LAYER) and len(value) == len(CHANNELS) + 1 else value


def _is_kernel(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim > 1


def _check_finite(path: str | Path, state: Mapping[str, torch.Tensor]) -> None:
    broken = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        msg = f"{path} has weights that are NaN or infinite ({broken[0]}): the model is damaged"
        raise BadCheckpoint(msg)


def first_line(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters, or the error's type."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
