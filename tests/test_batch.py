"""Batches: failed scans, skipped scans and errors that stop the batch, with a network that finds nothing."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from src.config import Config
from src.detection import network
from src.errors import BadConfig, BadOutput, BadScan, PivotError
from src.inference.main import main
from src.runs import batch, outputs
from src.runs.batch import BatchResults, batch_inference, infer_file, open_pipeline

from .dicom_files import write_series
from .small_scans import block, save_nifti, tiny_checkpoint

Run: TypeAlias = Callable[..., BatchResults]
QUICK = {"output": {"save_visualization": False}}


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder of two good scans and a broken one between them."""
    for name in ("a", "c"):
        save_nifti(block()[0], tmp_path / "scans" / f"{name}.nii.gz")
    (tmp_path / "scans" / "b.nii.gz").write_text("text")
    return tmp_path / "scans"


@pytest.fixture
def run(tmp_path: Path, scans: Path) -> Run:
    checkpoint = tiny_checkpoint(tmp_path / "tiny.pth")

    def run(**changes: Any) -> BatchResults:  # noqa: ANN401 - arguments of `batch_inference`
        given = {"checkpoint": checkpoint, "input_dir": scans, "output_dir": tmp_path / "out", "config": QUICK}
        return batch_inference(**{**given, **changes})

    return run


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def outputs_of(*scan_ids: str) -> set[str]:
    return {f"{scan_id}_{kind}" for scan_id in scan_ids for kind in ("detections.json", "heatmap.nii.gz")}


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_a_broken_scan_is_reported_and_the_others_are_processed(
    run: Run, scans: Path, tmp_path: Path, num_workers: int
) -> None:
    events: list[dict[str, Any]] = []
    done = run(num_workers=num_workers, batch_size=1, progress=events.append)
    broken = str(scans / "b.nii.gz")
    assert (done["num_scans"], done["total_detections"], done["skipped"]) == (2, 0, [])
    assert list(done["failed"]) == [broken]
    assert done["failed"][broken].startswith(f"{broken}: is not gzip data")
    assert 0 < done["avg_time"] < 60
    assert names(tmp_path / "out") == outputs_of("a", "c")
    begun = [event["scan"] for event in events if event["event"] == "start"]
    assert begun == [str(scans / f"{name}.nii.gz") for name in "abc"]
    assert {event["scan_id"] for event in events if event["event"] == "finished"} == {"a", "c"}
    assert events[-1] == {"event": "summary", **done}


def test_results_are_written_during_inference_unless_there_are_no_workers(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def write(*arguments: Any) -> list[Path]:  # noqa: ANN401
        threads.append(threading.get_ident())
        return outputs.write_outputs(*arguments)

    monkeypatch.setattr(batch, "write_outputs", write)
    run()
    assert threading.get_ident() not in threads
    threads.clear()
    run(num_workers=0)
    assert set(threads) == {threading.get_ident()}


@pytest.mark.parametrize(
    ("where", "error", "kind", "message"),
    [
        ("predict_windows", MemoryError(), "PivotError", "not enough memory for this scan: lower inference.batch_size"),
        ("predict_windows", RuntimeError("CUDA out of memory. Tried"), "PivotError", "not enough memory for this scan"),
        ("predict_windows", RuntimeError("DefaultCPUAllocator: can't"), "PivotError", "not enough memory for this"),
        ("predict_windows", KeyError("surprise"), "KeyError", "unexpected KeyError: 'surprise'; --verbose shows"),
        ("predict_windows", RuntimeError("two\nlines"), "RuntimeError", "unexpected RuntimeError: two lines;"),
        ("predict_windows", BadScan("too odd"), "BadScan", "too odd"),
        ("write_outputs", MemoryError(), "MemoryError", "not enough memory to write its results"),
        ("write_outputs", ValueError("no font"), "ValueError", "unexpected ValueError: no font"),
    ],
)
def test_a_failure_in_inference_or_writing_affects_one_scan_only(
    run: Run,
    scans: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
    error: Exception,
    kind: str,
    message: str,
) -> None:
    module = network if where == "predict_windows" else batch
    original, left = getattr(module, where), [error]

    def fail_once(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        if left:
            raise left.pop()
        return original(*arguments, **options)

    monkeypatch.setattr(module, where, fail_once)
    events: list[dict[str, Any]] = []
    with caplog.at_level(logging.DEBUG, "pivot"):
        done = run(progress=events.append)
    path = str(scans / "a.nii.gz")
    assert done["failed"][path].startswith(f"{path}: {message}")
    assert "\n" not in done["failed"][path]
    assert kind in [event["error"] for event in events if event["event"] == "failed" and event["scan"] == path]
    assert {record.levelno for record in caplog.records if record.exc_info} == {logging.DEBUG}
    assert done["num_scans"] == 1
    assert names(scans.parent / "out") == outputs_of("c")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_full_disk_stops_the_batch_and_leaves_no_partial_results(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs, "save_json", full)  # the last file of a scan
    events: list[dict[str, Any]] = []
    with pytest.raises(BadOutput, match=r"cannot write .*out: No space left on device"):
        run(num_workers=num_workers, progress=events.append)
    assert names(tmp_path / "out") == set()
    assert not {event["event"] for event in events} & {"finished", "summary"}


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", ["start", "windows", "failed", "finished", "summary"])
@pytest.mark.parametrize("error", [KeyError("a bug of the listener"), BadScan("not of a scan")])
def test_an_exception_in_the_listener_is_not_reported_as_a_failed_scan(
    run: Run, tmp_path: Path, num_workers: int, kind: str, error: Exception
) -> None:
    events: list[dict[str, Any]] = []

    def listener(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == kind:
            raise error

    with pytest.raises(type(error)) as raised:
        run(num_workers=num_workers, progress=listener)
    assert raised.value is error
    assert [event["scan"] for event in events if event["event"] == "failed"] in ([], [str(tmp_path / "scans/b.nii.gz")])
    assert bool(names(tmp_path / "out")) or kind in ("start", "windows", "failed")
    assert names(tmp_path / "out") in (set(), outputs_of("a"), outputs_of("a", "c"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"input_dir": "{out}"}, BadConfig, "is the input folder: heatmaps in it would be taken for scans"),
        ({"input_dir": "{out}/none"}, BadScan, "there is no such file or folder"),
        ({"batch_size": 0}, BadConfig, "inference.batch_size: .* greater than or equal to 1"),
        ({"num_workers": -1}, BadConfig, "inference.num_workers"),
        ({"config": {"inference": {"patch_size": [30, 30, 30]}}}, BadConfig, "patch_size .* does not suit"),
        ({"config": {"visualization": {"colormap": "hott"}}}, BadConfig, "unknown colormap 'hott'"),
        ({"device": "tpu"}, BadConfig, "unknown device 'tpu'"),
    ],
)
def test_an_error_that_concerns_every_scan_stops_the_batch(
    run: Run, tmp_path: Path, changes: dict[str, Any], error: type[PivotError], message: str
) -> None:
    (tmp_path / "out").mkdir()
    filled = {key: v.format(out=tmp_path / "out") if isinstance(v, str) else v for key, v in changes.items()}
    with pytest.raises(error, match=message):
        run(**filled)
    assert names(tmp_path / "out") == set()


def test_the_second_of_two_scans_with_one_name_fails_and_the_others_are_processed(
    run: Run, scans: Path, tmp_path: Path
) -> None:
    save_nifti(block()[0], scans / "a.nii")
    done = run()
    assert done["num_scans"] == 2
    assert set(done["failed"]) == {str(scans / "a.nii.gz"), str(scans / "b.nii.gz")}
    message = "a.nii and a.nii.gz would both be called a: rename one of them"
    assert done["failed"][str(scans / "a.nii.gz")].endswith(message)
    assert {"a_detections.json", "c_detections.json"} <= names(tmp_path / "out")


def test_a_batch_reports_which_files_it_skipped(
    run: Run, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (scans / "b.nii.gz").unlink()
    (scans / "notes.txt").write_text("no scan")
    save_nifti(block()[0], scans / "below" / "deep.nii")
    series = write_series(scans / "series", block()[0].array, block()[0].affine)
    save_nifti(block()[0], series / "beside.nii")
    done = run()
    assert done["passed_over"] == {
        str(scans / "below"): "a folder without DICOM files: only --recursive searches it",
        str(scans / "notes.txt"): "no scan, by its suffix and by its content",
    }
    left_out = "left out: beside.nii: the folder also holds DICOM files, which take precedence"
    assert left_out in done["notes"][str(scans / "series")]
    checkpoint = str(tmp_path / "tiny.pth")
    options = ["--checkpoint", checkpoint, "--input-dir", str(scans), "--output-dir", str(tmp_path / "again")]
    assert main(options) == 0
    printed = capsys.readouterr().out
    assert f"{scans / 'series'}: {left_out}" in printed
    assert f"passed over: {scans / 'below'}: a folder without DICOM files" in printed


def test_a_recursive_batch_keeps_the_folder_structure(run: Run, tmp_path: Path) -> None:
    for name in ("x/ct.nii.gz", "y/ct.nii.gz", "y/z/ct.nii"):
        save_nifti(block()[0], tmp_path / "tree" / name)
    for number in (1, 2):
        write_series(tmp_path / "tree" / "study" / str(number), block()[0].array, block()[0].affine, series=number)
    save_nifti(block()[0], tmp_path / "only" / "folders" / "ct.nii")
    with pytest.raises(BadScan, match="or use --recursive"):
        run(input_dir=tmp_path / "only")
    done = run(input_dir=tmp_path / "tree", recursive=True)
    assert (done["num_scans"], done["failed"], done["passed_over"]) == (4, {}, {})
    out = tmp_path / "out"
    for place in ("x/ct", "y/ct", "y/z/ct", "study"):
        assert (out / f"{place}_detections.json").is_file()
    assert run(input_dir=tmp_path / "tree", recursive=True, resume=True)["num_scans"] == 0


@pytest.mark.parametrize("formats", [{"detections": "json"}, {"detections": "csv"}, {"detections": "both"}])
def test_a_resumed_batch_processes_only_missing_scans(
    run: Run, scans: Path, tmp_path: Path, formats: dict[str, str]
) -> None:
    config = {"output": {"save_visualization": False, "formats": formats}}
    run(config=config)
    out = tmp_path / "out"
    before = {name: (out / name).stat().st_mtime_ns for name in names(out)}
    (out / "c_heatmap.nii.gz").unlink()
    events: list[dict[str, Any]] = []
    done = run(config=config, resume=True, batch_size=2, progress=events.append)
    assert done["skipped"] == [str(scans / "a.nii.gz")]
    assert done["num_scans"] == 1
    assert [event["scan"] for event in events if event["event"] == "skipped"] == done["skipped"]
    assert names(out) == set(before)
    changed = {name for name in before if (out / name).stat().st_mtime_ns != before[name]}
    assert changed == {name for name in before if name.lstrip(".").startswith(("c_", "findings.csv"))}
    assert run(config=config)["skipped"] == []


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"config": {**QUICK, "post_processing": {"nms": {"iou_threshold": 0.4}}}}, "iou_threshold"),
        ({"config": {"output": {"save_visualization": False, "formats": {"heatmap": "numpy"}}}}, ""),
        ({"checkpoint": "other"}, "checkpoint.sha256"),
    ],
)
def test_results_of_another_model_or_config_are_recomputed_with_a_note(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, change: dict[str, Any], note: str
) -> None:
    run()
    if "checkpoint" in change:
        change = {"checkpoint": tiny_checkpoint(tmp_path / "other.pth", version="2")}
    done = run(resume=True, **change)
    assert done["num_scans"] == 2
    assert not note or "a is repeated: its results were made with another" in caplog.text
    assert note in caplog.text


def test_results_of_another_scan_with_the_same_name_are_recomputed(
    run: Run, scans: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run()
    save_nifti(block(2)[0], scans / "a.nii.gz")
    assert run(resume=True)["num_scans"] == 1
    assert "a is repeated: its results were made with another scan of this name" in caplog.text
    assert run(resume=True)["num_scans"] == 0


def test_a_run_removes_the_files_of_an_earlier_one(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    everything = {"save_report": True, "formats": {"detections": "both"}}
    run(config={**QUICK, "output": everything, "visualization": {"save_3d": True}})
    (out / "a_dicom").mkdir()
    kept = {"a_notes.txt", "aa_report.pdf"}
    for name in kept:
        (out / name).touch()
    run(config={**QUICK, "output": {"save_visualization": False, "formats": {"detections": "csv", "heatmap": "numpy"}}})
    assert {file.name for file in out.glob("*a*")} - {file.name for file in out.glob("*c_*")} == {
        "a_detections.csv",
        "a_findings.csv",
        "a_heatmap.npy",
        ".a_detections.json",
        *kept,
    }
    run()
    assert names(out) == outputs_of("a", "c") | kept


def test_a_scan_with_a_damaged_report_is_processed_again(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run()
    (tmp_path / "out" / "a_detections.json").write_text("{")
    assert run(resume=True)["num_scans"] == 1
    assert "a is repeated" in caplog.text


def test_a_single_scan_raises_the_error_that_a_batch_reports(tmp_path: Path, scans: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "tiny.pth")
    ready = open_pipeline(checkpoint, Config.model_validate(QUICK), "cpu", tmp_path / "out")
    with pytest.raises(BadScan, match="is not gzip data"):
        infer_file(ready, scans / "b.nii.gz", tmp_path / "out")
    assert infer_file(ready, scans / "a.nii.gz", tmp_path / "out")["num_scans"] == 1
    assert infer_file(ready, scans / "a.nii.gz", tmp_path / "out", resume=True)["skipped"] == [str(scans / "a.nii.gz")]


def test_the_command_line_names_and_counts_the_failed_scans(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "tiny.pth")
    config = tmp_path / "quick.yaml"
    config.write_text("output: {save_visualization: false}")
    places = {"--checkpoint": checkpoint, "--input-dir": scans, "--output-dir": tmp_path / "out", "--config": config}
    command = [str(part) for place in places.items() for part in place] + ["--batch-size", "4", "--num-workers", "8"]
    assert main(command) == 7
    printed = capsys.readouterr()
    first, second, *rest = printed.out.splitlines()
    assert [line.split()[:3] for line in (first, second)] == [["a", "0", "nodules"], ["c", "0", "nodules"]]
    assert rest[0].startswith("2 scans, 0 nodules, ")
    assert printed.err.startswith(f"failed: {scans / 'b.nii.gz'}: is not gzip data")
    assert printed.err.count("\n") == 1
    (scans / "b.nii.gz").unlink()
    assert main([*command, "--resume"]) == 0
    assert "0 scans, 0 nodules; 2 complete already; results in" in capsys.readouterr().out
