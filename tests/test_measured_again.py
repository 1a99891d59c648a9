"""Measuring at a detection's coordinates and diameter gives its values again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.geometry import canonical
from src.detection.pipeline import InferencePipeline
from src.inference.nodule_properties import extract_properties
from src.measurement.nodule_properties import segment_and_measure
from src.types import Properties, Scan, Vec3, Volume

from .small_scans import block, tiny_checkpoint
from .synthetic_nodules import SETTINGS, Case, draw_case, misplaced

NUMBERS = ("volume_mm3", "mean_intensity", "std_intensity", "long_axis_mm", "short_axis_mm", "sphericity")


def _check(again: Properties, first: Properties) -> None:
    assert again["nodule_type"] == first["nodule_type"]
    for name in NUMBERS:
        expected = first[name]  # type: ignore[literal-required]
        if expected is None:
            assert np.isnan(again[name])  # type: ignore[literal-required]
        else:
            assert again[name] == pytest.approx(expected, rel=0.01)  # type: ignore[literal-required]


@settings(max_examples=6)
@given(st.integers(0, 10_000), st.sampled_from(SETTINGS), st.sampled_from([30.0, -560.0]), st.floats(4, 12))
def test_measuring_at_the_measured_size_is_a_fixed_point(seed: int, setting: Any, hu: float, diameter: float) -> None:  # noqa: ANN401
    case = Case(diameter, setting, nodule_hu=hu, seed=seed, aspect=1.4)
    scan, centre, _ = draw_case(case)
    point, guess = misplaced(case, centre)
    properties, body = segment_and_measure(scan, point, guess, case.spacing)
    size = properties["effective_diameter_mm"]
    if body is None or size is None:
        _check(extract_properties(scan, point, round(guess, 2), case.spacing), properties)
        return
    x, y, z = (round(value, 3) for value in body.centre)
    _check(extract_properties(scan, (x, y, z), round(size, 2), case.spacing), properties)


@pytest.mark.parametrize("turn", ["standard", "turned"])
def test_measuring_a_detection_again_gives_the_same_values(tmp_path: Path, turn: str) -> None:
    scan, _ = block(0)
    if turn == "turned":  # slices from the feet, axes in another order, two of them reversed
        array = scan.array.transpose(2, 0, 1)[::-1, :, ::-1]
        step = np.zeros((4, 4))
        step[2, 0], step[0, 1], step[1, 2], step[3, 3] = -1, 1, -1, 1
        step[2, 3], step[1, 3] = scan.shape[2] - 1, scan.shape[1] - 1
        turned = Scan(np.ascontiguousarray(array), scan.affine @ step, "turned")
        assert (canonical(turned.array, turned.affine)[0] == canonical(scan.array, scan.affine)[0]).all()
        scan = turned
    config = {
        "inference": {"region": "everything", "patch_size": [32] * 3, "stride": [32] * 3, "second_look": False},
        "post_processing": {
            "peak_detection": {"threshold": 0.0, "min_distance": 40},
            "size_filter": {"min_diameter": 0.0},
            "confidence_filter": {"min_confidence": 0.0},
        },
    }
    results = InferencePipeline(tiny_checkpoint(tmp_path / "tiny.pth"), config, "cpu").predict(scan)
    found = [*results["detections"], *results["masses"]]
    assert found
    volume = Volume(scan.array, scan.affine)
    for nodule in found:
        x, y, z = nodule["coordinates"]
        again = extract_properties(volume, (x, y, z), nodule["diameter_mm"], scan.spacing)
        _check(again, nodule["properties"])


def test_an_unmeasurable_nodule_is_printed_as_in_the_guide() -> None:
    lung = np.full((40, 40, 40), -850, dtype=np.int16)
    place: Vec3 = (20.0, 20.0, 20.0)
    found = extract_properties(lung, place, 6.0, (1.0, 1.0, 1.0))
    assert f"{found['volume_mm3']:.1f} {found['mean_intensity']:.1f} {found['sphericity']:.2f}" == "nan -850.0 nan"
