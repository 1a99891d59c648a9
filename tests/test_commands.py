"""The commands of `pivot`, their output, and exports of an earlier run."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest

from src import __version__
from src.config import Config
from src.detection.pipeline import InferencePipeline
from src.inference.main import main
from src.inference.options import COMMANDS, parse
from src.results.output_formatter import save_json
from src.runs.end_table import results_table
from src.runs.outputs import write_outputs
from src.runs.settings import with_options
from src.types import Scan
from tests.small_scans import block, save_nifti, tiny_checkpoint

WIDTH = 80


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    """A scan with a 20 mm nodule that the shipped weights find, the folder of its results, and the results."""
    folder = tmp_path_factory.mktemp("run")
    scan, _ = block()
    path = save_nifti(scan, folder / "block_0.nii.gz")
    pipeline = InferencePipeline(None, {"inference": {"patch_size": [64, 64, 64]}}, "cpu")
    results = pipeline.predict(path)
    assert results["detections"]
    config = with_options(pipeline.config, exports=["masks", "slicer"])
    write_outputs(scan, results, config, folder / "out")
    return path, folder / "out", results


def test_every_command_has_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        printed = capsys.readouterr().out
        assert printed.startswith("usage: ")
        assert max(map(len, printed.splitlines())) <= 120


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ([""], [*COMMANDS]),
        (["--inp"], ["--input", "--input-dir"]),
        (["--export", "f"], ["findings", "fhir"]),
        (["export", "--format", "r"], ["rtstruct"]),
        (["compare", "--bas"], ["--baseline", "--baseline-scan"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
    ],
    ids=["commands", "options", "values", "values of a command", "options of a command", "shells"],
)
def test_bash_completes(typed: list[str], offered: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    assert main(["completion", "bash"]) == 0
    words = shlex.join(["pivot", *typed])
    ask = f'COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _shtab_pivot; printf "%s\\n" "${{COMPREPLY[@]}}"'
    script = f"{capsys.readouterr().out}\n{ask}"
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == sorted(offered)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_a_shell_names_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(command in script for command in COMMANDS)
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=script, text=True, check=True)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"pivot {__version__}\n"


def test_detect_is_the_default_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "--input", str(tmp_path / "none.nii.gz")]) == 3
    assert "no such file" in capsys.readouterr().err
    assert main(["export", "--results", "a.json"]) == 2
    assert "error: the following arguments are required: --scan, --format" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["1.5", "-0.1", "high", "nan"])
def test_an_invalid_threshold_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--input", "a.nii.gz", f"--threshold={text}"]) == 2
    assert "must be a number from 0 to 1" in capsys.readouterr().err


def test_a_threshold_sets_both_peaks_and_confidence() -> None:
    options = parse(["--input", "a.nii.gz", "--threshold", "0.2", "--export", "coco", "--export", "coco"])
    low, high = (with_options(Config(), threshold=value) for value in (options.threshold, 0.7))
    assert (low.post_processing.threshold, high.post_processing.threshold) == (0.2, 0.7)
    config = with_options(Config(), exports=options.export)
    assert config.output.formats.exports == ("coco",)


def test_the_table_names_every_finding_in_80_columns(run: tuple[Path, Path, Any], tmp_path: Path) -> None:
    _, _, results = run
    nodule = {**results["detections"][0], "location": {"side": "right", "third": "middle"}, "image_number": 4711}
    mass = {**nodule, "id": 1, "diameter_mm": 104.2}
    report = {**results, "detections": [nodule], "masses": [mass]}
    save_json(report, tmp_path / "a_detections.json")
    event = {"outputs": [str(tmp_path / "a_heatmap.nii.gz"), str(tmp_path / "a_detections.json")]}
    head, first, second, *files = results_table([event], alone=True)
    assert head.split() == ["no.", "place", "(estimated)", "image", "mm", "type", "Lung-RADS", "conf."]
    category = nodule["guidelines"]["lung_rads"]["category"]
    pattern = rf"1 +right lung, middle third +4711 +{nodule['diameter_mm']:.1f} +solid +{category} +0\.\d\d"
    assert re.fullmatch(pattern, first)
    assert re.match(r"2 mass +right lung, middle third +4711 +104\.2 ", second)
    assert files == [f"file: {path}" for path in event["outputs"]]
    assert max(map(len, (head, first, second))) <= WIDTH


@pytest.mark.parametrize("name", ["a", "a" * 100])
def test_each_scan_of_a_batch_is_one_line_of_80_columns(name: str) -> None:
    event = {"scan_id": name, "detections": 12, "masses": 2, "lung_rads": "4B", "seconds": 123.46}
    (line,) = results_table([event], alone=False)
    assert len(line) <= WIDTH
    assert "12 nodules" in line
    assert " 2 masses" in line
    assert line.endswith("Lung-RADS 4B  123.5 s")


def test_a_batch_and_a_resumed_batch_write_one_table_of_all_scans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (0, 1):
        scan, _ = block(number)
        save_nifti(scan, tmp_path / "scans" / f"block_{number}.nii.gz")
    config = tmp_path / "quick.yaml"
    config.write_text("inference: {patch_size: [32, 32, 32]}\noutput: {save_visualization: false}\n")
    words = ["--input-dir", str(tmp_path / "scans"), "--output-dir", str(tmp_path / "out"), "--format", "both"]
    words += ["--checkpoint", str(tiny_checkpoint(tmp_path / "tiny.pth")), "--config", str(config), "--resume"]
    tables = []
    for lines in (3, 1):
        assert main(words) == 0
        printed = capsys.readouterr().out.splitlines()
        assert len([line for line in printed if "warning" not in line]) == lines
        tables.append((tmp_path / "out" / "findings.csv").read_text())
    assert tables[0] == tables[1]
    singles = [pd.read_csv(path) for path in sorted((tmp_path / "out").glob("*_findings.csv"))]
    assert len(singles) == 2
    assert len(pd.read_csv(tmp_path / "out" / "findings.csv")) == sum(map(len, singles))


def test_exporting_an_earlier_run_gives_the_same_files(
    run: tuple[Path, Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder, _ = run
    words = ["export", "--results", str(folder / "block_0_detections.json"), "--scan", str(path)]
    assert main([*words, "--format", "masks", "--format", "slicer", "--output", str(tmp_path / "again")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    for name in ("block_0_masks.itksnap.txt", "block_0_masks.ctbl"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    before, after = (nibabel.load(where / "block_0_masks.nii.gz") for where in (folder, tmp_path / "again"))
    np.testing.assert_array_equal(np.asarray(before.dataobj), np.asarray(after.dataobj))  # type: ignore[attr-defined]
    assert np.asarray(after.dataobj).any()  # type: ignore[attr-defined]


def test_results_of_another_scan_are_not_exported(
    run: tuple[Path, Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder, _ = run
    other, _ = block(1)
    moved = Scan(other.array[:-1], other.affine)
    words = ["export", "--results", str(folder / "block_0_detections.json"), "--format", "masks"]
    assert main([*words, "--scan", str(save_nifti(moved, tmp_path / "moved.nii.gz"))]) == 5
    assert "the detections are of another scan" in capsys.readouterr().err
    words = [*words[:-1], "rtstruct", "--scan", str(run[0])]
    assert main(words) == 3
    assert "needs a DICOM series" in capsys.readouterr().err


def test_numbers_in_json_are_rounded_to_their_precision(run: tuple[Path, Path, Any]) -> None:
    _, folder, results = run
    written = json.loads((folder / "block_0_detections.json").read_text())["detections"][0]["properties"]
    exact = results["detections"][0]["properties"]
    digits = {"volume_mm3": 2, "mean_intensity": 1, "long_axis_mm": 2, "sphericity": 3}
    for key, count in digits.items():
        assert written[key] == round(exact[key], count), key
        assert len(str(written[key]).partition(".")[2]) <= count
