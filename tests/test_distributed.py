"""Batches on a Ray cluster of several nodes give the files of a local batch, even if processes or nodes die."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil
import pytest

from benchmarks.cluster import add_node, local_cluster
from src.api.client import InferenceClient
from src.api.ray_workers import RayWorkers
from src.api.settings import Settings
from src.errors import BadCheckpoint, BadConfig, BadOutput, BadScan
from src.inference.main import main
from src.runs import distributed
from src.runs.batch import BatchResults, batch_inference
from src.runs.distributed import distributed_inference
from src.runs.ray_worker import RayWorker, local_copy

from . import ray_workers
from .api_service import nifti, served
from .pacs import until
from .small_scans import block, save_nifti, tiny_checkpoint

QUICK = {"output": {"save_visualization": False}}
Events = list[dict[str, Any]]
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")  # raised inside Ray


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster that this process has joined: a head without cores and two nodes of one core each."""
    ray = pytest.importorskip("ray")
    with local_cluster(2) as nodes:
        ray.init(address="auto", log_to_driver=False)
        yield nodes


@pytest.fixture
def cluster(nodes: Any) -> Iterator[Any]:  # noqa: ANN401
    """The cluster; waits afterwards until two machines are alive, so that no killed one still counts."""
    yield nodes
    until(lambda: len(ray_workers.alive_machines()) == 2)


class Job:
    """Scans, a model and an output folder; runs them on the cluster and records the events."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.checkpoint = tiny_checkpoint(folder / "tiny.pth")
        self.out = folder / "out"
        self.events: Events = []

    def scans(self, count: int) -> list[Path]:
        return [save_nifti(block()[0], self.folder / "scans" / f"{number}.nii.gz") for number in range(count)]

    def run(self, paths: Any, worker: type[RayWorker] = ray_workers.Recording, **options: Any) -> BatchResults:  # noqa: ANN401
        self.monkeypatch.setattr(distributed, "RayWorker", worker)
        given: dict[str, Any] = {"output_dir": self.out, "config": QUICK, "progress": self.events.append}
        return distributed_inference(self.checkpoint, paths, **{**given, **options})

    def of(self, kind: str) -> Events:
        return [event for event in self.events if event["event"] == kind]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    return Job(tmp_path, monkeypatch)


@pytest.mark.usefixtures("cluster")
def test_the_results_equal_those_of_a_local_batch_and_are_not_recomputed(job: Job, tmp_path: Path) -> None:
    good = job.scans(5)
    broken = tmp_path / "scans" / "broken.nii.gz"
    broken.write_text("text")
    config = {"output": {"save_visualization": False, "formats": {"detections": "both"}}}
    local = batch_inference(job.checkpoint, tmp_path / "scans", tmp_path / "local", config, device="cpu")
    paths = [broken, *good[1:], f"file://{good[0]}", tmp_path / "other" / "1.nii.gz"]
    done = job.run(iter(paths), batch_size=4, config=config)

    assert (done["num_scans"], done["total_detections"]) == (5, local["total_detections"])
    assert done["failed"][str(broken)] == local["failed"][str(broken)]
    assert done["failed"][str(paths[-1])].startswith(f"{paths[-1]}: an earlier scan of this run is also called 1")
    assert {path.name for path in job.out.iterdir()} == {path.name for path in (tmp_path / "local").iterdir()}
    for path in job.out.iterdir():
        _same_content(path, tmp_path / "local" / path.name)
    assert [event["index"] for event in job.of("start")] == [1, 2, 3, 4, 5, 6]
    assert job.events[-1] == {"event": "summary", **done}

    (job.out / "3_heatmap.nii.gz").unlink()
    (job.out / "findings.csv").unlink()
    again = job.run(good, resume=True, num_gpus=1, config=config)
    assert again["num_scans"] == 1
    assert sorted(again["skipped"]) == [str(path) for path in good if path.name != "3.nii.gz"]
    _same_content(job.out / "findings.csv", tmp_path / "local" / "findings.csv")  # also for the skipped scans


@pytest.mark.usefixtures("cluster")
def test_one_table_holds_the_findings_of_all_scans_of_a_run(job: Job, root: Path) -> None:
    job.checkpoint = root / "checkpoints" / "best_model.pth"
    config = {"output": {"save_visualization": False, "formats": {"exports": ["findings"]}}}
    done = job.run(job.scans(2), config=config, shard=(1, 3))
    rows = (job.out / "findings_1_of_3.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["0", "1"]
    assert done["total_detections"] == 2
    assert not (job.out / "findings.csv").exists()


def _same_content(path: Path, other: Path) -> None:
    if path.suffix == ".json":
        one, two = (json.loads(file.read_text(encoding="utf-8")) for file in (path, other))
        for report in (one, two):
            del report["timestamp"], report["metadata"]["timings_seconds"]
            del report["summary"]["processing_time_seconds"]
        assert one == two
    elif path.suffix == ".csv":
        lines = path.read_text(encoding="utf-8").splitlines()
        assert sorted(lines) == sorted(other.read_text(encoding="utf-8").splitlines())
    else:
        one, two = (np.asarray(nibabel.load(file).dataobj) for file in (path, other))  # type: ignore[attr-defined]
        np.testing.assert_array_equal(one, two)


def test_no_scan_is_lost_when_a_node_is_killed(job: Job, cluster: Any) -> None:  # noqa: ANN401
    extra = add_node(cluster)
    killed: list[str] = []

    def kill(event: dict[str, Any]) -> None:
        job.events.append(event)
        if event.get("machine") == extra.node_id and not killed:
            killed.append(extra.node_id)
            cluster.remove_node(extra, allow_graceful=False)

    paths = job.scans(24)
    done = job.run(paths, ray_workers.Slow, progress=kill)
    assert killed
    assert (done["num_scans"], done["failed"]) == (24, {})
    reports = {path.name for path in job.out.glob("*_detections.json")}
    assert reports == {f"{number}_detections.json" for number in range(24)}
    assert len(job.of("start")) == len(job.of("finished")) == 24


@pytest.mark.usefixtures("cluster")
def test_a_scan_that_kills_its_process_is_reported_and_the_others_are_processed(job: Job, tmp_path: Path) -> None:
    paths = job.scans(5)
    poison = save_nifti(block()[0], tmp_path / "scans" / "poison.nii.gz")
    done = job.run([poison, *paths], ray_workers.Poisoned)
    assert done["num_scans"] == 5
    assert list(done["failed"]) == [str(poison)]
    assert "the process that worked on it died 3 times" in done["failed"][str(poison)]


@pytest.mark.usefixtures("cluster")
def test_a_full_disk_ends_the_run_and_leaves_no_partial_results(job: Job) -> None:
    with pytest.raises(BadOutput, match=r"cannot write .*out: No space left on device"):
        job.run(job.scans(6), ray_workers.Full)
    assert list(job.out.iterdir()) == []
    assert not job.of("finished")
    assert not job.of("summary")


@pytest.mark.usefixtures("cluster")
def test_a_full_disk_is_reported_even_if_an_actor_dies_afterwards(job: Job) -> None:
    with pytest.raises(BadOutput, match=r"cannot write .*out: No space left on device"):
        job.run(job.scans(2), ray_workers.FullOrDead)


@pytest.mark.usefixtures("cluster")
def test_a_machine_that_cannot_write_gets_no_more_scans(job: Job) -> None:
    done = job.run(job.scans(6), ray_workers.FullOnOne)
    assert (done["num_scans"], done["failed"]) == (6, {})
    assert len({event["machine"] for event in job.of("finished")}) == 1


@pytest.mark.usefixtures("cluster")
def test_a_slow_machine_is_given_fewer_scans(job: Job) -> None:
    done = job.run(job.scans(16), ray_workers.Slow, config={**QUICK, "inference": {"num_workers": 0}})
    machines = [event["machine"] for event in job.of("finished")]
    assert done["num_scans"] == 16
    assert 0 < min(machines.count(machine) for machine in set(machines)) < 6
    assert len(set(machines)) == 2


@pytest.mark.usefixtures("cluster")
def test_an_error_that_concerns_every_scan_is_raised_before_any_actor_starts(job: Job, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"inference\.batch_size"):
        job.run(job.scans(1), batch_size=0)
    job.checkpoint = tmp_path / "none.pth"
    with pytest.raises(BadCheckpoint, match="cannot read the checkpoint"):
        job.run(job.scans(1))


@pytest.mark.usefixtures("cluster")
def test_the_command_line_sends_the_code_and_the_weights_of_the_checkout(job: Job) -> None:
    import ray  # noqa: PLC0415

    ray.shutdown()
    distributed.connect()
    here = ray.get(ray.remote(lambda: sorted(path.as_posix() for path in Path.cwd().rglob("*"))).remote())
    assert {path.split("/runtime_resources/")[1].split("/")[2] for path in here} == {
        "calibration",
        "checkpoints",
        "src",
    }
    assert any(path.endswith("/checkpoints/best_model.pth") for path in here)
    ray.shutdown()
    config = job.folder / "quick.yaml"
    config.write_text("output: {save_visualization: false}")
    places = {"--checkpoint": job.checkpoint, "--output-dir": job.out, "--config": config}
    command = [str(part) for place in places.items() for part in place]
    above = job.scans(1)[0].parent
    for name in ("a", "b"):
        save_nifti(block()[0], above / name / "0.nii.gz")
    assert main([*command, "--input-dir", str(above), "--distributed", "--recursive"]) == 0
    reports = {path.relative_to(job.out).as_posix() for path in job.out.rglob("*_detections.json")}
    assert reports == {"0_detections.json", "a/0_detections.json", "b/0_detections.json"}
    ray.shutdown()
    ray.init(address="auto", log_to_driver=False)  # the cluster of the other tests


def test_service_workers_run_on_the_cluster_and_survive_lost_nodes(cluster: Any, tmp_path: Path) -> None:  # noqa: ANN401
    extra = add_node(cluster)
    (tmp_path / "ct.nii").write_bytes(nifti())
    (tmp_path / "quick.yaml").write_text("inference: {patch_size: [32, 32, 32]}\noutput: {save_visualization: false}")
    settings = {"PIVOT_RAY": cluster.address, "PIVOT_LEASE_SECONDS": "2", "PIVOT_LOG": "info"}
    with served(tmp_path, None, **settings) as (address, server), InferenceClient(base_url=address) as client:
        numbers = [client.submit_inference(tmp_path / "ct.nii", tmp_path / "quick.yaml") for _ in range(12)]
        client.wait_for_results(numbers[0], timeout=120)
        cluster.remove_node(extra, allow_graceful=False)
        for number in numbers:
            assert client.wait_for_results(number, timeout=120)["scan_id"] == "ct"
        children = [child.cmdline() for child in psutil.Process(server.pid).children()]
    assert [command[2] for command in children] == ["src.api.ray_workers"]
    assert "3 workers on the Ray cluster" in (tmp_path / "server.log").read_text()
    folders = [tmp_path / "data" / "jobs" / number for number in numbers]
    for folder in folders:
        os.utime(folder, (0, 0))
    with served(tmp_path, None, PIVOT_DEVICES="none"):  # removes the files that the killed workers left
        until(lambda: [len(list(folder.iterdir())) for folder in folders] == [1] * len(folders))


def test_the_services_workers_name_the_missing_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    nodes = [{"NodeManagerAddress": address} for address in ("192.0.2.1", "192.0.2.2")]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    with pytest.raises(BadConfig, match="set PIVOT_DATABASE_URL"):
        RayWorkers(ray, Settings(data=tmp_path))


@pytest.mark.parametrize(
    ("resources", "device", "num_gpus", "per_actor", "expected"),
    [
        ({"CPU": 64.0, "GPU": 8.0}, "auto", 8, (1, 1), (8, 1)),
        ({"CPU": 64.0, "GPU": 8.0}, "auto", None, (0.25, 2), (32, 0.25)),
        ({"CPU": 64.0, "GPU": 2.0}, "cuda", 8, (1, 1), (8, 1)),  # the autoscaler adds the others
        ({"CPU": 64.0, "GPU": 8.0}, "cpu", None, (1, 16), (4, 0)),
        ({"CPU": 2.0}, "cuda", 8, (1, 1), (2, 0)),
        ({"CPU": 8.0}, "auto", 3, (1, 2), (3, 0)),
        ({}, "auto", None, (1, 1), (1, 0)),
    ],
)
def test_the_number_of_actors_follows_the_resources_of_the_cluster(
    resources: dict[str, float],
    device: str,
    num_gpus: int | None,
    per_actor: tuple[float, float],
    expected: tuple[int, float],
) -> None:
    assert distributed.demand(resources, device, num_gpus, *per_actor) == expected


def test_without_ray_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadConfig, match=r"pip install 'pivot-ct\[ray\]'"):
        distributed_inference(input_paths=[tmp_path / "a.nii.gz"])


@pytest.mark.parametrize(
    ("files", "source", "copied"),
    [
        (["a.nii.gz"], "a.nii.gz", ["a.nii.gz"]),
        (["b.mhd", "b.raw", "c.raw"], "b.mhd", ["b.mhd", "b.raw"]),
        (["d/1.dcm", "d/2.dcm", "e/1.dcm"], "d", ["d/1.dcm", "d/2.dcm"]),
    ],
)
def test_scans_are_fetched_from_an_object_store_and_do_not_stay(
    files: list[str], source: str, copied: list[str]
) -> None:
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    for name in files:
        store.pipe(f"/bucket/{name}", name.encode())
    with local_copy(f"memory://bucket/{source}") as path:
        there = [file for file in path.parent.rglob("*") if file.is_file()]
        assert sorted(file.relative_to(path.parent).as_posix() for file in there) == copied
        assert [file.read_text(encoding="utf-8") for file in sorted(there)] == copied
    assert not path.parent.exists()


@pytest.mark.parametrize("source", ["memory://bucket/none.nii.gz", "nowhere://bucket/a.nii.gz"])
def test_a_scan_that_cannot_be_fetched_fails(source: str) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(BadScan, match=f"^{source}: cannot be fetched"), local_copy(source):
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "a.nii.gz", "--distributed"], "--distributed goes with --input-dir"),
        (["--input-dir", "a", "--distributed", "auto", "--device", "cuda"], "--device goes without --distributed"),
    ],
)
def test_the_command_line_refuses_options_without_effect(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
