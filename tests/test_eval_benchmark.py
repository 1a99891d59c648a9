"""Placement of nodules in the detection benchmark."""

from collections import Counter

import numpy as np
import pytest
from scipy import ndimage

from benchmarks.planted import GAP, TOUCH, Lung, Planted, plant
from src.errors import BadConfig
from src.train.crops import Crop
from src.train.scans import LungScan

LUNG, TISSUE = -860, 40


def ball(size: int, radius: float) -> np.ndarray[tuple[int, int, int], np.dtype[np.bool_]]:
    grid = np.indices((size, size, size)) - (size - 1) / 2
    inside: np.ndarray[tuple[int, int, int], np.dtype[np.bool_]] = (grid**2).sum(0) < radius**2
    return inside


def crop(number: int, diameter: float, texture: float) -> Crop:
    mask = ball(51, diameter / 2)
    hu = np.where(mask, TISSUE, LUNG).astype(np.float32)
    return Crop(f"c{number}", f"p{number}", hu, mask, np.array([25.0, 25, 25]), diameter, texture, 3.0)


def voxel(nodule: Planted) -> tuple[int, ...]:
    return tuple(int(v) for v in np.round(nodule.centre))


@pytest.fixture(scope="module")
def background() -> LungScan:
    """A ball of lung in a block of tissue."""
    lung = ball(121, 56)
    hu = np.where(lung, LUNG, TISSUE).astype(np.int16)
    points = np.argwhere(lung).astype(np.int32)
    return LungScan("synthetic", hu, np.eye(4), points, points[:0])


CROPS = [crop(i, diameter, 5 if i else 1) for i, diameter in enumerate((6.0, 8, 10, 12))]


@pytest.fixture(scope="module")
def copies(background: LungScan) -> list[list[Planted]]:
    lung = Lung(background)
    placed = []
    for copy in range(4):
        hu, nodules = plant(np.random.default_rng(copy), copy, background, lung, CROPS)
        seen, _ = ndimage.label(hu > background.hu + 100)
        for nodule in nodules:
            middle = voxel(nodule)
            assert hu[middle] > background.hu[middle] + 150, "the nodule is where the truth says"
            assert seen[middle] not in [seen[voxel(other)] for other in nodules if other is not nodule]
        placed.append(nodules)
    return placed


def test_nodules_are_apart_and_half_of_them_touch_the_border(copies: list[list[Planted]]) -> None:
    for nodules in copies:
        assert Counter(nodule.place for nodule in nodules) == {"anywhere": 2, "border": 2}
        for nodule in nodules:
            depth = 56 - np.linalg.norm(nodule.centre - 60.0)
            if nodule.place == "border":
                assert abs(depth - nodule.crop.diameter / 2) < TOUCH + 1
        for i, one in enumerate(nodules):
            for other in nodules[:i]:
                apart = float(np.linalg.norm(one.centre - other.centre))
                assert apart > (one.crop.diameter + other.crop.diameter) / 2 + GAP


def test_each_solid_nodule_becomes_ground_glass_in_one_of_four_copies(copies: list[list[Planted]]) -> None:
    kinds = Counter((nodule.crop.crop_id, nodule.kind) for nodules in copies for nodule in nodules)
    solid = {(f"c{i}", kind): count for i in (1, 2, 3) for kind, count in (("solid", 3), ("ground-glass (mixed)", 1))}
    assert kinds == {("c0", "ground-glass"): 4, **solid}


def test_a_full_lung_is_an_error(background: LungScan) -> None:
    with pytest.raises(BadConfig, match="no room"):
        plant(np.random.default_rng(0), 0, background, Lung(background), [crop(i, 30.0, 5) for i in range(30)])


def test_a_planted_nodule_keeps_every_voxel_of_its_crop(background: LungScan) -> None:
    mask = ball(51, 5)
    mask[30, 25, 26] = True  # its centre lies between voxels
    hu = np.full(mask.shape, LUNG, np.float32)
    hu[mask] = np.random.default_rng(0).permutation(np.arange(100, 100 + mask.sum()))
    uneven = Crop("c", "p", hu, mask, np.array(ndimage.center_of_mass(mask)), 10.0, 5, 3.0)
    for copy in range(8):
        seen, (nodule,) = plant(np.random.default_rng(copy), 0, background, Lung(background), [uneven])
        there = seen >= 100
        assert sorted(seen[there]) == sorted(hu[mask])
        np.testing.assert_allclose(ndimage.center_of_mass(there), nodule.centre, atol=1e-9)
