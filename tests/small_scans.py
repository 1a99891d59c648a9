"""Small scans and models, for tests that run the whole pipeline in a second."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from src.data.phantom import PhantomNodule, chest_phantom
from src.model.checkpoint import About, save_checkpoint
from src.model.unet import UNet
from src.types import Scan

__all__ = ["block", "chest", "save_nifti", "tiny_checkpoint"]

SIZE = 64.0  # mm


@functools.cache
def block(number: int = 0) -> tuple[Scan, PhantomNodule]:
    """64 mm of the synthetic chest around its nodule `number` (0: 20 mm, 2: 12 mm), and that nodule."""
    scan, truth = chest()
    shape = np.round(SIZE / np.array(scan.spacing)).astype(int)
    low = np.clip(np.array(truth[number].coordinates_voxel) - shape // 2, 0, np.array(scan.shape) - shape)
    shift = np.eye(4)
    shift[:3, 3] = low
    cut = scan.array[tuple(slice(a, a + n) for a, n in zip(low, shape, strict=True))]
    x, y, z = np.subtract(truth[number].coordinates, low * scan.spacing).tolist()
    nodule = dataclasses.replace(truth[number], coordinates=(x, y, z))
    return Scan(cut, scan.affine @ shift, f"block_{number}"), nodule


@functools.cache
def chest() -> tuple[Scan, list[PhantomNodule]]:
    """The whole synthetic chest on a coarse grid, and its nodules."""
    return chest_phantom(spacing=(2.0, 2.0, 2.5))


def save_nifti(scan: Scan, path: Path) -> Path:
    """The scan as a NIfTI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(scan.array, scan.affine), path)
    return path


def tiny_checkpoint(path: Path, **about: Any) -> Path:  # noqa: ANN401 - any of `About`
    """A network of a few random weights, which finds nothing."""
    torch.manual_seed(0)
    model = UNet((4, 4))
    save_checkpoint(path, model.state_dict(), About(name="tiny", hyperparameters=model.hyperparameters, **about))
    return path
