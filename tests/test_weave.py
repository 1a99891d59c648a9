"""Interleaved reconstructions are detected by their pixels."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from src.data.loader import read_scan
from src.data.weave import woven

from .small_scans import chest
from .test_plausibility import real_scans

Voxels = npt.NDArray[Any]


def every(array: Voxels, count: int, change: Callable[[Voxels, int], Voxels]) -> Voxels:
    """Interleave `count` reconstructions: slice i is changed in the (i modulo count)-th way."""
    array = array.astype(np.float64)
    for which in range(1, count):
        array[..., which::count] = change(array[..., which::count], which)
    return array


def noisy(amount: float) -> Callable[[Voxels, int], Voxels]:
    return lambda part, _: part + np.random.default_rng(2).normal(0, amount, part.shape)


def breath(part: Voxels, which: int) -> Voxels:
    return np.roll(part, 8 * (-1) ** which, axis=1)


def scan(noise: float = 30) -> Voxels:
    array = chest()[0].array[..., 20:120]
    return array + np.random.default_rng(1).normal(0, noise, array.shape)


@pytest.mark.parametrize(
    ("array", "count"),
    [
        (scan, 1),
        (lambda: scan(0), 1),
        (lambda: scan(150), 1),
        (lambda: scan()[..., ::5], 1),
        (lambda: scan()[..., :9], 1),
        (lambda: every(scan(), 2, breath)[..., :9], 1),  # too few slices
        (lambda: every(scan(), 2, lambda part, _: part), 1),
        (lambda: every(scan(), 2, noisy(20)), 1),
        (lambda: every(scan(), 2, noisy(120)), 2),
        (lambda: every(scan(), 2, breath), 2),
        (lambda: every(scan()[..., ::-1], 2, breath), 2),
        (lambda: every(scan(), 3, breath), 3),
    ],
)
def test_interleaved_reconstructions_are_counted(array: Callable[[], Voxels], count: int) -> None:
    assert woven(array()) == count


def test_interpolated_slices_are_one_reconstruction() -> None:
    array = scan(60)[..., ::2]
    assert woven(ndimage.zoom(array, (1, 1, (2 * array.shape[2] - 1) / array.shape[2]), order=1)) == 1


def test_a_real_scan_is_one_reconstruction_and_two_interleaved_phases_are_two(shared_data: Any) -> None:  # noqa: ANN401
    for path in real_scans(shared_data):
        array = read_scan(path).array
        assert woven(array) == 1
        assert woven(every(array[..., :60], 2, breath)) == 2
