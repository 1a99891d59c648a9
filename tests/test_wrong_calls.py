"""Documented functions accept the same kinds of arguments; anything else is a one-sentence PIVOT error."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from src.api.client import InferenceClient
from src.data.geometry import to_lps
from src.data.loader import load_scan, read_scan
from src.data.phantom import PhantomNodule
from src.data.preprocessing import preprocess
from src.errors import PivotError
from src.inference.distributed import distributed_inference
from src.inference.main import InferencePipeline, batch_inference
from src.inference.nodule_properties import extract_properties
from src.inference.output_formatter import load_detections
from src.inference.peak_detection import detect_peaks
from src.inference.post_processing import non_maximum_suppression
from src.inference.sliding_window import sliding_window_inference
from src.inference.torchscript_optimizer import optimize_model
from src.inference.triage_calibration import calibrate_scores
from src.model.checkpoint import load_model
from src.triage.model import score
from src.types import Scan
from src.viz.confidence import plot_confidence_distribution
from src.viz.overlay import visualize_detections
from src.viz.rendering_3d import render_3d_volume
from src.viz.report import generate_report
from tests.small_scans import block, save_nifti, tiny_checkpoint

LONGEST = 420  # maximum characters of a message
CALIBRATION = "calibration/triage_calibration.json"


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Any:  # noqa: ANN401 - a bag of what calls need
    """A folder with a scan, a model and its results."""
    folder = tmp_path_factory.mktemp("calls")
    scan, nodule = block()
    path = save_nifti(scan, folder / "patient_001.nii.gz")
    weights = tiny_checkpoint(folder / "tiny.pth")
    loaded = load_model(weights)
    small = {"inference": {"patch_size": [32, 32, 32]}}
    pipeline = InferencePipeline(loaded, small, torch.device("cpu"))
    results = pipeline.predict(path)
    results["detections"], results["masks"] = [_detection(scan, nodule)], [None]  # the tiny network misses the nodule
    pipeline.save_detections(results, folder / "report.json")
    pipeline.save_heatmap(results, folder / "heatmap.nii.gz")
    array, spacing = load_scan(path)
    (folder / "list.json").write_text("[1, 2]")
    return SimpleNamespace(
        folder=folder, path=path, weights=weights, model=loaded.model, loaded=loaded, pipeline=pipeline, small=small,
        results=results, array=array, spacing=spacing, nodule=nodule,
        client=InferenceClient("http://localhost:9", retries=0),
        found=results["detections"], report=folder / "report.json", heatmap=folder / "heatmap.nii.gz",
        **{one.__name__: one for one in CALLED},
    )  # fmt: skip


CALLED = (
    InferenceClient, InferencePipeline, batch_inference, calibrate_scores, detect_peaks, distributed_inference,
    extract_properties, generate_report, load_detections, load_model, load_scan, non_maximum_suppression,
    optimize_model, plot_confidence_distribution, read_scan, render_3d_volume, sliding_window_inference,
    visualize_detections,
)  # fmt: skip


def _detection(scan: Scan, nodule: PhantomNodule) -> Any:  # noqa: ANN401 - TypedDicts
    """A detection of the synthetic nodule as a network gives it."""
    properties = extract_properties(scan, nodule.coordinates, nodule.diameter_mm)
    index = np.divide(nodule.coordinates, scan.spacing)
    place = tuple(to_lps(scan.affine, index).tolist())
    return {
        "id": 0, "coordinates": nodule.coordinates, "coordinates_voxel": tuple(np.round(index).astype(int).tolist()),
        "coordinates_lps": place, "peak_lps": place, "diameter_mm": nodule.diameter_mm,
        "diameter_source": "segmentation", "confidence": 0.9, "properties": properties,
        "triage": score(properties, nodule.diameter_mm),
    }  # fmt: skip


MARK = {"coordinates": (10.0, 10.0, 10.0), "diameter_mm": 5.0, "confidence": 0.5}
Call = Callable[[Any], object]
WRONG: list[tuple[str, Call]] = [
    # reading
    ("the scan must be a path, not 5", lambda at: at.load_scan(5)),
    ("the scan must be a path, not None", lambda at: at.load_scan(None)),
    ("the scan must be a path, not ''", lambda at: at.load_scan("")),
    ("the scan must be a path, not an array of shape", lambda at: at.load_scan(at.array)),
    ("the scan must be a path", lambda at: at.read_scan("a\0b.nii")),
    ("no such file", lambda at: at.load_scan(at.folder / "none.nii.gz")),
    ("the detections must be a path, not 5", lambda at: at.load_detections(5)),
    ("lacks scan_id", lambda at: at.load_detections(at.folder / "list.json")),
    # the model
    ("the checkpoint must be a path, not 3", lambda at: at.InferencePipeline(3)),
    ("unknown device 'gpu'", lambda at: at.InferencePipeline(at.loaded, device="gpu")),
    ("unknown device 0", lambda at: at.InferencePipeline(at.loaded, device=0)),
    ("config must be a path, not 7", lambda at: at.InferencePipeline(at.loaded, 7)),
    ("config must be a path", lambda at: at.InferencePipeline(at.loaded, ["a"])),
    (
        "belongs to post_processing.peak_detection.threshold",
        lambda at: at.InferencePipeline(at.loaded, {"threshold": 0.3}),
    ),
    ("belongs to inference.tta.enabled", lambda at: at.InferencePipeline(at.loaded, {"tta.enabled": True})),
    (
        "belongs to inference.tta, as in `inference: ",
        lambda at: at.InferencePipeline(at.loaded, {"tta": {"enabled": True}}),
    ),
    (
        "belongs to post_processing.size_filter.min_diameter",
        lambda at: at.InferencePipeline(at.loaded, {"inference": {"min_diameter": 4}}),
    ),
    ("every scan is resampled", lambda at: at.InferencePipeline(at.loaded, {"input": {"spacing": [2, 2, 2]}})),
    ("every scan is resampled", lambda at: at.InferencePipeline(at.loaded, {"input": {"clip_range": [-1200, 600]}})),
    ("the checkpoint must be a path, not an array", lambda at: at.load_model(at.array)),
    ("output_path must be a path", lambda at: at.optimize_model(at.weights, 5)),
    ("example_input_shape 64", lambda at: at.optimize_model(at.weights, at.folder / "a.pt", 64)),
    # predict
    ("no such file", lambda at: at.pipeline.predict("scan.nii.gz")),
    ("the scan must be an array of numbers, not None", lambda at: at.pipeline.predict(None)),
    ("the scan must be an array of numbers, not a dict", lambda at: at.pipeline.predict({"scan": 1})),
    ("needs its spacing", lambda at: at.pipeline.predict(np.asarray(at.array))),
    ("three positive numbers", lambda at: at.pipeline.predict(np.asarray(at.array), "1,1,1")),
    ("three positive numbers", lambda at: at.pipeline.predict(np.asarray(at.array), 1.0)),
    ("three positive numbers", lambda at: at.pipeline.predict(np.asarray(at.array), (1, 1, "x"))),
    ("contradicts the scan's own", lambda at: at.pipeline.predict(at.path, (9.0, 9.0, 9.0))),
    ("cannot name files", lambda at: at.pipeline.predict(at.path, scan_id="../up")),
    ("cannot name files", lambda at: at.pipeline.predict(at.path, scan_id=5)),
    ("patient must be a path, not 62", lambda at: at.pipeline.predict(at.path, patient=62)),
    ("path must be a path, not None", lambda at: at.pipeline.save_detections(at.results, None)),
    ("it lacks scan_id", lambda at: at.pipeline.save_detections(at.found, at.folder / "a.json")),
    ("it lacks scan_id", lambda at: at.pipeline.save_detections({}, at.folder / "a.json")),
    ("heatmap is an array of numbers of shape", lambda at: at.pipeline.save_heatmap(5, at.folder / "a.nii.gz")),
    ("the heatmap must be an array", lambda at: at.pipeline.save_heatmap(None, at.folder / "a.nii.gz")),
    # single steps
    ("the scan is not prepared", lambda at: at.sliding_window_inference(at.model, at.array, device="cpu")),
    ("the scan is not prepared", lambda at: at.sliding_window_inference(at.model, at.path)),
    (
        "the scan is not prepared",
        lambda at: at.sliding_window_inference(at.model, torch.from_numpy(np.array(at.array))),
    ),
    ("model must be a network", lambda at: at.sliding_window_inference(7, np.zeros((9, 9, 9)))),
    ("scan must be a preprocessed array", lambda at: at.sliding_window_inference(at.model, np.zeros((2, 9, 9, 9)))),
    ("patch_size must be 3 numbers", lambda at: at.sliding_window_inference(at.model, np.zeros((9, 9, 9)), 32)),
    ("stride must be 3 numbers", lambda at: at.sliding_window_inference(at.model, np.zeros((9, 9, 9)), (32,) * 3, "x")),
    (
        "batch_size must be a number of at least 1",
        lambda at: at.sliding_window_inference(at.model, np.zeros((9, 9, 9)), batch_size=0),
    ),
    ("blending must be", lambda at: at.sliding_window_inference(at.model, np.zeros((9, 9, 9)), blending="cubic")),
    ("give the first, maps", lambda at: at.detect_peaks(np.zeros((3, 9, 9, 9)))),
    ("no such file|cannot read the heatmap", lambda at: at.detect_peaks(at.folder / "none.nii.gz")),
    ("the heatmap must be an array", lambda at: at.detect_peaks(None)),
    ("the heatmap must be an array", lambda at: at.detect_peaks({"detections": []})),
    ("threshold must be a number from 0 to 1", lambda at: at.detect_peaks(at.results, threshold="high")),
    ("threshold must be a number from 0 to 1", lambda at: at.detect_peaks(at.results, threshold=50)),
    ("min_distance must be a number", lambda at: at.detect_peaks(at.results, min_distance=None)),
    ("spacing must be 3 numbers", lambda at: at.detect_peaks(at.results, spacing=2.0)),
    ("method must be", lambda at: at.detect_peaks(at.results, method="maxima")),
    ("iou_threshold must be a number from 0 to 1", lambda at: at.non_maximum_suppression(at.found, "0.3")),
    ("holds no list", lambda at: at.non_maximum_suppression(5)),
    (r"detections\[0\] lacks coordinates or confidence", lambda at: at.non_maximum_suppression([{"diameter_mm": 5}])),
    (
        r"detections\[0\]: coordinates must be 3",
        lambda at: at.non_maximum_suppression([{**MARK, "coordinates": "here"}]),
    ),
    (r"detections\[0\]: diameter_mm must be", lambda at: at.non_maximum_suppression([{**MARK, "diameter_mm": "5"}])),
    (r"detections\[0\]: confidence must be", lambda at: at.non_maximum_suppression([{**MARK, "confidence": None}])),
    ("cannot read the detections", lambda at: at.non_maximum_suppression(at.folder / "none.json")),
    ("no such file", lambda at: at.extract_properties("scan.nii.gz", (1, 2, 3), 5.0)),
    ("coordinates must be 3 numbers, not 5", lambda at: at.extract_properties(at.array, 5, 5.0)),
    ("diameter must be a number", lambda at: at.extract_properties(at.array, (1, 2, 3), "large")),
    ("diameter must be a number", lambda at: at.extract_properties(at.array, (1, 2, 3), -1.0)),
    ("needs its spacing", lambda at: at.extract_properties(np.zeros((9, 9, 9)), (1, 2, 3), 5.0)),
    ("axial_axis must be", lambda at: at.extract_properties(at.array, (1, 2, 3), 5.0, axial_axis=3)),
    ("the calibration file must be a path", lambda at: at.calibrate_scores(at.found, {})),
    ("holds no list", lambda at: at.calibrate_scores(None, CALIBRATION)),
    ("cannot read the triage calibration", lambda at: at.calibrate_scores(at.found, at.folder / "none.json")),
    # pictures
    ("no such file", lambda at: at.visualize_detections("scan.nii.gz", at.found, None, at.folder / "a.png")),
    ("holds no list", lambda at: at.visualize_detections(at.array, None, at.spacing, at.folder / "a.png")),
    ("output_path must be a path", lambda at: at.visualize_detections(at.array, at.found, at.spacing, 5)),
    (
        "num_slices must be a number",
        lambda at: at.visualize_detections(at.array, [], at.spacing, at.folder / "a.png", "5"),
    ),
    (
        "alpha must be a number from 0 to 1",
        lambda at: at.visualize_detections(at.array, [], at.spacing, at.folder / "a.png", alpha=5),
    ),
    (
        "unknown colormap 5",
        lambda at: at.visualize_detections(at.array, [], at.spacing, at.folder / "a.png", colormap=5),
    ),
    (
        "diameter_mm is not known: measure it",
        lambda at: at.visualize_detections(at.path, [{**MARK, "diameter_mm": None}], None, at.folder / "a.png"),
    ),
    (
        "the scan must be an array of numbers|affine are unknown",
        lambda at: at.render_3d_volume(None, at.results, [], at.folder / "a.html"),
    ),
    ("output_path must be a path", lambda at: at.render_3d_volume(at.path, at.heatmap, at.report, None)),
    ("the heatmap must be an array", lambda at: at.render_3d_volume(at.path, None, at.report, at.folder / "a.html")),
    ("output_path must be a path", lambda at: at.plot_confidence_distribution(at.report, 5)),
    ("output_path must be a path", lambda at: at.generate_report(at.path, at.report, None)),
    ("needs its spacing", lambda at: at.generate_report(np.zeros((9, 9, 9)), [], at.folder / "a.pdf")),
    # batches
    ("input_dir must be a path, not 5", lambda at: at.batch_inference(at.weights, 5, at.folder / "out")),
    ("output_dir must be a path, not 5", lambda at: at.batch_inference(at.weights, at.folder, 5)),
    ("unknown device 'cude'", lambda at: at.batch_inference(at.weights, at.folder, at.folder / "out", device="cude")),
    ("num_workers", lambda at: at.batch_inference(at.weights, at.folder, at.folder / "out", num_workers="many")),
    ("ray.init|pip install", lambda at: at.distributed_inference(at.weights, at.path)),
    # the service
    ("base_url must be an address", lambda at: at.InferenceClient("localhost:8000")),
    ("base_url must be an address", lambda at: at.InferenceClient(None)),
    ("scan_path must be a path", lambda at: at.client.submit_inference(at.array)),
    ("config must be a path, not 5", lambda at: at.client.submit_inference(at.path, 5)),
    ("a value that YAML cannot express", lambda at: at.client.submit_inference(at.path, {"model": object()})),
    ("is it running at this address", lambda at: at.client.submit_inference(at.path, at.small)),
    ("job_id must be what submit_inference returned", lambda at: at.client.wait_for_results(None)),
    ("job_id must be what submit_inference returned", lambda at: at.client.download_results("../x", at.folder)),
    ("timeout must be a number", lambda at: at.client.wait_for_results("a", "long")),
]


@pytest.mark.parametrize(("words", "call"), WRONG, ids=[f"{n}: {words[:40]}" for n, (words, _) in enumerate(WRONG)])
def test_an_invalid_call_raises_a_one_sentence_error(at: Any, words: str, call: Call) -> None:  # noqa: ANN401
    with pytest.raises(PivotError, match=words) as caught:
        call(at)
    message = str(caught.value)
    assert len(message) <= LONGEST
    assert "Traceback" not in message
    assert "object at 0x" not in message


def test_the_table_has_at_least_60_invalid_calls() -> None:
    assert len(WRONG) >= 60


def test_functions_accept_the_same_kinds_of_arguments(at: Any) -> None:  # noqa: ANN401
    """Paths, arrays, tensors, devices, models, reports and lists of detections."""
    tensor = torch.from_numpy(np.array(at.array))
    names = [at.pipeline.predict(one, at.spacing)["scan_id"] for one in (at.path, str(at.path), at.array, tensor)]
    assert names == ["patient_001", "patient_001", "patient_001", "scan"]
    assert at.pipeline.predict(at.array, scan_id="other")["scan_id"] == "other"

    trained = at.loaded.about.preprocessing
    ready = preprocess(read_scan(at.path), trained.spacing, trained.clip_range, "minmax").array
    models: tuple[Any, ...] = (at.model, at.loaded, at.weights, str(at.weights))
    volume, cpu = torch.from_numpy(ready), torch.device("cpu")
    maps = [sliding_window_inference(one, volume, (32,) * 3, (32,) * 3, device=cpu) for one in models]
    for other in maps[1:]:
        np.testing.assert_array_equal(other, maps[0])

    heatmaps = (at.results, at.results["heatmap"], torch.from_numpy(np.array(at.results["heatmap"])))
    peaks = [detect_peaks(one, 0.3, spacing=at.spacing) for one in heatmaps]
    assert peaks[0] == peaks[1] == peaks[2] == detect_peaks(at.results, 0.3)  # the heatmap has its own spacing
    assert len(detect_peaks(at.heatmap, 0.3)) == len(peaks[0])

    for given in (at.results, at.found, at.report, str(at.report), json.loads(at.report.read_text())):
        assert len(non_maximum_suppression(given)) == len(at.found)
        assert len(calibrate_scores(given, CALIBRATION)) == len(at.found)

    size = at.nodule.diameter_mm
    measured = [extract_properties(one, at.nodule.coordinates, size, at.spacing) for one in (at.path, at.array)]
    assert measured[0] == measured[1]

    for number, given in enumerate((at.path, at.array, read_scan(at.path))):
        visualize_detections(given, at.found, None, at.folder / f"{number}.png", 1, heatmap=at.heatmap)
        render_3d_volume(given, at.results, at.results, at.folder / f"{number}.html")
        generate_report(given, at.results, at.folder / f"{number}.md")
    words = {(at.folder / f"{number}.md").read_text() for number in range(3)}
    assert len(words) == 1
    assert "patient_001" in words.pop()
    optimize_model(at.loaded, at.folder / "fast.pt", (1, 1, 32, 32, 32))


def test_the_guides_steps_work_in_sequence_from_plain_peaks() -> None:
    scan, nodule = block()
    heatmap = np.zeros(scan.shape, np.float32)
    centre = tuple(round(c / s) for c, s in zip(nodule.coordinates, scan.spacing, strict=True))
    for shift, height in ((0, 0.9), (1, 0.8)):
        heatmap[centre[0] + shift, centre[1], centre[2]] = height
    peaks = detect_peaks(heatmap=heatmap, threshold=0.5, min_distance=0, spacing=scan.spacing, method="nms")
    assert [peak["diameter_mm"] for peak in peaks] == [None, None]

    kept = non_maximum_suppression(detections=peaks, iou_threshold=0.3)  # type: ignore[arg-type]
    assert [mark["confidence"] for mark in kept] == [pytest.approx(0.9)]
    assert len(non_maximum_suppression(peaks, min_distance=0.01)) == 2  # type: ignore[arg-type]

    (unmeasured,) = calibrate_scores(kept, CALIBRATION)
    assert unmeasured["triage"]["malignancy_score"] is None
    assert "extract_properties" in str(unmeasured["triage"]["reason"])

    detection: Any = kept[0]
    properties = extract_properties(
        scan=scan, coordinates=detection["coordinates"], diameter=detection["diameter_mm"], spacing=scan.spacing
    )
    assert properties["effective_diameter_mm"] == pytest.approx(nodule.diameter_mm, rel=0.1)
    measured: Any = {**detection, "properties": properties}
    (scored,) = calibrate_scores([measured], CALIBRATION)
    assert 0 < (scored["triage"]["malignancy_score"] or 0) < 1


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_peak_is_measured_like_a_nodule_of_known_size(number: int) -> None:
    scan, nodule = block(number)
    known, unknown = (extract_properties(scan, nodule.coordinates, size) for size in (nodule.diameter_mm, None))
    assert unknown["effective_diameter_mm"] == pytest.approx(known["effective_diameter_mm"], rel=0.1)


@pytest.mark.parametrize("value", [25.0, -1000.0])
def test_values_from_a_users_own_network_are_checked_too(value: float) -> None:
    with pytest.raises(PivotError, match="not prepared"):
        sliding_window_inference(nn.Identity(), np.full((9, 9, 9), value), (6, 6, 6), (6, 6, 6), device="cpu")


def test_the_guides_files_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline = InferencePipeline("checkpoints/best_model.pth", "configs/inference.yaml", "cpu")
    assert pipeline.checkpoint.sha256 == load_model().sha256
    assert calibrate_scores([], "calibration/triage_calibration.json") == []
    with pytest.raises(PivotError, match=r"checkpoints/other\.pth"):
        load_model("checkpoints/other.pth")
