"""The middle of the body, found by its bones: a filled lung or a displaced heart does not move it."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ..types import FloatArray, Vec3

__all__ = ["Midline", "find_midline"]

BONE = (110.0, 210.0)  # HU of a coarse voxel: possibly bone; certainly bone
BLUR = 5.0  # mm
APART = 25.0  # mm between the spine and the plane of symmetry; further apart, one is wrong
LEAST_SPINE = 0.05  # fraction of the height, 0 to 1, with bone at the place of the spine
SPINE_HALF_WIDTH = 20.0  # mm
CURVE = 15.0  # mm along the body over which the depth of the spine is smoothed


class Midline(NamedTuple):
    """Two estimates of the middle of the body along x, and the depth of the spine's back at each level."""

    spine: float  # voxels
    symmetry: float  # voxels
    back: npt.NDArray[np.intp]  # (Z,) voxels along y

    @property
    def middle(self) -> float:
        """The mean of both estimates, in voxels."""
        return (self.spine + self.symmetry) / 2


def find_midline(coarse: FloatArray, spacing: Vec3) -> Midline | None:
    """The middle of a body in (X, Y, Z) HU, x to the left, z along the body; None if uncertain.

    One estimate is the spine, the only bone that runs along the body. The other is the plane of best mirror symmetry of
    the bones. Both must agree.
    """
    bone = np.clip((coarse - BONE[0]) / (BONE[1] - BONE[0]), 0, 1).astype(np.float32)
    bone = ndimage.gaussian_filter(bone, (BLUR / spacing[0], BLUR / spacing[1], 0))
    along = bone.mean(axis=2)
    spine, _ = np.unravel_index(along.argmax(), along.shape)
    symmetry = _mirror(bone)
    if along.max() < LEAST_SPINE or abs(spine - symmetry) * spacing[0] > APART:
        return None
    return Midline(float(spine), symmetry, _back(bone, int(spine), spacing))


def _mirror(bone: FloatArray) -> float:
    """The plane x, in steps of half a voxel, with the best overlap of the bones and their mirror image."""
    size = 2 * len(bone)
    spectrum = np.fft.rfft(bone, size, axis=0)
    overlap = np.fft.irfft((spectrum**2).sum(axis=(1, 2)), size)
    return float(overlap.argmax() / 2)


def _back(bone: FloatArray, spine: int, spacing: Vec3) -> npt.NDArray[np.intp]:
    """The back of the spine, at half its density."""
    reach = round(SPINE_HALF_WIDTH / spacing[0])
    strip = bone[max(0, spine - reach) : spine + reach + 1].mean(axis=0)
    strip = ndimage.gaussian_filter1d(strip, CURVE / spacing[2], axis=1)
    dense = strip >= strip.max(axis=0) / 2
    back: npt.NDArray[np.intp] = len(strip) - 1 - dense[::-1].argmax(axis=0)
    return back
