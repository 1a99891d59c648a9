"""How far measurements of real nodules repeat, and how far they agree with readers; part of `measurement`.

The same nodule, turned the same way, is put into real lung at ten places, each time off the voxel's middle
by another part of it: only surroundings, noise and sampling differ.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from scipy import ndimage

from benchmarks.breathing import lung_places
from src.data.geometry import RAS_TO_LPS, canonical, map_points
from src.data.loader import read_scan
from src.data.resample import resample
from src.files import whole_file
from src.inference.nodule_properties import extract_properties
from src.train.chance import rotation
from src.train.crops import Crop, load_crops, split_by_patient
from src.train.insertion import Nodule, insert, resample_crop
from src.types import Properties, Scan

__all__ = ["agreement", "repeatability"]

Floats = npt.NDArray[np.float64]
BACKGROUND = "nlst-101287"  # 1 mm, a low dose
PLACES = 10
BLOCK = 32  # voxels from a nodule to the border of what is measured
DEPTH, GAP = 12.0, 30.0  # mm from the places to the border of the lungs and to each other
NAMES = {1: "ground-glass", 5: "solid"}  # of the reader's texture; what lies between is part-solid
COLORS = {"ground-glass": "#2a9d8f", "part-solid": "#e9a23b", "solid": "#38518f"}
WITHIN = 30.0  # percent of the volume


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
        name = f"{crop.crop_id}, {_type(crop)}"
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
    insert(block, Nodule(hu, ndimage.gaussian_filter(mask, 0.8), crop.diameter), voxel - low)
    x, y, z = (voxel - low + shift).tolist()
    return extract_properties(block, (x, y, z), crop.diameter, (1.0, 1.0, 1.0))


def agreement(crops: Sequence[Crop], measured: Sequence[Properties], path: Path) -> None:
    """Draw Bland and Altman's plots of diameter and volume against the readers' outlines, and print their figures."""
    readers = np.array([crop.diameter for crop in crops])
    ours = np.array([found["effective_diameter_mm"] for found in measured], dtype=np.float64)
    types = np.array([_type(crop) for crop in crops])
    ok = np.isfinite(ours)
    readers, ours, types = readers[ok], ours[ok], types[ok]
    means = (readers + ours) / 2
    volumes = np.pi / 6 * ours**3, np.pi / 6 * readers**3
    relative = 200 * (volumes[0] - volumes[1]) / (volumes[0] + volumes[1])
    figure = Figure(figsize=(11, 4.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    print("\nAgreement with the readers' outlines: bias (95 % limits of agreement)")
    for axes, values, label in (
        (left, ours - readers, "diameter: PIVOT - reader (mm)"),
        (right, relative, "volume: PIVOT - reader (% of their mean)"),
    ):
        for name, color in COLORS.items():
            part = types == name
            axes.scatter(means[part], values[part], s=18, color=color, label=f"{name} ({part.sum()})")
            print(f"  {label}, {name}, n {part.sum()}: {_limits(values[part])}")
        print(f"  {label}, all, n {len(values)}: {_limits(values)}")
        bias, spread = values.mean(), 1.96 * values.std(ddof=1)
        axes.axhline(bias, color="black", linewidth=1)
        for edge in (bias - spread, bias + spread):
            axes.axhline(edge, color="black", linewidth=1, linestyle="--")
        axes.set(xlabel="mean diameter (mm)", ylabel=label)
    left.legend(frameon=False)
    with whole_file(path) as partial:
        figure.savefig(partial, metadata={"Software": None})
    solid = types == "solid"
    bias = np.median((ours - readers)[solid])
    error = 100 * np.abs((ours[solid] / (readers[solid] + bias)) ** 3 - 1)
    print(f"  solid: {100 * np.mean(error <= WITHIN):.0f} % within {WITHIN:.0f} % of the reader's volume", end=" ")
    print(f"after {bias:+.2f} mm on the reader's diameters (the median difference)")


def _limits(values: Floats) -> str:
    bias, spread = float(values.mean()), 1.96 * float(values.std(ddof=1))
    return f"{bias:+.2f} ({bias - spread:.2f} to {bias + spread:.2f})"


def _type(crop: Crop) -> str:
    return NAMES.get(round(crop.texture), "part-solid")
