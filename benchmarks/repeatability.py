"""How far measurements of real nodules repeat; part of `measurement`.

The same nodule, turned the same way, is put into real lung at ten places, each time off the voxel's middle
by another part of it: only surroundings, noise and sampling differ.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.agreement import texture_name
from benchmarks.breathing import lung_places
from src.data.geometry import RAS_TO_LPS, canonical, map_points
from src.data.loader import read_scan
from src.data.resample import resample
from src.measurement.nodule_properties import segment_and_measure
from src.train.chance import rotation
from src.train.crops import Crop, load_crops, split_by_patient
from src.train.insertion import NoduleToInsert, insert, resample_crop, soft_outline
from src.types import Properties, Scan

__all__ = ["repeatability"]

Floats = npt.NDArray[np.float64]
BACKGROUND = "nlst-101287"  # 1 mm, a low dose
PLACES = 10
BLOCK = 32  # voxels from a nodule to the border of what is measured
DEPTH, GAP = 12.0, 30.0  # mm from the places to the border of the lungs and to each other


def repeatability(folder: Path, largest: float = 15.0) -> None:
    """Print how much diameter and volume of held-out crops vary over places and sub-voxel shifts."""
    read = read_scan(folder / "backgrounds" / f"{BACKGROUND}.nii.gz")
    scan = Scan(*resample(*canonical(read.array, read.affine), (1.0, 1.0, 1.0)), read.scan_id)
    rng = np.random.default_rng(2026)
    points = lung_places(rng, scan, PLACES, DEPTH, GAP)
    voxels = np.round(map_points(np.linalg.inv(RAS_TO_LPS @ scan.affine), points)).astype(np.intp)
    crops = [crop for crop in split_by_patient(load_crops(folder))[1] if crop.diameter <= largest]
    print(f"\nThe same nodule at {PLACES} places of {BACKGROUND} and sub-voxel shifts (coefficients of variation, %)")
    print(f"{'':38}{'mm':>7}{'failed':>8}{'diameter':>10}{'volume':>8}")
    spreads = []
    for crop in crops:
        found = [_planted(scan, crop, voxel, rng.uniform(-0.5, 0.5, 3)) for voxel in voxels]
        diameters = np.array([one["effective_diameter_mm"] for one in found], dtype=np.float64)
        volumes = np.array([one["volume_mm3"] for one in found], dtype=np.float64)
        spread = [100 * np.nanstd(values) / np.nanmean(values) for values in (diameters, volumes)]
        spreads.append(spread)
        name = f"{crop.crop_id}, {texture_name(crop.texture)}"
        print(f"{name:38}{np.nanmean(diameters):7.1f}{np.isnan(volumes).sum():8d}{spread[0]:10.1f}{spread[1]:8.1f}")
    for name, column in zip(("diameter", "volume"), np.array(spreads).T, strict=True):
        share = 100 * np.mean(column < 5)
        print(f"{name}: median {np.median(column):.1f} %, below 5 % for {share:.0f} % of {len(column)} nodules")


def _planted(scan: Scan, crop: Crop, voxel: npt.NDArray[np.intp], shift: Floats) -> Properties:
    """The properties of the crop's nodule around a voxel of the scan."""
    size = int(2 * np.ceil(0.9 * crop.diameter + 4) + 1)
    hu, mask = resample_crop(crop, rotation(np.random.default_rng(0)), shift, size)
    low = np.clip(voxel - BLOCK, 0, None)
    block = np.array(scan.array[tuple(slice(a, b) for a, b in zip(low, voxel + BLOCK, strict=True))], np.float32)
    insert(block, NoduleToInsert(hu, soft_outline(mask), crop.diameter), voxel - low)
    x, y, z = (voxel - low + shift).tolist()
    return segment_and_measure(block, (x, y, z), crop.diameter, (1.0, 1.0, 1.0))[0]
