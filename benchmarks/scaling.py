"""Compares Ray with a local batch, in time and results: `python -m benchmarks.scaling`.

The same pieces of a synthetic chest go through two local commands (`--num-shards 2`), through two actors on
a cluster of two nodes on this machine with one thread each, and through the commands again, so that a changing
load counts for both. Then a generator of many paths goes through actors that do nothing, which shows whether the
driver's memory grows. The exit code is 1 if detections differ, a scan is lost, or the overhead exceeds `--limit`.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel
import numpy as np
import psutil

from benchmarks.cluster import local_cluster
from benchmarks.commands import measure
from benchmarks.simulation import Stages, simulate
from src.config import load_config
from src.data.phantom import chest_phantom
from src.runs import distributed
from src.runs.distributed import distributed_inference
from src.runs.progress import Event
from src.runs.ray_worker import RayWorker

__all__ = ["main"]

WORKERS = 2
WIDTH = 120  # mm
SPACING = (1.5, 1.5, 2.0)  # mm
NOISE = 5.0  # HU, so that no two scans are the same
SETTINGS = "inference: {num_workers: 2}"
SLOTS = 3  # scans in an actor at a time, with these settings
MIB = 2**20


class Answering(RayWorker):
    """An actor that reads nothing."""

    def infer(self, source: str) -> Event:
        """Answer at once, without inference."""
        return {"event": "finished", "scan_id": source, "detections": 0, "seconds": 0.0, "outputs": []}


def main() -> int:
    """Print the comparison. The module's docstring says what the exit code means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=40, help="scans for the comparison (%(default)s)")
    parser.add_argument("--paths", type=int, default=100_000, help="paths for the memory of the driver (%(default)s)")
    parser.add_argument("--limit", type=float, default=0.1, help="overhead that is allowed (%(default)s)")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="pivot-scaling-") as place:
        folder = Path(place)
        (folder / "config.yaml").write_text(SETTINGS, encoding="utf-8")
        wrong = _compare(folder, _scans(folder / "scans", options.scans), options.limit) if options.scans else False
        if options.paths:
            _watch(folder, options.paths)
    return int(wrong)


def _scans(folder: Path, count: int) -> list[Path]:
    """Pieces of the phantom, each around a nodule at a different place."""
    scan, nodules = chest_phantom(spacing=SPACING)
    random = np.random.default_rng(0)
    shape = np.round(WIDTH / np.array(scan.spacing)).astype(int)
    folder.mkdir()
    paths = []
    for number in range(count):
        centre = nodules[number % len(nodules)].coordinates_voxel + random.integers(-10, 11, 3)
        low = np.clip(centre - shape // 2, 0, np.array(scan.shape) - shape)
        piece = scan.array[tuple(slice(a, a + n) for a, n in zip(low, shape, strict=True))]
        piece = (piece + random.normal(0, NOISE, piece.shape)).astype(np.int16)
        affine = scan.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ low
        paths.append(folder / f"scan_{number:03}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(piece, affine), paths[-1])
    return paths


def _compare(folder: Path, paths: list[Path], limit: float) -> bool:
    """Whether the results differ or Ray takes too long."""
    before = _local(folder)
    with local_cluster(WORKERS):
        seconds, first = _on_cluster(folder, paths)
    local = (before + (after := _local(folder))) / 2
    differing = [
        path.name for path in paths if _detections(folder / "local", path) != _detections(folder / "ray", path)
    ]
    found = sum(len(_detections(folder / "ray", path)) for path in paths)
    predicted, _ = simulate([_stages(folder / "ray", path) for path in paths], [1.0] * WORKERS, SLOTS)
    overhead = seconds / local - 1
    print(f"{len(paths)} scans, {found} detections, {len(differing)} scans with other detections {differing}")
    print(f"{WORKERS} local commands: {before:.1f} and {after:.1f} s")
    print(f"{WORKERS} actors: {seconds:.1f} s, overhead {overhead:+.1%}")
    print(f"without starting: {seconds - first:.1f} s; by the simulation: {predicted:.1f} s")
    print("mean seconds:", *(f"{name} {value:.2f}" for name, value in _means(folder / "ray", paths).items()))
    return bool(differing) or overhead > limit


def _local(folder: Path) -> float:
    """The seconds of the local commands, one for each shard, at the same time."""
    command = [sys.executable, "-m", "src.inference.main", "--device", "cpu", "--num-shards", str(WORKERS)]
    for option, name in (("--input-dir", "scans"), ("--output-dir", "local"), ("--config", "config.yaml")):
        command += [option, str(folder / name)]
    return measure([[*command, "--shard-index", str(index)] for index in range(WORKERS)]).seconds


def _on_cluster(folder: Path, paths: list[Path]) -> tuple[float, float]:
    """The seconds for all scans, and until the first scan was sent to an actor with a loaded model."""
    started: list[float] = []
    import ray

    ray.init(address="auto", log_to_driver=False)
    start = time.perf_counter()
    distributed_inference(
        input_paths=paths,
        output_dir=folder / "ray",
        config=folder / "config.yaml",
        progress=lambda _: started.append(time.perf_counter()),
    )
    return time.perf_counter() - start, started[0] - start


def _report(folder: Path, path: Path) -> dict[str, Any]:
    name = path.name.removesuffix(".nii.gz")
    report: dict[str, Any] = json.loads((folder / f"{name}_detections.json").read_text(encoding="utf-8"))
    return report


def _detections(folder: Path, path: Path) -> list[Any]:
    detections: list[Any] = _report(folder, path)["detections"]
    return detections


def _stages(folder: Path, path: Path) -> Stages:
    seconds = _report(folder, path)["metadata"]["timings_seconds"]
    return Stages(
        seconds["read"], seconds["preprocess"] + seconds["inference"] + seconds["postprocess"], seconds["write"]
    )


def _means(folder: Path, paths: list[Path]) -> dict[str, float]:
    timings = [_report(folder, path)["metadata"]["timings_seconds"] for path in paths]
    return {name: sum(one[name] for one in timings) / len(timings) for name in timings[0]}


def _watch(folder: Path, count: int) -> None:
    """Print the driver's memory while many paths go through actors that do nothing."""
    import ray

    process, done = psutil.Process(), 0
    print("paths  MiB of the driver")

    def look(event: Event) -> None:
        nonlocal done
        if event["event"] == "finished":
            done += 1
            if done % (count // 10) == 0:
                print(f"{done:6}  {process.memory_info().rss / MIB:.0f}", flush=True)

    with local_cluster(WORKERS), mock.patch.object(distributed, "RayWorker", Answering):
        ray.init(address="auto", log_to_driver=False)
        settings = load_config({"inference": {"num_workers": 15}})
        done_in = distributed_inference(
            input_paths=_paths(count), output_dir=folder / "out", config=settings, progress=look
        )
    print(f"{done_in['num_scans']} of {count} answered")


def _paths(count: int) -> Iterator[str]:
    return (f"/scans/{number:07}.nii.gz" for number in range(count))


if __name__ == "__main__":
    sys.exit(main())
