"""Values that are not Hounsfield units of a chest CT are refused, and the message names the likely cause."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from src.data.geometry import canonical
from src.data.loader import read_scan
from src.data.lung_finder import find_lungs
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
    "HU + 300": (lambda hu: hu + 300, "half of the tissue outside the lung lies above"),
    "HU + 500": (lambda hu: hu + 500, "give the original scan in HU"),
    "times 10": (lambda hu: hu * 10, "HU times 10"),
    "times 2": (lambda hu: hu * 2, "HU times 2, left-justified"),
    "times 8": (lambda hu: hu * 8, "so divide them first"),
    "stored, times 4": (lambda hu: (hu + 1024) * 4, "4 x (HU + 1024), left-justified"),
    "times 1.3": (lambda hu: hu * 1.3, "give the original scan in HU"),
    "grey levels to 1000": (lambda hu: np.clip((hu + 1000) / 1.4, 0, 1000), "so give the original scan"),
    "water outside the lungs": (lambda hu: np.where((hu > -980) & (hu < -500), hu, 0), "have the value 0, as a mask"),
    "steps of 256": (lambda hu: hu >> 8 << 8, "so give the original scan in HU"),
    "one impossible value": (
        lambda hu: np.where(np.indices(hu.shape).sum(0) == 90, 3e38, hu),
        "no CT reaches 3e+38 HU",
    ),
    "shuffled": (lambda hu: np.random.default_rng(0).permutation(hu.ravel()).reshape(hu.shape), "they are noise"),
    "divided by 2": (lambda hu: hu / 2, "give the original scan in HU"),
    "times 16": (lambda hu: hu * 16, "left-justified"),
    "stored, times 16": (lambda hu: (hu + 1024) * 16, "left-justified and unscaled"),
    "bytes swapped": (lambda hu: hu.astype(np.int16).byteswap(), "swapped bytes"),
    "stored, bytes swapped": (lambda hu: (hu + 1024).astype(np.int16).byteswap(), "swapped bytes"),
    "unsigned": (lambda hu: hu.astype(np.int16).view(np.uint16), "signed values read as unsigned"),
    "lung window": (lambda hu: np.clip((hu + 1350) / 1500, 0, 1) * 255, "8-bit grey levels"),
    "soft tissue window": (lambda hu: np.clip((hu + 160) / 400, 0, 1) * 255, "8-bit grey levels"),
    "0 to 1": (lambda hu: np.clip((hu + 1000) / 1400, 0, 1), "look normalised"),
    "-1 to 1": (lambda hu: np.clip((hu + 1000) / 700 - 1, -1, 1), "look normalised"),
    "divided by 1000": (lambda hu: hu / 1000, "look normalised"),
    "reversed": (np.negative, "sign reversed"),
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
def test_values_that_are_not_hounsfield_units_are_refused_with_their_likely_cause(
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
@pytest.mark.parametrize("offset", [-200, -150, -100, -75, 100, 150, 200])
def test_an_offset_of_a_whole_chest_is_recognised(shared_data: Path, offset: int, *, clipped: bool) -> None:
    for path in real_scans(shared_data)[-2:]:
        values = read_scan(path).array[::4, ::4, ::4].astype(np.int32) + offset
        with pytest.raises(BadScan, match="not Hounsfield units"):
            check_hounsfield(np.maximum(values, -1024) if clipped else values, whole=True)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("value", [0, -1000, 40])
def test_empty_slices_are_refused_except_at_the_ends_of_the_scan(axis: int, value: int) -> None:
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
    """Variants of a real scan: low dose, contrast medium, cropped to the lungs, clipped, quantised."""
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


def test_real_scans_are_plausible_at_low_dose_and_when_cropped(shared_data: Path) -> None:
    for path in real_scans(shared_data):
        for array in changed(read_scan(path).array[::4, ::4, ::4]):
            check_hounsfield(array, whole=True)


def test_a_crop_of_lung_is_plausible_and_a_crop_of_air_is_not() -> None:
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


def drawn(lung: float = -850, air: float = -1000, body: float = 40, noise: float = 0, step: float = 2.5) -> Voxels:
    """A digital phantom: body, two lungs, spine and nodules, each with a constant value and added noise."""
    x, y, z = np.ogrid[-160:160:step, -115:115:step, -140:140:step]
    hu = np.full(np.broadcast_shapes(x.shape, y.shape, z.shape), air)
    hu[np.broadcast_to((x / 150) ** 2 + (y / 105) ** 2 < 1, hu.shape)] = body
    for side in (-70, 70):
        hu[((x - side) / 55) ** 2 + (y / 80) ** 2 + (z / 125) ** 2 < 1] = lung
        hu[(x - side) ** 2 + y**2 + z**2 < 8**2] = body
    hu[np.broadcast_to(x**2 + (y - 80) ** 2 < 15**2, hu.shape)] = 400
    return hu + np.random.default_rng(0).normal(0, noise, hu.shape)


PHANTOMS: dict[str, Voxels] = {
    "sharp": drawn(),
    "thin lung": drawn(lung=-700),
    "air as padding": drawn(air=-1024),
    "blurred": ndimage.gaussian_filter(drawn(step=2), 0.6),
    "water": drawn(body=0),
}


@pytest.mark.parametrize("name", PHANTOMS)
def test_a_phantom_without_noise_is_read_but_not_evaluable(tmp_path: Path, name: str) -> None:
    affine = np.diag([-2.5, -2.5, 2.5, 1])
    scan = read_scan(nifti(tmp_path / "a.nii", PHANTOMS[name].astype(np.int16), affine))
    assert scan.notes[-1] == "lung and tissue have no noise: read as a digital phantom"
    report = find_lungs(*canonical(scan.array, scan.affine)).report()
    assert report["recognised"]
    assert "as in a digital phantom" in (report["reason"] or "")


def test_a_phantom_with_noise_is_evaluable_like_a_scan(tmp_path: Path) -> None:
    affine = np.diag([-2.5, -2.5, 2.5, 1])
    scan = read_scan(nifti(tmp_path / "a.nii", drawn(noise=5).astype(np.int16), affine))
    assert not scan.notes
    assert find_lungs(*canonical(scan.array, scan.affine)).report()["evaluable"]


LUNG = (drawn() == -850) & (drawn(lung=-700) == -700)
WRONG_PHANTOMS: dict[str, tuple[Voxels, str]] = {
    "HU + 1024": (drawn() + 1024, "give the original scan"),
    "HU + 50": (drawn() + 50, "as thin as air or lung, below -980 HU"),
    "HU - 50": (drawn() - 50, "lies at -1060 HU"),
    "HU - 100, clipped": (np.maximum(drawn() - 100, -1024), "most tissue lies at -"),
    "times 2": (drawn() * 2, "give the original scan"),
    "8 bit": (((drawn() + 1350) / 1500).clip(0, 1) * 255, "8-bit"),
    "labels": (np.select([drawn() < -900, LUNG], [0, 1], 2), "normalised"),
    "mask in HU": (np.where(LUNG, -850, 40), "as thin as air or lung"),
    "mask and air": (np.where(LUNG, -850, -1000), "give the original scan"),
    "scan in a drawn body": (np.where(LUNG, drawn(noise=20), drawn()), "have the value -1000"),
    "drawn lungs in a scan": (np.where(LUNG, -850, drawn(noise=3)), "have the value -850"),
    "little noise": (drawn(noise=0.5).round(), "a phantom needs noise"),
}


@pytest.mark.parametrize("name", WRONG_PHANTOMS)
def test_an_implausible_phantom_is_refused(name: str) -> None:
    values, words = WRONG_PHANTOMS[name]
    with pytest.raises(BadScan, match=words):
        check_hounsfield(values, whole=True)


@pytest.mark.parametrize("value", [62512, 61536, 64512])
def test_padding_stored_as_an_unsigned_number_becomes_air(tmp_path: Path, value: int) -> None:
    array = CHEST.astype(np.int32)
    array[:3] = value
    scan = read_scan(nifti(tmp_path / "a.nii", array))
    assert (scan.array[:3] == -1024).all()
    np.testing.assert_array_equal(scan.array[3:], CHEST[3:])
    assert f"720 voxels of {value} are padding, {value - 65536} stored as an unsigned number" in scan.notes[0]


@pytest.mark.parametrize(
    ("edge", "noise", "inside"),
    [(0.0, 8, 35), (0.3, 8, 35), (0.4, 5, 20), (0.0, 10, 60)],
    ids=["sharp", "nearly sharp", "near water", "muscle"],
)
def test_a_body_without_lungs_is_not_reported_as_wrong_values(edge: float, noise: float, inside: float) -> None:
    """A ball of soft tissue in a shell of bone, like a head. Its blurred edge has few voxels with the HU of lung."""
    away = np.sqrt(np.square(np.indices((96, 96, 96)) - 48.0).sum(axis=0))
    ball = np.select([away < 36, away < 40], [inside, 900.0], -1000.0)
    noisy = ndimage.gaussian_filter(ball, edge) + np.random.default_rng(0).normal(0, noise, ball.shape)
    with pytest.raises(BadScan, match="though air and soft tissue have their HU, so the scan shows no lung"):
        check_hounsfield(np.round(noisy))
