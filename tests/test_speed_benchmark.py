"""What the benchmarks of speed compute from their runs, and that they continue after an interruption."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.lines import Line2D

from benchmarks import commands, limit, scaling_law, speed, throughput
from benchmarks.commands import Finished, Run, Used, measure
from src.data.loader import read_scan
from src.detection.pipeline import InferencePipeline
from tests.dicom_files import CHEST, write_series
from tests.small_scans import block, save_nifti

MARKS = [([0.0, 0.0, 0.0], 0.9), ([50.0, 0.0, 0.0], 0.6)]


def run(wall: float, inference: float = 1.0, found: list[Any] | None = None) -> Run:
    stages = {**dict.fromkeys(speed.STAGES, 0.0), "inference": inference, "start": wall - inference}
    found = MARKS if found is None else found
    return {"wall": wall, "processor": 2 * wall, "gib": wall / 10, "stages": stages, "found": found}


def test_ratios_are_medians_of_the_pairs_of_a_turn() -> None:
    rows = speed.table(
        {
            "default": [run(1.0), run(2.0), run(4.0)],
            "balanced": [run(1.0), run(1.0), run(1.0)],
            "monai": [run(20.0), run(20.0), run(20.0)],
        }
    )
    assert rows["default"]["monai_to_this"] == 10
    assert rows["balanced"]["this_to_default"] == 0.5
    assert rows["default"]["wall"] == 2
    assert rows["monai"]["monai_to_this"] == rows["default"]["this_to_default"] == 1


def test_ratios_need_both_runs() -> None:
    rows = speed.table({"balanced": [run(1.0)]})
    assert rows["balanced"]["monai_to_this"] is rows["balanced"]["this_to_default"] is None
    assert "shared" not in rows["balanced"]


def test_shares_are_of_the_wall_time() -> None:
    rows = speed.table({"default": [run(4.0, 1.0), run(8.0, 4.0), run(2.0, 1.5)]})
    assert rows["default"]["shares"]["inference"] == 0.5
    assert rows["default"]["stages"]["inference"] == 1.5
    assert rows["default"]["beside_the_network"] == 3


@pytest.mark.parametrize(("away", "marks"), [(4.9, 2), (5.1, 1)])
def test_marks_are_shared_if_they_are_near(away: float, marks: int) -> None:
    others = [([0.0, away, 0.0], 0.5), ([50.0, 0.0, 0.0], 0.7)]
    found = speed.shared(MARKS, others)
    assert found["marks"] == marks
    assert found["confidence_apart"] == pytest.approx(0.4 if marks == 2 else 0.1)
    assert speed.shared([MARKS[0], MARKS[0]], [MARKS[0]])["marks"] == 1, "each mark counts once"


def test_finished_runs_are_kept_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def search(command: list[Any], *_: object) -> Run:
        done.append(str(command))
        if len(done) == 3:
            raise KeyboardInterrupt
        return run(float(len(done)))

    monkeypatch.setattr(speed, "search", search)
    scan = str(save_nifti(block()[0], tmp_path / "block.nii.gz"))
    words = ["speed", "--table", "--ways", "default", "balanced", "--scans", scan, "--repeats", "2"]
    monkeypatch.setattr(sys, "argv", [*words, "--output", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        speed.main()
    speed.main()
    assert len(done) == 3 + 2, "of four runs two were finished, and one was interrupted"
    kept = json.loads((tmp_path / "speed.json").read_text())
    assert [one["wall"] for one in kept["runs"].values()] == [1, 2, 4, 5]
    assert kept["tables"][scan]["balanced"]["this_to_default"] == pytest.approx((2 / 1 + 5 / 4) / 2)
    speed.main()
    assert len(done) == 5


def test_runs_of_other_code_are_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"code": "old"}
    monkeypatch.setattr(commands, "_about", lambda: dict(about))
    Finished(tmp_path / "runs.json").run("one", lambda: run(1.0))
    assert Finished(tmp_path / "runs.json").runs.keys() == {"one"}
    about["code"] = "new"
    with pytest.raises(SystemExit, match="other code"):
        Finished(tmp_path / "runs.json")


def test_commands_are_measured_together_on_the_cores_given(tmp_path: Path) -> None:
    code = "import os, sys, time; open(sys.argv[1], 'w').write(str(len(os.sched_getaffinity(0)))); time.sleep(1)"
    before = os.sched_getaffinity(0)
    used = measure([[sys.executable, "-c", code, tmp_path / name] for name in "ab"], cores=1)
    assert used.seconds >= 1 > used.processor
    assert [(tmp_path / name).read_text() for name in "ab"] == ["1", "1"]
    assert os.sched_getaffinity(0) == before
    with pytest.raises(SystemExit, match="exit code 3"):
        measure([[sys.executable, "-c", "raise SystemExit(3)"]])


def test_nnunet_gets_the_dicom_series_as_nifti_outside_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = write_series(tmp_path / "series", CHEST)
    given: list[Path] = []

    def search(_: object, scan: Path, *__: object) -> Run:
        given.append(scan)
        return run(1.0)

    monkeypatch.setattr(speed, "search", search)
    for way in ("nnunet", "monai", "default"):
        speed.run_way(way, series, tmp_path)
    assert given[1:] == [series, series]
    made, read = read_scan(given[0]), read_scan(series)
    np.testing.assert_array_equal(made.array, read.array)
    np.testing.assert_allclose(made.affine, read.affine, atol=1e-4)


@pytest.mark.parametrize("preset", ["fast", "accurate"])
def test_the_limit_counts_what_the_network_computes(preset: str, tmp_path: Path) -> None:
    scan = read_scan(save_nifti(block()[0], tmp_path / "block.nii.gz"))
    pipeline, seen = InferencePipeline(None, {"inference": {"speed": preset, "engine": "torch"}}, "cpu"), []
    for network in {pipeline.network.model, pipeline.network.any_shape}:
        network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numel()))
    pipeline.predict(scan)
    assert limit.work_of(scan, preset) == sum(seen) * limit.adds_of_a_voxel()


def test_a_voxel_costs_the_multiply_adds_of_its_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loaded:
        model = torch.nn.Sequential(torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.Conv3d(8, 2, 1))

    monkeypatch.setattr(limit, "load_model", Loaded)
    assert limit.adds_of_a_voxel.__wrapped__() == 27 * 8 + 8 * 2


def points(line: Line2D) -> list[list[float]]:
    found: list[list[float]] = np.asarray(line.get_xydata()).tolist()
    return found


def test_the_plot_holds_the_limit_of_each_number_of_cores() -> None:
    sizes = [
        {"cores": cores, "slices": slices, "litres": slices / 100, "gib": 1.0, "wall": 1 + slices / 50 / cores}
        | {"limit": slices / 100 / cores}
        for cores in (1, 2)
        for slices in (150, 300)
    ]
    batches = [{"scans": count, "wall": 4.0 * count, "hourly_limit": 1800.0} for count in (1, 4)]
    workers = [{"actors": count, "scans": 4, "wall": 40.0 / count, "hourly_limit": 900.0 * count} for count in (1, 2)]
    time, memory, many, ray = scaling_law.draw(sizes, batches, workers).axes
    drawn = {str(line.get_label()): points(line) for line in time.lines}
    assert drawn["limit, 1 core"] == [[0, 0], [1.5, 1.5], [3, 3]]
    assert drawn["limit, 2 cores"] == [[0, 0], [1.5, 0.75], [3, 1.5]]
    assert drawn["1 core"] == [[1.5, 4], [3, 7]]
    assert points(memory.lines[0]) == [[150, 1], [300, 1]]
    assert [points(line) for line in many.lines] == [[[1, 900], [4, 900]], [[1, 1800], [4, 1800]]]
    assert [points(line) for line in ray.lines] == [[[1, 360], [2, 720]], [[1, 900], [2, 1800]]]


def test_a_batch_is_compared_by_scans_an_hour_and_processor_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def used(started: Sequence[Sequence[object]], environment: Mapping[str, str] | None = None) -> Used:
        if len(started) == 2:
            assert [list(command)[-1] for command in started] == ["0", "1"]
            assert environment
            return Used(18.0, 30.0, 4.0)
        return Used(12.0, 20.0, 2.0) if "--input-dir" in started[0] else Used(6.0, 10.0, 1.5)

    paths = [tmp_path / name for name in "abcd"]
    monkeypatch.setattr(throughput, "measure", used)
    monkeypatch.setattr(throughput, "write_copies", lambda *_: paths)
    monkeypatch.setattr(sys, "argv", ["throughput", "--scans", "4", "--repeats", "1"])
    throughput.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[-3:]]
    assert rows == [
        ["one", "batch", "1200", "5.0", "2.00", "1.00x"],
        ["single", "runs", "600", "10.0", "1.50", "2.00x"],
        ["2", "processes", "800", "7.5", "4.00", "1.50x"],
    ]
