"""Measurements of nodules of known volume, shape and density."""

from dataclasses import replace
from itertools import permutations
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.config import PostProcessing
from src.detection.post_processing import filter_detections
from src.measurement.at_point import extract_properties
from src.measurement.nodule_properties import _nodule_type, segment_and_measure
from src.types import Detection, NoduleMask, Properties, Vec3

from .synthetic_nodules import SETTINGS, Case, Setting, draw_case, misplaced, random_case

NODULE = Case(8.0, nodule_hu=30.0, noise_sd=20.0, seed=3)
SPACING = (0.7, 0.7, 1.0)
Points = npt.NDArray[np.float64]


def _measure(case: Case) -> tuple[Properties, float]:
    scan, centre, volume = draw_case(case)
    return extract_properties(scan=scan, coordinates=centre, diameter=case.diameter, spacing=case.spacing), volume


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("ground_glass", [False, True])
def test_diameter_is_accurate_in_every_setting(setting: Setting, ground_glass: bool) -> None:
    errors = []
    for seed in range(3):
        case = random_case(seed + 40, setting, (6.0, 14.0), ground_glass)
        scan, centre, volume = draw_case(case)
        point, guess = misplaced(case, centre)
        found = extract_properties(scan, point, guess, case.spacing)["volume_mm3"]
        assert found is not None
        errors.append(abs(np.cbrt(found / volume) - 1))
    assert np.median(errors) < 0.05
    assert max(errors) < 0.15


@pytest.mark.parametrize(
    ("case", "tolerance"),
    [
        (Case(3.0, spacing=(0.6, 0.6, 0.6)), 0.06),
        (Case(4.0, spacing=(0.7, 0.7, 2.0)), 0.08),
        (Case(6.0, spacing=(0.5, 0.5, 5.0)), 0.15),
        (Case(6.0, nodule_hu=-560.0), 0.05),
        (Case(12.0, spacing=(0.9, 0.9, 2.5)), 0.03),
        (Case(28.0, spacing=(0.9, 0.9, 2.5)), 0.03),
    ],
)
def test_isolated_balls_have_their_diameter(case: Case, tolerance: float) -> None:
    found, volume = _measure(case)
    assert found["volume_mm3"] == pytest.approx(volume, rel=3 * tolerance)
    assert found["effective_diameter_mm"] == pytest.approx(case.diameter, rel=tolerance)


def test_diameter_is_that_of_a_ball_of_the_same_volume() -> None:
    found, _ = _measure(NODULE)
    assert found["volume_mm3"] is not None
    assert found["effective_diameter_mm"] == pytest.approx((6 * found["volume_mm3"] / np.pi) ** (1 / 3))


@pytest.mark.parametrize(("diameter", "thickness"), [(4, 1.25), (6, 2.5), (10, 2.5)])
def test_sub_voxel_shifts_change_little(diameter: float, thickness: float) -> None:
    case = replace(NODULE, diameter=diameter, spacing=(0.7, 0.7, thickness))
    found = []
    for x, y, z in np.random.default_rng(2).uniform(-0.5, 0.5, size=(6, 3)) * case.spacing:
        scan, centre, _ = draw_case(case, shift=(x, y, z))
        found.append(extract_properties(scan, centre, diameter, case.spacing)["effective_diameter_mm"])
    diameters = np.array(found, dtype=np.float64)
    assert np.ptp(diameters) / diameters.mean() < 0.05


def test_axes_and_sphericity_of_a_ball() -> None:
    found, _ = _measure(replace(NODULE, diameter=12.0))
    assert found["long_axis_mm"] == pytest.approx(12, rel=0.06)
    assert found["short_axis_mm"] == pytest.approx(12, rel=0.06)
    assert found["sphericity"] is not None
    assert 0.95 < found["sphericity"] <= 1


def _rod() -> tuple[npt.NDArray[np.float64], Vec3, Vec3]:
    """An ellipsoid with axes of 16, 10 and 8 mm along x, y and z, on a grid of 0.8 mm."""
    x, y, z = np.ogrid[-20:20.1:0.8, -20:20.1:0.8, -20:20.1:0.8]
    level = np.sqrt((x / 8) ** 2 + (y / 5) ** 2 + (z / 4) ** 2)
    return -850 + 880 * np.clip(0.5 + 6 * (1 - level), 0, 1), (20.0, 20.0, 20.0), (0.8, 0.8, 0.8)


@pytest.mark.parametrize(("axial_axis", "long_axis", "short_axis"), [(2, 16, 10), (1, 16, 8), (0, 10, 8)])
def test_axes_lie_in_the_axial_plane(axial_axis: int, long_axis: float, short_axis: float) -> None:
    scan, centre, spacing = _rod()
    found = extract_properties(scan, centre, 10.0, spacing, axial_axis=axial_axis)
    assert found["long_axis_mm"] == pytest.approx(long_axis, rel=0.06)
    assert found["short_axis_mm"] == pytest.approx(short_axis, rel=0.06)


def test_sphericity_of_an_ellipsoid() -> None:
    scan, centre, spacing = _rod()
    p = 1.6075  # Thomsen's approximation of an ellipsoid's area, good to 1 %
    area = 4 * np.pi * (((8 * 5) ** p + (8 * 4) ** p + (5 * 4) ** p) / 3) ** (1 / p)
    expected = np.cbrt(np.pi) * (8 * np.pi * 8 * 5 * 4) ** (2 / 3) / area
    assert extract_properties(scan, centre, 10.0, spacing)["sphericity"] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("hu", "core", "kind", "low", "high"),
    [
        (40.0, 0.0, "solid", 0.97, 1.0),
        (-550.0, 0.0, "ground-glass", 0.0, 0.02),
        (-550.0, 0.6, "part-solid", 0.12, 0.32),
    ],
)
def test_density_determines_the_type(hu: float, core: float, kind: str, low: float, high: float) -> None:
    found, volume = _measure(replace(NODULE, diameter=16.0, nodule_hu=hu, core=core))
    assert found["nodule_type"] == kind
    assert found["solid_fraction"] is not None
    assert low <= found["solid_fraction"] <= high  # a core of 0.6 diameters has 0.22 of the volume
    assert found["volume_mm3"] == pytest.approx(volume, rel=0.12)


@pytest.mark.parametrize(("hu", "solid"), [(-330.0, 0.0), (-270.0, 1.0)])
def test_tissue_is_solid_from_minus_300_hu(hu: float, solid: float) -> None:
    found, _ = _measure(replace(NODULE, diameter=18.0, nodule_hu=hu, noise_sd=0.0))
    assert found["solid_fraction"] == pytest.approx(solid, abs=0.03)


@pytest.mark.parametrize(
    ("solid", "kind"),
    [(0.0599, "ground-glass"), (0.06, "part-solid"), (0.8, "part-solid"), (0.8001, "solid")],
)
def test_a_nodule_with_6_to_80_percent_solid_volume_is_part_solid(solid: float, kind: str) -> None:
    assert _nodule_type(solid, 0.0) == kind


@pytest.mark.parametrize(("core", "kind"), [(3.29, "ground-glass"), (3.3, "part-solid")])
def test_a_solid_part_of_3_3_mm_makes_a_nodule_part_solid(core: float, kind: str) -> None:
    assert _nodule_type(0.001, core) == kind


def test_statistics_are_those_of_the_nodule() -> None:
    found, _ = _measure(replace(NODULE, diameter=14.0))
    low, mean, high = found["min_intensity"], found["mean_intensity"], found["max_intensity"]
    assert low is not None
    assert mean is not None
    assert high is not None
    assert -620 < low < -300  # the boundary lies halfway to lung
    assert -120 < mean < 30
    assert 30 < high < 150


@settings(max_examples=12, deadline=None)
@given(
    setting=st.sampled_from(SETTINGS),
    order=st.sampled_from(list(permutations(range(3)))),
    flips=st.tuples(*[st.booleans()] * 3),
)
def test_the_order_of_axes_does_not_change_the_measurements(
    setting: Setting, order: tuple[int, int, int], flips: tuple[bool, bool, bool]
) -> None:
    case = replace(NODULE, setting=setting, spacing=(0.6, 0.8, 1.5))
    scan, centre, _ = draw_case(case)
    before = extract_properties(scan, centre, 9.0, case.spacing)
    turned = scan.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    a, b, c = (case.spacing[axis] for axis in order)
    x, y, z = (
        (n - 1) * s - centre[axis] if flip else centre[axis]
        for n, s, axis, flip in zip(turned.shape, (a, b, c), order, flips, strict=True)
    )
    after = extract_properties(turned, (x, y, z), 9.0, (a, b, c), axial_axis=order.index(2))
    assert after["effective_diameter_mm"] == pytest.approx(before["effective_diameter_mm"], rel=0.02)
    assert after["long_axis_mm"] == pytest.approx(before["long_axis_mm"], rel=0.02)
    assert after["short_axis_mm"] == pytest.approx(before["short_axis_mm"], rel=0.02)
    assert after["sphericity"] == pytest.approx(before["sphericity"], rel=0.02)
    assert after["nodule_type"] == before["nodule_type"]


def test_without_a_nodule_only_the_intensities_of_the_ball_are_measured() -> None:
    lung = np.full((40, 40, 40), -850, dtype=np.int16)
    lung[20, 20, 20] = -800
    found = extract_properties(lung, (20.0, 20.0, 20.0), 2.0, (1.0, 1.0, 1.0))
    assert found["nodule_type"] is None
    known = {key: value for key, value in found.items() if value is not None and value == value}  # noqa: PLR0124 - NaN
    assert known == {
        "mean_intensity": pytest.approx(-850 + 50 / 7),  # the middle voxel and its six neighbours
        "std_intensity": pytest.approx(np.std([50, 0, 0, 0, 0, 0, 0])),
        "min_intensity": -850,
        "max_intensity": -800,
    }


def test_nothing_is_measured_outside_the_scan() -> None:
    found = extract_properties(np.zeros((20, 20, 20), np.int16), (90.0, 5.0, 5.0), 6.0, (1.0, 1.0, 1.0))
    assert found["nodule_type"] is None
    assert all(np.isnan(value) for value in found.values() if isinstance(value, float))
    assert f"{found['sphericity']:.2f}" == "nan"  # the guide prints it so


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_the_element_type_does_not_matter(kind: type[np.generic]) -> None:
    scan, centre, _ = draw_case(NODULE)
    found = extract_properties(scan.astype(kind), centre, 8.0, NODULE.spacing)
    assert found == extract_properties(scan, centre, 8.0, NODULE.spacing)


def _tissue(distance: Points) -> npt.NDArray[np.float32]:
    """Lung with soft tissue where the distance in mm is negative; the edge is 1 mm wide."""
    share = (0.5 - distance).clip(0, 1)
    return (-860 + 890 * share).astype(np.float32)


def _places(shape: tuple[int, int, int]) -> Points:
    """The positions of the voxels in mm: (X, Y, Z, 3)."""
    places: Points = np.moveaxis(np.indices(shape), 0, -1) * np.array(SPACING)
    return places


@pytest.mark.parametrize("shape", ["ball", "oval"])
def test_two_marks_in_one_body_are_one_nodule_at_its_centre(shape: str) -> None:
    size = (100, 100, 70)
    centre = np.multiply((50, 50, 35), SPACING)
    away = _places(size) - centre
    radii = {"ball": (13, 13, 13), "oval": (15, 8, 8)}[shape]
    scan = _tissue((np.linalg.norm(away / radii, axis=-1) - 1) * min(radii))
    detections, masks = [], []
    for x, guess, confidence in ((-7.0, 16.0, 0.9), (7.0, 16.0, 0.8)):
        seed = (float(centre[0] + x), float(centre[1]), float(centre[2]))
        properties, body = segment_and_measure(scan, seed, guess, SPACING)
        assert body is not None
        np.testing.assert_allclose(body.centre, centre, atol=0.5)
        diameter = properties["effective_diameter_mm"] or guess
        detections.append(cast("Detection", {"coordinates": seed, "diameter_mm": diameter, "confidence": confidence}))
        masks.append(NoduleMask(body.mask, body.origin))
    assert filter_detections(detections, PostProcessing(), masks) == ([detections[0]], [])


@settings(max_examples=15)
@given(st.tuples(*[st.floats(-3, 3)] * 3), st.floats(4, 20))
def test_a_bodys_centre_is_found_from_a_mark_beside_it(off: Vec3, diameter: float) -> None:
    share = min(1.0, diameter / 4 / 3)
    size = (64, 64, 45)
    centre = np.multiply((31.5, 31.5, 22), SPACING)
    away = np.linalg.norm(_places(size) - centre, axis=-1)
    seed = centre + np.multiply(off, share)
    _, body = segment_and_measure(
        _tissue(away - diameter / 2), (float(seed[0]), float(seed[1]), float(seed[2])), diameter, SPACING
    )
    assert body is not None
    np.testing.assert_allclose(body.centre, centre, atol=0.3)


@pytest.mark.parametrize(("mark", "measured"), [(4.2, True), (9.5, True), (10.5, False), (14.0, False)])
def test_a_body_far_smaller_than_its_mark_is_not_its_nodule(mark: float, *, measured: bool) -> None:
    """A ball of 6 mm, such as the core of a nodule whose rim cannot be seen: from a mark of 10 mm on it is a part."""
    size = (64, 64, 45)
    centre = np.multiply((31.5, 31.5, 22), SPACING)
    scan = _tissue(np.linalg.norm(_places(size) - centre, axis=-1) - 3.0)
    properties, body = segment_and_measure(scan, (float(centre[0]), float(centre[1]), float(centre[2])), mark, SPACING)
    assert (body is not None) == measured
    assert properties["effective_diameter_mm"] == (pytest.approx(6.0, abs=0.1) if measured else None)
