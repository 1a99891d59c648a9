"""The worker: cancellation, limits, stopping, loss of its server, and the files it leaves."""

import errno
import os
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from src.api import jobs, worker
from src.api.worker import Worker
from src.detection import network
from src.model.checkpoint import Checkpoint, load_model
from src.types import Preprocessed

from .api_service import JOBS, Api, api_on, lung_and_tissue, nifti

QUICK = b"inference: {patch_size: [32, 32, 32]}\noutput: {save_visualization: false}"
Hook = Callable[[Callable[[], object]], None]


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setattr(worker, "BEAT_SECONDS", 0.02)
    with api_on(tmp_path) as api:
        yield api


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Hook:
    """Return a function that makes something happen during inference and gives the worker time to notice."""

    def hook(happen: Callable[[], object]) -> None:
        original = network.Network.preprocess

        def preprocess(self: network.Network, *arguments: Any) -> Preprocessed:  # noqa: ANN401
            happen()
            time.sleep(0.2)
            return original(self, *arguments)

        monkeypatch.setattr(network.Network, "preprocess", preprocess)

    return hook


def test_a_cancelled_job_stops_and_leaves_nothing(api: Api, during: Hook) -> None:
    number = api.submit(config=QUICK).json()["job_id"]
    during(lambda: api.client.delete(f"{JOBS}/{number}"))
    assert api.work().state == "cancelled"
    assert api.left() == []


def test_a_job_has_limited_time(api: Api, during: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    number = api.submit(config=QUICK).json()["job_id"]
    monkeypatch.setattr(api.worker, "settings", api.settings.model_copy(update={"job_seconds": 0.01}))
    during(lambda: None)
    assert api.work().state == "failed"
    assert "took longer than 0 s" in api.state(number)["error"]["detail"]
    assert api.left() == []


def test_a_job_has_limited_windows(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.detection.windows.MOST_WINDOWS", 7)
    api.submit(config=b"inference: {patch_size: [32, 32, 32], stride: [1, 1, 1]}")
    job = api.work()
    assert job.error is not None
    assert (job.state, job.error["type"], job.error["status"]) == ("failed", "urn:pivot:BadConfig", 422)
    assert "stride [1, 1, 1] means" in job.error["detail"]
    assert "windows on this scan, more than 7: make it larger" in job.error["detail"]
    assert api.left() == []


def test_a_lack_of_resources_is_reported_as_the_reason(api: Api, during: Hook) -> None:
    def fail() -> None:
        raise ValueError from OSError(errno.ENOSPC, "No space left on device")

    api.submit(config=QUICK)
    during(fail)
    job = api.work()
    assert job.error is not None
    assert (job.state, job.error["status"]) == ("failed", 500)
    assert "the service lacks resources for the job (No space left on device)" in job.error["detail"]
    assert api.left() == []


def test_a_stopping_worker_returns_its_job(api: Api, during: Hook) -> None:
    api.submit(config=QUICK)
    signals = [api.worker.stopping.set]
    during(lambda: signals and signals.pop()())
    job = api.work()
    assert (job.state, job.attempts) == ("queued", 0)
    assert api.left() == ["scan.nii"]
    api.worker.stopping.clear()
    assert api.work().state == "completed"


def test_a_worker_without_its_server_stops(api: Api) -> None:
    orphan = Worker(api.settings, "cpu", parent=os.getppid() + 1)
    assert orphan.should_stop()
    orphan.run()  # it returns
    assert not Worker(api.settings, "cpu", parent=os.getppid()).should_stop()


def test_a_job_that_kills_its_workers_fails(api: Api) -> None:
    api.submit(config=QUICK)
    for _ in range(api.settings.attempts):
        assert jobs.claim(api.service.engine, -1) is not None  # the worker sends no heartbeat any more
    job = api.work()
    assert job.state == "failed"
    assert job.error is not None
    assert "5 workers died with it" in job.error["detail"]
    assert api.left() == []


def test_a_worker_that_lost_its_job_changes_nothing(api: Api, during: Hook) -> None:
    """Its lease ended, and another worker has finished the job."""
    number = api.submit(config=QUICK).json()["job_id"]
    slow = jobs.claim(api.service.engine, -1)
    assert slow is not None
    done = api.work()
    assert (done.state, done.result != slow.lease) == ("completed", True)
    before = api.client.get(f"{JOBS}/{number}/results").content
    during(lambda: None)
    api.worker.work(slow)
    assert api.client.get(f"{JOBS}/{number}/results").content == before
    assert api.left() == [".outlines.json", "scan.nii", "scan_detections.json", "scan_heatmap.nii.gz"]


def test_the_model_is_loaded_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = list[object]()

    def load(path: Path) -> Checkpoint:
        loaded.append(path)
        return load_model(path)

    monkeypatch.setattr("src.model.checkpoint.load_model", load)
    for config in (QUICK, QUICK + b"\npost_processing: {peak_detection: {threshold: 0.9}}"):
        number = api.submit(config=config).json()["job_id"]
        assert api.work().state == "completed"
    assert len(loaded) == 1
    report = api.client.get(f"{JOBS}/{number}/results").json()
    assert report["metadata"]["config"]["post_processing"]["peak_detection"]["threshold"] == 0.9
    api.submit(config=b"input: {spacing: [3, 3, 3]}")
    job = api.work()
    assert job.error is not None
    assert job.error == {**job.error, "type": "urn:pivot:BadConfig", "status": 422}


def test_an_internal_error_is_reported_without_details(api: Api, during: Hook) -> None:
    def fault() -> None:
        raise ZeroDivisionError(str(api.settings.data))

    during(fault)
    api.submit(config=QUICK)
    job = api.work()
    assert job.error is not None
    assert job.error == {
        **job.error,
        "status": 500,
        "detail": "unexpected ZeroDivisionError; see the worker's log",
    }
    assert api.left() == []


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".zip"])
def test_every_format_is_converted_to_nifti_for_viewers(api: Api, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"ct{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("inner.nii", nifti())
    else:
        image = sitk.GetImageFromArray(lung_and_tissue(40))
        image.SetSpacing((2, 2, 2))
        sitk.WriteImage(image, path)
    links = api.submit(path.read_bytes(), path.name, config=QUICK).json()["links"]
    assert api.work().state == "completed"
    files = api.client.get(links["files"]).json()["files"]
    (url,) = (file["url"] for file in files if file["kind"] == "scan")
    assert url.endswith("/files/scan.nii.gz")
    kept = tmp_path / "kept.nii.gz"
    kept.write_bytes(api.client.get(url).content)
    heat = next(path for path in api.settings.jobs.rglob("*_heatmap.nii.gz"))
    assert np.allclose(nibabel.load(kept).affine, nibabel.load(heat).affine)  # type: ignore[attr-defined]
    assert nibabel.load(kept).shape == (40, 40, 40)  # type: ignore[attr-defined]
