"""Engines: outputs equal those of PyTorch, graphs are cached for the next run, missing engines give clear errors."""

import importlib.util
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import psutil
import pytest
import torch

from src.config import load_config
from src.errors import BadConfig
from src.inference.main import InferencePipeline
from src.model import engines
from src.model.checkpoint import Checkpoint, load_model, save_checkpoint
from src.model.device import autocast
from src.model.engines import Engine, open_engine, pick_engine
from src.model.graphs import PACKAGES, GraphKind, in_bfloat16
from src.model.unet import UNet

from .small_scans import block, tiny_checkpoint

CPU = torch.device("cpu")
GRAPHS: tuple[GraphKind, ...] = get_args(GraphKind)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return load_model(tiny_checkpoint(tmp_path / "tiny.pth"))


def _answer(
    tiny: Checkpoint, engine: Engine, x: torch.Tensor, *, mixed: bool
) -> tuple[torch.Tensor, engines.EngineNetwork]:
    network = open_engine(tiny, engine, CPU, mixed=mixed)
    with torch.inference_mode(), autocast(CPU, torch.bfloat16 if mixed else torch.float32):
        return network(x).float(), network


@pytest.mark.parametrize("mixed", [False, True])
def test_folded_pytorch_gives_the_outputs_of_the_checkpoint(tiny: Checkpoint, mixed: bool) -> None:
    x = torch.rand(3, 1, 8, 12, 16)
    answer, network = _answer(tiny, "torch", x, mixed=mixed)
    with torch.inference_mode():
        expected = tiny.model(x)
    torch.testing.assert_close(answer, expected, atol=0.05 if mixed else 1e-5, rtol=0.02 if mixed else 1e-5)
    assert (network.output_stride, network.multiple) == (2, 4)


def test_the_last_layer_is_not_rounded_in_half_precision() -> None:
    network = UNet((4, 8)).eval()
    last = network.head[-1]
    with torch.inference_mode():
        last.get_parameter("weight").zero_()
        last.get_parameter("bias").fill_(-4.6732)  # -4.6875 in bfloat16
        heat = in_bfloat16(network)(torch.rand(1, 1, 8, 8, 8))[:, 0]
    torch.testing.assert_close(heat, torch.full_like(heat, -4.6732).sigmoid())


@pytest.mark.parametrize("kind", GRAPHS)
def test_a_graph_gives_the_outputs_of_pytorch_and_is_built_once(
    kind: GraphKind, tiny: Checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip(PACKAGES[kind])
    x = torch.rand(2, 1, 8, 12, 16)
    answer, network = _answer(tiny, kind, x, mixed=False)
    with torch.inference_mode():
        torch.testing.assert_close(answer, tiny.model(x), atol=1e-4, rtol=1e-4)
    assert network.difference is not None
    assert network.difference < 1e-4
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache" / "pivot" / "graphs").iterdir()}
    assert len(files) == 2
    assert caplog.text.count("once") == 1
    again, other = _answer(tiny, kind, x, mixed=False)
    torch.testing.assert_close(again, answer)
    assert other.difference == network.difference
    assert {file: file.stat().st_mtime_ns for file in files} == files
    assert caplog.text.count("once") == 1


@pytest.mark.parametrize("engine", ["torch", *GRAPHS])
def test_each_of_two_threads_gets_the_output_for_its_own_input(
    engine: GraphKind | Literal["torch"], tiny: Checkpoint
) -> None:
    pytest.importorskip("torch" if engine == "torch" else PACKAGES[engine])
    network = open_engine(tiny, engine, CPU, mixed=False)
    inputs = [torch.full((1, 1, 24, 24, 24), 0.1), torch.rand(1, 1, 24, 24, 24)]
    start = threading.Barrier(2)

    def ask(x: torch.Tensor) -> list[torch.Tensor]:
        start.wait()
        with torch.inference_mode():
            return [network(x) for _ in range(20)]

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(ask, inputs))
    with torch.inference_mode():
        for x, got in zip(inputs, answers, strict=True):
            expected = tiny.model(x)
            assert max(float((answer - expected).abs().max()) for answer in got) < 1e-3
    assert len(network.graphs) == (engine != "torch")


@pytest.mark.parametrize("engine", ["torch", *GRAPHS])
def test_each_of_two_threads_of_one_pipeline_gets_the_results_of_its_own_scan(
    engine: GraphKind | Literal["torch"], tiny: Checkpoint, tmp_path: Path
) -> None:
    pytest.importorskip("torch" if engine == "torch" else PACKAGES[engine])
    state = dict(tiny.model.state_dict())
    state["head.2.weight"] = 3000 * state["head.2.weight"]  # a random network gives nearly the same output everywhere
    state["head.2.bias"] = torch.tensor([2.0, 2.0, 0.0])
    save_checkpoint(tmp_path / "lively.pth", state, tiny.about)
    looks = {"patch_size": [32, 32, 32], "stride": [32, 32, 32], "region": "everything", "second_look": False}
    config = {
        "inference": {**looks, "engine": engine},
        "model": {"mixed_precision": False},
        "post_processing": {"confidence_filter": {"min_confidence": 1}},  # otherwise candidates would be measured
    }
    ready = InferencePipeline(tmp_path / "lively.pth", config)
    scans = [block(0)[0], block(2)[0]]
    alone = [np.asarray(ready.predict(scan)["heatmap"]) for scan in scans]
    assert np.abs(alone[0] - alone[1]).max() > 0.05
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(ready.predict, scans * 2))
    for number, results in enumerate(together):
        assert results["scan_id"] == scans[number % 2].scan_id
        np.testing.assert_allclose(results["heatmap"], alone[number % 2], atol=1e-3)


@pytest.mark.parametrize("kind", GRAPHS)
def test_a_cached_graph_that_does_not_open_is_rebuilt(kind: GraphKind, tiny: Checkpoint, tmp_path: Path) -> None:
    """For example, OpenVINO's graph for another processor, if machines share a home folder."""
    pytest.importorskip(PACKAGES[kind])
    x = torch.rand(1, 1, 8, 12, 16)
    answer, _ = _answer(tiny, kind, x, mixed=False)
    for file in (tmp_path / "cache" / "pivot" / "graphs").iterdir():
        if file.suffix != ".json":
            file.write_bytes(b"another processor's")
    again, _ = _answer(tiny, kind, x, mixed=False)
    torch.testing.assert_close(again, answer)


def test_a_graph_is_used_for_one_run_if_the_cache_cannot_be_written(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    x = torch.rand(1, 1, 8, 12, 16)
    answer, _ = _answer(tiny, "torchscript", x, mixed=False)
    with torch.inference_mode():
        torch.testing.assert_close(answer, tiny.model(x), atol=1e-4, rtol=1e-4)
    assert "this run only" in caplog.text


SIGNALLED = """
import os, signal, sys
from src.model.checkpoint import load_model
from src.model.graphs import GraphSource, open_graph

checkpoint = load_model(sys.argv[1])
source = GraphSource(checkpoint.model, checkpoint.sha256, half=False)
first, second = (open_graph("openvino", source, (1, 1, 8, 8, size))[0] for size in (8, 16))
del first
del second
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_process_that_has_used_openvino_still_handles_signals(tiny: Checkpoint, root: Path) -> None:
    pytest.importorskip("openvino")
    command = [sys.executable, "-c", SIGNALLED, str(tiny.path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.parametrize(
    ("engine", "device", "installed", "scripted", "message"),
    [
        ("openvino", "cpu", False, False, r"pip install 'pivot-ct\[openvino\]'"),
        ("onnx", "cpu", False, False, r"uv sync --extra onnx"),
        ("onnx", "cuda", True, False, "not for device cuda"),
        ("export", "cpu", True, True, "not for a TorchScript checkpoint"),
    ],
)
def test_an_unavailable_engine_is_refused(
    engine: Engine, device: str, installed: bool, scripted: bool, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object() if installed else None)
    with pytest.raises(BadConfig, match=message):
        pick_engine(engine, torch.device(device), mixed=False, scripted=scripted)


@pytest.mark.parametrize(
    ("dtype", "installed", "tiled", "expected"),
    [
        (torch.bfloat16, True, False, None),
        (torch.float32, True, False, "openvino"),
        (torch.float32, False, False, None),
        (torch.float32, True, True, None),
    ],
)
def test_auto_chooses_the_fastest_available_engine(
    dtype: torch.dtype, installed: bool, tiled: bool, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "precision", lambda *_, **__: dtype)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object() if installed else None)
    assert pick_engine("auto", CPU, mixed=True, tiled=tiled) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_freed_memory_is_kept_during_inference_and_returned_afterwards(tiny: Checkpoint) -> None:
    open_engine(tiny, "torch", CPU, mixed=False)
    process, blocks = psutil.Process(), [torch.ones(2**22) for _ in range(20)]  # 16 MiB each
    full = process.memory_info().rss
    del blocks
    assert full - process.memory_info().rss < 2**24
    engines.return_freed_memory()
    assert full - process.memory_info().rss > 10 * 2**24


@pytest.mark.parametrize("given", [{"engine": "tensorrt"}, {"speed": "faster"}, {"region": "brain"}])
def test_settings_that_do_not_exist_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(BadConfig, match=f"inference.{next(iter(given))}"):
        load_config({"inference": given})
