"""Exported networks (ONNX): they give the output of the original, and run only operators that ONNX defines."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper

from src.config import load_config
from src.detection.segmenter import Segmenter
from src.detectors.opening import open_model
from src.detectors.recipe import Foreign
from src.errors import BadCheckpoint
from src.types import Scan

PATCH = [16, 16, 8]
SIDES = ("x", "y", "z")


def weights() -> Any:  # noqa: ANN401
    return np.random.default_rng(0).normal(size=(2, 1, 3, 3, 3)).astype(np.float32)


def graph(operator: str = "Conv", domain: str = "", pads: int = 1) -> Any:  # noqa: ANN401
    """One convolution with two channels, for patches of any size."""
    attributes: dict[str, Any] = {"pads": [pads] * 6} if operator == "Conv" else {}
    node = helper.make_node(operator, ["image", "kernel"], ["maps"], domain=domain, **attributes)
    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, *(f"{name}_{side}" for side in SIDES)])
        for name, channels in (("image", 1), ("maps", 2))
    ]
    made = helper.make_graph([node], "conv", shapes[:1], shapes[1:], [numpy_helper.from_array(weights(), "kernel")])
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(made, opset_imports=opsets, ir_version=9)


def save(folder: Path, model: Any, **model_keys: Any) -> Path:  # noqa: ANN401
    folder.mkdir()
    if model is not None:
        (folder / "model.onnx").write_bytes(model.SerializeToString())
    description = {
        "model": {"architecture": "program", **model_keys},
        "preprocessing": {"spacing": [1, 1, 1], "clip_range": [-1000, 400]},
        "inference": {"patch_size": PATCH, "overlap": 0.5},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(description))
    return folder


def test_an_exported_network_gives_the_output_of_the_original(tmp_path: Path) -> None:
    model = open_model(save(tmp_path / "model", graph()))
    assert isinstance(model, Foreign)
    hu = np.random.default_rng(1).integers(-1000, 400, (20, 24, 12)).astype(np.int16)
    volume = model.grid.laid(Scan(hu, np.eye(4))).prepared(None)
    config = load_config({"model": {"mixed_precision": False}})
    found, windows, _ = Segmenter(model, config, torch.device("cpu")).probability(volume, None)
    whole = torch.conv3d(torch.from_numpy(volume.array)[None], torch.from_numpy(weights()), padding=1)
    expected = whole.softmax(dim=0)[1].numpy()
    assert windows > 1
    middle = (slice(6, 10), slice(6, 10), slice(3, 5))  # far from the edges of at least one window
    np.testing.assert_allclose(found[1, 1, 1], expected[1, 1, 1], atol=1e-5)
    np.testing.assert_allclose(found[middle], expected[middle], atol=0.05)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (graph("Evil", "com.evil"), r"com\.evil\.Evil"),
        (graph(pads=0), "not with maps of its size"),
        (graph("NoSuchOperator"), "cannot be run"),
        (None, "cannot read model.onnx"),
    ],
    ids=["a custom operator", "outputs smaller than the patch", "an unknown operator", "a missing file"],
)
def test_an_unusable_program_is_refused(tmp_path: Path, model: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(BadCheckpoint, match=message):
        open_model(save(tmp_path / "model", model))


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    model = graph()
    onnx.external_data_helper.convert_model_to_external_data(model, location="../secret.bin", size_threshold=0)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location="../secret.bin")
    with pytest.raises(BadCheckpoint, match="other files"):
        open_model(save(tmp_path / "model", model))


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "model.pth", "a/model.onnx"])
def test_a_program_must_be_an_onnx_file_beside_its_description(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadCheckpoint, match="file"):
        open_model(save(tmp_path / "model", graph(), file=name))


def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", None)
    (folder / "model.onnx").write_bytes(b"no graph at all")
    with pytest.raises(BadCheckpoint, match="damaged or no ONNX"):
        open_model(folder)


@pytest.mark.parametrize("described", [{}, {"file": "model.pt2"}])
def test_a_torch_export_file_is_never_loaded(tmp_path: Path, described: dict[str, str]) -> None:
    folder = save(tmp_path / "model", None, **described)
    (folder / "model.pt2").write_bytes(b"whatever it holds")
    for given in (folder, folder / "model.pt2"):
        with pytest.raises(BadCheckpoint, match=r"model\.pt2.* is refused: torch\.export\.load unpickles"):
            open_model(given)


def test_the_suggested_conversion_from_torch_export_to_onnx_works(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", None)
    kernel = torch.nn.Conv3d(1, 2, 3, padding=1).eval()
    torch.export.save(torch.export.export(kernel, (torch.zeros(1, 1, *PATCH),)), folder / "model.pt2")
    with pytest.raises(BadCheckpoint) as error:
        open_model(folder)
    command = re.search(r'python -c "(.+?)"', str(error.value))
    assert command
    subprocess.run([sys.executable, "-c", command[1].replace("IN.pt2", "model.pt2")], cwd=folder, check=True)
    patch = torch.rand(1, 1, *PATCH)
    with torch.inference_mode():
        torch.testing.assert_close(open_model(folder).model(patch), kernel(patch), atol=1e-4, rtol=0)
