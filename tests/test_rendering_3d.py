"""The 3D page: positions in world coordinates, a single self-contained file, and its display in a browser."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from src.data.lung_finder import lung_surface
from src.data.phantom import PhantomNodule, chest_phantom
from src.errors import BadConfig, BadOutput, BadScan, PivotError
from src.inference.main import InferencePipeline
from src.results.output_formatter import load_heatmap, save_heatmap, save_json
from src.runs.outputs import output_names, write_outputs
from src.types import Scan, Vec3, Volume
from src.viz.rendering_3d import render_3d_volume, write_3d
from src.viz.report_blocks import RESEARCH_USE
from src.viz.scene import heat_traces, letters, lung_trace, nodule_traces
from src.viz.slices import mark, stage

from .small_scans import TURNS, block, save_nifti, tiny_checkpoint, turned

LUNGS = ((-103.5, -232.0, -351.0), (118.5, -76.0))  # LPS mm: from the shape in `src.data.anatomy`
CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--window-size=900,800",
    "--virtual-time-budget=30000",
)


@pytest.fixture(scope="module")
def chest() -> tuple[Scan, list[PhantomNodule]]:
    return chest_phantom(spacing=(3.0, 3.0, 4.0))


def found(scan: Scan, back: Any, nodule: PhantomNodule, spacing: Vec3, risk: str = "high") -> Any:  # noqa: ANN401
    """A Detection of the synthetic nodule on a reoriented scan."""
    index = np.linalg.inv(back) @ [*np.divide(nodule.coordinates, spacing), 1]
    place = tuple(index[:3] * scan.spacing)
    more = {"id": 7, "confidence": 0.9, "triage": {"risk_category": risk}}
    return {"coordinates": place, "diameter_mm": float(nodule.diameter_mm), **more}


def corners(trace: Any) -> np.ndarray:  # noqa: ANN401 - plotly's
    """The minimum and maximum of x, y, z, of shape (2, 3)."""
    points = np.array([trace.x, trace.y, trace.z])
    return np.array([points.min(axis=1), points.max(axis=1)])


@settings(max_examples=10)
@given(st.sampled_from(TURNS))
def test_positions_are_correct_for_any_axis_order(
    chest: tuple[Scan, list[PhantomNodule]], turn: tuple[Any, Any]
) -> None:
    scan, truth = chest
    other, back = turned(scan, *turn)
    on = stage(Volume(other.array, other.affine), other.spacing)
    detection = found(other, back, truth[0], scan.spacing)
    ball, words = nodule_traces(on, mark(on, [detection]), [detection])
    np.testing.assert_allclose(corners(ball).mean(axis=0), truth[0].coordinates_lps, atol=0.3)
    np.testing.assert_allclose(np.diff(corners(ball), axis=0), truth[0].diameter_mm, atol=0.4)
    assert list(words.text) == ["8: 20.0 mm"]
    assert ball.name == "8: 20.0 mm, high risk"
    surface = lung_trace(*lung_surface(on.array, on.affine))
    low, high = corners(surface)
    np.testing.assert_allclose(low, LUNGS[0], atol=4)
    np.testing.assert_allclose(high[:2], LUNGS[1], atol=4)  # the windpipe continues above the lungs
    marks = letters([surface])
    where = dict(zip(marks.text, zip(marks.x, marks.y, marks.z, strict=True), strict=True))
    assert where["L"][0] > high[0] > low[0] > where["R"][0]
    assert where["P"][1] > high[1] > low[1] > where["A"][1]
    assert where["H"][2] > high[2] > low[2] > where["F"][2]


def test_an_oblique_scan_keeps_its_orientation(chest: tuple[Scan, list[PhantomNodule]]) -> None:
    scan, truth = chest
    angle = np.deg2rad(20)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    on = stage(Volume(scan.array, tilt @ scan.affine), scan.spacing)
    detection = found(scan, np.eye(4), truth[0], scan.spacing)
    ball, _ = nodule_traces(on, mark(on, [detection]), [detection])
    ras = tilt @ [*np.multiply(truth[0].coordinates_lps, (-1, -1, 1)), 1]
    np.testing.assert_allclose(corners(ball).mean(axis=0), ras[:3] * (-1, -1, 1), atol=0.3)


def test_the_heatmap_is_placed_by_its_own_affine() -> None:
    affine = np.diag([2.0, 2.0, 2.5, 1.0])
    affine[:3, 3] = (-50, 20, -300)
    heatmap = np.zeros((40, 44, 36), np.float32)
    heatmap[20:26, 10:16, 8:14] = 0.5  # centre at index 22.5, 12.5, 10.5
    (trace,) = heat_traces(heatmap, affine)  # reaches only the lower level
    np.testing.assert_allclose(corners(trace).mean(axis=0), (5, -45, -273.75), atol=2.0)
    assert not list(heat_traces(heatmap * 0.5, affine))


@pytest.fixture
def files(chest: tuple[Scan, list[PhantomNodule]], tmp_path: Path) -> dict[str, Any]:
    """The guide's arguments for the synthetic chest, with a detection on the patient's left."""
    scan, truth = chest
    heatmap = np.zeros(scan.shape, np.float32)
    heatmap[truth[1].coordinates_voxel] = 0.9
    save_heatmap(Volume(heatmap, scan.affine), tmp_path / "scan_heatmap.nii.gz")
    detection = found(scan, np.eye(4), truth[1], scan.spacing)
    report = {"scan_id": "s", "model": "m", "timestamp": "t", "metadata": {}, "detections": [detection], "summary": {}}
    save_json(report, tmp_path / "scan_detections.json")
    return {
        "scan": save_nifti(scan, tmp_path / "scan.nii.gz"),
        "heatmap": tmp_path / "scan_heatmap.nii.gz",
        "detections": tmp_path / "scan_detections.json",
        "output_path": tmp_path / "new" / "3d.html",
    }


def test_the_page_is_one_self_contained_file(files: dict[str, Any]) -> None:
    render_3d_volume(**files, interactive=True)
    page = files["output_path"].read_text(encoding="utf-8")
    assert [file.name for file in files["output_path"].parent.iterdir()] == ["3d.html"]
    assert len(page.encode()) < 10_000_000
    for part in ("<title>scan: 1 nodule found.</title>", RESEARCH_USE, "8: 14.0 mm, high risk", "heatmap above 0.6"):
        assert part in page, part
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", page.replace("\\", ""))
    again = files["output_path"].with_name("again.html")
    render_3d_volume(**{**files, "output_path": again})
    assert again.read_text(encoding="utf-8") == page


def test_a_static_page_cannot_be_rotated(files: dict[str, Any]) -> None:
    render_3d_volume(**files, interactive=False)
    page = files["output_path"].read_text(encoding="utf-8")
    assert '"staticPlot": true' in page
    assert '"dragmode":false' in page


def test_a_hundred_nodules_keep_the_page_small(chest: tuple[Scan, list[PhantomNodule]], tmp_path: Path) -> None:
    scan, truth = chest
    detections: list[Any] = [{**found(scan, np.eye(4), truth[n % 6], scan.spacing), "id": n} for n in range(100)]
    write_3d(scan, np.zeros(scan.shape), detections, tmp_path / "3d.html")
    assert (tmp_path / "3d.html").stat().st_size < 8_000_000
    assert "100: 10.0 mm" in (tmp_path / "3d.html").read_text(encoding="utf-8")


def test_a_crop_without_lungs_shows_only_its_nodules(tmp_path: Path) -> None:
    scan, truth = block()
    render_3d_volume(
        Volume(scan.array, scan.affine),
        np.zeros(scan.shape, np.float32),
        [found(scan, np.eye(4), truth, scan.spacing)],
        tmp_path / "3d.html",
    )
    page = (tmp_path / "3d.html").read_text(encoding="utf-8")
    assert "8: 20.0 mm" in page
    assert '"name":"lungs"' not in page
    render_3d_volume(Volume(scan.array, scan.affine), np.zeros(scan.shape, np.float32), [], tmp_path / "none.html")
    assert "scan: No nodule above the thresholds" in (tmp_path / "none.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"output_path": "3d.png"}, BadOutput, r"3d\.png: its name must end in \.html"),
        ({"scan": "missing.nii.gz"}, BadScan, r"missing\.nii\.gz: there is no such file"),
        ({"scan": np.zeros((9, 9, 9))}, BadScan, "size and sides of an array without an affine are unknown"),
        ({"heatmap": "missing.nii.gz"}, BadOutput, r"cannot read the heatmap missing\.nii\.gz"),
        ({"heatmap": np.zeros((3, 3, 3))}, BadConfig, r"heatmap of shape \(3, 3, 3\) cannot be laid over"),
        ({"detections": {"nodules": []}}, BadOutput, "holds no list `detections`"),
    ],
)
def test_mistakes_give_a_clear_error_and_leave_no_file(
    change: dict[str, Any], error: type[PivotError], message: str, files: dict[str, Any]
) -> None:
    with pytest.raises(error, match=message):
        render_3d_volume(**{**files, **change})
    assert not files["output_path"].parent.exists()


@pytest.mark.parametrize("name", ["h.nii.gz", "h.npy"])
def test_saved_heatmaps_are_read_back(name: str, tmp_path: Path) -> None:
    heatmap = Volume(np.linspace(0, 1, 60, dtype=np.float32).reshape(3, 4, 5), np.diag([2.0, 3, 4, 1]))
    save_heatmap(heatmap, tmp_path / name)
    again = load_heatmap(tmp_path / name)
    np.testing.assert_allclose(again, heatmap, atol=0.5 / 255 + 1e-6)
    if name == "h.nii.gz":
        np.testing.assert_allclose(again.affine, np.diag([2.0, 3, 4, 1]))  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "content"), [("h.nii.gz", b"text"), ("h.npy", b"text"), ("h.npy", b"")])
def test_other_files_are_refused_as_heatmaps(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadOutput, match=re.escape(name)):
        load_heatmap(tmp_path / name)


def test_a_heatmap_of_other_dimensions_is_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5, 2), np.float32), np.eye(4)), tmp_path / "h.nii")
    with pytest.raises(BadOutput, match=r"holds an array of shape \(3, 4, 5, 2\), not a heatmap"):
        load_heatmap(tmp_path / "h.nii")


def test_the_pipeline_writes_the_page_with_the_other_outputs(tmp_path: Path) -> None:
    ready = InferencePipeline(tiny_checkpoint(tmp_path / "t.pth"), {"visualization": {"save_3d": True}})
    files = write_outputs(block()[0], ready.predict(block()[0]), ready.config, tmp_path / "out")
    assert [file.name for file in files] == output_names("block_0", ready.config)
    assert "block_0: No lungs could be searched" in (tmp_path / "out" / "block_0_3d.html").read_text(encoding="utf-8")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_shows_the_nodule_on_the_patients_side(files: dict[str, Any], tmp_path: Path) -> None:
    render_3d_volume(**files)
    picture = tmp_path / "page.png"
    subprocess.run(  # without a network: no host name resolves
        [
            str(CHROMIUM),
            *FLAGS,
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--screenshot={picture}",
            files["output_path"].as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=300,
    )
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)[:, 200:]  # without the legend
    red = (pixels[..., 0] > 120) & (pixels[..., 0] > 1.7 * pixels[..., 1]) & (pixels[..., 0] > 1.7 * pixels[..., 2])
    grey_blue = (pixels[..., 2] > pixels[..., 0] + 8) & (pixels[..., 2] > 45)
    assert red.sum() > 100
    assert grey_blue.sum() > 10_000
    middle = np.argwhere(grey_blue)[:, 1].mean()
    assert np.argwhere(red)[:, 1].mean() > middle + 30  # seen from the front, the patient's left is on the right
