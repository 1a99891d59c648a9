"""The service without disk space, database or workers, and with invalid settings."""

import errno
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError
from starlette.websockets import WebSocketDisconnect

from src.api import jobs, settings, submission, supervisor, uploads, workers
from src.api.database import jobs as jobs_table
from src.api.database import open_database
from src.api.settings import load_settings
from src.errors import BadConfig

from .api_service import JOBS, Api, api_on, lung_and_tissue, nifti
from .test_api_jobs import engine

__all__ = ["engine"]  # a fixture

QUICK = b"inference: {patch_size: [32, 32, 32]}\noutput: {save_visualization: false}"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with api_on(tmp_path) as api:
        yield api


@pytest.fixture
def _full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(uploads.Incoming, "_write", write)


@pytest.mark.usefixtures("_full_disk")
def test_a_full_disk_is_answered_with_503(api: Api) -> None:
    answer = api.submit()
    assert (answer.status_code, answer.json()["type"], answer.headers["retry-after"]) == (503, "urn:pivot:Busy", "60")
    with api.connect(f"{JOBS}/stream") as socket:
        socket.send_bytes(nifti())
        assert socket.receive_json()["error"]["status"] == 503
        with pytest.raises(WebSocketDisconnect) as end:
            socket.receive_json()
    assert end.value.code == 1013
    assert list(api.settings.jobs.iterdir()) == []


@pytest.mark.parametrize(
    ("lack", "seconds", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "10", "too many files open"),
        (MemoryError(), "10", "no memory or thread to spare"),
        (RuntimeError("can't start new thread"), "10", "no memory or thread to spare"),
    ],
)
def test_a_lack_of_resources_is_answered_with_503(
    api: Api, monkeypatch: pytest.MonkeyPatch, lack: Exception, seconds: str, words: str
) -> None:
    def fail(*_: object) -> None:
        raise lack

    monkeypatch.setattr(uploads.Incoming, "_write", fail)
    answer = api.submit()
    assert (answer.status_code, answer.headers.get("retry-after")) == (503, seconds)
    assert words in answer.json()["detail"]
    assert list(api.settings.jobs.iterdir()) == []
    monkeypatch.undo()
    assert api.submit().status_code == 202


@pytest.mark.parametrize("fault", [RuntimeError("of another kind"), NotImplementedError(), OSError(errno.EINVAL, "x")])
def test_an_unexpected_exception_is_answered_with_500(
    api: Api, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(uploads.Incoming, "_write", fail)
    answer = api.submit()
    assert (answer.status_code, answer.json()["title"]) == (500, "Internal Server Error")
    assert "of another kind" not in answer.text


@pytest.mark.parametrize("ended", [True, False])
def test_a_job_can_be_deleted_on_a_full_disk(api: Api, monkeypatch: pytest.MonkeyPatch, *, ended: bool) -> None:
    """SQLite can write the change only after files were deleted."""
    number = api.submit(config=QUICK).json()["job_id"]
    if ended:
        api.work()
    folder, cancel = api.settings.jobs / number, jobs.cancel

    def full(*arguments: Any) -> bool:  # noqa: ANN401
        if [path for path in folder.rglob("*") if path.is_file()]:
            msg = "UPDATE"
            raise OperationalError(msg, {}, sqlite3.OperationalError("database or disk is full"))
        return cancel(*arguments)

    monkeypatch.setattr(jobs, "cancel", full)
    assert api.client.delete(f"{JOBS}/{number}").status_code == (204 if ended else 200)
    assert api.left() == []


def test_an_unexpected_exception_closes_a_socket_with_1011(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "find", lambda *_: 1 / 0)
    with api.connect(f"{JOBS}/{'0' * 32}/stream") as socket:
        assert socket.receive_json()["error"]["detail"].startswith("unexpected ZeroDivisionError")
        with pytest.raises(WebSocketDisconnect) as end:
            socket.receive_json()
    assert end.value.code == 1011


def test_the_log_gives_the_location_of_an_unexpected_exception_without_its_message(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def faulty(*_: Any) -> None:  # noqa: ANN401
        try:
            {"": 0}["Meyer"]
        except KeyError as error:
            msg = "Meyer^Karl"
            raise RuntimeError(msg) from error

    monkeypatch.setattr(jobs, "find", faulty)
    answer = api.client.get(f"{JOBS}/{'0' * 32}")
    assert (answer.status_code, answer.json()["detail"]) == (500, "unexpected RuntimeError; see the server's log")
    with api.connect(f"{JOBS}/{'0' * 32}/stream") as socket:
        assert socket.receive_json()["error"]
    (of_request, of_socket) = (record for record in caplog.records if "unexpected" in record.getMessage())
    for record in (of_request, of_socket):
        assert not record.exc_info
        assert "met an unexpected RuntimeError (" in record.getMessage()
        assert " faulty; cause: KeyError (test_api_outages.py:" in record.getMessage()
    assert "Meyer" not in caplog.text


def test_sweeps_continue_after_any_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    swept, faults = threading.Event(), [RuntimeError("Meyer^Karl")]

    def sweep(_: object) -> None:
        if faults:
            raise faults.pop()
        swept.set()

    monkeypatch.setattr(supervisor, "sweep", sweep)
    monkeypatch.setattr(supervisor, "SWEEP_SECONDS", 0.01)
    with api_on(tmp_path):
        assert swept.wait(60)
    assert "could not be removed: RuntimeError (" in caplog.text
    assert "Meyer" not in caplog.text


def test_a_database_that_does_not_answer_blocks_no_request_for_long(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "DATABASE_SECONDS", 0.2)
    going = threading.Event()
    for name in ("page", "find", "counts", "waiting"):
        monkeypatch.setattr(jobs, name, lambda *_: going.wait(60))
    monkeypatch.setattr(submission, "waiting", lambda *_: going.wait(60))
    start = time.monotonic()
    answers = [api.client.get(path) for path in (JOBS, f"{JOBS}/{'0' * 32}", "/metrics")] + [api.submit()]
    assert {(answer.status_code, answer.headers.get("retry-after")) for answer in answers} == {(503, "5")}
    assert api.client.get("/readyz").json()["database"] == "unreachable"
    assert time.monotonic() - start < 30
    going.set()


def test_a_job_submitted_twice_after_a_timeout_keeps_its_scan(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first request times out, but its row is inserted. The client retries with the same idempotency key."""
    submit, late = jobs.submit, threading.Event()

    def slow(*arguments: Any, **columns: Any) -> Any:  # noqa: ANN401
        time.sleep(1.5)
        try:
            return submit(*arguments, **columns)
        finally:
            late.set()

    key = {"Idempotency-Key": "one"}
    with monkeypatch.context() as silent:
        silent.setattr(submission, "DATABASE_SECONDS", 1.0)
        silent.setattr(submission, "submit", slow)
        assert api.submit(config=QUICK, headers=key).status_code == 503
    assert late.wait(30)
    number = api.submit(config=QUICK, headers=key).json()["job_id"]
    assert (api.work().id, api.state(number)["status"]) == (number, "completed")


def test_a_server_is_ready_when_a_worker_runs(api: Api) -> None:
    assert api.client.get("/readyz").json() == {"status": "ok", "database": "ok", "disk": "ok", "workers": 0}
    api.service.settings = api.settings.model_copy(update={"devices": ("cpu",)})
    answer = api.client.get("/readyz")
    assert (answer.status_code, answer.json()["workers"]) == (503, 0)
    heartbeat = workers.Heartbeat(api.service.engine)
    heartbeat.beat()
    assert api.client.get("/readyz").json()["workers"] == 1
    assert api.client.get("/readyz").status_code == 200
    assert "pivot_workers 1.0" in api.client.get("/metrics").text
    heartbeat.end()
    assert api.client.get("/readyz").status_code == 503


def test_starting_a_worker_is_retried(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = list[str]()

    async def start(module: str, *_: str) -> Any:  # noqa: ANN401
        starts.append(module)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(supervisor, "start", start)
    monkeypatch.setattr(supervisor, "MOST_SECONDS", 0.01)
    with api_on(api.settings.data.parent / "other", devices=("cpu",)):
        until = time.monotonic() + 30
        while len(starts) < 3:
            assert time.monotonic() < until
            time.sleep(0.02)


def test_leases_do_not_follow_the_wall_clock(engine: Any) -> None:  # noqa: ANN401
    """A restart of the machine resets the monotonic clock, so leases far in the future end too."""
    values = {"owner": "a", "file": "scan.nii", "size_bytes": 1, "config": {}, "fingerprint": "f"}
    jobs.submit(engine, id=jobs.new_id(), **values)
    taken = jobs.claim(engine, 30)
    assert taken is not None
    assert taken.lease_until is not None
    if engine.dialect.name == "sqlite":
        assert taken.lease_until == pytest.approx(time.monotonic() + 30, abs=20)
    assert jobs.claim(engine, 30) is None
    with engine.begin() as connection:
        connection.execute(update(jobs_table).values(lease_until=taken.lease_until + 86_400))
    assert jobs.claim(engine, 30) is not None


def test_any_number_of_job_folders_can_be_looked_up(engine: Any) -> None:  # noqa: ANN401
    assert jobs.known(engine, [f"{number:032x}" for number in range(100_000)]) == []


@pytest.mark.parametrize(
    "config",
    [
        b"inference: {batch_size: 0x" + b"f" * 5000 + b"}",
        b"inference: {batch_size: 1" + b":59" * 20_000 + b"}",
        b"inference: {overlap: 1" + b":59" * 20_000 + b".5}",
        b'visualization: {colormap: "\\ud800"}',
        b'"\\ud800": 1',
        b'model: {checkpoint: "a\\0/best_model.pth"}',
        b"input: {clip_range: [-1e308, 1e308]}",
        b"visualization: {colormap: " + b"x" * 1000 + b"}",
        b"[" * 60_000,
        b"\n".join(b"k%d: 1" % number for number in range(2000)),
        b"\xff",
    ],
)
def test_invalid_configurations_are_refused_with_a_short_message(api: Api, config: bytes) -> None:
    answer = api.submit(config=config)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:pivot:BadConfig")
    assert len(answer.content) < 5000
    assert api.left() == []


def test_an_invalid_key_file_gives_a_one_sentence_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pivot_api_keys").write_text("{hunter2")
    monkeypatch.setitem(settings.Settings.model_config, "secrets_dir", tmp_path)
    with pytest.raises(BadConfig, match="PIVOT_API_KEYS is not JSON") as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nonsense", "PIVOT_DATABASE_URL cannot be used"),
        ("postgresql+nothing://user:hunter2@host/x", "PIVOT_DATABASE_URL cannot be used"),
        ("postgresql+psycopg://user:hunter2@127.0.0.1:1/x", "the database of jobs cannot be used"),
        ("sqlite:///{folder}/jobs.sqlite", "file is not a database"),
        ("sqlite:///{folder}/none/jobs.sqlite", "unable to open"),
    ],
)
def test_an_invalid_database_gives_a_one_sentence_error(tmp_path: Path, url: str, reason: str) -> None:
    (tmp_path / "jobs.sqlite").write_bytes(b"nonsense" * 1000)
    with pytest.raises(BadConfig, match=reason) as caught:
        open_database(url.format(folder=tmp_path))
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_data_folder_is_private(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "data").chmod(0o755)
    settings.Settings(data=tmp_path / "data").make_folders()
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("data", "data/jobs")] == [0o700, 0o700]
    (tmp_path / "file").write_text("")
    with pytest.raises(BadConfig, match="PIVOT_DATA: cannot use the folder"):
        settings.Settings(data=tmp_path / "file").make_folders()


def test_a_failed_job_reports_its_error_without_file_names(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(*_: object, **__: object) -> None:
        msg = "MUELLER_HANS"
        raise ZeroDivisionError(msg)

    monkeypatch.setattr("src.api.worker.write_outputs", fault)
    monkeypatch.setattr(logging.getLogger("pivot.scan"), "disabled", True)  # otherwise set by `start_log`
    api.submit(name="MUELLER_HANS.nii", config=QUICK)
    assert api.work().state == "failed"
    reason = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(reason) == 1
    assert "unexpected ZeroDivisionError" in reason[0]
    assert "worker.py" in reason[0]
    assert "MUELLER" not in caplog.text


def test_a_small_scan_that_needs_gigabytes_fails_with_that_reason(api: Api) -> None:
    import nibabel  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    values = lung_and_tissue(24)
    for spacing in (50.0, 123.0):
        content = nibabel.Nifti1Image(values, np.diag([spacing, spacing, spacing, 1.0])).to_bytes()
        api.submit(content, config=QUICK)
        job = api.work()
        assert job.error is not None
        assert json.dumps(job.error).count("more than 536870912") == 1
