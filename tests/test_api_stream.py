"""The WebSocket interface, in process; `test_api_server` sends 60 MB through a real one."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from src.api.security import hashed

from .api_service import JOBS, Api, api_on, nifti

QUICK = "inference: {patch_size: [32, 32, 32]}\noutput: {save_visualization: false}"
Messages = list[dict[str, Any]]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with api_on(tmp_path) as api:
        yield api


def _messages(socket: WebSocketTestSession, first: dict[str, Any] | None = None) -> tuple[Messages, int]:
    """All messages until the service closes the socket, and the close code."""
    messages = [first] if first else []
    try:
        while True:
            messages.append(socket.receive_json())
    except WebSocketDisconnect as end:
        return messages, end.code


def _complete(api: Api, socket: WebSocketTestSession) -> Messages:
    first = socket.receive_json()
    worker = threading.Thread(target=api.work)
    worker.start()
    messages, code = _messages(socket, first)
    worker.join()
    assert code == 1000
    return messages


def _check(messages: Messages) -> None:
    assert (messages[0]["status"], messages[0]["progress"]) == ("queued", 0)
    assert (messages[-1]["status"], messages[-1]["progress"]) == ("completed", 100)
    assert messages[-1]["detections"] == []
    assert messages[-1]["summary"]["num_detections"] == 0
    assert [message["progress"] for message in messages] == sorted(message["progress"] for message in messages)
    assert len({message["job_id"] for message in messages}) == 1


def test_a_scan_may_be_sent_in_one_message(api: Api) -> None:
    with api.connect(f"{JOBS}/stream") as socket:
        socket.send_bytes(nifti())
        messages = _complete(api, socket)
    _check(messages)
    assert api.state(messages[0]["job_id"])["scan_id"] == "scan"


@pytest.mark.parametrize("sized", [True, False])
def test_a_scan_may_be_sent_in_pieces(api: Api, *, sized: bool) -> None:
    content = nifti()
    start = {"event": "start", "filename": "ct.nii", "config": QUICK, **({"size": len(content)} if sized else {})}
    with api.connect(f"{JOBS}/stream") as socket:
        socket.send_text(json.dumps(start))
        for first in range(0, len(content), 50_000):
            socket.send_bytes(content[first : first + 50_000])
        if not sized:
            socket.send_text('{"event": "end"}')
        messages = _complete(api, socket)
    _check(messages)
    assert api.state(messages[0]["job_id"])["scan_id"] == "ct"
    assert messages[-1]["windows_total"] > 1  # by the patch size in QUICK


def test_a_job_continues_without_its_client_and_can_be_followed(api: Api) -> None:
    with api.connect(f"{JOBS}/stream") as socket:
        socket.send_bytes(nifti())
        number = socket.receive_json()["job_id"]
    with api.connect(f"{JOBS}/{number}/stream") as socket:
        _check(_complete(api, socket))
    with api.connect(f"{JOBS}/{number}/stream") as socket:
        messages, code = _messages(socket)
    assert (len(messages), messages[0]["status"], code) == (1, "completed", 1000)


def test_a_failed_job_sends_its_error(api: Api) -> None:
    with api.connect(f"{JOBS}/stream") as socket:
        socket.send_bytes(nifti()[:400])
        messages = _complete(api, socket)
    assert (messages[-1]["status"], messages[-1]["error"]["type"]) == ("failed", "urn:pivot:BadScan")
    assert api.left() == []


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        ([b"no scan"], "BadScan"),
        ([b""], "BadScan"),
        (["text"], "BadRequest"),
        (["[" * 100_000], "BadRequest"),
        (['{"event": "start", "size": -1}'], "BadRequest"),
        (['{"event": "start", "size": 4}', b"NRRDX"], "BadRequest"),
        (['{"event": "start", "size": 9}', b"NRRD", '{"event": "end"}'], "BadRequest"),
        (['{"event": "start", "size": 4, "config": "a: ["}', b"NRRD"], "BadConfig"),
        (['{"event": "start"}', b"x" * 3000], "TooLarge"),
    ],
)
def test_a_refused_message_gets_an_error_and_leaves_nothing(tmp_path: Path, sent: list[str | bytes], kind: str) -> None:
    with api_on(tmp_path, upload_bytes=2000) as api:
        with api.connect(f"{JOBS}/stream") as socket:
            for message in sent:
                if isinstance(message, str):
                    socket.send_text(message)
                else:
                    socket.send_bytes(message)
            messages, code = _messages(socket)
        assert code == 1008
        assert messages == [{**messages[0], "job_id": None, "status": "failed", "progress": 0}]
        assert messages[0]["error"]["type"] == f"urn:pivot:{kind}"
        assert list(api.settings.jobs.iterdir()) == []


def test_a_client_that_disconnects_during_an_upload_leaves_nothing(api: Api) -> None:
    with api.connect(f"{JOBS}/stream") as socket:
        socket.send_text('{"event": "start", "size": 1000}')
        socket.send_bytes(b"NRRD")
    until = time.monotonic() + 30
    while list(api.settings.jobs.iterdir()):
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("headers", "protocols", "kind"),
    [
        ({}, None, "Unauthorized"),
        ({"origin": "http://evil.example"}, ["pivot", "secret"], "Forbidden"),
        ({"x-api-key": "secret"}, None, "NotFound"),
        ({}, ["pivot", "secret"], "NotFound"),
        ({}, ["pivot", "wrong"], "Unauthorized"),
    ],
)
def test_sockets_require_the_api_key(
    tmp_path: Path, headers: dict[str, str], protocols: list[str] | None, kind: str
) -> None:
    with (
        api_on(tmp_path, "10.0.0.9", "server", api_keys={"ward": hashed("secret")}) as api,
        api.connect(f"{JOBS}/0/stream", headers=headers, subprotocols=protocols) as socket,
    ):
        messages, code = _messages(socket)
        assert (messages[0]["error"]["type"], code) == (f"urn:pivot:{kind}", 1008)
        assert socket.accepted_subprotocol == (protocols and "pivot")


def test_a_busy_service_refuses_a_socket_with_try_again_later(api: Api) -> None:
    api.service.arriving |= {str(number): "other" for number in range(api.settings.uploads)}
    with api.connect(f"{JOBS}/stream") as socket:
        messages, code = _messages(socket)
    assert (messages[0]["error"]["status"], code) == (503, 1013)
