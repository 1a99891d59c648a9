"""Segmentation of nodules of known place and shape."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from src.measurement.segmentation import segment_nodule
from src.types import Vec3

from .synthetic_nodules import SETTINGS, Case, Setting, draw_case

NODULE = Case(8.0, nodule_hu=30.0, noise_sd=20.0, seed=3)


class Counted(np.ndarray[tuple[int, ...], np.dtype[np.int16]]):
    """An array that records the largest number of voxels read at once."""

    most = 0

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401 - as in numpy
        part = np.asarray(self)[key]
        Counted.most = max(Counted.most, part.size)
        return part


def _inside(case: Case, shape: tuple[int, ...], origin: tuple[int, ...], centre: Vec3) -> npt.NDArray[np.bool_]:
    """The voxels of a box whose centres lie in the ball of a case."""
    axes = np.ogrid[tuple(slice(o, o + n) for o, n in zip(origin, shape, strict=True))]
    squares = sum((a * s - c) ** 2 for a, s, c in zip(axes, case.spacing, centre, strict=True))
    return np.asarray(squares <= case.diameter**2 / 4)


@pytest.mark.parametrize("setting", SETTINGS)
def test_mask_covers_the_nodule_and_little_else(setting: Setting) -> None:
    case = replace(NODULE, setting=setting, wall_depth=0.9)
    scan, centre, _ = draw_case(case)
    found = segment_nodule(scan, centre, case.diameter, case.spacing)
    assert found is not None
    truth = _inside(case, found.mask.shape, found.origin, centre)
    whole = _inside(case, scan.shape, (0, 0, 0), centre).sum()
    dice = 2 * (truth & found.mask).sum() / (whole + found.mask.sum())
    assert dice > 0.88


def test_mask_and_fine_body_have_the_same_volume() -> None:
    scan, centre, _ = draw_case(NODULE)
    found = segment_nodule(scan, centre, 8.0, NODULE.spacing)
    assert found is not None
    assert found.mask.sum() * np.prod(NODULE.spacing) == pytest.approx(found.body.sum() * found.step**3, rel=0.08)
    assert found.levels.lung == pytest.approx(-850, abs=15)
    assert found.levels.nodule == pytest.approx(30, abs=25)


@pytest.mark.parametrize("guess", [8 / 3, 8, 24])
def test_a_diameter_guess_off_by_a_factor_of_three_changes_little(guess: float) -> None:
    scan, centre, _ = draw_case(NODULE)
    found = segment_nodule(scan, centre, guess, NODULE.spacing)
    assert found is not None
    assert (6 / np.pi * found.body.sum()) ** (1 / 3) * found.step == pytest.approx(8, rel=0.06)


@pytest.mark.parametrize("offset", [(3, 0, 0), (0, -3, 0), (0, 0, 3)])
def test_a_point_in_lung_beside_a_small_nodule_finds_it(offset: Vec3) -> None:
    case = replace(NODULE, diameter=4.0)
    scan, (x, y, z), _ = draw_case(case)
    found = segment_nodule(scan, (x + offset[0], y + offset[1], z + offset[2]), 4.0, case.spacing)
    assert found is not None
    middle = (np.argwhere(found.mask).mean(axis=0) + found.origin) * case.spacing
    assert np.linalg.norm(middle - (x, y, z)) < 0.8


@pytest.mark.parametrize(("contrast", "found"), [(85.0, False), (115.0, True)])
def test_a_nodule_is_at_least_100_hu_denser_than_lung(contrast: float, *, found: bool) -> None:
    case = replace(NODULE, diameter=14.0, nodule_hu=-850 + contrast, noise_sd=0.0)
    scan, centre, _ = draw_case(case)
    assert (segment_nodule(scan, centre, case.diameter, case.spacing) is not None) == found


@pytest.mark.parametrize(("lung", "found"), [(-530.0, True), (-470.0, False)])
def test_tissue_denser_than_minus_500_hu_is_not_lung(lung: float, *, found: bool) -> None:
    case = replace(NODULE, lung_hu=lung, noise_sd=0.0)
    scan, centre, _ = draw_case(case)
    assert (segment_nodule(scan, centre, case.diameter, case.spacing) is not None) == found


def test_a_large_ground_glass_nodule_is_not_taken_for_a_wall() -> None:
    case = replace(NODULE, diameter=24.0, nodule_hu=-450.0)
    scan, centre, _ = draw_case(case)
    found = segment_nodule(scan, centre, 8.0, case.spacing)
    assert found is not None
    assert (6 / np.pi * found.body.sum()) ** (1 / 3) * found.step == pytest.approx(24, rel=0.06)


def test_the_boundary_lies_at_the_mean_of_lung_and_nodule() -> None:
    scan, centre, _ = draw_case(replace(NODULE, diameter=16.0, nodule_hu=-400.0, noise_sd=0.0))
    found = segment_nodule(scan, centre, 16.0, NODULE.spacing)
    assert found is not None
    assert found.levels.threshold == pytest.approx(-625, abs=5)
    assert found.levels.contrast == pytest.approx(450, abs=10)


def test_empty_lung_has_no_nodule() -> None:
    noise = np.random.default_rng(0).normal(-850, 30, size=(60, 60, 40))
    assert segment_nodule(noise, (21.0, 21.0, 25.0), 8.0, (0.7, 0.7, 1.25)) is None


def test_soft_tissue_without_lung_has_no_nodule() -> None:
    tissue = np.random.default_rng(0).normal(40, 20, size=(60, 60, 40))
    assert segment_nodule(tissue, (21.0, 21.0, 25.0), 8.0, (0.7, 0.7, 1.25)) is None


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_nodule_cut_by_the_scan_border_is_refused(axis: int) -> None:
    scan, centre, _ = draw_case(NODULE)
    cut = [slice(None)] * 3
    first = round(centre[axis] / NODULE.spacing[axis]) - 1
    cut[axis] = slice(first, None)
    point = list(centre)
    point[axis] -= first * NODULE.spacing[axis]
    assert segment_nodule(scan[tuple(cut)], (point[0], point[1], point[2]), 8.0, NODULE.spacing) is None


def test_a_point_outside_the_scan_is_refused() -> None:
    scan, _, _ = draw_case(NODULE)
    assert segment_nodule(scan, (-50.0, 10.0, 900.0), 8.0, NODULE.spacing) is None


def test_only_a_crop_of_the_scan_is_read() -> None:
    scan, centre, _ = draw_case(NODULE)
    large = np.pad(scan, 60, mode="reflect").view(Counted)
    x, y, z = (c + 60 * s for c, s in zip(centre, NODULE.spacing, strict=True))
    Counted.most = 0
    found = segment_nodule(large, (x, y, z), 8.0, NODULE.spacing)
    assert found is not None
    assert 0 < Counted.most < large.size / 20


@pytest.mark.parametrize(("hu", "whole"), [(-430.0, True), (-370.0, False)])
def test_structures_that_continue_beyond_the_reach_are_left_out_from_minus_400_hu(hu: float, *, whole: bool) -> None:
    case = replace(NODULE, diameter=24.0, nodule_hu=hu, noise_sd=0.0)
    scan, centre, _ = draw_case(case)
    found = segment_nodule(scan, centre, case.diameter, case.spacing, reach=8.0)
    assert (found is not None and found.body.sum() * found.step**3 > 6000) == whole
