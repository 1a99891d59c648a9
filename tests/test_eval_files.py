"""The evaluation command: its input and output files, and errors for broken ones."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from src.eval.main import main

FINDING = "seriesuid,coordX,coordY,coordZ,diameter_mm"
GOOD = {
    "predictions": "seriesuid,coordX,coordY,coordZ,probability\n056,0,0,0,0.9\n056,50,0,0,0.5\n",
    "annotations": f"{FINDING}\n056,1,0,0,6\n057,0,0,0,8\n",
    "excluded": f"{FINDING}\n056,50,0,0,-1\n056,50,0,0,-1\n999,50,0,0,-1\n",
    "seriesuids": "056\n057\n058\n",
}


def run(folder: Path, **changed: str | bytes | None) -> int:
    """Run the command on GOOD files with changes and return its exit code; None leaves an option out."""
    arguments = ["--output", str(folder / "out"), "--bootstraps", "20"]
    for name, text in {**GOOD, **changed}.items():
        if text is None:
            continue
        path = folder / f"{name}.csv"
        if text != "missing":
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        arguments += [f"--{name}", str(path)]
    return main(arguments)


def test_the_command_writes_its_files_and_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 0
    figures = json.loads((tmp_path / "out" / "froc.json").read_text())
    assert figures["cpm"] == 0.5
    assert list(figures["sensitivity"]) == ["0.125", "0.25", "0.5", "1", "2", "4", "8"]
    assert figures["cpm_ci95"][0] <= 0.5 <= figures["cpm_ci95"][1]
    assert (figures["detected"], figures["nodules"], figures["scans"]) == (1, 2, 3)
    assert (figures["excluded_not_listed"], figures["scans_without_marks"], figures["by_type"]) == (1, 2, None)
    with (tmp_path / "out" / "froc.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"threshold": "0.9", "false_per_scan": "0.0", "sensitivity": "0.5"}]
    assert (tmp_path / "out" / "froc.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    for part in ("CPM 0.5000", "1 of 2 nodules", "scans without marks: 2", "excluded not listed: 1", "curve ends at 0"):
        assert part in printed


def test_columns_are_found_by_name_and_types_are_grouped(tmp_path: Path) -> None:
    annotations = (
        "\ufeffdiameter_mm,type,coordZ,coordY,coordX,seriesuid,remark\r\n\r\n"
        ' 6 ,solid,0,0,1,056,"a, b"\r\n8,,0,0,0,057,\r\n'
    )
    assert run(tmp_path, annotations=annotations.encode(), seriesuids="seriesuid\n056\n057\n058\n", excluded=None) == 0
    groups = json.loads((tmp_path / "out" / "froc.json").read_text())["by_type"]
    assert {name: group["detected"] for name, group in groups.items()} == {"solid": 1, "unknown": 0}


BROKEN: dict[str, tuple[str, str | bytes, list[str]]] = {
    "no such file": ("predictions", "missing", ["cannot read", "predictions.csv"]),
    "empty": ("predictions", "", ["predictions.csv is empty", "probability"]),
    "no header": ("predictions", "056,0,0,0,0.9\n", ["line 1", "lacks the column seriesuid"]),
    "a column is missing": ("annotations", "seriesuid,coordX,coordY,coordZ\n", ["lacks the column diameter_mm"]),
    "a column twice": ("annotations", f"{FINDING},coordX\n", ["a column twice"]),
    "semicolons": ("annotations", FINDING.replace(",", ";"), ["lacks the column"]),
    "text for a number": ("predictions", GOOD["predictions"] + "056,1,x,1,0.1\n", ["line 4", "coordY", "'x'"]),
    "an empty cell": ("predictions", GOOD["predictions"] + "056,1,1,1,\n", ["line 4", "probability", "''"]),
    "not a number": ("predictions", GOOD["predictions"] + "056,1,1,1,nan\n", ["line 4", "probability", "finite"]),
    "infinity": ("annotations", f"{FINDING}\n056,1,0,0,inf\n", ["line 2", "diameter_mm", "finite"]),
    "a short row": ("annotations", f"{FINDING}\n056,1,0,0\n", ["line 2", "4 cells", "5 columns"]),
    "a repeated mark": ("predictions", GOOD["predictions"] + "056,0,0,0,0.9\n", ["line 4", "repeats line 2"]),
    "a repeated nodule": ("annotations", GOOD["annotations"] + "056,1.0,0,0,7\n", ["line 4", "repeats line 2"]),
    "a repeated scan": ("seriesuids", "056\n057\n056\n", ["line 3", "repeats line 1"]),
    "no scans": ("seriesuids", "seriesuid\n", ["lists no scans"]),
    "a table for a list": ("seriesuids", GOOD["annotations"], ["line 1", "5 columns"]),
    "ids that lost their zeros": ("predictions", GOOD["predictions"].replace("056", "56"), ["line 2", "'56'"]),
    "a picture for a table": ("predictions", b"\x89PNG\xff\xfe", ["not a CSV file"]),
    "an open quote": ("predictions", GOOD["predictions"] + '"056,1,1,1,1', ["not a CSV file"]),
    "no nodule in the list": ("annotations", f"{FINDING}\n99,1,0,0,6\n", ["no nodule"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_and_nothing_is_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, text, parts = BROKEN[name]
    assert run(tmp_path, **{file: text}) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in parts), error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("a file")
    assert run(tmp_path) == 5
    assert "it is a file" in capsys.readouterr().err


class TestSeveral:
    """The comparison of detectors on the same 40 scans with one nodule each."""

    @staticmethod
    def run(folder: Path, found: dict[str, list[int]], *options: str) -> int:
        """Compare detectors. `found` lists for each detector the scans whose nodule it marks."""
        scans = [f"s{number}" for number in range(40)]
        (folder / "seriesuids.csv").write_text("\n".join(scans) + "\n")
        (folder / "annotations.csv").write_text("\n".join([FINDING, *(f"{scan},0,0,0,6" for scan in scans)]) + "\n")
        arguments = [f"--{name}={folder / name}.csv" for name in ("seriesuids", "annotations")]
        paths = []
        for name, marked in found.items():
            paths.append(folder / f"{name}.csv")
            paths[-1].parent.mkdir(exist_ok=True)
            lines = ["seriesuid,coordX,coordY,coordZ,probability", *(f"s{number},0,0,0,0.9" for number in marked)]
            paths[-1].write_text("\n".join(lines) + "\n")
        return main([*arguments, f"--output={folder / 'out'}", *options, "--predictions", *map(str, paths)])

    def test_each_detector_is_compared_with_the_first_in_paired_intervals(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = {"a": [*range(20)], "b": [*range(24)], "c": [*range(16, 40)]}
        assert self.run(tmp_path, found, "--bootstraps", "400") == 0
        comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
        assert comparison["compared_with"] == "a"
        rows = comparison["detectors"]
        assert [rows[name]["cpm"] for name in "abc"] == pytest.approx([0.5, 0.6, 0.6])
        assert "cpm_difference" not in rows["a"]
        assert [rows[name]["cpm_difference"] for name in "bc"] == pytest.approx([0.1, 0.1])
        # b finds the nodules of a and four more, so it is never worse. c finds different ones, so it may be worse.
        (low, high), (other_low, other_high) = (rows[name]["cpm_difference_ci95"] for name in "bc")
        assert 0 <= low < 0.1 < high < 0.25
        assert other_low < -0.1
        assert other_high > 0.3
        for name in found:
            assert (tmp_path / "out" / name / "froc.json").exists()
        printed = capsys.readouterr().out
        assert "CPM minus that of a" in printed
        assert "b: +0.1000, 95 %" in printed

    def test_identical_marks_differ_by_zero(self, tmp_path: Path) -> None:
        assert self.run(tmp_path, {"x/a": [*range(20)], "y/a": [*range(20)]}, "--bootstraps", "50") == 0
        rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["detectors"]
        assert rows["a-2"]["cpm_difference_ci95"] == [0, 0]

    def test_without_a_bootstrap_there_is_no_interval(self, tmp_path: Path) -> None:
        assert self.run(tmp_path, {"a": [1], "b": [2, 3]}, "--bootstraps", "0") == 0
        rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["detectors"]
        assert rows["b"]["cpm_difference"] == pytest.approx(1 / 40)
        assert "cpm_difference_ci95" not in rows["b"]

    def test_nothing_is_written_if_one_file_is_broken(self, tmp_path: Path) -> None:
        assert self.run(tmp_path, {"a": [1], "b": [99]}) == 2
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [["--bootstraps", "-1"], ["--seed", "x"]])
def test_options_must_be_whole_numbers(option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"--{name}={tmp_path}" for name in (*GOOD, "output")]
    assert main([*arguments, *option]) == 2
    assert "whole number" in capsys.readouterr().err


def report(scan_id: str, points: list[tuple[Any, float]], series_uid: str | None = None) -> dict[str, Any]:
    found = [{"coordinates_lps": point, "confidence": confidence} for point, confidence in points]
    return {"scan_id": scan_id, "metadata": {"series_uid": series_uid}, "detections": found}


def run_reports(folder: Path, reports: list[Any]) -> int:
    (folder / "predictions").mkdir()
    for i, content in enumerate(reports):
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "predictions" / f"{i}_detections.json").write_text(text)
    for name in ("annotations", "excluded", "seriesuids"):
        (folder / f"{name}.csv").write_text(GOOD[name])
    arguments = [f"--{name}={folder / name}.csv" for name in ("annotations", "excluded", "seriesuids")]
    return main([*arguments, "--predictions", str(folder / "predictions"), f"--output={folder / 'out'}"])


def test_a_folder_of_reports_is_evaluated_in_world_coordinates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marks = [([0, 0, 0], 0.9), ([50, 0, 0], 0.5)]
    assert run_reports(tmp_path, [report("scan", marks, series_uid="056"), report("057", [])]) == 0
    figures = json.loads((tmp_path / "out" / "froc.json").read_text())
    assert (figures["cpm"], figures["detected"]) == (0.5, 1)
    assert (figures["scans_without_marks"], figures["scans_without_file"]) == (2, 1)
    assert "scans without file: 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("reports", "parts"),
    [
        ([], ["holds no *_detections.json"]),
        (["{"], ["0_detections.json", "Invalid JSON"]),
        (["{}"], ["0_detections.json", "scan_id", "Field required"]),
        ([report("056", [(None, 0.9)])], ["detections.0.coordinates_lps"]),
        ([report("056", [([0, 0], 0.9)])], ["detections.0.coordinates_lps"]),
        ([report("56", [])], ["scan_id '56'", "listed"]),
        ([report("056", []), report("x", [], "056")], ["1_detections.json", "0_detections.json", "'056'"]),
    ],
)
def test_reports_that_cannot_be_evaluated_are_refused(
    reports: list[Any], parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_reports(tmp_path, reports) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in parts), error
    assert not (tmp_path / "out").exists()
