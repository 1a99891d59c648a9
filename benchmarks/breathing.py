"""Makes a second examination from a first one: another breath, another position, other noise, grown nodules."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial.transform import Rotation

from src.data.coarse import distance_to
from src.data.geometry import RAS_TO_LPS, canonical, map_points, spacing_of
from src.data.lung_finder import find_lungs
from src.data.lungs import Lungs
from src.followup.registration import Points, as_image
from src.types import FloatArray, Scan

__all__ = ["Breath", "breathe", "lung_places", "noisy", "random_breath", "to_mm"]

WAVES = 6  # of the irregular part
NOISE_BLUR = 0.7  # voxels
FIELD_STEP = 6.0  # mm


@dataclass(frozen=True, eq=False)
class Breath:
    """Maps points of the second examination to the first. All are LPS millimetres."""

    turn: Rotation
    centre: Points  # (3,), the centre of the patient's rotation
    move: Points  # (3,)
    top: float  # of the lungs; nothing moves above it
    height: float  # of the lungs
    depth: float  # the diaphragm's motion downwards
    waves: Points  # (WAVES, 3), 1 / mm
    phases: Points  # (WAVES,)
    sway: Points  # (WAVES, 3), mm

    def to_first(self, points: Points) -> Points:
        """Points (..., 3) of the second examination in the first."""
        flat = (points - self.centre - self.move).reshape(-1, 3)
        lying = self.turn.inv().apply(flat).reshape(points.shape) + self.centre
        share = np.clip((self.top - lying[..., 2]) / self.height, 0, 1) ** 2
        swing = np.sin(lying @ self.waves.T + self.phases) @ self.sway
        swing[..., 1] += 0.25 * self.depth * share  # the front of the chest rises
        swing[..., 2] += self.depth * share
        return np.asarray(lying + swing)

    def to_second(self, points: Points) -> Points:
        """Points (..., 3) of the first examination in the second, by fixed-point iteration."""
        guess = points + self.move
        for _ in range(60):
            guess = guess + self.turn.apply((points - self.to_first(guess)).reshape(-1, 3)).reshape(points.shape)
        return guess


def random_breath(rng: np.random.Generator, scan: Scan, depth: float, degrees: float = 5.0) -> Breath:
    """A breath with `depth` mm of motion of the diaphragm. The patient is turned by up to `degrees`."""
    points = to_mm(scan, np.argwhere(_lungs(scan).lung), _lungs(scan).affine)
    low, high = points[:, 2].min(), points[:, 2].max()
    waves = rng.normal(size=(WAVES, 3))
    waves *= 2 * np.pi / rng.uniform(90, 180, WAVES)[:, None] / np.linalg.norm(waves, axis=1, keepdims=True)
    turn = Rotation.from_euler("xyz", rng.uniform(-degrees, degrees, 3), degrees=True)
    sway = rng.normal(0, 0.8, (WAVES, 3))
    phases = rng.uniform(0, 2 * np.pi, WAVES)
    return Breath(turn, points.mean(axis=0), rng.uniform(-20, 20, 3), high, high - low, depth, waves, phases, sway)


def breathe(scan: Scan, breath: Breath) -> Scan:
    """The scan in the second examination, on the same grid, which moves with the patient."""
    affine = scan.affine.copy()
    affine[:3, 3] += RAS_TO_LPS[:3, :3] @ breath.move
    steps = np.maximum(1, np.round(FIELD_STEP / np.array(scan.spacing)))  # the field is smooth: a coarse grid holds it
    coarse = affine @ np.diag([*steps, 1.0])
    shape = [int(n) + 1 for n in np.ceil(np.array(scan.shape) / steps)]
    points = map_points(RAS_TO_LPS @ coarse, np.moveaxis(np.indices(shape), 0, -1))
    moved = [as_image(part, coarse) for part in np.moveaxis(breath.to_first(points) - points, -1, 0)]
    field = sitk.DisplacementFieldTransform(sitk.Cast(sitk.Compose(moved), sitk.sitkVectorFloat64))
    source, target = (
        as_image(scan.array.astype(np.float32), scan.affine),
        as_image(np.empty(scan.shape, np.uint8), affine),
    )
    image = sitk.Resample(source, target, field, sitk.sitkLinear, -1000.0, sitk.sitkFloat32)
    return Scan(sitk.GetArrayFromImage(image).transpose(2, 1, 0), affine, f"{scan.scan_id}_second")


def noisy(rng: np.random.Generator, array: FloatArray, noise: float) -> npt.NDArray[np.int16]:
    """The scan with slightly correlated noise (standard deviation in HU)."""
    grain = ndimage.gaussian_filter(rng.standard_normal(array.shape, np.float32), NOISE_BLUR)
    noised: npt.NDArray[np.int16] = np.round(array + grain * np.float32(noise / grain.std())).astype(np.int16)
    return noised.clip(-1024, 3071)


def lung_places(rng: np.random.Generator, scan: Scan, count: int, depth: float, gap: float) -> Points:
    """LPS points (count, 3) at least `depth` mm inside the lungs and `gap` mm from each other."""
    region = _lungs(scan)
    deep = distance_to(~region.lung, spacing_of(region.affine))
    places: list[Points] = []
    for point in to_mm(scan, rng.permutation(np.argwhere(deep > depth)), region.affine):
        if all(np.linalg.norm(point - other) > gap for other in places):
            places.append(point)
        if len(places) == count:
            break
    return np.array(places)


def to_mm(scan: Scan, index: npt.ArrayLike, affine: npt.NDArray[np.float64] | None = None) -> Points:
    """Voxel indices of the scan, or of a grid with that `affine`, as LPS points."""
    return map_points(RAS_TO_LPS @ (scan.affine if affine is None else affine), index)


@lru_cache(maxsize=1)
def _lungs(scan: Scan) -> Lungs:
    region = find_lungs(*canonical(scan.array, scan.affine))
    if not region.recognised:
        msg = f"{scan.scan_id} has no lungs"
        raise ValueError(msg)
    return region
