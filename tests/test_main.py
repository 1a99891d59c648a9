"""The command line and the pipeline on the shipped weights."""

import argparse
import csv
import dataclasses
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from src.data.loader import read_scan
from src.detection import network, pipeline
from src.inference import main as command_line
from src.inference.main import main
from src.logs import add_log_options, show_log
from src.results.output_formatter import load_detections
from src.runs import batch, demo
from src.types import Scan

from .small_scans import block, save_nifti, tiny_checkpoint


class Block(NamedTuple):
    """A scan file of a part of a chest, and its single nodule: centre (LPS, mm) and diameter (mm)."""

    path: Path
    place: npt.NDArray[np.float64]
    diameter: float


@pytest.fixture
def chest(tmp_path: Path, shared_data: Path) -> Block:
    """A block of about 100 mm of a real chest around its nodule."""
    scan = read_scan(shared_data / "lidc-idri-0001")
    with (shared_data / "lidc-idri-0001.truth.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    place = np.array([float(row[f"coord{axis}"]) for axis in "XYZ"])
    middle = np.round(np.linalg.inv(np.diag([-1, -1, 1, 1]) @ scan.affine) @ [*place, 1])[:3].astype(int)
    half = np.array([70, 70, 20])
    low = np.maximum(middle - half, 0)
    shift = np.eye(4)
    shift[:3, 3] = low
    cut = scan.array[tuple(slice(a, b) for a, b in zip(low, middle + half, strict=True))]
    path = save_nifti(Scan(cut, scan.affine @ shift), tmp_path / "block.nii.gz")
    return Block(path, place, float(row["diameter_mm"]))


def test_a_real_nodule_is_the_strongest_mark(chest: Block, tmp_path: Path) -> None:
    assert main(["--input", str(chest.path), "--output", str(tmp_path), "--format", "both"]) == 0
    first = load_detections(tmp_path / "block_detections.json")[0]
    assert first["coordinates_lps"] is not None
    assert np.linalg.norm(np.subtract(first["coordinates_lps"], chest.place)) < chest.diameter / 2
    assert (tmp_path / "block_visualization.png").stat().st_size > 10_000
    assert (tmp_path / "block_heatmap.nii.gz").is_file()
    assert (tmp_path / "block_detections.csv").read_text().startswith("scan_id,detection_id,coord_x")


HEAVY = ("torch", "numpy", "scipy", "SimpleITK", "nibabel", "matplotlib", "pydicom", "pydantic", "yaml", "rich")


def test_help_imports_no_heavy_library(root: Path) -> None:
    code = f"""
import sys, time
from src.inference.main import main
try:
    main(["--help"])
finally:
    print({set(HEAVY)} & set(sys.modules), time.process_time() < 0.3, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "set() True"
    guide = ("checkpoint", "input", "output", "input-dir", "output-dir", "batch-size", "num-workers")
    for flag in (*guide, "config", "device", "format", "demo", "resume", "progress", "patient", "quiet", "verbose"):
        assert f"--{flag} " in done.stdout.replace("\n", " ").replace("]", " ")


def test_the_module_runs_as_a_command(root: Path) -> None:
    command = [sys.executable, "-m", "src.inference.main", "--input", "a.nii", "--batch-size", "0"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == ("error: argument --batch-size: must be a whole number of at least 1, not '0' (see --help)\n")


def test_the_guides_names_are_the_objects_of_the_real_modules() -> None:
    assert command_line.InferencePipeline is pipeline.InferencePipeline
    assert command_line.batch_inference is batch.batch_inference
    with pytest.raises(ImportError):
        from src.inference.main import nothing  # noqa: F401, PLC0415


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A quick run over one scan into `results`, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    save_nifti(block()[0], tmp_path / "scans" / "scan.nii.gz")
    (tmp_path / "quick.yaml").write_text("output: {save_visualization: false}\ninference: {patch_size: [48, 48, 48]}")
    checkpoint = tiny_checkpoint(tmp_path / "tiny.pth")
    return ["--checkpoint", str(checkpoint), "--input", "scans/scan.nii.gz", "--config", "quick.yaml"]


def test_json_progress_prints_one_event_per_line_and_nothing_else(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--progress", "json", "--batch-size", "3"]) == 6  # it shows no lungs
    captured = capsys.readouterr()
    assert captured.err == ""
    start, *windows, finished, summary = [json.loads(line) for line in captured.out.splitlines()]
    path = "scans/scan.nii.gz"
    assert start == {"event": "start", "scan": path, "index": 1, "total": 1}
    assert windows == [{"event": "windows", "scan": path, "done": done, "total": 9} for done in range(1, 10)]
    assert 0 < finished.pop("seconds") < 100
    assert finished == {
        "event": "finished",
        "scan": path,
        "scan_id": "scan",
        "detections": 0,
        "masses": 0,
        "lung_rads": None,
        "lungs": False,
        "outputs": ["results/scan_heatmap.nii.gz", "results/scan_detections.json"],
        "notes": ["warning: no lungs are recognised: 0.0 litres of aerated lung, less than 0.3"],
    }
    assert summary.keys() == {"event", "num_scans", "total_detections", "avg_time", "failed", "skipped"} | {
        "notes",
        "passed_over",
    }
    assert main([*command, "--progress", "json", "--resume"]) == 0
    assert [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()] == ["skipped", "summary"]


@pytest.mark.parametrize(("mode", "shown"), [("bar", True), ("auto", False), ("none", False)])
def test_progress_bars_go_to_stderr_and_by_default_only_to_a_terminal(
    command: list[str], capsys: pytest.CaptureFixture[str], mode: str, *, shown: bool
) -> None:
    assert main([*command, "--progress", mode]) == 6
    captured = capsys.readouterr()
    assert ("9/9" in captured.err and "1/1" in captured.err) == shown
    assert bool(captured.err) == shown
    heatmap, report, first, *rest = captured.out.splitlines()
    assert [heatmap, report] == ["file: results/scan_heatmap.nii.gz", "file: results/scan_detections.json"]
    assert first.startswith("1 scan, 0 nodules, ")
    assert first.endswith(" s a scan; results in results")
    assert [line.split(": ")[1:3] for line in rest] == [["warning", "no lungs are recognised"]]


def test_an_interruption_exits_without_a_traceback(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(network, "predict_windows", interrupt)
    assert main(command) == 130
    assert capsys.readouterr().err.startswith("interrupted; with --resume")
    assert not list((tmp_path / "results").iterdir())


def test_the_log_level_comes_from_the_environment(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIVOT_LOG", "loud")
    assert main(command) == 2
    assert "PIVOT_LOG is 'loud': use one of debug, info, warning, error" in capsys.readouterr().err


def test_the_demo_lists_the_drawn_nodules_with_their_marks_and_the_false_marks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan, nodule = block()
    far = dataclasses.replace(nodule, coordinates=(0.0, 0.0, 0.0), diameter_mm=5)
    drawn_nodules = [nodule, far]
    monkeypatch.setattr(demo, "chest_phantom", lambda: (scan, drawn_nodules))
    config = tmp_path / "c.yaml"
    config.write_text("output: {save_visualization: false, formats: {detections: csv}}")
    for progress in ("none", "json"):
        assert main(["--demo", "--output", str(tmp_path / "out"), "--config", str(config), "--progress", progress]) == 0
    lines = capsys.readouterr().out.splitlines()
    start, *_, drawn = events = [json.loads(line) for line in lines if line.startswith("{")]
    assert [event["event"] for event in events].count("demo") == 1
    drawn_first, missed, sums, _ = (line.split() for line in lines[1 : -len(events)])
    assert drawn_first[:2] == ["20.0", "solid"]
    assert drawn_first[-2:] == ["no.", "1"]
    assert missed == ["5.0", "solid", "missed"]
    assert " ".join(sums) == "1 of 2 nodules found; 0 false marks, where no nodule is drawn"
    assert float(drawn_first[2]) == pytest.approx(20, abs=1)
    assert start["event"] == "start"
    assert [found["found_mm"] is None for found in drawn["nodules"]] == [False, True]
    assert {file.name for file in (tmp_path / "out").glob("demo*")} == {
        "demo.nii.gz",
        "demo_heatmap.nii.gz",
        "demo_detections.csv",
        "demo_findings.csv",
    }

    drawn_nodules.remove(nodule)  # the same mark in a place without a nodule
    assert main(["--demo", "--output", str(tmp_path / "out"), "--config", str(config)]) == 0
    _, missed_line, false, sums_line, _ = capsys.readouterr().out.splitlines()
    assert missed_line.split() == missed
    assert false.split() == ["false", "mark", *drawn_first[2:]]
    assert sums_line == "0 of 1 nodules found; 1 false mark, where no nodule is drawn"


@pytest.mark.parametrize(
    ("flags", "levels"),
    [([], {"WARNING", "ERROR"}), (["--quiet"], {"ERROR"}), (["--verbose"], {"DEBUG", "WARNING", "ERROR"})],
)
def test_the_log_options_set_the_level(
    flags: list[str], levels: set[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("PIVOT_LOG", raising=False)
    log = logging.getLogger("pivot")
    level = log.level
    parser = argparse.ArgumentParser()
    add_log_options(parser)
    try:
        show_log(parser.parse_args(flags).log)
        for name in ("DEBUG", "WARNING", "ERROR"):
            log.log(logging.getLevelName(name), "levels")
    finally:
        log.setLevel(level)
    assert {record.levelname for record in caplog.records} == levels
