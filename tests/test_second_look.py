"""The second look at half the resolution: its input, and the findings taken from it."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from src.data.preprocessing import preprocess
from src.data.resample import Box
from src.detection.search_plan import SearchPlan
from src.detection.second_look import LEAST, add_large, halve
from src.inference.main import InferencePipeline
from src.model.unet import DIAMETER, HEATMAP
from src.types import FloatArray
from src.viz.overlay import visualize_detections
from src.viz.report import write_report

from .small_scans import chest, mass

SIDES = st.tuples(*[st.integers(1, 9)] * 3)


@given(SIDES, st.integers(0, 2**32 - 1))
def test_every_second_voxel_of_the_smoothed_volume_is_kept(shape: tuple[int, int, int], seed: int) -> None:
    volume = np.random.default_rng(seed).random(shape, dtype=np.float32)
    expected: npt.NDArray[np.float64] = volume.astype(np.float64)
    for axis in range(3):
        expected = ndimage.convolve1d(expected, [0.25, 0.5, 0.25], axis, mode="nearest")
    halved = halve(volume)
    assert halved.dtype == np.float32
    np.testing.assert_allclose(halved, expected[::2, ::2, ::2], rtol=1e-6)


@given(SIDES, st.sampled_from([None, 0.0, 0.25, 0.5]))
def test_the_voxels_of_the_second_look_lie_on_every_second_voxel_of_the_first(
    shape: tuple[int, int, int], offset: float | None
) -> None:
    first = np.zeros((3, *shape), np.float32)
    grid = np.indices([-(-side // 2) for side in shape], dtype=np.float32)
    second = np.stack([0.1 + grid.sum(0) / 40, np.full(grid.shape[1:], LEAST, np.float32), grid[0]])
    merged = add_large(first, second) if offset is None else add_large(first, second, offset)
    assert merged is first
    last = np.array(grid.shape[1:]) - 1
    ramp = sum(((index - (offset or 0)) / 2).clip(0, end) for index, end in zip(np.indices(shape), last, strict=True))
    np.testing.assert_allclose(merged[HEATMAP], 0.1 + ramp / 40, atol=1e-6)
    np.testing.assert_allclose(merged[DIAMETER], 2 * LEAST)


@pytest.mark.parametrize(
    ("first", "second", "taken"),
    [
        ((0.2, 20.0), (0.7, 15.0), True),  # a mass
        ((0.8, 20.0), (0.7, 15.0), False),  # the first look has the higher confidence
        ((0.7, 20.0), (0.7, 15.0), False),  # or the same
        ((0.2, 4.0), (0.7, 8.0), True),  # a nodule of 16 mm
        ((0.2, 4.0), (0.7, 7.9), False),  # small nodules come from the first look
    ],
)
def test_the_second_look_replaces_the_first_only_for_large_and_more_confident_findings(
    first: tuple[float, float], second: tuple[float, float], *, taken: bool
) -> None:
    one, other = (
        np.tile(np.array([*maps, 0.5], np.float32)[:, None, None, None], (1, 3, 3, 3)) for maps in (first, second)
    )
    heat, diameter = add_large(one, other)[: DIAMETER + 1].max(axis=(1, 2, 3))
    expected = (second[0], 2 * second[1]) if taken else first
    assert (heat, diameter) == pytest.approx(expected)


@pytest.mark.parametrize("start", [16, 24])
def test_a_part_of_the_scan_gives_the_same_output_as_the_whole(start: int) -> None:
    """The start of a part does not shift the network's lattice; 64 voxels from its edge, the edge has no effect."""
    volume = preprocess(chest()[0], (1, 1, 1), (-1000, 400), "minmax").array[:192, :64, :64]
    ready = InferencePipeline().network

    def look(seen: FloatArray, box: Box | None) -> FloatArray:
        """The heatmap of the second look alone, which the merged heatmap would hide."""
        halved, before = ready._halved(seen, box)  # noqa: SLF001
        plan = SearchPlan(*ready._second_look_tiles(halved.shape))  # noqa: SLF001
        heat = ready._predict(ready.any_shape, halved, plan, "linear").maps[HEATMAP]  # noqa: SLF001
        x, y, z = (air // 2 for air in before)
        part: FloatArray = heat[x:, y:, z:]
        return part

    whole = look(volume, None)
    part = look(volume[start:], (slice(start, 192), slice(0, 64), slice(0, 64)))
    assert part.shape == (len(whole) - start // 4, *whole.shape[1:])
    np.testing.assert_allclose(part[-16:], whole[-16:], atol=1e-3)


@pytest.mark.parametrize(("looks", "sizes"), [(1, []), (2, [50])])
def test_only_the_second_look_finds_a_mass(looks: int, sizes: list[float]) -> None:
    config = {"inference": {"second_look": looks == 2}, "post_processing": {"size_filter": {"max_diameter": 100}}}
    found = InferencePipeline(config=config).predict(mass())["detections"]
    assert [nodule["diameter_mm"] for nodule in found] == pytest.approx(sizes, abs=3)


def test_a_finding_too_large_for_a_nodule_is_reported_as_a_mass(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = InferencePipeline().predict(mass())
    assert results["detections"] == []
    (large,) = results["masses"]
    assert large["diameter_mm"] == pytest.approx(50, abs=3)
    np.testing.assert_allclose(large["coordinates_voxel"], 16, atol=1)
    assert large["properties"]["nodule_type"] == "solid"
    assert results["masks"][large["id"]] is not None
    assert results["summary"]["num_masses"] == 1
    assert results["summary"]["lung_rads"]["category"] == large["guidelines"]["lung_rads"]["category"] == "4B"
    assert "mass: a mass of 5" in caplog.text
    write_report(mass(), results, tmp_path / "mass.md")
    text = (tmp_path / "mass.md").read_text(encoding="utf-8")
    assert "### Mass 1" in text
    assert "1, mass" in text
    pictures = {}
    for name, found in (("nothing", []), ("mass", results)):
        path = tmp_path / f"{name}.png"
        visualize_detections(mass().array, found, mass().spacing, path, num_slices=1)
        pictures[name] = np.asarray(Image.open(path).convert("RGB")).astype(int)
    colored = {name: (np.ptp(picture[60:], axis=2) > 100).sum() for name, picture in pictures.items()}
    assert colored["mass"] > colored["nothing"] + 2000  # circles and crosshair
