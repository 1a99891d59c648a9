"""What can be measured of a nodule: volume, diameters, shape, HU, and how solid it is.

Volume counts each boundary voxel by its share of nodule, (HU - lung) / (nodule - lung), over the
boundary and the blur beyond it (Kuhnigk et al. IEEE Trans Med Imaging 2006;25:417-434): the sum does
not depend on how an edge falls on the voxels.
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
from .segmentation import Levels, Segmentation, segment_nodule

__all__ = ["measure_nodule", "segment_and_measure"]

# HU above which tissue counts as solid: Scholten et al. Eur Radiol 2015;25:488-496.
SOLID = -300.0
# Shares of solid tissue. Below the first a nodule is ground-glass: the cutoff at -300 HU that best told pure
# from part-solid in 102 subsolid nodules was 6.14 %. Above the second it is solid: our choice.
GROUND_GLASS_BELOW, SOLID_ABOVE = 0.06, 0.8
# A solid part of this diameter in mm makes a nodule part-solid however large the whole is. Lung-RADS calls a new one
# suspicious from 4 mm on, and measurements scatter. Thinner than VESSEL, in mm, it is a vessel.
CORE, VESSEL = 3.3, 2.5
SOFT_TISSUE = 50.0  # HU that a nodule is not taken to exceed unless it is seen to
POINT_SPREAD = 1.1 / 2.3548  # mm, SD; kernels between sharp and soft have a FWHM of 0.8 to 1.5 mm
# Steps of where a measurement starts, so that it settles: a share of the diameter, and a ratio of diameters in mm.
START_STEP, START_RATIO, LEAST_START = 0.125, 1.25, 1.0
SETTLES_WITHIN = 12  # measurements; what does not is not measured
SKIN = 1.2  # mm, how deep the blur of an edge reaches into a nodule


def segment_and_measure(
    scan: npt.NDArray[np.generic], coordinates: Vec3, diameter: float, spacing: Vec3, axial_axis: int = 2
) -> tuple[Properties, Segmentation | None]:
    """The properties of the nodule of a mark, and the segmentation that was measured; None without a clear boundary.

    What is measured depends a little on the mark. So it is measured again from its own centre and diameter, in steps,
    until a step comes again; of the measurements between, which are mostly one, the one with the median volume counts.
    A mark with the centre and the diameter of that one leads to it again. What is far smaller than the mark is a part,
    such as the core without its rim, and not measured.
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
    """Where a measurement starts: a point in mm from the first voxel, and a diameter in mm, in steps."""

    point: Vec3
    diameter: float

    @classmethod
    def of(cls, point: Vec3, diameter: float, shape: tuple[int, ...], spacing: Vec3) -> "_Start":
        """The nearest step; the same place whichever way the scan's axes run."""
        size = float(START_RATIO ** np.round(np.log(max(round(diameter, 2), LEAST_START)) / np.log(START_RATIO)))
        step = START_STEP * size
        x, y, z = (
            float((n - 1) * side / 2 + step * np.round((round(p, 3) - (n - 1) * side / 2) / step))
            for p, n, side in zip(point, shape, spacing, strict=True)
        )
        return cls((x, y, z), size)


def _segment(scan: npt.NDArray[np.generic], start: _Start, spacing: Vec3, axial_axis: int) -> Segmentation | None:
    """The nodule of a mark.

    A body that cannot be the nodule, such as the wall beside it, is measured again within twice the
    mark's diameter; what cannot be it then either is not measured.
    """
    for reach in (None, start.diameter):
        found = segment_nodule(scan, *start, spacing, axial_axis, reach)
        if found is None or not doubt(found, scan, *start, spacing):
            return found
    return None


def measure_nodule(
    nodule: Segmentation, scan: npt.NDArray[np.generic], spacing: Vec3, axial_axis: int = 2
) -> Properties:
    """The properties of a nodule that was segmented in this (X, Y, Z) scan in HU."""
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
    """Properties of which only the statistics of some voxels' HU are known."""
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
    """HU of the voxels whose centres lie in a ball, and of the one at its middle."""
    axes = []
    for p, s, n in zip(point, spacing, scan.shape, strict=True):
        low, high = np.clip([np.ceil((p - diameter / 2) / s), np.floor((p + diameter / 2) / s) + 1], 0, n)
        middle = round(p / s)
        axes.append(np.arange(min(int(low), max(middle, 0)), max(int(high), min(middle + 1, n))))
    x, y, z = (a * s - p for a, s, p in zip(axes, spacing, point, strict=True))
    squares = x[:, None, None] ** 2 + y[:, None] ** 2 + z**2
    if squares.size == 0:
        return np.empty(0)
    box = tuple(slice(a[0], a[-1] + 1) for a in axes)
    ball: npt.NDArray[np.generic] = np.asarray(scan[box])[squares <= max(diameter**2 / 4, squares.min())]
    return ball


class _Edge(NamedTuple):
    """A nodule's voxels by where they are: how many lie deep, and HU above lung of the others."""

    deep: int
    skin: FloatArray  # inside, within the blur of the boundary
    rim: FloatArray  # outside, as far as blur reaches: farther across thick slices
    voxel: float  # mm3

    @classmethod
    def of(cls, nodule: Segmentation, depth: FloatArray, rim: Mask) -> "_Edge":
        """The parts of a segmented nodule."""
        above = nodule.hu - np.float32(nodule.levels.lung)
        deep = depth > SKIN + nodule.step / 2  # depth counts to the middle of the next voxel
        return cls(int(deep.sum()), above[nodule.body & ~deep], above[rim], nodule.step**3)

    def volume(self, height: float) -> float:
        """The volume in mm3 if the nodule is `height` HU denser than the lung.

        Noise outside must cancel out, so shares below 0 count there too.
        """
        skin = np.minimum(self.skin / height, 1).sum(dtype=np.float64)
        rim = self.rim.sum(dtype=np.float64) / height
        return max(self.deep + float(skin + rim), 1.0) * self.voxel


def _height(edge: _Edge, levels: Levels, radius: float, variance: float) -> float:
    """How many HU the nodule is denser than the lung, with the blur of a small one undone.

    Blur lowers the middle of a small nodule but keeps its sum. The height is the one at which a ball
    of the resulting volume, blurred with a `variance` in mm2, looks like what is seen; not above soft tissue unless
    seen so.
    """
    # The level seen is that of a ball of half the radius: variance (radius / 2)^2 / 5 on each axis.
    blur = float(np.sqrt(variance + radius**2 / 20))
    ceiling = max(levels.contrast, SOFT_TISSUE - levels.lung)
    height = levels.contrast
    for _ in range(8):
        seen = _peak_share(sphere_diameter(edge.volume(height)), blur)
        height = 0.5 * (height + min(levels.contrast / max(seen, 0.1), ceiling))
    return height


def _peak_share(diameter: float, sigma: float) -> float:
    """The middle of a ball of height 1 blurred by a Gaussian, 0 to 1: its integral over the ball."""
    a = diameter / 2 / (sigma * np.sqrt(2))
    return float(erf(a) - 2 / np.sqrt(np.pi) * a * np.exp(-(a**2)))


def _share(nodule: Segmentation, depth: FloatArray, rim: Mask, height: float) -> FloatArray:
    """The nodule's share of every voxel, 0 to 1, lightly smoothed against noise."""
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
    """Mesh area of the ball of the same volume over the nodule's: pi^(1/3) (6V)^(2/3) / A, at most 1 (IBSI)."""
    corners, faces, _, _ = marching_cubes(np.pad(share, 1), 0.5 * float(share.max()))
    a, b, c = (corners[faces[:, i]].astype(np.float64) for i in range(3))
    volume = abs(float(np.einsum("ij,ij->", a, np.cross(b, c)))) / 6
    area = float(mesh_surface_area(corners, faces))
    return min(1.0, float(np.cbrt(np.pi) * np.cbrt(6 * volume) ** 2) / area)


def _solid_part(nodule: Segmentation, depth: FloatArray, variance: float) -> tuple[float, float]:
    """The share of the volume that is solid, 0 to 1, and the diameter in mm of the largest connected solid part.

    The outermost millimetre, where blur mixes nodule and lung, counts like the nearest voxel within. The diameter
    is that of the ball that shows a part of this volume when blurred with a `variance` in mm2, which moves the surface
    of a ball of radius R inwards by variance / R. What is thinner than `VESSEL` is a vessel and no part of it.
    """
    deep = depth >= min(1.0 + nodule.step / 2, 0.5 * float(depth.max()))
    box = box_around(nodule.body, nodule.step, nodule.step)  # beyond an array all counts as inside
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
