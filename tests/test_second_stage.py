"""The second stage: its input cubes, and its effect on the heatmap."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from src.detection.peak_detection import detect_peaks
from src.detection.second_stage import LARGE, _cubes, apply_second_stage, nodule_logits
from src.errors import BadCheckpoint
from src.model.checkpoint import SECOND_STAGE, About, SecondStage, load_model, save_checkpoint
from src.model.classifier import SIDE, CandidateNet, Fusion
from src.model.unet import CHANNELS, DIAMETER, HEATMAP, UNet

CPU = torch.device("cpu")
FUSION = Fusion(bias=-1.0, detector=0.5, nodule=2.0)


class Middle(nn.Module):
    """A second stage whose logit is the cube's middle voxel; it records its input."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Tensor] = []

    def forward(self, cubes: Tensor) -> Tensor:
        self.shown.append(cubes)
        middle = cubes[:, 0, SIDE // 2, SIDE // 2, SIDE // 2].float()
        return torch.stack([middle, middle, -middle, middle], dim=1)


def hills(*peaks: tuple[tuple[int, int, int], float], diameter: float = 8.0) -> npt.NDArray[np.float32]:
    grid = np.indices((30, 30, 30)).transpose(1, 2, 3, 0)
    maps = np.zeros((len(CHANNELS), 30, 30, 30), np.float32)
    for voxel, height in peaks:
        hill = height * np.exp(-((grid - voxel) ** 2).sum(-1) / 8)
        maps[HEATMAP] = np.maximum(maps[HEATMAP], hill)
    maps[DIAMETER] = diameter
    return maps


def volume(*bright: tuple[tuple[int, int, int], float]) -> npt.NDArray[np.float32]:
    voxels = np.full((60, 60, 60), 0.1, np.float32)
    for (x, y, z), value in bright:
        voxels[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2] = value
    return voxels


@pytest.mark.parametrize(
    ("heat", "logit", "confidence"),
    [(0.5, 0.5, 0.5), (0.5, 0.0, 0.268941), (0.9, 0.5, 0.75), (1.0, 0.5, 0.990099), (0.1, -1.0, 0.016325)],
)
def test_the_confidences_of_both_stages_are_fused(heat: float, logit: float, confidence: float) -> None:
    assert FUSION.confidence([heat], [logit])[0] == pytest.approx(confidence, abs=1e-5)


def test_each_peak_gets_the_fused_confidence() -> None:
    places = [(8, 8, 8), (20, 8, 8), (14, 22, 25)]
    heights = [0.9, 0.3, 0.6]
    middles = [0.0, 1.0, 0.4]
    maps = hills(*zip(places, heights, strict=True))
    bright = zip([(2 * x, 2 * y, 2 * z) for x, y, z in places], middles, strict=True)
    apply_second_stage(maps, volume(*bright), Middle(), FUSION, CPU, mixed=False)  # type: ignore[arg-type]
    found = {
        peak["coordinates_voxel"]: peak["confidence"] for peak in detect_peaks(maps[HEATMAP], 0.05, 6.0, (2, 2, 2))
    }
    fused = FUSION.confidence(heights, middles)
    assert found == {place: pytest.approx(float(c), abs=1e-4) for place, c in zip(places, fused, strict=True)}
    assert (maps[DIAMETER] == 8).all()


def test_the_second_stage_sees_candidates_only() -> None:
    network, maps = Middle(), hills(((8, 8, 8), 0.04))
    before = maps.copy()
    apply_second_stage(maps, volume(), network, FUSION, CPU, mixed=False)  # type: ignore[arg-type]
    assert not network.shown
    assert (maps == before).all()


@pytest.mark.parametrize(("diameter", "side"), [(LARGE - 1, 12), (LARGE, 6)])
def test_large_candidates_are_shown_at_half_the_resolution(diameter: float, side: int) -> None:
    voxels = np.full((60, 60, 60), 0.1, np.float32)
    voxels[24:36, 24:36, 24:36] = 1.0
    network = Middle()
    apply_second_stage(hills(((15, 15, 15), 0.5), diameter=diameter), voxels, network, FUSION, CPU, mixed=False)  # type: ignore[arg-type]
    assert int((network.shown[0] > 0.6).sum()) == pytest.approx(side**3, rel=0.02)


@given(st.tuples(*[st.integers(-3, 42)] * 3), st.tuples(*[st.integers(5, 40)] * 3))
@settings(max_examples=40)
def test_a_cube_holds_the_surroundings_of_its_point_and_air_beyond_the_scan(
    point: tuple[int, int, int], shape: tuple[int, int, int]
) -> None:
    point = tuple(min(p, n + 2) for p, n in zip(point, shape, strict=True))  # type: ignore[assignment]
    voxels = np.random.default_rng(0).random(shape, dtype=np.float32) + 1
    half = SIDE // 2
    padded = np.pad(voxels, 2 * SIDE, constant_values=voxels.min())
    low = np.array(point) + 2 * SIDE - half
    expected = padded[tuple(slice(a, a + SIDE) for a in low)]
    np.testing.assert_array_equal(_cubes(voxels, np.array([point], dtype=float))[0], expected)


def test_each_candidate_has_its_own_logit() -> None:
    cubes = np.zeros((20, SIDE, SIDE, SIDE), np.float32)  # more than one batch
    cubes[3] = 2.0
    logits = nodule_logits(Middle(), cubes, CPU, mixed=False)  # type: ignore[arg-type]
    assert logits.tolist() == [0, 0, 0, 2] + [0] * 16


def both_stages() -> tuple[dict[str, Tensor], About]:
    torch.manual_seed(0)
    second = {f"{SECOND_STAGE}{key}": value for key, value in CandidateNet((8, 8)).state_dict().items()}
    about = About(
        hyperparameters={"features": [8, 16]}, name="both", second_stage=SecondStage(features=(8, 8), fusion=FUSION)
    )
    return {**UNet((8, 16)).state_dict(), **second}, about


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_holds_both_stages(tmp_path: Path, suffix: str) -> None:
    state, about = both_stages()
    save_checkpoint(tmp_path / f"model{suffix}", state, about)
    loaded = load_model(tmp_path / f"model{suffix}")
    assert loaded.second_stage is not None
    assert loaded.about.second_stage == about.second_stage
    for key, value in loaded.second_stage.state_dict().items():
        torch.testing.assert_close(value, state[f"{SECOND_STAGE}{key}"], rtol=1e-3, atol=1e-6)
    assert not loaded.second_stage.training


def test_a_second_stage_without_its_weights_is_refused(tmp_path: Path) -> None:
    state, about = both_stages()
    first = {key: value for key, value in state.items() if not key.startswith(SECOND_STAGE)}
    save_checkpoint(tmp_path / "model.pth", first, about)
    with pytest.raises(BadCheckpoint, match="do not fit"):
        load_model(tmp_path / "model.pth")
