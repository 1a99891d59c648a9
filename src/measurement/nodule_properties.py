"""Measures a nodule: volume, diameters, shape, HU, and solid fraction.

Each boundary voxel counts by its fraction of nodule, (HU - lung) / (nodule - lung), over the boundary and the blur
beyond it (Kuhnigk et al. IEEE Trans Med Imaging 2006;25:417-434). The sum does not depend on where an edge falls
between voxels.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.special import erf
from skimage.measure import find_contours, marching_cubes, mesh_surface_area

from ..data.geometry import sphere_diameter
from ..types import FloatArray, NoduleType, Properties, Vec3
from .axes import axes_of
from .masks import Mask, box_around, depth_of, rim_distance, within
from .plausible import TOO_SMALL, doubt
from .segmentation import SKIN, Levels, Segmentation, segment_nodule

__all__ = ["measure_nodule", "segment_and_measure"]

# HU above which tissue counts as solid: Scholten et al. Eur Radiol 2015;25:488-496.
SOLID = -300.0
# Solid fractions. Below the first, a nodule is ground-glass: at -300 HU the cutoff that best separated pure from
# part-solid in 102 subsolid nodules was 6.14 %. Above the second it is solid: our choice.
GROUND_GLASS_BELOW, SOLID_ABOVE = 0.06, 0.8
# A solid part of this diameter in mm makes a nodule part-solid, however large the whole is. Lung-RADS calls a new one
# suspicious from 4 mm on, and measurements scatter. A part thinner than VESSEL, in mm, is a vessel.
CORE, VESSEL = 3.3, 2.5
SOFT_TISSUE = 50.0  # HU; a nodule is assumed to be no denser unless it is seen to be
POINT_SPREAD = 1.1 / 2.3548  # mm, SD; kernels between sharp and soft have a FWHM of 0.8 to 1.5 mm
# Steps of a measurement's start, so that it converges: as a fraction of the diameter, and as a ratio of diameters in
# mm.
START_STEP, START_RATIO, LEAST_START = 0.125, 1.25, 1.0
SETTLES_WITHIN = 12  # measurements; without convergence, there is no result


def segment_and_measure(
    scan: npt.NDArray[np.generic], coordinates: Vec3, diameter: float, spacing: Vec3, axial_axis: int = 2
) -> tuple[Properties, Segmentation | None]:
    """The properties and the segmentation of a mark's nodule; None without a clear boundary.

    The result depends a little on the mark. So the measurement is repeated from its own centre and diameter, in steps,
    until a step recurs. Of the measurements in this cycle, mostly one, the one with the median volume counts. A mark
    with its centre and diameter leads to it again. A result far smaller than the mark is a part, such as the core
    without its rim, and is rejected.
    """
    measured: dict[_Start, tuple[Properties, Segmentation]] = {}
    start = _Start.of(coordinates, diameter, scan.shape, spacing)
    while start not in measured and len(measured) < SETTLES_WITHIN:
        found = _segment(scan, start, spacing, axial_axis)
        if found is None:
            break
        properties = measure_nodule(found, scan, spacing, axial_axis)
        measured[start] = properties, found
        start = _Start.of(found.centre, properties["effective_diameter_mm"] or diameter, scan.shape, spacing)
    if start in measured:
        again = list(measured.values())[list(measured).index(start) :]
        properties, found = sorted(again, key=lambda one: one[0]["volume_mm3"] or 0.0)[len(again) // 2]
        whole = (properties["effective_diameter_mm"] or 0.0) >= TOO_SMALL * diameter
        if whole and not doubt(found, scan, coordinates, diameter, spacing):
            return properties, found
    return _unmeasured(_ball_voxels(scan, coordinates, diameter, spacing)), None


class _Start(NamedTuple):
    """The start of a measurement: a point in mm from the first voxel, and a diameter in mm, both rounded to steps."""

    point: Vec3
    diameter: float

    @classmethod
    def of(cls, point: Vec3, diameter: float, shape: tuple[int, ...], spacing: Vec3) -> "_Start":
        """The nearest step, independent of the direction of the scan's axes."""
        size = float(START_RATIO ** np.round(np.log(max(round(diameter, 2), LEAST_START)) / np.log(START_RATIO)))
        step = START_STEP * size
        x, y, z = (
            float((n - 1) * side / 2 + step * np.round((round(p, 3) - (n - 1) * side / 2) / step))
            for p, n, side in zip(point, shape, spacing, strict=True)
        )
        return cls((x, y, z), size)


def _segment(scan: npt.NDArray[np.generic], start: _Start, spacing: Vec3, axial_axis: int) -> Segmentation | None:
    """The nodule of a mark.

    If the body cannot be the nodule (such as the wall beside it), it is segmented again within twice the mark's
    diameter. If that fails too, there is no result.
    """
    for reach in (None, start.diameter):
        found = segment_nodule(scan, *start, spacing, axial_axis, reach)
        if found is None or not doubt(found, scan, *start, spacing):
            return found
    return None


def measure_nodule(
    nodule: Segmentation, scan: npt.NDArray[np.generic], spacing: Vec3, axial_axis: int = 2
) -> Properties:
    """The properties of a segmented nodule of this (X, Y, Z) scan in HU."""
    rim = np.isfinite(rim_distance(nodule.body, nodule.other, nodule.step, 1.0 + 0.5 * nodule.thickness))
    depth = depth_of(nodule.body, nodule.step)
    edge = _Edge.of(nodule, depth, rim)
    sides = [max(step, nodule.thickness) if axis == axial_axis else step for axis, step in enumerate(spacing)]
    blur = POINT_SPREAD**2 + float(np.mean(np.square(sides))) / 12
    height = _height(edge, nodule.levels, float(depth.max()), blur)
    volume = edge.volume(height)
    share = _share(nodule, depth, rim, height)
    long_axis, short_axis = _axes(share, nodule.step, axial_axis)
    solid, core = _solid_part(nodule, depth, blur)
    kind = _nodule_type(solid, core)
    box = tuple(slice(first, first + n) for first, n in zip(nodule.origin, nodule.mask.shape, strict=True))
    return {
        **_unmeasured(np.asarray(scan[box])[nodule.mask]),
        "volume_mm3": volume,
        "effective_diameter_mm": sphere_diameter(volume),
        "long_axis_mm": long_axis,
        "short_axis_mm": short_axis,
        "sphericity": _sphericity(share),
        "solid_fraction": solid,
        "nodule_type": kind,
        "solid_mm": None if kind == "solid" else core,
    }


def _unmeasured(hu: npt.NDArray[np.generic]) -> Properties:
    """Properties with HU statistics only; all others are unknown."""
    values = hu.astype(np.float64)
    known = values.size > 0 and bool(np.isfinite(values).all())
    return {
        "volume_mm3": None,
        "mean_intensity": float(values.mean()) if known else None,
        "std_intensity": float(values.std()) if known else None,
        "min_intensity": float(values.min()) if known else None,
        "max_intensity": float(values.max()) if known else None,
        "effective_diameter_mm": None,
        "long_axis_mm": None,
        "short_axis_mm": None,
        "sphericity": None,
        "solid_fraction": None,
        "nodule_type": None,
    }


def _ball_voxels(scan: npt.NDArray[np.generic], point: Vec3, diameter: float, spacing: Vec3) -> npt.NDArray[np.generic]:
    """HU of the voxels with centres in a ball, and of the voxel at its middle."""
    box, squares, middle = [], [], []
    for p, s, n in zip(point, spacing, scan.shape, strict=True):
        reach = max(diameter / 2, s)  # the voxel at the middle may lie outside the ball
        voxels = np.arange(max(int(np.ceil((p - reach) / s)), 0), min(int(np.floor((p + reach) / s)) + 1, n))
        box.append(voxels)
        squares.append((voxels * s - p) ** 2)
        middle.append(voxels == round(p / s))
    inside = np.add.outer(np.add.outer(squares[0], squares[1]), squares[2]) <= diameter**2 / 4
    inside[np.ix_(*middle)] = True
    ball: npt.NDArray[np.generic] = np.asarray(scan[np.ix_(*box)])[inside]
    return ball


class _Edge(NamedTuple):
    """A nodule's voxels by depth: the number of deep ones, and HU above lung of the others."""

    deep: int
    skin: FloatArray  # inside, within the blur of the boundary
    rim: FloatArray  # outside, within the blur: wider across thick slices
    voxel: float  # mm3

    @classmethod
    def of(cls, nodule: Segmentation, depth: FloatArray, rim: Mask) -> "_Edge":
        """Split a segmented nodule by depth."""
        above = nodule.hu - np.float32(nodule.levels.lung)
        deep = depth > SKIN + nodule.step / 2  # depth counts to the centre of the next voxel
        return cls(int(deep.sum()), above[nodule.body & ~deep], above[rim], nodule.step**3)

    def volume(self, height: float) -> float:
        """The volume in mm3 if the nodule is `height` HU denser than the lung.

        Fractions below 0 count too, so that the noise outside cancels out.
        """
        skin = np.minimum(self.skin / height, 1).sum(dtype=np.float64)
        rim = self.rim.sum(dtype=np.float64) / height
        return max(self.deep + float(skin + rim), 1.0) * self.voxel


def _height(edge: _Edge, levels: Levels, radius: float, variance: float) -> float:
    """By how many HU the nodule is denser than the lung, corrected for the blur of a small nodule.

    Blur lowers the middle of a small nodule, but keeps the sum. So the height is the one at which a ball of the
    resulting volume, blurred with a `variance` in mm2, has the observed level. It is at most that of soft tissue,
    unless the observed level is higher.
    """
    # The observed level is that of a ball of half the radius, with a variance of (radius / 2)^2 / 5 on each axis.
    blur = float(np.sqrt(variance + radius**2 / 20))
    ceiling = max(levels.contrast, SOFT_TISSUE - levels.lung)
    height = levels.contrast
    for _ in range(8):
        seen = _peak_share(sphere_diameter(edge.volume(height)), blur)
        height = 0.5 * (height + min(levels.contrast / max(seen, 0.1), ceiling))
    return height


def _peak_share(diameter: float, sigma: float) -> float:
    """The centre value of a ball of height 1 blurred by a Gaussian, 0 to 1: its integral over the ball."""
    a = diameter / 2 / (sigma * np.sqrt(2))
    return float(erf(a) - 2 / np.sqrt(np.pi) * a * np.exp(-(a**2)))


def _share(nodule: Segmentation, depth: FloatArray, rim: Mask, height: float) -> FloatArray:
    """The nodule's fraction of each voxel, 0 to 1, lightly smoothed against noise."""
    share = np.clip((nodule.hu - np.float32(nodule.levels.lung)) / np.float32(height), 0, 1)
    share[~(nodule.body | rim)] = 0
    share[depth > SKIN + nodule.step / 2] = 1
    smooth: FloatArray = ndimage.gaussian_filter(share, 0.7)
    return smooth


def _axes(share: FloatArray, step: float, axial_axis: int) -> tuple[float, float]:
    """The longest diameter of the largest axial section, and the longest perpendicular to it, in millimetres."""
    sections = np.moveaxis(share, axial_axis, 0)
    section = sections[np.argmax(sections.sum(axis=(1, 2)))]
    axes = axes_of(max(find_contours(section, 0.5 * section.max()), key=len)[:-1] * step)
    return axes.long, axes.short


def _sphericity(share: FloatArray) -> float:
    """Surface of the ball of the same volume over the mesh's: pi^(1/3) (6V)^(2/3) / A, at most 1 (IBSI)."""
    corners, faces, _, _ = marching_cubes(np.pad(share, 1), 0.5 * float(share.max()))
    a, b, c = (corners[faces[:, i]].astype(np.float64) for i in range(3))
    volume = abs(float(np.einsum("ij,ij->", a, np.cross(b, c)))) / 6
    area = float(mesh_surface_area(corners, faces))
    return min(1.0, float(np.cbrt(np.pi) * np.cbrt(6 * volume) ** 2) / area)


def _solid_part(nodule: Segmentation, depth: FloatArray, variance: float) -> tuple[float, float]:
    """The solid fraction of the volume, 0 to 1, and the diameter in mm of the largest connected solid part.

    In the outermost millimetre, where blur mixes nodule and lung, each voxel counts like the nearest voxel further in.
    The diameter is that of the ball that shows a part of this volume when blurred with a `variance` in mm2. Blur moves
    the surface of a ball of radius R inwards by variance / R. Parts thinner than `VESSEL` are vessels and do not count.
    """
    deep = depth >= min(1.0 + nodule.step / 2, 0.5 * float(depth.max()))
    box = box_around(nodule.body, nodule.step, nodule.step)  # voxels beyond the array count as inside
    nearest = ndimage.distance_transform_edt(~deep[box], return_distances=False, return_indices=True)
    body = nodule.body[box]
    solid = np.zeros_like(body)
    solid[body] = nodule.hu[box][tuple(nearest[:, body])] > SOLID
    inner = depth_of(solid, nodule.step) > VESSEL / 2
    if not inner.any():
        return float(solid[body].mean()), 0.0
    labels, _ = ndimage.label(within(inner, VESSEL / 2, nodule.step) & solid)
    largest = int(np.bincount(labels[labels > 0]).max())
    seen = sphere_diameter(largest * nodule.step**3) / 2
    return float(solid[body].mean()), float(seen + np.sqrt(seen**2 + 4 * variance))


def _nodule_type(solid_fraction: float, core: float) -> NoduleType:
    if solid_fraction > SOLID_ABOVE:
        return "solid"
    return "ground-glass" if solid_fraction < GROUND_GLASS_BELOW and core < CORE else "part-solid"
