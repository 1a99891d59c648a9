"""Small scans and models, for tests that run the whole pipeline in a second."""

import dataclasses
import functools
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from src.data.phantom import PhantomNodule, chest_phantom
from src.model.checkpoint import About, save_checkpoint
from src.model.unet import UNet
from src.types import Affine, LungsReport, Scan, SideReport

__all__ = ["TURNS", "WHOLE", "block", "chest", "lungs_but", "mass", "save_nifti", "tiny_checkpoint", "turned"]

SIZE = 64.0  # mm
TURNS = [*product(permutations(range(3)), product((False, True), repeat=3))]  # all orders and directions of axes


WHOLE = LungsReport(
    recognised=True,
    evaluable=True,
    reason=None,
    right=SideReport(litres=2.0, state="whole"),
    left=SideReport(litres=1.8, state="whole"),
)


def lungs_but(reason: str, *, recognised: bool = True) -> LungsReport:
    """The report of lungs that cannot be fully judged, with the reason."""
    return {**WHOLE, "recognised": recognised, "evaluable": False, "reason": reason}


@functools.cache
def block(number: int = 0) -> tuple[Scan, PhantomNodule]:
    """A 64 mm block of the synthetic chest around its nodule `number` (0: 20 mm, 2: 12 mm), and that nodule."""
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
def mass() -> Scan:
    """A mass of 50 mm: the synthetic chest's 20 mm nodule with voxels 2.5 times as large."""
    scan, truth = chest()
    low = np.array(truth[0].coordinates_voxel) - 16
    cut = scan.array[tuple(slice(start, start + 32) for start in low)]
    return Scan(cut, scan.affine @ np.diag([2.5, 2.5, 2.5, 1.0]), "mass")


@functools.cache
def chest() -> tuple[Scan, list[PhantomNodule]]:
    """The whole synthetic chest on a coarse grid, and its nodules."""
    return chest_phantom(spacing=(2.0, 2.0, 2.5))


def turned(scan: Scan, order: tuple[int, ...], flips: tuple[bool, ...]) -> tuple[Scan, Affine]:
    """The same scan at the same place with other axes, and the matrix from its indices to those of `scan`."""
    back = np.zeros((4, 4))
    back[3, 3] = 1
    for axis, (source, flip) in enumerate(zip(order, flips, strict=True)):
        back[source, axis] = -1 if flip else 1
        back[source, 3] = scan.shape[source] - 1 if flip else 0
    array = scan.array.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return Scan(array, scan.affine @ back, scan.scan_id), back


def save_nifti(scan: Scan, path: Path) -> Path:
    """Write the scan to a NIfTI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(scan.array, scan.affine), path)
    return path


def tiny_checkpoint(path: Path, **about: Any) -> Path:  # noqa: ANN401 - any of `About`
    """Write a checkpoint of a tiny random network that finds nothing."""
    torch.manual_seed(0)
    model = UNet((4, 4))
    save_checkpoint(path, model.state_dict(), About(name="tiny", hyperparameters=model.hyperparameters, **about))
    return path
