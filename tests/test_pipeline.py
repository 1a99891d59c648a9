"""The pipeline with the shipped weights on small blocks of the synthetic chest."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from src import __version__
from src.data.geometry import canonical
from src.data.loader import load_scan
from src.data.lung_finder import find_lungs
from src.data.lungs import check_chest
from src.detection import sliding_window
from src.errors import BadConfig, BadScan
from src.inference.main import InferencePipeline
from src.results.output_formatter import load_detections
from src.runs.outputs import output_names, write_outputs
from src.triage.model import default_model, score
from src.types import Detection, Scan, Volume

from .small_scans import block, chest, save_nifti, tiny_checkpoint

CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "tta": {"inference": {"tta": {"enabled": True, "num_augmentations": 3, "augmentations": ["flip_x", "flip_z"]}}},
    "whole volume": {"inference": {"mode": "whole_volume", "batch_size": 1}},
    "small patches": {"inference": {"patch_size": [48, 48, 48], "overlap": 0.5, "batch_size": 3}},
    "linear": {"inference": {"patch_size": [48, 48, 48], "stride": [24, 32, 48], "blending": {"method": "linear"}}},
}


def off(found: Detection, number: int = 0) -> float:
    """The distance from the finding to the true nodule in mm."""
    return float(np.linalg.norm(np.subtract(found["coordinates"], block(number)[1].coordinates)))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_finds_and_measures_the_nodule(name: str) -> None:
    ready = InferencePipeline(config=CONFIGS[name])
    steps: list[tuple[int, int]] = []
    results = ready.predict(block()[0], progress=lambda done, total: steps.append((done, total)))
    first = results["detections"][0]
    assert off(first) < 2
    assert first["diameter_mm"] == pytest.approx(20, abs=1)
    assert first["diameter_source"] == "segmentation"
    windows = results["metadata"]["windows"]
    assert windows == {"small patches": 8, "linear": 8}.get(name, 1) + 1  # and those of the second look
    assert {total for _, total in steps} == {windows}
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})
    assert steps[-1][0] == windows
    heatmap = results["heatmap"]
    assert heatmap.shape == block()[0].shape
    assert heatmap.dtype == np.float32
    assert 0 <= heatmap.min() < 0.1
    assert 0.4 < heatmap[first["coordinates_voxel"]] <= heatmap.max() <= 1


def test_augmentation_changes_the_heatmap_a_little() -> None:
    plain, averaged = (InferencePipeline(config=CONFIGS[name]).predict(block()[0]) for name in ("default", "tta"))
    difference = np.abs(np.asarray(plain["heatmap"]) - np.asarray(averaged["heatmap"]))
    assert 0.001 < difference.max() < 0.5
    assert plain["metadata"]["config"]["inference"]["tta"]["enabled"] is False


class Overflowing(torch.nn.Module):
    """Adds a term that is 0 in float32 and NaN in float16, whose maximum is 65,504."""

    output_stride = 2

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.multiple = model, model.multiple

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        large = torch.full((1, 1), 300.0)
        maps: torch.Tensor = self.model(x)
        return maps.float() + 0 * torch.mm(large, large).float().sum()


def test_windows_that_overflow_in_half_precision_are_repeated_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"inference": {"patch_size": [48, 48, 48], "batch_size": 3}}
    ready = InferencePipeline(tiny_checkpoint(tmp_path / "tiny.pth"), config)
    expected = ready.predict(block()[0])
    ready.network.model = Overflowing(ready.network.model)
    monkeypatch.setattr(sliding_window, "precision", lambda *_, **__: torch.float16)
    results = ready.predict(block()[0])
    assert results["metadata"]["windows"] == 9
    assert results["metadata"]["windows_retried"] == 8
    assert expected["metadata"]["windows_retried"] == 0
    np.testing.assert_allclose(results["heatmap"], expected["heatmap"], atol=1e-3)
    assert "block_0: 8 batches overflowed in half precision and were repeated in float32" in caplog.text


@pytest.mark.parametrize("order", [[[0, 1], [1, 1], [2, 1]], [[2, -1], [0, 1], [1, -1]], [[1, 1], [0, -1], [2, -1]]])
def test_outputs_lie_on_the_scan_for_any_axis_order(order: list[list[int]], tmp_path: Path) -> None:
    scan, nodule = block()
    image = nibabel.Nifti1Image(scan.array, scan.affine).as_reoriented(order)
    turned = Scan(np.asarray(image.dataobj), image.affine, "turned")
    ready = InferencePipeline()
    results = ready.predict(turned)
    write_outputs(turned, results, ready.config, tmp_path)
    overlay = nibabel.Nifti1Image.from_filename(tmp_path / "turned_heatmap.nii.gz")
    assert overlay.shape == turned.shape
    np.testing.assert_allclose(overlay.affine, turned.affine, atol=1e-4)
    hottest = np.unravel_index(np.argmax(overlay.get_fdata()), overlay.shape)
    (first,) = load_detections(tmp_path / "turned_detections.json")
    lps = np.array([-1, -1, 1]) * nibabel.affines.apply_affine(overlay.affine, hottest)
    assert np.linalg.norm(lps - nodule.coordinates_lps) < 4
    assert np.linalg.norm(np.subtract(first["coordinates_lps"] or (0, 0, 0), nodule.coordinates_lps)) < 2
    np.testing.assert_allclose(np.divide(first["coordinates"], turned.spacing), first["coordinates_voxel"], atol=0.51)
    spread = np.abs(overlay.get_fdata() - np.asarray(results["heatmap"])).max()
    assert spread <= 0.5 / 255 + 1e-6


def test_the_guides_calls_work_on_a_loaded_scan(tmp_path: Path) -> None:
    scan, spacing = load_scan(save_nifti(block()[0], tmp_path / "patient_001.nii.gz"))
    ready = InferencePipeline(checkpoint="checkpoints/best_model.pth", config={}, device="cpu")
    results = ready.predict(scan, spacing)
    ready.save_detections(results, tmp_path / "detections.json")
    ready.save_detections(results, tmp_path / "detections.csv")
    ready.save_heatmap(results["heatmap"], tmp_path / "heatmap.nii.gz")
    ready.save_heatmap(results["heatmap"], tmp_path / "heatmap.npy")
    report = json.loads((tmp_path / "detections.json").read_text())
    assert "heatmap" not in report
    assert load_detections(tmp_path / "detections.json") == report["detections"]
    np.testing.assert_allclose(np.load(tmp_path / "heatmap.npy"), results["heatmap"])
    overlay = nibabel.Nifti1Image.from_filename(tmp_path / "heatmap.nii.gz")
    np.testing.assert_allclose(overlay.affine, block()[0].affine, atol=1e-4)
    rows = (tmp_path / "detections.csv").read_text().splitlines()
    assert rows[0] == (
        "scan_id,detection_id,coord_x,coord_y,coord_z,diameter_mm,confidence,malignancy_score,risk_category"
    )
    assert len(rows) == 1 + len(report["detections"])
    triage = report["detections"][0]["triage"]
    assert rows[1].endswith(f",{triage['malignancy_score']},{triage['risk_category']}")
    assert off(report["detections"][0]) < 2


def test_a_plain_array_is_placed_by_its_spacing_alone() -> None:
    scan, _ = block()
    results = InferencePipeline().predict(np.asarray(scan.array), scan.spacing)
    assert off(results["detections"][0]) < 2
    assert results["detections"][0]["coordinates_lps"] is None


def test_the_report_states_its_provenance(tmp_path: Path) -> None:
    scan, _ = block()
    ready = InferencePipeline(config={"output": {"formats": {"detections": "both"}}, "inference": {"batch_size": 2}})
    files = write_outputs(scan, ready.predict(scan), ready.config, tmp_path, seconds_to_read=1.5)
    assert [file.name for file in files] == output_names("block_0", ready.config)
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in files}
    report = json.loads(files[-1].read_text())
    assert list(report) == [
        "scan_id",
        "model",
        "timestamp",
        "metadata",
        "detections",
        "masses",
        "candidates",
        "summary",
    ]
    about = report["metadata"]
    assert about["spacing"] == [2, 2, 2.5]
    assert about["shape"] == list(scan.shape)
    np.testing.assert_allclose(about["affine"], scan.affine)
    assert about["checkpoint"]["sha256"] == ready.checkpoint.sha256
    assert about["config"]["inference"]["batch_size"] == 2
    assert about["versions"]["pivot"] == __version__
    assert list(about["timings_seconds"]) == ["read", "preprocess", "inference", "postprocess", "write"]
    assert about["timings_seconds"]["read"] == 1.5
    summary = report["summary"]
    assert summary["num_detections"] == len(report["detections"]) == 1
    (found,) = report["detections"]
    counted = {risk: summary[f"{risk}_risk_count"] for risk in ("high", "intermediate", "low")}
    assert counted == {**dict.fromkeys(counted, 0), found["triage"]["risk_category"]: 1}
    assert summary["unscored_count"] == 0
    assert {"id", "coordinates", "coordinates_voxel", "coordinates_lps", "diameter_mm", "confidence"} < set(found)
    assert found["triage"] == score(found["properties"], found["diameter_mm"])
    assert about["triage"]["model"] == default_model().name
    assert found["properties"]["mean_intensity"] == pytest.approx(0, abs=60)


@pytest.mark.parametrize(
    ("scan", "spacing", "message"),
    [
        (np.zeros((20, 20, 20)), None, r"needs its spacing: predict\(scan, spacing\)"),
        (np.zeros((20, 20, 20)), (1, 1), "must be three positive numbers"),
        (np.zeros((20, 20, 20)), (1, 0, 1), "must be three positive numbers"),
        (np.zeros((20, 20, 20)), (1, 1, np.nan), "must be three positive numbers"),
        (np.zeros((20, 20)), (1, 1, 1), "the given array holds a 2D image"),
        (np.zeros((20, 20, 20, 3)), (1, 1, 1), "the given array holds 4D data"),
        (np.zeros((1, 1, 1)), (1, 1, 1), "has only 1 x 1 x 1 voxels"),
        (np.zeros((30, 30, 30)), (1, 1, 1), "holds the value 0 in every voxel"),
        (np.full((30, 30, 30), np.nan), (1, 1, 1), "holds 27000 NaN or infinite voxels"),
        (np.random.default_rng(0).random((30, 30, 30)), (1, 1, 1), "look normalised"),
        (np.zeros((30, 30, 30), complex), (1, 1, 1), "holds complex128 values"),
        (Volume(np.zeros((30, 30, 30)), np.eye(4)), (1, 1, 2), r"\[1.0, 1.0, 2.0\] contradicts the scan's own"),
    ],
)
def test_an_array_that_is_not_a_scan_is_refused(scan: Any, spacing: Any, message: str, tmp_path: Path) -> None:  # noqa: ANN401
    with pytest.raises(BadScan, match=message):
        InferencePipeline(tiny_checkpoint(tmp_path / "tiny.pth")).predict(scan, spacing)


@pytest.mark.parametrize("part", ["HEAD", "HEADNECK", "ABDOMEN", "ABDOMENPELVIS", "LSPINE", "KNEE"])
def test_a_scan_of_another_body_part_without_lungs_is_refused(part: str, tmp_path: Path) -> None:
    scan = dataclasses.replace(block()[0], body_part=part)
    message = f"no lungs are recognised: .* and BodyPartExamined is {part}: give a CT of the chest"
    with pytest.raises(BadScan, match=message):
        InferencePipeline(tiny_checkpoint(tmp_path / "tiny.pth")).predict(scan)


@pytest.mark.parametrize(
    "part", ["", "CHEST", "CHEST TO PELVIS", "CHESTABDOMEN", "THORAX", "WHOLEBODY", "HEART", "NECKTOABDOMEN", "PHARMA"]
)
def test_a_scan_that_may_be_a_chest_is_searched_even_without_lungs(part: str, tmp_path: Path) -> None:
    scan = dataclasses.replace(block()[0], body_part=part)
    results = InferencePipeline(tiny_checkpoint(tmp_path / "tiny.pth")).predict(scan)
    assert results["metadata"]["lungs"]["recognised"] is False
    assert results["summary"]["lung_rads"]["category"] is None


def test_recognised_lungs_override_the_stated_body_part() -> None:
    lungs = find_lungs(*canonical(chest()[0].array, chest()[0].affine))
    check_chest("HEAD", lungs)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"normalization_method": "zscore"}, "input.normalization_method is 'zscore', but .* trained with 'minmax'"),
        ({"normalize": False}, "input.normalize is False, but the model was trained with True"),
        ({"spacing": [2, 2, 2]}, r"input.spacing is \(2.0, 2.0, 2.0\), but .* trained with \(1.0, 1.0, 1.0\)"),
        ({"clip_range": [-1000, 1000]}, "input.clip_range"),
    ],
)
def test_a_config_that_contradicts_the_model_is_refused(wanted: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=message):
        InferencePipeline(tiny_checkpoint(tmp_path / "tiny.pth"), {"input": wanted})


def test_a_model_gets_the_intensities_and_spacing_it_was_trained_with(tmp_path: Path) -> None:
    zscore = tiny_checkpoint(tmp_path / "z.pth", preprocessing={"normalization_method": "zscore", "spacing": (2, 2, 2)})
    ready = InferencePipeline(zscore, {"input": {"normalization_method": "zscore", "spacing": [2, 2, 2]}})
    seen: list[torch.Tensor] = []
    ready.network.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    ready.predict(block()[0])
    assert seen[0].shape[2:] == (32, 32, 36)  # voxels of 2 mm; multiples of 4
    assert abs(float(seen[0].mean())) < 0.1


def test_a_missing_device_is_replaced_by_the_cpu_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "pivot"):
        assert InferencePipeline(tiny_checkpoint(tmp_path / "tiny.pth"), device="cuda:99").device.type == "cpu"
    assert "cuda:99 is not available" in caplog.text


def test_a_pipeline_restores_the_hosts_settings(tmp_path: Path) -> None:
    seen: list[bool] = []
    before = torch.backends.cudnn.benchmark
    ready = InferencePipeline(tiny_checkpoint(tmp_path / "tiny.pth"), {"inference": {"cudnn_benchmark": not before}})
    ready.network.model.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.benchmark))
    ready.predict(block()[0])
    assert set(seen) == {not before}
    assert torch.backends.cudnn.benchmark is before


def test_another_configuration_shares_the_weights(tmp_path: Path) -> None:
    ready = InferencePipeline(tiny_checkpoint(tmp_path / "tiny.pth"))
    other = ready.with_config({"inference": {"batch_size": 1}})
    assert other.checkpoint is ready.checkpoint
    assert (other.device, other.config.inference.batch_size) == (ready.device, 1)
    assert ready.config.inference.batch_size == 4
