"""TorchScript: the same outputs as the original checkpoint for any patch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from src.detection.sliding_window import sliding_window_inference
from src.errors import BadCheckpoint, BadConfig, BadOutput
from src.model.checkpoint import About, legacy_jit, load_model, save_checkpoint
from src.model.device import autocast
from src.model.torchscript_optimizer import optimize_model
from src.model.unet import UNet, output_grid, strides_of

SHAPE = (1, 1, 16, 16, 16)


def _save_network(path: Path, *, damaged: bool = False) -> Path:
    """Save a checkpoint of a small network whose batch norms are not the identity."""
    torch.manual_seed(0)
    model = UNet(features=(4, 8)).train()
    for _ in range(3):
        model(3 * torch.rand(2, 1, 16, 16, 16) - 1)
    state = model.state_dict()
    if damaged:
        state["stem.1.bias"].fill_(torch.finfo(torch.float32).max)  # the next layers overflow
    save_checkpoint(path, state, About(hyperparameters=model.hyperparameters, name="small"))
    return path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save_network(tmp_path_factory.mktemp("original") / "small.pth")


@pytest.fixture(scope="module")
def optimized(original: Path) -> Path:
    path = original.parent / "new" / "optimized.pt"
    optimize_model(checkpoint=original, output_path=path, example_input_shape=SHAPE)
    return path


def test_the_file_has_the_description_of_the_checkpoint(original: Path, optimized: Path) -> None:
    one, other = load_model(original), load_model(optimized)
    assert one.about == other.about
    assert strides_of(one.model) == strides_of(other.model)
    assert output_grid(one.model) == output_grid(other.model)
    assert [file.name for file in optimized.parent.iterdir()] == ["optimized.pt"]


@pytest.mark.parametrize("shape", [SHAPE, (3, 1, 4, 8, 12), (1, 1, 32, 20, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_are_the_same_for_any_patch(
    shape: tuple[int, ...], dtype: torch.dtype, original: Path, optimized: Path
) -> None:
    with legacy_jit():
        model = torch.jit.load(optimized)
    eager = load_model(original).model
    x = torch.rand(shape)
    with torch.inference_mode(), autocast(torch.device("cpu"), dtype):
        one, other = eager(x).float(), model(x).float()
    rtol, atol = (1e-4, 1e-5) if dtype == torch.float32 else (0.1, 0.02)
    torch.testing.assert_close(other, one, rtol=rtol, atol=atol)


def test_sliding_over_a_volume_gives_the_output_of_the_original(original: Path, optimized: Path) -> None:
    scan = np.random.default_rng(0).random((21, 30, 17), dtype=np.float32)
    one, other = (
        sliding_window_inference(load_model(path).model, scan, (16, 16, 16), (8, 8, 8), device="cpu")
        for path in (original, optimized)
    )
    assert one.shape == (2, 11, 15, 9)
    np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "shape", [(128, 128, 128), (1, 3, 16, 16, 16), (1, 1, 16, 16, 15), (1, 1, 0, 16, 16), (0, 1, 16, 16, 16), ()]
)
def test_an_unsuitable_shape_is_refused(shape: tuple[int, ...], original: Path, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"example_input_shape \(.*multiples of 4"):
        optimize_model(original, tmp_path / "out.pt", shape)
    assert not list(tmp_path.iterdir())


def test_a_model_with_different_outputs_is_not_written(tmp_path: Path) -> None:
    damaged = _save_network(tmp_path / "damaged.pth", damaged=True)
    with pytest.raises(BadCheckpoint, match="changes once optimized"):
        optimize_model(damaged, tmp_path / "out.pt", SHAPE)
    assert not (tmp_path / "out.pt").exists()


def test_torchscript_is_not_optimized_again(optimized: Path, tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="TorchScript already"):
        optimize_model(optimized, tmp_path / "out.pt", SHAPE)


def test_an_output_that_cannot_be_written_is_an_error(original: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOutput, match=r"file/out\.pt"):
        optimize_model(original, tmp_path / "file" / "out.pt", SHAPE)
