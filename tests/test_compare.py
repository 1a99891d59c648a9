"""Follow-up: registration, matching, growth, and the command line from end to end."""

import dataclasses
import functools
import json
import math
from datetime import date
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from benchmarks.breathing import Breath, breathe, lung_places, noisy, random_breath
from src.data.dates import scan_date
from src.data.geometry import RAS_TO_LPS, canonical, map_points, spacing_of
from src.data.phantom import chest_phantom
from src.errors import BadConfig, BadScan
from src.followup.comparison import Interval, compare
from src.followup.exam import Exam
from src.followup.growth import grown
from src.followup.matching import GATES, assign
from src.followup.output import text_table, write_comparison
from src.followup.registration import Registration, lungs_of, register
from src.followup.source import GivenScan, interval_between
from src.guidelines.patient import Patient
from src.inference.compare import main
from src.measurement.nodule_properties import segment_and_measure
from src.types import Detection, Properties, Scan
from tests.dicom_files import CHEST, write_series, zipped
from tests.small_scans import block, chest, save_nifti

FINE = (0.7, 0.7, 1.0)
UNMEASURED: Properties = {
    "volume_mm3": None,
    "mean_intensity": 0.0,
    "std_intensity": 0.0,
    "min_intensity": 0.0,
    "max_intensity": 0.0,
    "effective_diameter_mm": None,
    "long_axis_mm": None,
    "short_axis_mm": None,
    "sphericity": None,
    "solid_fraction": None,
    "nodule_type": None,
}


def ball(diameter: float) -> Properties:
    """The measured properties of a solid ball."""
    return {
        **UNMEASURED,
        "volume_mm3": math.pi / 6 * diameter**3,
        "effective_diameter_mm": diameter,
        "long_axis_mm": diameter,
        "short_axis_mm": diameter,
        "sphericity": 1.0,
        "solid_fraction": 1.0,
        "nodule_type": "solid",
    }


class TestGrowth:
    def test_a_doubled_volume_has_the_interval_as_doubling_time(self) -> None:
        growth = grown(ball(10), ball(10 * 2 ** (1 / 3)), 180, (FINE, FINE))
        assert growth["trend"] == "growing"
        assert growth["volume_change_percent"] == pytest.approx(100, abs=0.1)
        assert growth["doubling_time_days"] == pytest.approx(180, abs=0.1)
        low, high = growth["doubling_time_days_95"] or (0, 0)
        assert low < 180 < (high or 0)

    @given(st.floats(4, 30), st.floats(0.6, 1.8), st.integers(1, 2000))
    def test_the_doubling_time_follows_from_the_diameters(self, diameter: float, factor: float, days: int) -> None:
        growth = grown(ball(diameter), ball(diameter * factor), days, (FINE, FINE))
        time = growth["doubling_time_days"]
        if factor <= 1:
            assert time is None or factor == 1
        elif time is not None:
            assert time == pytest.approx(days * math.log(2) / (3 * math.log(factor)), rel=1e-3, abs=0.1)

    @pytest.mark.parametrize(
        ("factor", "trend"), [(1.05, "stable"), (1.12, "growing"), (0.95, "stable"), (0.88, "shrinking")]
    )
    def test_growth_is_reported_only_beyond_the_uncertainty(self, factor: float, trend: str) -> None:
        growth = grown(ball(10), ball(10 * factor), 90, (FINE, FINE))
        assert growth["trend"] == trend
        limits = growth["volume_change_percent_95"] or (0, 0)
        assert (limits[0] <= 0 <= limits[1]) == (trend == "stable")

    def test_thick_slices_widen_the_uncertainty_of_small_nodules(self) -> None:
        thick = (0.7, 0.7, 2.5)
        trends = [grown(ball(5), ball(5.5), 90, (spacing, spacing))["trend"] for spacing in (FINE, thick)]
        assert trends == ["growing", "stable"]

    @pytest.mark.parametrize(
        ("after", "days", "reason"),
        [
            (ball(12), None, "interval"),
            (ball(12), 0, "same day"),
            (ball(9), 90, "not increase"),
            (UNMEASURED, 90, "boundary"),
        ],
    )
    def test_a_missing_doubling_time_has_its_reason(self, after: Properties, days: int | None, reason: str) -> None:
        growth = grown(ball(10), after, days, (FINE, FINE))
        assert growth["doubling_time_days"] is None
        assert reason in (growth["reason"] or "")

    def test_a_nodule_that_is_too_small_has_no_trend(self) -> None:
        growth = grown(ball(3.2), ball(4.5), 90, (FINE, FINE))
        assert growth["trend"] is None
        assert "no trend below 50 mm3" in (growth["reason"] or "")
        assert grown(ball(3.2), ball(5), 90, (FINE, FINE))["trend"] == "growing"

    def test_growth_within_the_uncertainty_has_no_upper_limit_of_its_doubling_time(self) -> None:
        growth = grown(ball(10), ball(10.3), 90, (FINE, FINE))
        assert (growth["doubling_time_days_95"] or (0, 0))[1] is None

    @pytest.mark.parametrize(("before", "after", "days"), [(8.0, 11.0, 200), (6.0, 9.0, 91), (20.0, 21.5, 365)])
    def test_the_limits_match_the_uncertainty_of_repeated_measurements(
        self, before: float, after: float, days: int
    ) -> None:
        """27 % of the volume; per diameter, 5 % of the largest voxel side and 15 % of the difference of the sides."""
        coarse = (0.8, 0.8, 2.0)
        growth = grown(ball(before), ball(after), days, (FINE, coarse))
        change = 3 * math.log(after / before)
        repeated = math.log(1.27) / 1.96, 3 * 0.05 * FINE[2] / before, 3 * 0.05 * coarse[2] / after
        errors = *repeated, 3 * 0.15 * (coarse[2] - FINE[2]) / min(before, after)
        margin = 1.96 * math.sqrt(sum(error**2 for error in errors))
        expected = [100 * math.expm1(change - margin), 100 * math.expm1(change + margin)]
        assert growth["volume_change_percent_95"] == pytest.approx(expected, abs=0.05)
        fastest, slowest = growth["doubling_time_days_95"] or (0.0, 0.0)
        assert fastest == pytest.approx(math.log(2) * days / (change + margin), abs=0.05)
        if change > margin:
            assert slowest == pytest.approx(math.log(2) * days / (change - margin), abs=0.05)
        else:
            assert slowest is None


class TestMatching:
    @given(st.integers(0, 2**31), st.integers(0, 8))
    def test_shuffled_nodules_are_matched_correctly(self, seed: int, count: int) -> None:
        rng = np.random.default_rng(seed)
        points = rng.permutation(np.argwhere(np.ones((4, 4, 4))) * 40.0)[:count]
        sizes, order = rng.uniform(4, 20, count), rng.permutation(count)
        found = points[order] + rng.uniform(-4, 4, (count, 3))
        pairs = assign(points, found, (sizes, sizes[order] * rng.uniform(0.8, 1.5, count)), GATES["deformable"])
        assert sorted(pairs) == sorted((int(i), j) for j, i in enumerate(order))

    def test_two_nodules_at_one_place_are_matched_by_size(self) -> None:
        expected, found = np.array([[0.0, 0, 0], [5, 0, 0]]), np.array([[4.0, 0, 0], [1, 0, 0]])
        assert assign(expected, found, ([4, 12], [4, 12]), 12) == [(0, 0), (1, 1)]

    @pytest.mark.parametrize(
        ("distance", "ratio", "paired"), [(11.9, 1, True), (12.1, 1, False), (0, 2.9, True), (0, 3.1, False)]
    )
    def test_nodules_beyond_the_distance_or_size_limits_are_not_matched(
        self, distance: float, ratio: float, paired: bool
    ) -> None:
        pairs = assign(np.zeros((1, 3)), np.array([[distance, 0.0, 0.0]]), ([4.0], [4.0 * ratio]), 12)
        assert bool(pairs) == paired


@functools.cache
def breathing() -> tuple[Scan, Scan, Breath]:
    """The coarse chest, and the same chest after a breath of 18 mm, rotated and moved; both with noise."""
    rng = np.random.default_rng(0)
    scan = chest()[0]
    breath = random_breath(rng, scan, depth=18)
    second = breathe(scan, breath)
    return scan, dataclasses.replace(second, array=noisy(rng, second.array, 20)), breath


@functools.cache
def registered() -> Registration:
    first, second, _ = breathing()
    return register(lungs_of(first), lungs_of(second))


class TestRegistration:
    def test_registration_recovers_breathing_rotation_and_translation(self) -> None:
        scan, _, breath = breathing()
        points = lung_places(np.random.default_rng(1), scan, 200, depth=3, gap=8)
        truth = breath.to_second(points)
        assert (
            np.linalg.norm(truth - points - (truth - points).mean(axis=0), axis=1).max() > 8
        )  # otherwise there is nothing to find
        errors = np.linalg.norm(registered().to_followup(points) - truth, axis=1)
        assert np.median(errors) < 2
        assert np.percentile(errors, 95) < 4

    def test_the_quality_of_the_registration_is_reported(self) -> None:
        quality = registered().quality
        assert quality["method"] == "deformable"
        assert quality["correlation_deformable"] > quality["correlation_rigid"]
        assert quality["lung_overlap"] > 0.9
        assert quality["least_jacobian"] > 0
        assert quality["warnings"] == []

    @given(st.floats(-40, 40), st.floats(-40, 40), st.floats(-80, 80))
    def test_mapping_a_point_to_the_other_scan_and_back_returns_it(self, x: float, y: float, z: float) -> None:
        middle = map_points(RAS_TO_LPS @ breathing()[0].affine, np.array(breathing()[0].shape) / 2)
        point = middle + np.array([x, y, z])
        assert np.allclose(registered().to_baseline(registered().to_followup(point)), point, atol=0.05)

    def test_a_folding_transform_is_not_used(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def folding(fixed: sitk.Image, _moving: sitk.Image) -> sitk.Image:
            field = np.zeros((*fixed.GetSize()[::-1], 3))
            field[..., 2] = 30 * np.sin(np.arange(field.shape[0]))[:, None, None]
            image = sitk.GetImageFromArray(field, isVector=True)
            image.CopyInformation(fixed)
            return image

        monkeypatch.setattr("src.followup.registration._demons", folding)
        lungs = lungs_of(chest()[0])
        quality = register(lungs, lungs).quality
        assert quality["method"] == "rigid"
        assert "folds" in quality["warnings"][0]
        assert "folds" in caplog.text

    def test_a_scan_without_lungs_is_refused(self) -> None:
        with pytest.raises(BadScan, match="no lungs"):
            lungs_of(block(0)[0])


def _value(mapping: Any, key: str) -> Any:  # noqa: ANN401 - a value of the JSON, or None
    return mapping[key] if mapping else None


def measured(scan: Scan, places: list[tuple[np.ndarray[Any, np.dtype[np.float64]], float]]) -> Exam:
    """The scan and its nodules at LPS points, measured, as detections."""
    array, affine = canonical(scan.array, scan.affine)
    found = []
    for number, (place, diameter) in enumerate(places):
        x, y, z = (map_points(np.linalg.inv(RAS_TO_LPS @ scan.affine), place) * scan.spacing).tolist()
        here = map_points(np.linalg.inv(RAS_TO_LPS @ affine), place) * spacing_of(affine)
        properties, _ = segment_and_measure(array, (here[0], here[1], here[2]), diameter, spacing_of(affine))
        nodule: Any = {"id": number, "coordinates": (x, y, z), "confidence": 0.9, "properties": properties}
        nodule["diameter_mm"] = properties["effective_diameter_mm"] or diameter
        found.append(cast("Detection", nodule))
    return Exam(scan, found, {"scan_id": scan.scan_id})


class TestComparison:
    @functools.cached_property
    def places(self) -> list[tuple[Any, float]]:
        return [(np.array(nodule.coordinates_lps), nodule.diameter_mm) for nodule in chest()[1]]

    def test_every_nodule_is_matched_or_has_a_reason(self, tmp_path: Path) -> None:
        first, second, breath = breathing()
        moved = [(breath.to_second(place), size) for place, size in self.places]
        baseline, followup = measured(first, self.places[:4]), measured(second, [moved[0], moved[2]])
        interval = Interval(days=90, source="given", reason=None)
        result = compare(baseline, followup, interval, Patient())
        pairs = {_value(one["baseline"], "id"): one for one in result["nodules"]}
        assert result["summary"]["matched"] >= 3  # the two detected nodules, and the one that the second look finds
        assert _value(pairs[0]["followup"], "id") == 0
        assert _value(pairs[2]["followup"], "id") == 1
        assert pairs[0]["distance_mm"] is not None
        assert pairs[0]["distance_mm"] < 4
        assert any(_value(one["followup"], "found_by") == "second look" for one in result["nodules"])
        files = write_comparison(result, baseline, followup, tmp_path / "out")
        assert {file.name for file in files} == {file.name for file in (tmp_path / "out").iterdir()}
        read = json.loads((tmp_path / "out" / "followup.json").read_text())
        assert read["schema"] == "pivot-followup-1"
        assert all((tmp_path / "out" / one["picture"]).stat().st_size > 10_000 for one in read["nodules"])
        assert "Lung-RADS" in text_table(result)

    def test_a_nodule_is_resolved_new_or_out_of_view(self) -> None:
        scan, places = chest()[0], lung_places(np.random.default_rng(5), chest()[0], 40, 12, 25)
        nothing = [place for place in places if all(np.linalg.norm(place - p) > 30 for p, _ in self.places)]
        below = np.argmin([place[2] for place in nothing])
        outside = nothing[below] - (0, 0, 400)
        gone = measured(scan, [(nothing[0], 9.0)])
        for known in gone.detections:
            known["diameter_mm"] = 9.0
        gone.detections[0]["properties"] = ball(9)
        empty = measured(scan, [])
        interval = Interval(days=None, source=None, reason="not known")
        assert [one["status"] for one in compare(gone, empty, interval, Patient())["nodules"]] == ["resolved"]
        new = compare(empty, gone, interval, Patient())["nodules"]
        assert [(one["status"], _value(one["lung_rads"], "category")) for one in new] == [("new", "4B")]
        assert not empty.shows(outside, 9.0)

    @pytest.mark.parametrize(
        ("first", "second", "days", "expected"),
        [
            (date(2020, 1, 1), date(2020, 7, 1), None, (182, "DICOM dates")),
            (date(2020, 1, 1), date(2020, 7, 1), 180, (180, "given")),
            (None, date(2020, 7, 1), 90, (90, "given")),
            (None, date(2020, 7, 1), None, (None, None)),
        ],
    )
    def test_the_interval_is_given_or_taken_from_the_dates(
        self, first: date | None, second: date | None, days: int | None, expected: object
    ) -> None:
        scan = chest()[0]
        interval = interval_between(GivenScan(scan, None, first), GivenScan(scan, None, second), days)
        assert (interval["days"], interval["source"]) == expected
        assert (interval["days"] is None) == bool(interval["reason"])

    def test_a_followup_before_the_baseline_is_refused(self) -> None:
        scan = chest()[0]
        with pytest.raises(BadConfig, match="swap"):
            interval_between(GivenScan(scan, None, date(2021, 1, 1)), GivenScan(scan, None, date(2020, 1, 1)), None)


class TestDates:
    @pytest.mark.parametrize(
        ("tags", "expected"),
        [
            ({"AcquisitionDate": "20200203", "StudyDate": "20200101"}, date(2020, 2, 3)),
            ({"StudyDate": "20200101"}, date(2020, 1, 1)),
            ({}, None),
        ],
    )
    @pytest.mark.parametrize("packed", [False, True])
    def test_the_date_of_a_series_is_its_acquisition_or_study_date(
        self, tmp_path: Path, tags: dict[str, str], expected: date | None, packed: bool
    ) -> None:
        def dated(dataset: Dataset) -> None:
            for name, value in tags.items():
                setattr(dataset, name, value)

        folder = write_series(tmp_path / "series", CHEST, edit=dated)
        path = zipped(tmp_path / "series.zip", folder) if packed else folder
        assert scan_date(path, "1.2.3.1") == expected
        assert scan_date(path, "1.2.3.9") is None
        assert scan_date(path, None) is None


@functools.cache
def half_chests() -> tuple[Scan, Scan]:
    """The lower half of the synthetic chest, and the same half at another place with other noise."""
    scan, _ = chest_phantom(spacing=(1.25, 1.25, 1.5))
    cut = scan.array[:, :, 20:110]
    affine = scan.affine.copy()
    affine[:3, 3] += scan.affine[:3, 2] * 20
    moved = affine.copy()
    moved[:3, 3] += (12, -9, 15)
    again = noisy(np.random.default_rng(3), cut.astype(np.float32), 15)
    return Scan(cut, affine, "before"), Scan(again, moved, "after")


class TestCommandLine:
    def test_the_command_compares_two_scans(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        first, second = half_chests()
        before, after = save_nifti(first, tmp_path / "before.nii.gz"), save_nifti(second, tmp_path / "after.nii.gz")
        config = tmp_path / "fast.yaml"
        config.write_text("inference: {patch_size: [160, 160, 144], overlap: 0.0}\n")
        arguments = ["--baseline", str(before), "--followup", str(after), "--config", str(config)]
        assert main([*arguments, "--output", str(tmp_path / "out"), "--interval-days", "100"]) == 0
        assert "registration: deformable" in capsys.readouterr().out
        read = json.loads((tmp_path / "out" / "followup.json").read_text())
        assert read["interval"] == {"days": 100, "source": "given", "reason": None}
        assert read["summary"]["matched"] >= 1
        assert read["summary"]["growing"] == 0
        for one in read["nodules"]:
            if one["status"] == "matched":
                assert one["distance_mm"] < 5

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--baseline", "no.nii.gz", "--followup", "no.nii.gz"], "there is no such file"),
            (["--baseline", "no_detections.json", "--followup", "no.nii.gz"], "cannot read the detections"),
        ],
    )
    def test_a_user_mistake_gives_a_clear_error(
        self, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        given_paths = [str(tmp_path / one) if one.startswith("no") else one for one in arguments]
        assert main([*given_paths, "--output", str(tmp_path / "out")]) in (3, 5)
        assert message in capsys.readouterr().err
        assert not list((tmp_path / "out").iterdir())
