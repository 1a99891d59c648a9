"""Values are Hounsfield units of a chest CT, or they are refused with what they look like."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from src.data.loader import read_scan
from src.data.plausibility import check_hounsfield
from src.errors import BadScan

from .dicom_files import CHEST, nifti
from .small_scans import block, chest, mass

Voxels = npt.NDArray[Any]

MISTAKES: dict[str, tuple[Callable[[Voxels], Voxels], str]] = {
    "HU + 1024": (lambda hu: hu + 1024, "stored values without the rescale intercept"),
    "HU + 1000": (lambda hu: hu + 1000, "stored values without the rescale intercept"),
    "HU - 1024": (lambda hu: hu - 1024, "intercept applied twice"),
    "HU - 1024, clipped": (lambda hu: np.maximum(hu - 1024, -1024), "give the original scan in HU"),
    "HU + 300": (lambda hu: hu + 300, "half of what is no lung lies above"),
    "HU + 500": (lambda hu: hu + 500, "give the original scan in HU"),
    "times 10": (lambda hu: hu * 10, "HU times 10"),
    "times 2": (lambda hu: hu * 2, "HU times 2, left-justified"),
    "times 8": (lambda hu: hu * 8, "so divide them first"),
    "stored, times 4": (lambda hu: (hu + 1024) * 4, "4 x (HU + 1024), left-justified"),
    "1.3 times": (lambda hu: hu * 1.3, "give the original scan in HU"),
    "grey levels to 1000": (lambda hu: np.clip((hu + 1000) / 1.4, 0, 1000), "so give the original scan"),
    "water outside the lungs": (lambda hu: np.where((hu > -980) & (hu < -500), hu, 0), "have the value 0, as a mask"),
    "steps of 256": (lambda hu: hu >> 8 << 8, "so give the original scan in HU"),
    "one value beyond": (lambda hu: np.where(np.indices(hu.shape).sum(0) == 90, 3e38, hu), "no CT reaches 3e+38 HU"),
    "shuffled": (lambda hu: np.random.default_rng(0).permutation(hu.ravel()).reshape(hu.shape), "as in noise"),
    "half": (lambda hu: hu / 2, "give the original scan in HU"),
    "times 16": (lambda hu: hu * 16, "left-justified"),
    "stored, times 16": (lambda hu: (hu + 1024) * 16, "left-justified and unscaled"),
    "swapped": (lambda hu: hu.astype(np.int16).byteswap(), "swapped bytes"),
    "stored, swapped": (lambda hu: (hu + 1024).astype(np.int16).byteswap(), "swapped bytes"),
    "unsigned": (lambda hu: hu.astype(np.int16).view(np.uint16), "signed values read as unsigned"),
    "lung window": (lambda hu: np.clip((hu + 1350) / 1500, 0, 1) * 255, "8-bit grey levels"),
    "soft tissue window": (lambda hu: np.clip((hu + 160) / 400, 0, 1) * 255, "8-bit grey levels"),
    "0 to 1": (lambda hu: np.clip((hu + 1000) / 1400, 0, 1), "look normalised"),
    "-1 to 1": (lambda hu: np.clip((hu + 1000) / 700 - 1, -1, 1), "look normalised"),
    "thousands": (lambda hu: hu / 1000, "look normalised"),
    "turned round": (np.negative, "sign turned round"),
    "clipped to soft tissue": (lambda hu: hu.clip(-160, 240), "only 0.0% of the voxels lie from"),
    "mostly padding": (lambda hu: np.where(np.indices(hu.shape)[2] < 0.6 * hu.shape[2], -2000, hu), "are padding"),
}


def bordered(values: Voxels, border: float | None) -> Voxels:
    if border is not None:
        values = values.astype(np.float64)
        values[:3] = values[-3:] = border
    return values


@pytest.mark.parametrize("border", [None, -1000, -1024, -2000])
@pytest.mark.parametrize("name", MISTAKES)
def test_values_that_are_no_hounsfield_units_are_refused_with_what_they_look_like(
    name: str, border: float | None
) -> None:
    make, words = MISTAKES[name]
    hu = chest()[0].array[::2, ::2, ::2].astype(np.int32)
    with pytest.raises(BadScan) as error:
        check_hounsfield(bordered(make(hu), border))
    assert "which are not Hounsfield units of a chest CT" in str(error.value)
    if border in (None, -1024):
        assert words in str(error.value)


@pytest.mark.parametrize("border", [None, -1000, -1024, -2000, -3024])
@pytest.mark.parametrize("scan", [lambda: chest()[0], lambda: block(0)[0], lambda: block(2)[0], mass])
def test_synthetic_scans_are_plausible(scan: Callable[[], Any], border: float | None) -> None:
    check_hounsfield(bordered(scan().array, border))


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("offset", [-200, -150, 150, 200])
def test_an_offset_of_a_whole_chest_is_told_by_its_air(shared_data: Path, offset: int, *, clipped: bool) -> None:
    for path in real_scans(shared_data)[-2:]:
        values = read_scan(path).array[::4, ::4, ::4].astype(np.int32) + offset
        with pytest.raises(BadScan, match="not Hounsfield units"):
            check_hounsfield(np.maximum(values, -1024) if clipped else values, whole=True)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("value", [0, -1000, 40])
def test_empty_slices_between_others_are_refused_and_at_the_ends_are_padding(axis: int, value: int) -> None:
    planes = np.moveaxis(chest()[0].array[::2, ::2, ::2].copy(), axis, 0)
    planes[[0, -1]] = value
    check_hounsfield(np.moveaxis(planes, 0, axis))
    planes[len(planes) // 2] = value
    words = f"slices {len(planes) // 2 + 1} along the {('first', 'second', 'third')[axis]} axis are empty"
    with pytest.raises(BadScan, match=words):
        check_hounsfield(np.moveaxis(planes, 0, axis))


def real_scans(folder: Path) -> list[Path]:
    return [*sorted((folder / "backgrounds").glob("*.nii.gz")), folder / "lidc-idri-0001"]


def changed(array: Voxels) -> list[Voxels]:
    """What real scans may be: noisy as at low dose, with contrast medium, cut to the lungs' box, clipped, coarse."""
    noise = np.random.default_rng(1).normal(0, 80, array.shape)
    middle = tuple(slice(n // 5, -n // 5) for n in array.shape)
    return [
        array,
        array + noise,
        np.where((array > 20) & (array < 80), array + 200, array),
        array[middle],
        array.clip(-1000, 400),
        array // 8 * 8,
    ]


def test_real_scans_are_plausible_at_any_dose_and_cut(shared_data: Path) -> None:
    for path in real_scans(shared_data):
        for array in changed(read_scan(path).array[::4, ::4, ::4]):
            check_hounsfield(array, whole=True)


def test_a_piece_of_nothing_but_lung_is_plausible_and_the_same_of_air_is_not() -> None:
    rng = np.random.default_rng(0)
    lung = rng.normal(-870, 40, (32, 32, 32))
    vessels = rng.random(lung.shape) < 0.03
    lung[vessels] = rng.uniform(-480, 0, np.count_nonzero(vessels))
    check_hounsfield(lung)
    for values in (lung + 1024, lung - 300, lung * 10):
        with pytest.raises(BadScan, match="not Hounsfield units"):
            check_hounsfield(values)
    for air in (rng.normal(-1000, 5, lung.shape), np.full(lung.shape, -870.0) + rng.normal(0, 5, lung.shape)):
        with pytest.raises(BadScan, match=r"nothing but air|no voxel is denser"):
            check_hounsfield(air)


@pytest.mark.parametrize("value", [62512, 61536, 64512])
def test_padding_that_was_stored_as_an_unsigned_number_becomes_air(tmp_path: Path, value: int) -> None:
    array = CHEST.astype(np.int32)
    array[:3] = value
    scan = read_scan(nifti(tmp_path / "a.nii", array))
    assert (scan.array[:3] == -1024).all()
    np.testing.assert_array_equal(scan.array[3:], CHEST[3:])
    assert f"720 voxels of {value} are padding, {value - 65536} stored as an unsigned number" in scan.notes[0]
