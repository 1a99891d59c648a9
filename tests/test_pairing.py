"""Arguments that belong to different scans are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.data.geometry import affine_from_spacing
from src.data.pairing import check_spacing, is_same_grid, overlap
from src.errors import BadConfig, BadOutput, BadScan, PivotError
from src.measurement.at_point import extract_properties
from src.types import Affine, Scan, Volume
from src.viz.overlay import visualize_detections
from src.viz.rendering_3d import write_3d
from src.viz.report import write_report

from .small_scans import block

SHAPE = (40, 30, 20)
AFFINE = affine_from_spacing((1.0, 1.0, 2.0))


def _moved(x: float) -> Affine:
    affine = AFFINE.copy()
    affine[0, 3] += x
    return affine


@pytest.mark.parametrize(("moved", "same"), [(0.0, True), (0.4, True), (0.6, False), (100.0, False)])
def test_grids_are_equal_to_within_half_a_millimetre(moved: float, *, same: bool) -> None:
    assert is_same_grid(SHAPE, AFFINE, SHAPE, _moved(moved)) is same
    assert not is_same_grid(SHAPE, AFFINE, (40, 30, 21), AFFINE)


@pytest.mark.parametrize(("moved", "share"), [(0.0, 1.0), (20.0, 1 / 3), (-20.0, 1 / 3), (40.0, 0.0), (400.0, 0.0)])
def test_the_overlap_of_two_grids_is_their_common_share(moved: float, share: float) -> None:
    assert overlap(SHAPE, AFFINE, SHAPE, _moved(moved)) == pytest.approx(share)
    coarse = AFFINE @ np.array([[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 2, 0.5], [0, 0, 0, 1]])
    assert overlap(SHAPE, AFFINE, (20, 15, 10), coarse) == pytest.approx(1)


def test_a_spacing_must_match_the_array() -> None:
    check_spacing(Volume(np.zeros(SHAPE), AFFINE), (1.0, 1.0, 2.0))
    check_spacing(np.zeros(SHAPE), (9.0, 9.0, 9.0))  # a plain array has no spacing
    with pytest.raises(BadScan, match=r"the spacing \[1.0, 1.0, 1.0\] contradicts the scan's own \[1.0, 1.0, 2.0\]"):
        check_spacing(Volume(np.zeros(SHAPE), AFFINE), (1.0, 1.0, 1.0))


def _report(scan: Scan, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    metadata = {"shape": list(scan.shape), "affine": scan.affine.tolist(), **changes}
    return {"detections": [], "metadata": metadata}


def _elsewhere(scan: Scan) -> Affine:
    affine = scan.affine.copy()
    affine[1, 3] += 300
    return affine


def _nodule() -> dict[str, Any]:
    truth = block(0)[1]
    lps = np.add(truth.coordinates_lps, (5, 0, 0)).tolist()
    return {"id": 3, "coordinates": truth.coordinates, "coordinates_lps": lps, "diameter_mm": 9.0, "confidence": 0.9}


@pytest.mark.parametrize("what", ["shape", "affine", "nodule"])
@pytest.mark.parametrize("kind", ["picture", "page", "report"])
def test_detections_of_another_scan_are_refused(kind: str, what: str, tmp_path: Path) -> None:
    scan, _ = block(0)
    given: Any = {
        "shape": _report(scan, shape=[1, 2, 3]),
        "affine": _report(scan, affine=_elsewhere(scan).tolist()),
        "nodule": [_nodule()],
    }[what]
    volume, heatmap = Volume(scan.array, scan.affine), np.zeros(scan.shape, np.float32)
    writers: dict[str, Any] = {
        "picture": lambda: visualize_detections(volume, given, scan.spacing, tmp_path / "a.png"),
        "page": lambda: write_3d(scan, heatmap, given, tmp_path / "a.html"),
        "report": lambda: write_report(scan, given, tmp_path / "a.md"),
    }
    with pytest.raises(BadOutput, match="are of another scan"):
        writers[kind]()
    assert not list(tmp_path.iterdir())


def test_other_mismatched_pairs_are_refused(tmp_path: Path) -> None:
    scan, truth = block(0)
    volume, heatmap = Volume(scan.array, scan.affine), Volume(np.zeros(scan.shape, np.float32), _elsewhere(scan))
    with pytest.raises(BadConfig, match="the heatmap is of another scan"):
        visualize_detections(volume, [], scan.spacing, tmp_path / "a.png", heatmap=heatmap)
    with pytest.raises(BadConfig, match="the heatmap is of another scan"):
        write_3d(scan, heatmap, [], tmp_path / "a.html")
    with pytest.raises(PivotError, match="contradicts the scan's own"):
        visualize_detections(volume, [], (1, 1, 1), tmp_path / "a.png")
    with pytest.raises(BadScan, match="contradicts the scan's own"):
        extract_properties(volume, truth.coordinates, 20, (1, 1, 1))
    assert not list(tmp_path.iterdir())
