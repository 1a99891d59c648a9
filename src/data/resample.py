"""From one voxel grid to another, by SimpleITK, with every voxel keeping its place in the world."""

import math

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from ..types import Affine, FloatArray, Shape3, Vec3
from .geometry import RAS_TO_LPS, spacing_of

__all__ = ["resample", "to_grid"]

SAME = 1e-3  # mm; spacings closer than this are one
FWHM_TO_SIGMA = 1 / (2 * math.sqrt(2 * math.log(2)))


def resample(array: npt.NDArray[np.generic], affine: Affine, spacing: Vec3) -> tuple[FloatArray, Affine]:
    """An (X, Y, Z) volume on a grid of `spacing` millimetres along the same axes, by linear interpolation.

    The new grid has the old one's centre and covers it. Where voxels grow, a Gaussian first
    removes what the coarser grid cannot show; its width makes up the difference between the two
    voxel sizes, taken as the full width at half maximum (Cardoso et al., MICCAI 2015).
    """
    old = spacing_of(affine)
    if all(abs(a - b) < SAME for a, b in zip(old, spacing, strict=True)):
        return np.asarray(array, dtype=np.float32), affine
    shape = tuple(math.ceil(n * a / b) for n, a, b in zip(array.shape, old, spacing, strict=True))
    scale = np.array(spacing) / old
    new_affine = affine @ np.diag([*scale, 1.0])
    # The centres of both grids coincide.
    shift = (np.array(array.shape) - 1) / 2 - (np.array(shape) - 1) / 2 * scale
    new_affine[:3, 3] = affine[:3, :3] @ shift + affine[:3, 3]
    image = _image(array, affine)
    for axis, (a, b) in enumerate(zip(old, spacing, strict=True)):
        if b > a + SAME:
            image = sitk.RecursiveGaussian(image, math.sqrt(b**2 - a**2) * FWHM_TO_SIGMA, direction=axis)
    return _sample(image, (shape[0], shape[1], shape[2]), new_affine, float(array.min())), new_affine


def to_grid(array: npt.NDArray[np.generic], affine: Affine, shape: Shape3, target: Affine) -> FloatArray:
    """An (X, Y, Z) map on another grid given by `shape` and its affine; zero outside the map."""
    return _sample(_image(array, affine), shape, target, 0.0)


def _image(array: npt.NDArray[np.generic], affine: Affine) -> sitk.Image:
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))  # SimpleITK's arrays are z, y, x
    origin, spacing, direction = _geometry(affine)
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    return image


def _sample(image: sitk.Image, shape: Shape3, affine: Affine, outside: float) -> FloatArray:
    origin, spacing, direction = _geometry(affine)
    result = sitk.Resample(
        image, shape, sitk.Transform(), sitk.sitkLinear, origin, spacing, direction, outside, sitk.sitkFloat32
    )
    return sitk.GetArrayFromImage(result).transpose(2, 1, 0)


def _geometry(affine: Affine) -> tuple[list[float], list[float], list[float]]:
    """Origin, spacing and direction as SimpleITK wants them (LPS)."""
    lps = RAS_TO_LPS @ affine
    spacing = np.array(spacing_of(affine))
    return lps[:3, 3].tolist(), spacing.tolist(), (lps[:3, :3] / spacing).ravel().tolist()
