"""The client with a service that is down, busy, refusing or hostile."""

import json
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest

from src.api import calls
from src.api.client import InferenceClient, ServiceError
from src.errors import BadConfig, BadOutput, BadScan, PivotError

Answer = httpx.Response | Exception


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The client's waiting times, which do not really pass."""
    taken: list[float] = []
    monkeypatch.setattr("src.api.client.time.sleep", taken.append)
    return taken


def _client(*answers: Answer, retries: int = 5) -> tuple[InferenceClient, list[httpx.Request]]:
    """A client of a service that gives these answers, and a list of what it receives."""
    left, requests = list(answers), list[httpx.Request]()

    def answer(request: httpx.Request) -> httpx.Response:
        request.read()
        requests.append(request)
        given = left.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    return InferenceClient("http://server", "key", retries, httpx.MockTransport(answer)), requests


def _problem(kind: str, status: int, headers: dict[str, str] | None = None) -> httpx.Response:
    details = {"type": f"urn:pivot:{kind}", "title": kind, "status": status, "detail": "what is wrong"}
    return httpx.Response(status, json=details, headers=headers)


def test_a_retry_sends_the_same_key_and_the_whole_scan(tmp_path: Path, pauses: list[float]) -> None:
    (tmp_path / "scan.nii").write_bytes(b"content")
    client, requests = _client(
        httpx.ConnectError("away"),
        _problem("Busy", 503, {"retry-after": "7"}),
        httpx.ReadError("cut"),
        httpx.Response(202, json={"job_id": "one"}),
    )
    assert client.submit_inference(tmp_path / "scan.nii") == "one"
    assert len({request.headers["idempotency-key"] for request in requests}) == 1
    assert all(b"content" in request.content for request in requests)
    assert all(request.headers["authorization"] == "Bearer key" for request in requests)
    assert pauses[1] == 7
    assert 0.25 <= pauses[0] <= 0.5 <= pauses[2] * 4 <= 8


@pytest.mark.parametrize(
    ("answer", "error", "reported"),
    [
        (lambda: _problem("BadScan", 422), BadScan, "what is wrong"),
        (lambda: _problem("BadConfig", 422), BadConfig, "what is wrong"),
        (lambda: _problem("Unauthorized", 401), ServiceError, "what is wrong"),
        (lambda: httpx.Response(500, text="<html>"), ServiceError, "the service answered 500"),
        (lambda: httpx.Response(404, json=[]), ServiceError, "the service answered 404"),
    ],
)
def test_a_refusal_is_an_error_without_retries(
    pauses: list[float], answer: Callable[[], httpx.Response], error: type[PivotError], reported: str
) -> None:
    client, requests = _client(answer())
    with pytest.raises(error, match=f"^{reported}$") as caught:
        client.job("one")
    assert (len(requests), pauses) == (1, [])
    if isinstance(caught.value, ServiceError):
        assert caught.value.status == answer().status_code


@pytest.mark.parametrize("answer", [httpx.ConnectError("away"), httpx.Response(503)])
def test_the_client_gives_up_after_its_retries(pauses: list[float], answer: Answer) -> None:
    client, requests = _client(*[answer] * 3, retries=2)
    with pytest.raises(ServiceError):
        client.job("one")
    assert (len(requests), len(pauses)) == (3, 2)


def _job(status: str, **more: object) -> httpx.Response:
    return httpx.Response(200, json={"status": status, "progress": 1, "error": None, **more})


def test_waiting_ends_with_the_job_or_the_time(pauses: list[float]) -> None:
    client, _ = _client(_job("queued"), _job("running"), _job("completed"), httpx.Response(200, json={"a": 1}))
    seen: list[dict[str, Any]] = []
    assert client.wait_for_results("one", progress=seen.append) == {"a": 1}
    assert [job["status"] for job in seen] == ["queued", "running", "completed"]
    client, _ = _client(_job("running"))
    with pytest.raises(TimeoutError, match="is running"):
        client.wait_for_results("one", timeout=-1)
    client, _ = _client(_job("cancelled"))
    with pytest.raises(ServiceError, match="was cancelled"):
        client.wait_for_results("one")
    error = {"type": "urn:pivot:BadScan", "status": 422, "detail": "no CT"}
    client, _ = _client(_job("failed", error=error))
    with pytest.raises(BadScan, match="no CT"):
        client.wait_for_results("one")
    assert len(pauses) == 2


def _file(name: str) -> httpx.Response:
    return httpx.Response(200, json={"files": [{"kind": "heatmap", "name": name, "url": "/f"}]})


@pytest.mark.parametrize("status", ["queued", "running", "cancelled"])
def test_an_incomplete_job_has_no_files(tmp_path: Path, status: str) -> None:
    client, requests = _client(_job(status))
    with pytest.raises(ServiceError, match=f"the job one is {status}, so it has no results yet"):
        client.download_results("one", tmp_path / "out")
    assert len(requests) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../escaped", "/etc/passwd", "..", "a\\b", ""])
def test_files_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    client, _ = _client(_job("completed"), _file(name))
    with pytest.raises(BadOutput):
        client.download_results("one", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_download_is_restarted_or_leaves_nothing(tmp_path: Path, pauses: list[float]) -> None:
    client, _ = _client(
        _job("completed"), _file("a.txt"), httpx.ReadError("cut"), httpx.Response(200, content=b"whole")
    )
    assert [path.read_bytes() for path in client.download_results("one", tmp_path)] == [b"whole"]
    assert len(pauses) == 1
    client, _ = _client(_job("completed"), _file("b.txt"), _problem("NotFound", 404))
    with pytest.raises(ServiceError):
        client.download_results("one", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_is_sent_as_a_zip(tmp_path: Path) -> None:
    (tmp_path / "ct" / "deep").mkdir(parents=True)
    (tmp_path / "ct" / "deep" / "1.dcm").write_bytes(b"one")
    with calls._opened(tmp_path / "ct") as (file, name):  # noqa: SLF001
        file.seek(0)
        archive = zipfile.ZipFile(BytesIO(file.read()))
    assert (name, archive.namelist(), archive.read("deep/1.dcm")) == ("ct.zip", ["deep/1.dcm"], b"one")


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    client, requests = _client()
    with pytest.raises(BadScan, match="No such file"):
        client.submit_inference(tmp_path / "none.nii")
    with pytest.raises(BadConfig, match="No such file"):
        client.submit_inference(tmp_path, tmp_path / "none.yaml")
    assert requests == []


def test_progress_is_reported_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_bytes(bytes(200_000))
    client, _ = _client(httpx.Response(202, content=json.dumps({"job_id": "one"})))
    reported: list[tuple[int, int]] = []
    client.submit_inference(tmp_path / "scan.nii", progress=lambda done, whole: reported.append((done, whole)))
    assert reported[-1] == (200_000, 200_000)
    assert len(reported) > 2
