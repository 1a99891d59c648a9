"""The steps of a measurement, each on small arrays with a known result."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from src.data.geometry import RAS_TO_LPS
from src.errors import BadConfig
from src.measurement import at_point, nodule_properties, segmentation
from src.measurement.at_point import extract_properties, measured_at
from src.measurement.cube import Cube
from src.measurement.masks import Mask, depth_of
from src.measurement.nodule_properties import (
    _axes,
    _ball_voxels,
    _Edge,
    _height,
    _peak_share,
    _share,
    _solid_part,
    _sphericity,
    _Start,
    measure_nodule,
    segment_and_measure,
)
from src.measurement.plausible import _tissue, doubt
from src.measurement.segmentation import Levels, Segmentation
from src.types import FloatArray, Scan, Shape3, Vec3

LEVELS = Levels(-850.0, 50.0)
Array = npt.NDArray[np.float64]


def _away(half: int, step: float) -> Array:
    """The distance in mm from the middle of a cube of 2 half + 1 voxels."""
    x, y, z = np.ogrid[-half : half + 1, -half : half + 1, -half : half + 1]
    return np.asarray(step * np.sqrt(x**2 + y**2 + z**2))


def _nodule(
    body: Mask, hu: npt.ArrayLike, step: float, other: Mask | None = None, levels: Levels = LEVELS
) -> Segmentation:
    """A segmentation whose grid is the scan's own."""
    other = np.zeros_like(body) if other is None else other
    return Segmentation(
        body, (0, 0, 0), np.asarray(hu, np.float32), body, other, step, levels, centre=(0.0, 0.0, 0.0), thickness=step
    )


class TestStart:
    """A measurement starts at one of a discrete set of points and sizes, so that repeating it can recur."""

    @pytest.mark.parametrize(
        ("diameter", "size"),
        [(8.0, 1.25**9), (0.5, 1.0), (1.0, 1.0), (1.117, 1.25), (1.114, 1.0), (1.2, 1.25), (45.0, 1.25**17)],
    )
    def test_sizes_are_powers_of_a_ratio(self, diameter: float, size: float) -> None:
        """Diameters are first rounded to 0.01 mm; 1.118 mm is the middle between two sizes."""
        assert _Start.of((5, 5, 5), diameter, (11, 11, 11), (1, 1, 1)).diameter == pytest.approx(size)

    def test_start_points_are_an_eighth_of_the_size_apart_from_the_middle_of_the_scan(self) -> None:
        for point, start in (
            ((5.07, 2.06, 3.60), (5.125, 2.0, 3.625)),
            ((4.93, 1.94, 3.90), (4.875, 2.0, 3.875)),
            ((5.06251, 2.0624, 3.75), (5.125, 2.0, 3.75)),  # first rounded to a micrometre
        ):
            assert _Start.of(point, 1.0, (11, 6, 4), (1.0, 0.8, 2.5)).point == pytest.approx(start)
        assert _Start.of((5.07, 2.0, 3.75), 2.0, (11, 6, 4), (1.0, 0.8, 2.5)).point[0] == 5.0

    @given(st.tuples(*[st.floats(0, 10)] * 3), st.floats(1, 40))
    def test_the_direction_of_the_axes_does_not_matter(self, point: Vec3, diameter: float) -> None:
        x, y, z = point
        one = _Start.of((x, y, z), diameter, (11, 11, 11), (1, 1, 1))
        other = _Start.of((10 - round(x, 3), y, z), diameter, (11, 11, 11), (1, 1, 1))
        assert other.point[0] == pytest.approx(10 - one.point[0], abs=1e-9)
        assert (other.point[1:], other.diameter) == (one.point[1:], one.diameter)


class TestRepeats:
    """A measurement is repeated from its own result until it recurs."""

    def _measured(
        self, monkeypatch: pytest.MonkeyPatch, sizes: list[float], doubtful: tuple[float, ...] = ()
    ) -> tuple[Any, list[tuple[float, float | None]]]:
        """The result if the n-th segmentation has the n-th size, and the diameter and reach that each was given."""
        calls: list[tuple[float, float | None]] = []

        def segmented(_scan: object, _point: Vec3, diameter: float, *rest: Any) -> Any:  # noqa: ANN401
            calls.append((round(diameter, 3), rest[-1]))
            return SimpleNamespace(centre=(5.0, 5.0, 5.0), size=sizes[min(len(calls), len(sizes)) - 1])

        def measured(found: Any, *_: object) -> Any:  # noqa: ANN401
            return {"effective_diameter_mm": found.size, "volume_mm3": found.size**3}

        monkeypatch.setattr(nodule_properties, "segment_nodule", segmented)
        monkeypatch.setattr(nodule_properties, "measure_nodule", measured)
        monkeypatch.setattr(nodule_properties, "doubt", lambda found, *_: found.size in doubtful)
        scan = np.zeros((11, 11, 11), np.int16)
        return segment_and_measure(scan, (5.0, 5.0, 5.0), 8.0, (1.0, 1.0, 1.0)), calls

    def test_a_result_that_leads_to_itself_is_final(self, monkeypatch: pytest.MonkeyPatch) -> None:
        (properties, body), calls = self._measured(monkeypatch, [5.9])
        assert body is not None
        assert properties["effective_diameter_mm"] == 5.9
        assert calls == [(7.451, None), (5.960, None)]

    def test_a_cycle_gives_the_result_with_the_median_volume(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From 8 mm to 12, 10 and 6 mm, and again to 12 mm: the first result is not part of the cycle."""
        (properties, _), calls = self._measured(monkeypatch, [12.0, 10.0, 6.0, 11.9])
        assert properties["effective_diameter_mm"] == 10.0
        assert len(calls) == 4

    def test_a_measurement_that_does_not_settle_has_no_result(self, monkeypatch: pytest.MonkeyPatch) -> None:
        (_, body), calls = self._measured(monkeypatch, [8 * 1.25**n for n in range(1, 14)])
        assert body is None
        assert len(calls) == 12

    @pytest.mark.parametrize(("size", "kept"), [(4.8, True), (4.79, False)])
    def test_a_result_has_at_least_0_6_times_the_marks_diameter(
        self, size: float, monkeypatch: pytest.MonkeyPatch, *, kept: bool
    ) -> None:
        (_, body), _ = self._measured(monkeypatch, [size])
        assert (body is not None) == kept

    def test_a_doubtful_body_is_segmented_again_near_the_mark(self, monkeypatch: pytest.MonkeyPatch) -> None:
        (properties, _), calls = self._measured(monkeypatch, [14.0, 7.5], doubtful=(14.0,))
        assert properties["effective_diameter_mm"] == 7.5
        assert calls[:2] == [(7.451, None), (7.451, pytest.approx(7.450581))]
        (_, body), calls = self._measured(monkeypatch, [14.0], doubtful=(14.0,))
        assert body is None
        assert len(calls) == 2


@settings(max_examples=60)
@given(st.tuples(*[st.floats(-4, 12)] * 3), st.floats(0, 8))
def test_a_ball_contains_its_middle_voxel_and_those_with_centres_inside(point: Vec3, diameter: float) -> None:
    scan, spacing = np.arange(210).reshape(7, 6, 5), (1.0, 0.7, 1.5)
    away = [np.arange(n) * s - p for n, s, p in zip(scan.shape, spacing, point, strict=True)]
    inside = away[0][:, None, None] ** 2 + away[1][:, None] ** 2 + away[2] ** 2 <= diameter**2 / 4
    middle = tuple(round(p / s) for p, s in zip(point, spacing, strict=True))
    if all(0 <= i < n for i, n in zip(middle, scan.shape, strict=True)):
        inside[middle] = True
    np.testing.assert_array_equal(_ball_voxels(scan, point, diameter, spacing), scan[inside])


class TestVolume:
    """The volume is the sum of the voxels' fractions."""

    def test_voxels_deeper_than_the_blur_count_fully(self) -> None:
        """The blur reaches 1.2 mm inside the boundary; depths end at the centre of the next voxel, 0.25 mm further."""
        depth = np.array([0, 0, 0.5, 1.44, 1.46, 2.0], np.float32).reshape(6, 1, 1)
        hu = np.array([-800, -750, -400, 0, 40, 60]).reshape(6, 1, 1)
        rim = np.array([0, 1, 0, 0, 0, 0], bool).reshape(6, 1, 1)
        edge = _Edge.of(_nodule(depth > 0, hu, 0.5), depth, rim)
        assert (edge.deep, edge.voxel) == (2, 0.125)
        assert (edge.skin.tolist(), edge.rim.tolist()) == ([450, 850], [100])

    def test_voxels_near_the_boundary_count_by_their_hu_above_lung(self) -> None:
        skin, rim = np.array([50, 100, 150, -20], np.float32), np.array([30, -10], np.float32)
        assert _Edge(10, skin, rim, 0.5).volume(100) == pytest.approx(0.5 * (10 + 0.5 + 1 + 1 - 0.2 + 0.3 - 0.1))
        assert _Edge(0, skin - 500, rim, 0.5).volume(100) == 0.5  # at least one voxel

    @pytest.mark.parametrize(("radius", "share"), [(1, 0.1987480), (2, 0.7385359), (3, 0.9707091)])
    def test_blur_lowers_the_centre_of_a_ball(self, radius: float, share: float) -> None:
        """The probability that a normal variable in space lies within 1, 2 or 3 standard deviations."""
        assert _peak_share(2 * radius * 0.7, 0.7) == pytest.approx(share, abs=1e-6)

    @pytest.mark.parametrize(
        ("volume", "contrast", "height"),
        [
            (28.6115, 300.0, 406.21 - 106.21 / 256),  # two standard deviations; eight steps of a half
            (1e6, 300.0, 300.0),  # no blur
            (1e-3, 300.0, 900.0 - 600.0 / 256),  # at most soft tissue of 50 HU
            (1e-3, 1200.0, 1200.0),  # unless it is seen to be denser
        ],
    )
    def test_the_height_is_corrected_for_the_blur(self, volume: float, contrast: float, height: float) -> None:
        """A variance of 0.7 mm2, and 0.2 mm2 for a radius of 2 mm: one standard deviation is 0.949 mm."""
        none = np.empty(0, np.float32)
        edge = _Edge(100, none, none, volume / 100)
        assert _height(edge, Levels(-850.0, contrast - 850), 2.0, 0.7) == pytest.approx(height, rel=1e-4)

    def test_fractions_are_clipped_and_smoothed(self) -> None:
        depth = np.zeros((9, 9, 9), np.float32)
        depth[3:6, 3:6, 3:6], depth[4, 4, 4], depth[5, 5, 5] = 1.0, 2.0, 1.46
        hu = np.full((9, 9, 9), -400.0)
        hu[3, 3, 3:6], hu[4, 4, 4] = (-900, -625, 500), -850
        rim = np.zeros((9, 9, 9), bool)
        rim[2, 4, 4] = True
        share = np.where(depth > 0, 0.5, 0.0)
        share[3, 3, 3:6] = 0, 0.25, 1
        share[4, 4, 4] = share[5, 5, 5] = 1
        share[2, 4, 4] = 0.5
        found = _share(_nodule(depth > 0, hu, 0.5), depth, rim, 900.0)
        np.testing.assert_allclose(found, ndimage.gaussian_filter(share, 0.7), atol=1e-5)


class TestMeasurement:
    """From a segmentation to the properties."""

    ball = _away(14, 0.5) <= 4

    @pytest.mark.parametrize(
        ("thickness", "axial_axis", "sides"), [(2.5, 2, (0.7, 0.8, 2.5)), (1.0, 0, (1.0, 0.8, 1.25))]
    )
    def test_the_blur_is_that_of_the_kernel_and_the_voxels(
        self, thickness: float, axial_axis: int, sides: Vec3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A kernel of 1.1 mm (FWHM). The outer blur reaches 1 mm and half a slice."""
        asked: list[Any] = []

        def height(*given: object) -> float:
            asked.extend(given)
            return 900.0

        monkeypatch.setattr(nodule_properties, "_height", height)
        nodule = replace(_nodule(self.ball, np.where(self.ball, 50.0, -850.0), 0.5), thickness=thickness)
        found = measure_nodule(nodule, np.zeros((29, 29, 29)), (0.7, 0.8, 1.25), axial_axis)
        edge, levels, radius, variance = asked
        assert variance == pytest.approx((1.1 / 2.3548) ** 2 + np.square(sides).sum() / 36)
        assert (levels, radius) == (LEVELS, depth_of(self.ball, 0.5).max())
        beyond = depth_of(~self.ball, 0.5)
        assert edge.rim.size == ((beyond > 0) & (beyond <= 1 + thickness / 2)).sum()
        assert found["volume_mm3"] == pytest.approx(edge.volume(900.0))
        assert found["effective_diameter_mm"] == pytest.approx(np.cbrt(6 / np.pi * edge.volume(900.0)))

    @pytest.mark.parametrize(("hu", "kind", "core"), [(50.0, "solid", None), (-500.0, "ground-glass", 0.0)])
    def test_only_a_subsolid_nodule_has_a_solid_part_diameter(self, hu: float, kind: str, core: float | None) -> None:
        nodule = _nodule(self.ball, np.where(self.ball, hu, -850.0), 0.5, levels=Levels(-850.0, hu))
        found = measure_nodule(nodule, np.zeros((29, 29, 29)), (0.5, 0.5, 0.5))
        assert (found["nodule_type"], found["solid_mm"]) == (kind, core)

    def test_intensities_are_those_of_the_scan_under_the_mask(self) -> None:
        scan = np.arange(1000.0).reshape(10, 10, 10)
        mask = np.array([[[1, 0, 1]], [[0, 0, 1]]], bool)
        nodule = replace(_nodule(self.ball, np.where(self.ball, 50.0, -850.0), 0.5), mask=mask, origin=(3, 4, 5))
        found = measure_nodule(nodule, scan, (0.5, 0.5, 0.5))
        assert (found["min_intensity"], found["max_intensity"]) == (345, 447)
        assert found["mean_intensity"] == pytest.approx((345 + 347 + 447) / 3)
        assert found["std_intensity"] == pytest.approx(np.std([345, 347, 447]))


class TestShape:
    """Axes and sphericity of a mask of fractions."""

    @pytest.mark.parametrize("axial_axis", [0, 1, 2])
    def test_axes_are_those_of_the_largest_axial_section(self, axial_axis: int) -> None:
        x, y = np.ogrid[-20:21, -20:21]
        section = (0.5 + 4 * (1 - np.sqrt((x / 16) ** 2 + (y / 8) ** 2))).clip(0, 1)
        share = np.stack([0 * section, section * ((x / 9) ** 2 + (y / 9) ** 2 < 1), section, 0 * section])
        share[2, :3, :3] = 1  # a speck
        long, short = _axes(np.moveaxis(share, 0, axial_axis), 0.5, axial_axis)
        assert long == pytest.approx(16, rel=0.02)
        assert short == pytest.approx(8, rel=0.02)

    @pytest.mark.parametrize("peak", [1.0, 0.6])
    def test_the_boundary_lies_at_half_of_the_maximum(self, peak: float) -> None:
        x, y, z = np.ogrid[-12:13, -12:13, -12:13]
        share = peak * (0.5 + 0.2 * (8 - np.sqrt(x**2 + y**2 + z**2))).clip(0, 1)
        assert _axes(share, 1.0, 2) == pytest.approx((16, 16), rel=0.03)
        assert 0.98 < _sphericity(share) <= 1

    @pytest.mark.parametrize(
        ("sides", "expected"), [((20, 20, 20), 0.806), ((20, 20, 80), 0.677), ((80, 10, 20), 0.590)]
    )
    def test_the_sphericity_of_a_box(self, sides: Shape3, expected: float) -> None:
        """It compares the surface of a ball of the same volume; the edges of the mesh are blunt."""
        assert _sphericity(np.ones(sides, np.float32)) == pytest.approx(expected, rel=0.03)


class TestSolidPart:
    """The solid fraction, and the diameter of the largest solid part."""

    away = _away(20, 0.5)
    body = away <= 8

    def _part(self, solid: Mask, hu: float = 0.0, variance: float = 0.5) -> tuple[float, float]:
        nodule = _nodule(self.body, np.where(solid, hu, -500.0), 0.5)
        return _solid_part(nodule, depth_of(self.body, 0.5), variance)

    @pytest.mark.parametrize("variance", [0.0, 0.5, 2.0])
    def test_a_core_has_the_diameter_of_the_ball_that_blur_would_shrink_to_it(self, variance: float) -> None:
        """Blur moves the surface of a ball of radius R inwards by variance / R."""
        core = self.away <= 3
        fraction, diameter = self._part(core, variance=variance)
        assert fraction == pytest.approx(core.sum() / self.body.sum())
        assert diameter / 2 - 2 * variance / diameter == pytest.approx(3.0, abs=0.06)

    @pytest.mark.parametrize(("hu", "fraction"), [(-300.0, 0.0), (-299.0, 1.0)])
    def test_tissue_above_minus_300_hu_is_solid(self, hu: float, fraction: float) -> None:
        assert self._part(self.body, hu)[0] == fraction

    @pytest.mark.parametrize(("radius", "found"), [(1.0, False), (1.5, True)])
    def test_a_rod_is_a_solid_part_unless_it_is_as_thin_as_a_vessel(self, radius: float, *, found: bool) -> None:
        x, y, z = (0.5 * axis for axis in np.ogrid[-20:21, -20:21, -20:21])
        rod = (x**2 + y**2 <= radius**2) & (abs(z) < 5)
        fraction, diameter = self._part(rod)
        assert fraction == pytest.approx(rod.sum() / self.body.sum())
        assert (diameter > 0) == found

    def test_the_solid_part_is_the_largest_of_several(self) -> None:
        x, y, z = (0.5 * axis for axis in np.ogrid[-20:21, -20:21, -20:21])
        parts = [(x - at) ** 2 + y**2 + z**2 <= radius**2 for at, radius in ((-4, 2.0), (3, 2.5))]
        assert self._part(parts[0] | parts[1])[1] == pytest.approx(self._part(parts[1])[1])

    def test_the_outermost_millimetre_counts_like_the_voxels_further_in(self) -> None:
        depth = depth_of(self.body, 0.5)
        assert self._part(self.body & (depth < 1.2))[0] == 0.0
        assert self._part(self.body & (depth < 1.8))[0] > 0.4
        assert self._part(self.body & (depth > 1.2))[0] == 1.0

    def test_in_a_small_nodule_the_inner_half_of_the_depth_decides(self) -> None:
        body = self.away <= 1
        depth = depth_of(body, 0.5)
        assert _solid_part(_nodule(body, np.where(depth < 0.6, 0, -500), 0.5), depth, 0.5)[0] == 0.0
        assert _solid_part(_nodule(body, np.where(depth > 0.6, 0, -500), 0.5), depth, 0.5)[0] == 1.0


class TestDoubt:
    """Bodies that cannot be the nodule of a mark."""

    away = _away(20, 0.5)
    ball = away <= 4

    def _doubt(
        self,
        diameter: float = 8.0,
        mark: Vec3 = (10.0, 10.0, 10.0),
        other: Mask | None = None,
        seen: float = 0.0,
    ) -> str | None:
        nodule = _nodule(self.ball, np.where(self.ball, 0.0, -850.0), 0.5, other)
        return doubt(nodule, np.full((41, 41, 41), seen), mark, diameter, (0.5, 0.5, 0.5))

    def test_a_body_at_its_mark_is_plausible(self) -> None:
        assert self._doubt() is None

    def test_a_body_is_at_most_twice_as_large_as_its_mark(self) -> None:
        size = float(np.cbrt(6 / np.pi * self.ball.sum()) * 0.5)
        assert self._doubt(size / 2 + 0.001) is None
        assert self._doubt(size / 2 - 0.001) == "more than twice as large as the mark"

    @pytest.mark.parametrize(("diameter", "reach"), [(8.0, 3.75), (15.0, 5.25)])
    def test_a_body_contains_its_mark(self, diameter: float, reach: float) -> None:
        """3.5 mm, or a third of the diameter, and half a voxel. The body ends 4 mm from its centre."""
        assert self._doubt(diameter, (10.0, 10.0, 14.0 + reach - 0.01)) is None
        assert self._doubt(diameter, (10.0, 10.0, 14.0 + reach + 0.01)) == "does not hold the mark"

    @pytest.mark.parametrize(("seen", "reason"), [(-299.0, None), (-301.0, "far denser than the mark")])
    def test_a_body_is_at_most_300_hu_denser_than_its_mark(self, seen: float, reason: str | None) -> None:
        assert self._doubt(seen=seen) == reason

    @pytest.mark.parametrize(
        ("radius", "diameter", "reason"),
        [
            (2.4, 8.0, "far denser than the mark"),  # the densest tenth within a quarter of the diameter
            (1.5, 8.0, None),
            (1.9, 4.2, "far denser than the mark"),  # at least within 1.5 mm
            (1.1, 4.2, None),
        ],
    )
    def test_only_the_surroundings_of_the_mark_are_compared(
        self, radius: float, diameter: float, reason: str | None
    ) -> None:
        """Lung within a radius of the mark, and tissue as dense as the body beyond it."""
        scan, nodule = np.where(self.away < radius, -850.0, 0.0), _nodule(self.ball, np.zeros((41, 41, 41)), 0.5)
        assert doubt(nodule, scan, (10.0, 10.0, 10.0), diameter, (0.5, 0.5, 0.5)) == reason

    @pytest.mark.parametrize(
        ("voxels", "step", "hu", "reason"),
        [
            ([(6, 5, 5), (7, 5, 5)], 3.12, 400, "reaches into bone"),  # 30.4 mm3 in the body, and as much beyond it
            ([(6, 5, 5), (7, 5, 5)], 3.1, 400, None),  # 29.8 mm3
            ([(6, 5, 5), (7, 5, 5)], 3.12, 349, None),
            ([(6, 5, 5), (7, 5, 5)], 3.12, 351, "reaches into bone"),
            ([(4, 5, 5), (7, 5, 5)], 3.12, 400, None),  # two bones
            ([(5, 5, 5), (6, 5, 5)], 3.12, 400, None),  # calcified
            ([(7, 5, 5), (8, 5, 5)], 3.12, 400, None),  # a bone beside it
        ],
    )
    def test_a_body_with_bone_that_continues_outside_is_not_a_nodule(
        self, voxels: list[Shape3], step: float, hu: float, reason: str | None
    ) -> None:
        body, other = np.zeros((2, 11, 11, 11), bool)
        body[4:7, 4:7, 4:7] = other[7:9, 4:7, 4:7] = True
        values = np.where(body | other, 0.0, -850.0)
        for voxel in voxels:
            values[voxel] = hu
        assert _tissue(_nodule(body, values, step, other)) == reason

    @pytest.mark.parametrize(("free", "reason"), [(0.16, None), (0.14, "lies within the wall")])
    def test_at_least_15_percent_of_the_surface_face_lung(self, free: float, reason: str | None) -> None:
        surface = ndimage.binary_dilation(self.ball) & ~self.ball
        index = np.argwhere(surface)
        other = surface.copy()
        other[tuple(index[: round(free * len(index))].T)] = False
        assert self._doubt(other=other) == reason


class TestSegmentation:
    """Levels, holes, centres and separation."""

    def test_the_threshold_is_the_mean_of_the_levels_and_the_contrast_their_difference(self) -> None:
        assert (LEVELS.threshold, LEVELS.contrast) == (-400, 900)

    def test_the_diameter_of_a_mask_is_that_of_a_ball(self) -> None:
        mask = np.ones((10, 10, 10), bool)
        assert segmentation._ball_diameter(mask, 0.5) == pytest.approx(0.5 * (6000 / np.pi) ** (1 / 3))  # noqa: SLF001

    @pytest.mark.parametrize(("hu", "air"), [([-900, -800, -500, 0], -850), ([-500, 0], np.inf), ([-501], -501)])
    def test_air_is_the_median_below_minus_500_hu(self, hu: list[float], air: float) -> None:
        assert segmentation._air(np.array(hu, np.float32)) == air  # noqa: SLF001

    @pytest.mark.parametrize(
        ("size", "lung", "nodule"),
        [
            (10.0, -850.0, -585.0),  # three quarters of the way from the lowest to the highest within 2 mm
            (1.0, -850.0, -650.0),  # at least 0.8 mm
            (10.0, -735.0, -585.0),
            (10.0, -734.0, -100.0),  # the mark lies in lung: the brightest within 3.5 mm
        ],
    )
    def test_the_first_levels_are_those_around_the_mark(self, size: float, lung: float, nodule: float) -> None:
        away = np.array([0, 0.8, 2.0, 3.5, 3.6], np.float32)
        hu = np.array([-650, -650, -520, -100, 900], np.float32)
        levels = segmentation._first_levels(lung, hu, away, size)  # noqa: SLF001
        assert levels.lung == lung
        assert levels.nodule == pytest.approx(nodule)

    @pytest.mark.parametrize(("side", "step", "filled"), [(5, 1.0, True), (6, 1.0, False), (6, 0.8, True)])
    def test_holes_smaller_than_the_nodule_are_filled(self, side: int, step: float, *, filled: bool) -> None:
        """A ball of 0.7 times the diameter of 10 mm has 180 mm3."""
        mask = np.ones((20, 20, 20), bool)
        mask[:, :, 15:] = False
        mask[4 : 4 + side, 4 : 4 + side, 4 : 4 + side] = False
        found = segmentation._fill(mask, 10.0, step)  # noqa: SLF001
        assert found[5, 5, 5] == filled
        assert not found[:, :, 15:].any()

    @pytest.mark.parametrize(
        ("size", "depths", "centre"),
        [
            (10.0, {10: 1.0, 13: 2.4}, 10),  # a millimetre of distance costs half a millimetre of depth
            (10.0, {10: 1.0, 13: 2.6}, 13),
            (10.0, {10: 1.0, 13: 2.6, 15: 2.7, 16: 5.0}, 15),  # then uphill, within half the diameter
            (20.0, {10: 1.0, 13: 2.6, 16: 2.7}, 13),  # at most two voxels at a time
            (20.0, {10: 1.0, 7: 2.6, 5: 2.7}, 5),
            (20.0, {10: 1.0, 7: 2.6, 4: 2.7}, 7),
            (4.0, {13: 2.6, 14: 9.0}, 13),  # at least 3.5 mm
            (10.0, {14: 5.0}, None),
            (20.0, {17: 5.0}, 17),
            (20.0, {18: 5.0}, None),
        ],
    )
    def test_the_centre_is_the_largest_ball_near_the_mark(
        self, size: float, depths: dict[int, float], centre: int | None
    ) -> None:
        depth = np.zeros((30, 1, 1), np.float32)
        for voxel, value in depths.items():
            depth[voxel] = value
        away = abs(np.arange(30, dtype=np.float32) - 10).reshape(30, 1, 1)
        found = segmentation._centre(depth > 0, depth, away, size)  # noqa: SLF001
        assert found == (None if centre is None else (centre, 0, 0))

    def test_tissue_that_extends_beyond_the_reach_is_left_out_with_its_blur(self) -> None:
        """Voxels of 0.5 mm; the reach is 6 mm from voxel 20, and the blur 1.2 mm."""
        hu = np.full((40, 3, 3), -400.0, np.float32)
        hu[:9], hu[12:24] = -399, -399
        away = np.broadcast_to(0.5 * abs(np.arange(40, dtype=np.float32) - 20)[:, None, None], hu.shape)
        found = segmentation._beyond(hu, away, 6.0, 0.5)  # noqa: SLF001
        assert np.flatnonzero(found.all(axis=(1, 2))).tolist() == list(range(11))
        assert found.sum() == 11 * 9
        assert not segmentation._beyond(hu, away, 10.0, 0.5).any()  # noqa: SLF001

    @pytest.mark.parametrize(("thickness", "more"), [(0.5, 0.0), (1.0, 0.0), (3.0, 1.0)])
    @pytest.mark.parametrize(
        ("nodule", "halo", "expected"),
        [
            (50, -850, (-850, 50)),
            (50, -672, (-850, 50)),  # 20 to 70 % of the contrast of 900 HU are ground-glass
            (50, -668, (-850, -668)),
            (50, -222, (-850, -222)),
            (50, -218, (-850, 50)),
            (-600, -772, (-850, -600)),  # and at least 80 HU
            (-600, -768, (-850, -768)),
        ],
    )
    def test_levels_are_taken_beyond_the_blur_of_the_boundary(
        self, thickness: float, more: float, nodule: float, halo: float, expected: tuple[float, float]
    ) -> None:
        """Neither the blurred voxels nor the centre decide. Slices of 3 mm blur 1 mm further than slices of 1 mm."""
        body = _away(28, 0.5) <= 6
        depth, beyond = depth_of(body, 0.5), depth_of(~body, 0.5)
        hu = np.full(body.shape, -850.0, np.float32)
        hu[(beyond > 1.5 + more) & (beyond <= 2.5 + more)] = halo
        hu[(beyond > 0) & (beyond <= 1.5 + more)] = 900
        hu[body] = np.select([depth < 1.2 + more, depth <= 2.7 + more], [-900.0, nodule], 900.0)[body]
        cube = Cube(hu, np.ones_like(body), 0.5, thickness)
        found = segmentation._levels(cube, body, np.zeros_like(body), depth, -850.0)  # noqa: SLF001
        assert (found.lung, found.nodule) == expected

    def test_the_blur_of_a_small_nodule_is_at_most_half_its_radius(self) -> None:
        body = _away(20, 0.5) < 2
        depth = depth_of(body, 0.5)
        assert depth.max() == 2.0
        hu = np.where(body, np.where(depth >= 1.0, 50.0, -400.0), -850.0).astype(np.float32)
        cube = Cube(hu, np.ones_like(body), 0.5, 0.5)
        found = segmentation._levels(cube, body, np.zeros_like(body), depth, -850.0)  # noqa: SLF001
        assert (found.lung, found.nodule) == (-850, 50)

    def test_without_lung_around_it_the_level_is_that_of_the_air_elsewhere(self) -> None:
        body = _away(8, 0.5) <= 3
        cube = Cube(np.where(body, 50, 40).astype(np.float32), np.ones_like(body), 0.5, 0.5)
        found = segmentation._levels(cube, body, ~body, depth_of(body, 0.5), -870.0)  # noqa: SLF001
        assert (found.lung, found.nodule) == (-870, 50)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_a_vessel_is_cut_off(self, axis: int) -> None:
        """A ball of 5 mm radius with a vessel of 2 mm, on a grid of 0.5 mm."""
        away = _away(24, 0.5)
        x, y, z = (0.5 * side for side in np.ogrid[-24:25, -24:25, -24:25])
        vessel = np.moveaxis(np.broadcast_to((x**2 + y**2 <= 1) & (z > 0), away.shape), 2, axis)
        free = (away <= 5) | vessel
        cube = Cube(np.zeros(free.shape, np.float32), np.ones_like(free), 0.5, 0.5)
        body = segmentation._separate(free, depth_of(free, 0.5), (24, 24, 24), cube)  # noqa: SLF001
        assert not (body & (away > 7)).any()
        assert (body & (away <= 4.5)).sum() == (away <= 4.5).sum()


class TestAtPoint:
    """The properties at a point of a scan."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
        """The arguments of each measurement. A guess of 13 mm fits best, though none fits exactly."""
        calls: list[tuple[Any, ...]] = []
        sizes: dict[float, float | None] = {8.0: 12.0, 5.0: 3.0, 13.0: 14.0, 20.0: 24.0, 3.0: None}

        def measured(array: FloatArray, point: Vec3, guess: float, spacing: Vec3, axis: int) -> tuple[Any, None]:
            calls.append((array.shape, point, guess, spacing, axis))
            return {"effective_diameter_mm": sizes.get(guess, guess), "nodule_type": None, "volume_mm3": None}, None

        monkeypatch.setattr(at_point, "segment_and_measure", measured)
        return calls

    def test_a_point_of_a_scan_is_turned_to_the_axes_of_the_pipeline(self, asked: list[tuple[Any, ...]]) -> None:
        """The scan's axes run to the front, to the feet and to the left; the pipeline's to left, back and head."""
        affine = np.array([[0, 0, -0.5, 0], [2, 0, 0, 0], [0, -3, 0, 0], [0, 0, 0, 1.0]])
        scan = Scan(np.zeros((10, 20, 30), np.int16), affine, "turned")
        extract_properties(scan, (4.0, 9.0, 2.5), 6.0)  # the voxel (2, 3, 5)
        ((shape, point, guess, spacing, axis),) = asked
        assert (shape, guess, spacing, axis) == ((30, 10, 20), 6.0, (0.5, 2.0, 3.0), 2)
        assert point == pytest.approx((2.5, 2 * (9 - 2), 3 * (19 - 3)))
        asked.clear()
        measured_at(scan, (4.0, 9.0, 2.5))
        assert [one[2] for one in asked] == [8.0, 5.0, 13.0, 20.0, 3.0]
        assert all((one[0], one[3], one[4]) == (shape, spacing, 2) for one in asked)
        assert asked[0][1] == pytest.approx(point)

    def test_without_a_diameter_the_guess_with_the_closest_result_is_taken(self, asked: list[tuple[Any, ...]]) -> None:
        found = extract_properties(np.zeros((9, 9, 9)), (4.0, 5.0, 6.0), spacing=(1.0, 2.0, 3.0), axial_axis=1)
        assert found["effective_diameter_mm"] == 14.0
        assert [one[2] for one in asked] == [8.0, 5.0, 13.0, 20.0, 3.0]
        assert asked[0] == ((9, 9, 9), (4.0, 5.0, 6.0), 8.0, (1.0, 2.0, 3.0), 1)

    def test_unknown_numbers_are_nan_and_an_unknown_type_is_none(self, asked: list[tuple[Any, ...]]) -> None:
        found = extract_properties(np.zeros((9, 9, 9)), (4.0, 5.0, 6.0), 300.0, (1.0, 1.0, 1.0))
        assert asked[0][4] == 2
        assert np.isnan(found["volume_mm3"] or 0.0)
        assert found["nodule_type"] is None
        with pytest.raises(BadConfig, match="diameter must be a number from 0 to 300"):
            extract_properties(np.zeros((9, 9, 9)), (4.0, 5.0, 6.0), 300.5, (1.0, 1.0, 1.0))

    def test_a_mask_is_returned_on_the_scans_own_axes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mask = np.zeros((2, 3, 1), bool)
        mask[0, 2, 0] = True
        body = _nodule(mask, np.zeros((2, 3, 1)), 1.0)
        monkeypatch.setattr(at_point, "segment_and_measure", lambda *_: ({"effective_diameter_mm": 8.0}, body))
        affine = RAS_TO_LPS @ np.diag([-1.0, 1.0, 1.0, 1.0])  # x runs the other way
        _, found = measured_at(Scan(np.zeros((9, 9, 9), np.int16), affine, "turned"), (4.0, 4.0, 4.0))
        assert found is not None
        assert found.origin == (7, 0, 0)
        np.testing.assert_array_equal(np.argwhere(found.voxels), [(1, 2, 0)])
