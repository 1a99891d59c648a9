"""Pictures: radiological orientation for any array axes, circles at the nodules."""

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from src.data.loader import load_scan
from src.errors import BadConfig, BadOutput, BadScan, PivotError
from src.results.output_formatter import save_json
from src.types import Affine, NoduleMask, Vec3, Volume
from src.viz.confidence import plot_confidence_distribution
from src.viz.outline import outline_of
from src.viz.overlay import visualize_detections
from src.viz.shares import share
from src.viz.slices import (
    NORMAL,
    Plane,
    SliceImage,
    StageMark,
    axial_slices,
    circles,
    cut,
    mark,
    sample,
    stage,
)
from src.viz.source import read_detections

SHAPE = (40, 50, 30)
SPACING = (1.5, 1.0, 2.5)
LPS: Affine = np.diag([-1.5, -1.0, 2.5, 1.0])  # RAS+, as for a DICOM series
LPS[:3, 3] = (70, 40, -300)
ORIENTATIONS = [*product(permutations(range(3)), product((False, True), repeat=3))]


def detection(coordinates: Vec3, diameter: float, confidence: float = 0.9, **more: Any) -> Any:  # noqa: ANN401 - stands for a Detection
    return {"id": 0, "coordinates": coordinates, "diameter_mm": diameter, "confidence": confidence, **more}


def report_of(found: list[Any]) -> dict[str, Any]:
    """A complete report with these detections."""
    return {
        "scan_id": "scan",
        "model": "m",
        "timestamp": "2026-01-01T00:00:00Z",
        "metadata": {},
        "detections": found,
        "summary": {},
    }


def reoriented(array: np.ndarray, order: tuple[int, ...], flips: tuple[bool, ...]) -> tuple[Volume, Vec3, Affine]:
    """The scan with other axes, its spacing, and the matrix from its indices to those of `array`."""
    back = np.zeros((4, 4))
    back[3, 3] = 1
    for axis, (source, flip) in enumerate(zip(order, flips, strict=True)):
        back[source, axis] = -1 if flip else 1
        back[source, 3] = array.shape[source] - 1 if flip else 0
    turned = array.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return Volume(turned, LPS @ back), tuple(SPACING[source] for source in order), back  # type: ignore[return-value]


def ball(centre: Vec3, radius: float) -> np.ndarray:
    """A soft-tissue ball in lung, on the test grid."""
    axes = ((np.arange(n) * step - c) ** 2 for n, step, c in zip(SHAPE, SPACING, centre, strict=True))
    return np.where(np.sqrt(sum(np.ix_(*axes))) < radius, 50, -900).astype(np.int16)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(ORIENTATIONS),
    st.tuples(*(st.floats(5, step * (n - 1) - 5) for n, step in zip(SHAPE, SPACING, strict=True))),
)
def test_any_axis_order_gives_the_same_slices_and_marks(orientation: tuple[Any, Any], centre: Vec3) -> None:
    array = np.random.default_rng(0).integers(-1000, 400, SHAPE).astype(np.int16)
    turned, spacing, back = reoriented(array, *orientation)
    there = np.linalg.inv(back) @ [*np.divide(centre, SPACING), 1]
    found = detection(tuple(there[:3] * spacing), 8)
    straight, other = stage(Volume(array, LPS), SPACING), stage(turned, spacing)
    [expected], [actual] = mark(straight, [detection(centre, 8)]), mark(other, [found])
    assert expected.centre == pytest.approx(centre)
    assert actual.centre == pytest.approx(centre)
    assert other.lps(actual.centre) == pytest.approx(straight.lps(expected.centre))
    for plane in NORMAL:
        one, two = (cut(on, plane, on.index(plane, expected.centre)) for on in (straight, other))
        assert np.array_equal(one.image, two.image)
        assert one.extent == pytest.approx(two.extent)


@pytest.mark.parametrize(
    ("plane", "first_row", "first_column", "down"),
    [
        ("axial", "anterior", "right", True),
        ("coronal", "feet", "right", False),
        ("sagittal", "feet", "anterior", False),
    ],
)
def test_pictures_are_in_radiological_orientation(
    plane: Plane, first_row: str, first_column: str, *, down: bool
) -> None:
    ends: dict[str, Any] = {"right": np.s_[0, :, :], "anterior": np.s_[:, 0, :], "feet": np.s_[:, :, 0]}
    for name, edge in (("row", first_row), ("column", first_column)):
        array = np.zeros(SHAPE)
        array[ends[edge]] = 1
        section = cut(stage(array, SPACING), plane, 5)
        line = section.image[0] if name == "row" else section.image[:, 0]
        assert line.mean() == 1
        assert section.image.sum() == line.size
    bottom, top = section.extent[2:]
    assert (bottom > top) == down


@pytest.mark.parametrize("plane", NORMAL)
@pytest.mark.parametrize("orientation", [ORIENTATIONS[0], ORIENTATIONS[21], ORIENTATIONS[38]])
def test_a_circle_lies_on_the_surface_of_its_ball(plane: Plane, orientation: tuple[Any, Any]) -> None:
    centre, radius = (31.2, 22.7, 33.9), 11.0
    turned, spacing, back = reoriented(ball(centre, radius), *orientation)
    there = np.linalg.inv(back) @ [*np.divide(centre, SPACING), 1]
    on = stage(turned, spacing)
    marks = mark(on, [detection(tuple(there[:3] * spacing), 2 * radius)])
    section = cut(on, plane, on.index(plane, marks[0].centre) + 1)
    [circle] = circles(section, marks)
    bright = section.image > -400
    row, column = ndimage.center_of_mass(bright)
    assert abs(circle.x / section.pixel[0] - column) < 1
    assert abs(circle.y / section.pixel[1] - row) < 1
    area = bright.sum() * np.prod(section.pixel)
    assert circle.radius == pytest.approx((area / np.pi) ** 0.5, abs=1.5)


@pytest.mark.parametrize(
    ("distance", "radius"),
    [(0, 5), (1.25, 5), (4.25, 4), (5.25, 3), (6.24, 0.32), (6.26, None), (-4.25, 4), (-7, None)],
)
def test_a_circle_has_the_radius_of_the_nodule_in_the_slice(distance: float, radius: float | None) -> None:
    section = SliceImage("axial", np.zeros((10, 10)), (1, 1), 20, 2.5)  # the slice reaches 1.25 mm to either side
    found = circles(section, [StageMark(7, (3, 4, 20 + distance), 5, 0.5, "red")])
    assert [circle.radius for circle in found] == ([] if radius is None else [pytest.approx(radius, abs=0.01)])
    assert all((circle.number, circle.x, circle.y) == (7, 3, 4) for circle in found)


@given(st.integers(1, 60), st.integers(1, 25), st.data())
def test_axial_slices_are_distinct_and_start_with_those_of_the_nodules(
    depth: int, count: int, data: st.DataObject
) -> None:
    wanted = data.draw(st.lists(st.integers(0, depth - 1), max_size=30))
    chosen = axial_slices(wanted, depth, count)
    assert len(chosen) == len(set(chosen)) == min(count, depth)
    assert chosen == sorted(chosen, reverse=True)
    assert set(list(dict.fromkeys(wanted))[:count]) <= set(chosen) <= set(range(depth))


def test_slices_without_detections_are_evenly_spread() -> None:
    assert np.ptp(np.diff(axial_slices([], 100, 5))) <= 1


@pytest.mark.parametrize("orientation", [ORIENTATIONS[0], ORIENTATIONS[27]])
@pytest.mark.parametrize("plane", NORMAL)
def test_a_coarser_heatmap_is_placed_by_its_affine(plane: Plane, orientation: tuple[Any, Any]) -> None:
    turned, spacing, _ = reoriented(np.zeros(SHAPE, np.int16), *orientation)
    on = stage(turned, spacing)
    centre = on.lps((24.0, 20.0, 30.0)) * np.array([-1, -1, 1])
    coarse: Affine = np.diag([3.0, 3.0, 3.0, 1.0])  # RAS axes, unlike the scan's
    corners = np.array(list(product(*((0.0, side - 1.0) for side in on.array.shape)))) @ on.affine[:3, :3].T
    low, high = ((end(corners, axis=0) + on.affine[:3, 3] - centre) / 3 for end in (np.min, np.max))
    peak = np.ceil(-low).astype(int)  # the heatmap's voxel at `centre`; it covers what the scan covers
    coarse[:3, 3] = centre - 3.0 * peak
    heatmap = np.zeros(peak + np.ceil(high).astype(int) + 1, np.float32)
    heatmap[tuple(peak)] = 1
    section = cut(on, plane, on.index(plane, (24.0, 20.0, 30.0)))
    values = sample(Volume(heatmap, coarse), on, turned, section)
    x, y = (value for axis, value in enumerate((24.0, 20.0, 30.0)) if axis != NORMAL[plane])
    row, column = divmod(int(values.argmax()), values.shape[1])
    assert (column, row) == (round(x / section.pixel[0]), round(y / section.pixel[1]))
    assert values.shape == section.image.shape
    assert values.max() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("orientation", [ORIENTATIONS[5], ORIENTATIONS[46]])
def test_a_heatmap_on_the_scans_grid_needs_no_affine(orientation: tuple[Any, Any]) -> None:
    array = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    turned, spacing, _ = reoriented(array, *orientation)
    on = stage(turned, spacing)
    for plane in NORMAL:
        section = cut(on, plane, 12)
        assert sample(np.asarray(turned), on, turned, section) == pytest.approx(section.image)


@pytest.fixture
def chest() -> Volume:
    return Volume(ball((31.2, 22.7, 33.9), 11.0), LPS)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_the_guides_call_draws_the_circle_around_the_nodule(chest: Volume, tmp_path: Path) -> None:
    report = tmp_path / "scan_detections.json"
    found = detection((31.2, 22.7, 33.9), 22.0, triage={"risk_category": "high"})
    save_json(report_of([found]), report)
    path = tmp_path / "results" / "visualization.png"
    visualize_detections(
        scan=chest, detections=report, spacing=SPACING, output_path=path, num_slices=1, colormap="hot", alpha=0.5
    )
    picture = pixels(path)
    assert picture.shape[1] == 1500
    assert path.stat().st_size < 2_000_000
    assert [file.name for file in path.parent.iterdir()] == ["visualization.png"]
    panel = picture[picture.shape[0] * 6 // 10 : -60, :500]  # the axial slice, which has no crosshair
    labels, _ = ndimage.label(panel.min(axis=-1) > 150)
    white = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    red = (panel[..., 0] > 150) & (panel[..., 1] < 130)
    ring, _ = ndimage.label(red)
    ring = ring == np.bincount(ring.ravel())[1:].argmax() + 1
    for axis in (0, 1):
        inner, outer = (np.flatnonzero(mask.any(axis=axis)) for mask in (white, ring))
        assert (outer[0] + outer[-1]) / 2 == pytest.approx((inner[0] + inner[-1]) / 2, abs=8)  # a voxel is 12 pixels
        assert np.ptp(outer) == pytest.approx(np.ptp(inner), abs=16)


@pytest.mark.parametrize("orientation", [ORIENTATIONS[0], ORIENTATIONS[29]])
def test_the_outline_is_drawn_at_the_largest_section(orientation: tuple[Any, Any]) -> None:
    centre, radius = (31.2, 22.7, 33.9), 9.0
    turned, spacing, back = reoriented(ball(centre, radius), *orientation)
    there = np.linalg.inv(back) @ [*np.divide(centre, SPACING), 1]
    on = stage(turned, spacing)
    place = tuple(there[:3] * spacing)
    measured, guessed = (detection(place, 17.0, diameter_source=source) for source in ("segmentation", "network"))
    [nodule] = mark(on, [measured])
    outline = outline_of(on, nodule, measured)
    assert outline is not None
    assert outline.slice_index == on.index("axial", centre)
    assert outline.line.mean(axis=0) == pytest.approx(centre[:2], abs=0.5)
    assert np.ptp(outline.line, axis=0) == pytest.approx(2 * radius, abs=2)
    assert np.linalg.norm(outline.ends[0] - outline.ends[1]) == pytest.approx(2 * radius, abs=2)
    assert outline_of(on, nodule, guessed) is None
    mask = NoduleMask(np.asarray(turned) > (np.min(turned) + np.max(turned)) / 2, (0, 0, 0))
    masked = outline_of(on, nodule, measured, mask)
    assert masked is not None
    assert masked.slice_index == outline.slice_index
    assert masked.line.mean(axis=0) == pytest.approx(centre[:2], abs=0.5)
    assert np.ptp(masked.line, axis=0) == pytest.approx(2 * radius, abs=2)


def test_masks_stay_with_their_detections_when_others_are_omitted() -> None:
    found = [
        detection((1.0, 2.0, 3.0), 9.0, confidence, id=number) for number, confidence in enumerate((0.9, 0.8, 0.7))
    ]
    masks = [NoduleMask(np.ones((1, 1, 1), bool), (number, 0, 0)) for number in range(3)]
    read = read_detections({**report_of([found[2], found[1]]), "masks": masks})
    assert [one["id"] for one in read.detections] == [1, 2]
    assert read.masks == masks[1:]
    assert read_detections(report_of(found)).masks == [None] * 3


def test_every_nodule_has_a_close_view(chest: Volume, tmp_path: Path) -> None:
    place = (31.2, 22.7, 33.9)
    heights = []
    for count in (1, 5, 6, 15, 17):
        found = [detection(place, 22.0, 0.9, id=number) for number in range(count)]
        visualize_detections(chest, found, SPACING, tmp_path / "a.png", num_slices=1)
        heights.append(pixels(tmp_path / "a.png").shape[0])
    assert heights[0] == heights[1]
    assert heights[2] - heights[1] == pytest.approx(325, abs=1)  # a row of five slices
    assert heights[3] - heights[2] == pytest.approx(325, abs=1)
    assert heights[4] == heights[3]  # the 15 with the highest confidence


def test_a_path_a_mapping_and_a_list_give_the_same_picture(chest: Volume, tmp_path: Path) -> None:
    report = report_of([detection((31.2, 22.7, 33.9), 22.0)])
    save_json(report, tmp_path / "d.json")
    sources: list[Any] = [report, report["detections"], tmp_path / "d.json", str(tmp_path / "d.json")]
    for draw in (lambda s, p: visualize_detections(chest, s, SPACING, p), plot_confidence_distribution):
        for number, source in enumerate(sources):
            draw(source, tmp_path / f"{number}.png")
        assert len({(tmp_path / f"{number}.png").read_bytes() for number in range(4)}) == 1


def test_a_turned_scan_gives_the_same_picture(chest: Volume, tmp_path: Path) -> None:
    turned, spacing, back = reoriented(np.asarray(chest), *ORIENTATIONS[29])
    there = np.linalg.inv(back) @ [*np.divide((31.2, 22.7, 33.9), SPACING), 1]
    visualize_detections(chest, [detection((31.2, 22.7, 33.9), 22.0)], SPACING, tmp_path / "a.png")
    visualize_detections(turned, [detection(tuple(there[:3] * spacing), 22.0)], spacing, tmp_path / "b.png")
    assert np.abs(pixels(tmp_path / "a.png") - pixels(tmp_path / "b.png")).mean() < 0.01


def test_the_heatmap_is_invisible_where_it_is_zero(chest: Volume, tmp_path: Path) -> None:
    heatmap = np.zeros(SHAPE, np.float32)
    pictures = []
    for name, value in (("none", None), ("zero", 0), ("one", 1)):
        heatmap[15:25, 15:25, 10:18] = value or 0
        overlay = None if value is None else heatmap
        visualize_detections(chest, [], SPACING, tmp_path / f"{name}.png", colormap="Reds", alpha=1, heatmap=overlay)
        pictures.append(pixels(tmp_path / f"{name}.png"))
    none, zero, one = pictures
    assert np.array_equal(none, zero)
    changed = np.any(none != one, axis=-1)
    assert 0.005 < changed.mean() < 0.2
    assert np.median(one[changed][:, 0] - one[changed][:, 1]) > 80


def test_a_picture_of_a_scan_without_detections_says_so(chest: Volume, tmp_path: Path) -> None:
    found = [detection((31.2, 22.7, 33.9), 22.0)]
    visualize_detections(chest, [], SPACING, tmp_path / "none.png")
    visualize_detections(chest, found, SPACING, tmp_path / "one.png")
    none, one = pixels(tmp_path / "none.png"), pixels(tmp_path / "one.png")
    assert none.shape[1] == 1500
    assert (none[:60] > 200).sum() > 2000  # the words in the title
    assert not np.array_equal(none[:60], one[:60])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"colormap": "hott"}, BadConfig, "unknown colormap 'hott'.*such as hot.*viridis"),
        ({"num_slices": 0}, BadConfig, "num_slices must be a number of at least 1, not 0"),
        ({"alpha": 1.5}, BadConfig, "alpha must be a number from 0 to 1, not 1.5"),
        ({"scan": np.zeros((4, 4))}, BadScan, r"shape \(X, Y, Z\), not \(4, 4\)"),
        ({"heatmap": np.zeros((3, 3, 3))}, BadConfig, r"heatmap of shape \(3, 3, 3\) cannot be laid over"),
        ({"detections": {"nodules": []}}, BadOutput, "holds no list `detections`"),
        ({"detections": [{"x": 1}]}, BadOutput, r"detections\[0\] lacks coordinates"),
        ({"detections": "missing.json"}, BadOutput, "cannot read the detections missing.json: No such file"),
        ({"output_path": "picture.pdf"}, BadOutput, "picture.pdf: its name must end in .png"),
    ],
)
def test_mistakes_give_a_clear_error_and_leave_no_file(
    change: dict[str, Any], error: type[PivotError], message: str, chest: Volume, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "picture.png"
    arguments = {"scan": chest, "detections": [], "spacing": SPACING, "output_path": path, **change}
    with pytest.raises(error, match=message):
        visualize_detections(**arguments)
    assert not path.exists()


@pytest.mark.parametrize(
    "draw", [plot_confidence_distribution, lambda s, p: visualize_detections(np.zeros(SHAPE), s, SPACING, p)]
)
def test_an_unwritable_folder_is_an_error(draw: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOutput, match=r"cannot write .*file/a\.png: "):
        draw([], tmp_path / "file" / "a.png")


@pytest.mark.parametrize(
    "content",
    ["", "[1, 2", "{}", "[]", "\xff"]
    + [
        json.dumps({**report_of([]), **change}) for change in ({"detections": 3}, {"detections": "no"}, {"metadata": 1})
    ],
)
def test_other_files_are_refused_as_detections(content: str, tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(BadOutput, match=r"d\.json"):
        read_detections(path)


def test_detections_are_sorted_by_confidence() -> None:
    found = read_detections([detection((1, 1, 1), 5, confidence) for confidence in (0.4, 0.9, 0.6)])
    assert [nodule["confidence"] for nodule in found.detections] == [0.9, 0.6, 0.4]


@pytest.mark.parametrize(
    ("metadata", "drawn"),
    [
        ({"thresholds": {"min_confidence": 0.3}}, True),
        ({"threshold": 0.5}, True),
        ({"nms": {"iou_threshold": 0.3}, "spacing": [1, 1, 1]}, False),
    ],
)
def test_thresholds_in_the_metadata_are_drawn(metadata: dict[str, Any], *, drawn: bool, tmp_path: Path) -> None:
    found = [detection((1, 1, 1), 5)]
    plot_confidence_distribution({"detections": found}, tmp_path / "without.png")
    plot_confidence_distribution({"detections": found, "metadata": metadata}, tmp_path / "with.png")
    assert ((tmp_path / "with.png").read_bytes() != (tmp_path / "without.png").read_bytes()) == drawn


@pytest.mark.parametrize(("count", "panels"), [(0, 1), (1, 1), (15, 1), (16, 2), (200, 2)])
def test_many_nodules_get_a_histogram(count: int, panels: int, tmp_path: Path) -> None:
    path = tmp_path / "c.png"
    plot_confidence_distribution([detection((1, 1, 1), 5, 0.5) for _ in range(count)], path)
    assert (pixels(path).shape[0] > 700) == (panels == 2)


def test_drawing_imports_neither_a_gui_nor_torch(root: Path) -> None:
    code = "import sys, src.viz.overlay, src.viz.confidence; print({'matplotlib.pyplot', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_real_scan_with_many_slices_stays_small(shared_data: Path, tmp_path: Path) -> None:
    scan, spacing = load_scan(shared_data / "backgrounds" / "nlst-101287.nii.gz")
    found = [detection((80.0, 130.0, 140.0), 12.0), detection((200.0, 150.0, 150.0), 6.0, 0.5)]
    path = tmp_path / "v.png"
    visualize_detections(scan, found, spacing, path, num_slices=25)
    assert path.stat().st_size < 2_000_000


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.00"), (0.004, "<0.01"), (0.5, "0.50"), (0.994, "0.99"), (0.9955, ">0.99"), (1, "1.00")],
)
def test_only_a_confidence_of_1_is_shown_as_1_00(value: float, text: str) -> None:
    assert share(value) == text
