"""Size, type and trend of a nodule do not depend on how it is sliced."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset

from src.data.loader import read_scan
from src.followup.growth import grown
from src.measurement.at_point import extract_properties
from src.types import Acquisition, NoduleType, Properties

from .dicom_files import CHEST, write_series
from .synthetic_nodules import Case, draw_case

THICK = Case(14.0, nodule_hu=30.0, noise_sd=15.0, spacing=(0.7, 0.7, 2.5), seed=5)


def _overlapping(case: Case, step: float) -> tuple[npt.NDArray[np.int16], Properties]:
    """A case with slices interpolated every `step` mm, as in overlapping reconstructions, and its measurements."""
    scan, centre, _ = draw_case(case)
    at = np.arange(int((scan.shape[2] - 1) * case.spacing[2] / step) + 1) * step / case.spacing[2]
    below = np.minimum(at.astype(int), scan.shape[2] - 2)
    between = np.rint(scan[:, :, below] * (1 - at + below) + scan[:, :, below + 1] * (at - below)).astype(np.int16)
    return between, extract_properties(between, centre, case.diameter, (*case.spacing[:2], step))


@pytest.mark.parametrize("hu", [30.0, -550.0])
def test_overlapping_slices_change_neither_size_nor_type(hu: float) -> None:
    case = replace(THICK, nodule_hu=hu)
    scan, centre, volume = draw_case(case)
    found = [extract_properties(scan, centre, case.diameter, case.spacing)]
    found += [_overlapping(case, step)[1] for step in (1.25, 0.8)]
    volumes = np.array([one["volume_mm3"] for one in found], dtype=np.float64)
    assert np.ptp(volumes) / volumes.mean() < 0.1
    assert volumes == pytest.approx(volume, rel=0.15)
    assert len({one["nodule_type"] for one in found}) == 1
    assert grown(found[0], found[2], 180, ((0.7, 0.7, 2.5), (0.7, 0.7, 0.8)))["trend"] == "stable"


@pytest.mark.parametrize(("whole", "core"), [(16.0, 6.0), (24.0, 9.0), (20.0, 4.0)])
def test_a_solid_core_makes_a_nodule_part_solid_at_any_fraction(whole: float, core: float) -> None:
    case = Case(whole, nodule_hu=-600.0, core=core / whole, noise_sd=15.0, spacing=(0.7, 0.7, 1.0), seed=2)
    scan, centre, _ = draw_case(case)
    found = extract_properties(scan, centre, whole, case.spacing)
    assert found["nodule_type"] == "part-solid"
    assert found["solid_mm"] == pytest.approx(core, abs=0.4)


def test_a_mark_in_faint_ground_glass_does_not_measure_the_wall() -> None:
    x, y, z = np.ogrid[:64.0, :64.0, :64.0]
    scan = np.full((64, 64, 64), -860.0)
    scan[np.sqrt((x - 32) ** 2 + (y - 32) ** 2 + (z - 32) ** 2) <= 9] = -700  # too faint to have a boundary
    scan[44:] = 30
    scan += np.random.default_rng(0).normal(0, 15, scan.shape)
    found = extract_properties(scan, (30.0, 32.0, 32.0), 16.0, (1.0, 1.0, 1.0))
    assert found["mean_intensity"] is not None
    assert found["mean_intensity"] < -500
    assert found["nodule_type"] in (None, "ground-glass")
    assert (found["effective_diameter_mm"] or 0) <= 32


def test_an_undetermined_trend_has_a_reason() -> None:
    def ball(diameter: float, kind: NoduleType = "solid") -> Properties:
        base = extract_properties(np.full((9, 9, 9), -850), (4.0, 4.0, 4.0), 4.0, (1.0, 1.0, 1.0))
        volume = float(np.pi / 6 * diameter**3)
        return {
            **base,
            "volume_mm3": volume,
            "effective_diameter_mm": diameter,
            "long_axis_mm": diameter,
            "short_axis_mm": diameter,
            "nodule_type": kind,
        }

    thin, thick = (0.7, 0.7, 1.0), (0.7, 0.7, 5.0)
    cases = [
        (ball(8.0), ball(8.2), 180, (thin, thin), "stable", None),
        (ball(8.0), ball(9.5), 180, (thin, thin), "growing", None),
        (ball(8.0), ball(9.5), 0, (thin, thin), None, "same day"),
        (ball(8.0), ball(9.5), 180, (thin, thick), None, "slices or kernels that differ"),
        (ball(8.0), ball(16.0), 180, (thin, thick), "growing", None),
        (ball(8.0), ball(9.5, "part-solid"), 180, (thin, thin), None, "part-solid at follow-up"),
        (ball(5.0), ball(6.0), 180, (thin, thick), None, "as thick as the nodule"),
    ]
    for before, after, days, spacings, trend, why in cases:
        growth = grown(before, after, days, spacings)
        assert growth["trend"] == trend, growth
        assert why is None or why in (growth["reason"] or "")
    stated = [
        (Acquisition(1.0, "B"), Acquisition(1.0, "B"), "growing", None),
        (Acquisition(1.0, "B"), Acquisition(), "growing", None),  # nothing stated
        (Acquisition(1.0, "B"), Acquisition(99.0, "B"), "growing", None),  # an error in the header
        (Acquisition(1.0, "B"), Acquisition(5.0, "B"), None, "slices or kernels that differ"),  # overlapping slices
        (Acquisition(1.0, "B"), Acquisition(7.0, "B"), None, "as thick as the nodule"),
    ]
    for one, two, trend, why in stated:
        growth = grown(ball(8.0), ball(9.5), 180, (thin, thin), (one, two))
        assert growth["trend"] == trend, growth
        assert why is None or why in (growth["reason"] or "")
    widths = []
    for kernel in ("B", "L"):
        growth = grown(ball(5.0), ball(6.0), 180, (thin, thin), (Acquisition(1.0, "B"), Acquisition(1.0, kernel)))
        low, high = growth["volume_change_percent_95"] or (0.0, 0.0)
        widths.append(high - low)
    assert widths[1] > widths[0] + 5


@pytest.mark.parametrize(("thickness", "kernel"), [("2.5", "B31F"), (None, None)])
def test_a_scan_keeps_the_slice_thickness_and_kernel_of_dicom(
    tmp_path: Path, thickness: str | None, kernel: str | None
) -> None:
    def edit(dataset: Dataset) -> None:
        del dataset.SliceThickness
        if thickness:
            dataset.SliceThickness, dataset.ConvolutionKernel = thickness, kernel

    scan = read_scan(write_series(tmp_path, CHEST, edit=edit))
    assert scan.acquisition[:2] == (float(thickness) if thickness else None, kernel or "")
