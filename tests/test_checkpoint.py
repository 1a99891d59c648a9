"""Weights are read as they were written, and damaged ones are refused."""

from pathlib import Path

import pytest
import torch

from src.errors import BadCheckpoint
from src.model.checkpoint import About, load_model, save_checkpoint
from src.model.unet import CHANNELS, UNet

ABOUT = About(hyperparameters={"features": [8, 16]}, name="small")
VARIANCE = "stem.1.running_var"


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return UNet((8, 16)).state_dict()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_vectors_are_stored_as_float32_and_kernels_as_float16(tmp_path: Path, suffix: str) -> None:
    stored = state()
    stored[VARIANCE].fill_(1e6)  # beyond the range of float16
    save_checkpoint(tmp_path / f"model{suffix}", stored, ABOUT)
    loaded = load_model(tmp_path / f"model{suffix}").model.state_dict()
    for key, value in stored.items():
        torch.testing.assert_close(loaded[key], value, rtol=1e-3 if value.ndim > 1 else 0, atol=1e-6)


@pytest.mark.parametrize(
    ("key", "value"), [(VARIANCE, torch.inf), ("head.0.weight", torch.nan), ("head.0.weight", 1e6)]
)
def test_weights_that_cannot_be_stored_are_not_written(tmp_path: Path, key: str, value: float) -> None:
    broken = state()
    broken[key].fill_(value)
    with pytest.raises(BadCheckpoint, match=f"{key}.*damaged"):
        save_checkpoint(tmp_path / "model.pth", broken, ABOUT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_untrained_third_channel_of_earlier_checkpoints_is_dropped(tmp_path: Path, suffix: str) -> None:
    earlier = state()
    for part in ("weight", "bias"):
        trained = earlier[f"head.2.{part}"]
        earlier[f"head.2.{part}"] = torch.cat([trained, torch.full_like(trained[:1], 7.0)])
    save_checkpoint(tmp_path / f"earlier{suffix}", earlier, ABOUT)
    save_checkpoint(tmp_path / f"now{suffix}", state(), ABOUT)
    x = torch.rand(1, 1, 8, 12, 16)
    with torch.inference_mode():
        found, expected = (load_model(tmp_path / f"{name}{suffix}").model(x) for name in ("earlier", "now"))
    assert found.shape[1] == len(CHANNELS) == 2
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_last_layer_of_any_other_width_is_refused(tmp_path: Path) -> None:
    wide = state()
    wide["head.2.bias"] = torch.zeros(5)
    save_checkpoint(tmp_path / "model.pth", wide, ABOUT)
    with pytest.raises(BadCheckpoint, match="do not fit"):
        load_model(tmp_path / "model.pth")


def test_a_model_with_infinite_weights_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model.pth", state(), ABOUT)
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    content["state_dict"][VARIANCE].fill_(torch.inf)
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(BadCheckpoint, match=f"model.pth has weights that are NaN or infinite .{VARIANCE}"):
        load_model(tmp_path / "model.pth")
