"""Distances and parts of a boolean (X, Y, Z) mask on an isotropic grid of `step` millimetres."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ..types import FloatArray, Shape3

__all__ = ["Mask", "box_around", "connected", "depth_of", "rim_distance", "within"]

Mask = npt.NDArray[np.bool_]


def depth_of(mask: Mask, step: float) -> FloatArray:
    """The distance in millimetres of every voxel of a mask to the nearest voxel outside; 0 outside.

    What lies beyond the array counts as inside.
    """
    if mask.all():
        return np.full(mask.shape, np.inf, dtype=np.float32)
    depth: FloatArray = ndimage.distance_transform_edt(mask).astype(np.float32) * np.float32(step)
    return depth


def rim_distance(body: Mask, other: Mask, step: float, reach: float) -> FloatArray:
    """The distance in millimetres of every voxel to a body, where nothing else is nearer.

    Infinite inside the body, beyond `reach`, and where `other` is nearer.
    """
    box = box_around(body, reach, step)
    far, other_far = depth_of(~body[box], step), depth_of(~other[box], step)
    rim = np.full(body.shape, np.inf, dtype=np.float32)
    rim[box] = np.where(~(body | other)[box] & (far < other_far) & (far <= reach), far, np.inf)
    return rim


def within(mask: Mask, reach: float, step: float) -> Mask:
    """The voxels within `reach` millimetres of a mask."""
    box = box_around(mask, reach, step)
    near = np.zeros_like(mask)
    near[box] = depth_of(~mask[box], step) <= reach
    return near


def connected(mask: Mask, index: Shape3) -> Mask:
    """The connected part of a mask that holds a voxel."""
    labels, _ = ndimage.label(mask)
    return np.asarray(labels == labels[index])


def box_around(mask: Mask, margin: float, step: float) -> tuple[slice, ...]:
    """The bounding box of a mask and `margin` millimetres around it."""
    extra = int(np.ceil(margin / step))
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    return tuple(slice(max(0, b.start - extra), b.stop + extra) for b in box)
