"""Limits on connections, messages and uploads, with uvicorn started as in the guide."""

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from src.api import serving, uploads
from src.api.app import create_app
from src.api.security import hashed
from src.api.settings import Settings

from .api_service import JOBS, free_port, nifti
from .small_scans import tiny_checkpoint

KEY = {"X-API-Key": "secret"}
KEYS = {"ward": hashed("secret"), "other": hashed("other")}
BEGUN = b"--b\r\nContent-Disposition: form-data; name=file; filename=a.nii\r\n\r\nxyz"
SHORT = 0.4  # seconds


class Served:
    """A server in a thread of this process, with adjustable limits."""

    def __init__(self, settings: Settings) -> None:
        self.port, self.settings = free_port(), settings
        self.server = uvicorn.Server(uvicorn.Config(create_app(settings), port=self.port, log_level="warning"))
        self.thread = threading.Thread(target=self.server.run)
        self.address = f"http://127.0.0.1:{self.port}"

    def connect(self, sent: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), 20)
        connection.sendall(sent)
        return connection

    def websocket(self, path: str, key: str | None = None) -> socket.socket:
        """Open a WebSocket and complete its handshake."""
        lines = [f"GET {path} HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
        lines += ["Sec-WebSocket-Extensions: permessage-deflate", *([f"X-API-Key: {key}"] if key else [])]
        connection = self.connect("\r\n".join([*lines, "", ""]).encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(1)
        assert b"101" in answer.partition(b"\r\n")[0]
        assert b"permessage-deflate" not in answer
        return connection

    def upload(self, **headers: str) -> socket.socket:
        """Start an upload that then stalls."""
        lines = [f"POST {JOBS} HTTP/1.1", "Host: x", "Content-Length: 1000000"]
        lines += ["Content-Type: multipart/form-data; boundary=b", *(f"{name}: {v}" for name, v in headers.items())]
        return self.connect("\r\n".join([*lines, "", ""]).encode() + BEGUN)

    def under_way(self) -> int:
        text = httpx.get(f"{self.address}/metrics", headers=KEY).text
        return int(float(next(line.split()[1] for line in text.splitlines() if line.startswith("pivot_uploads "))))


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Any]:
    @contextmanager
    def started(**settings: Any) -> Iterator[Served]:  # noqa: ANN401
        tiny_checkpoint(tmp_path / "best_model.pth")
        fixed: dict[str, Any] = {"data": tmp_path / "data", "checkpoint": tmp_path / "best_model.pth", "devices": ()}
        served = Served(Settings(**{**fixed, "free_bytes": 1, "auth": "key", "api_keys": KEYS, **settings}))
        served.thread.start()
        try:
            _until(lambda: served.server.started)
            yield served
        finally:
            served.server.should_exit = True
            served.thread.join(60)

    return started


def _until(holds: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def _all(connection: socket.socket) -> bytes:
    """Return everything that the server sends until it closes the connection."""
    received = b""
    with connection, suppress(ConnectionError):  # the server closed while data was still being sent
        while piece := connection.recv(65536):
            received += piece
    return received


def _frame(size: int, sent: int, *, opcode: int = 0x82) -> bytes:
    """The first `sent` bytes of a binary message of `size` bytes, masked with zeros."""
    return bytes([opcode, 0xFF]) + struct.pack(">QI", size, 0) + bytes(sent)


def _is_cut(connection: socket.socket, *sent: bytes) -> bool:
    """Whether the server closes within 8 seconds, before all of this is sent."""
    start = time.monotonic()
    with connection:
        try:
            for piece in sent:
                connection.sendall(piece)
                time.sleep(0.01)
        except ConnectionError:
            return time.monotonic() - start < 8
    return False


@pytest.mark.parametrize("path", [f"{JOBS}/stream", f"{JOBS}/x/stream"])
def test_a_socket_without_a_key_accepts_only_short_messages(serve: Callable[..., Any], path: str) -> None:
    """Without a key, a message may not be longer than the one that carries the key."""
    with serve() as served:
        assert _is_cut(served.websocket(path), _frame(400_000_000, 0), *[bytes(1_000_000)] * 400)


def test_a_client_without_a_key_gets_an_error(serve: Callable[..., Any]) -> None:
    with serve() as served:
        assert b"urn:pivot:Unauthorized" in _all(served.websocket(f"{JOBS}/stream"))


@pytest.mark.parametrize(
    "beginning", ["GET / HTTP/1.1\r\nX: ", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: "]
)
def test_an_endless_header_or_trailer_closes_the_connection(serve: Callable[..., Any], beginning: str) -> None:
    with serve() as served:
        assert _is_cut(served.connect(beginning.encode()), *[b"a" * 65536] * 100)


@pytest.mark.parametrize(
    "sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: ", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nG"]
)
def test_idle_connections_are_closed(serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(serving, "QUIET_SECONDS", SHORT)
    with serve() as served:
        assert (b"200 OK" in _all(served.connect(sent))) == sent.endswith(b"G")


def test_a_running_request_is_not_closed_as_idle(serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "QUIET_SECONDS", SHORT)
    with serve() as served:
        connection = served.upload(**KEY)
        time.sleep(4 * SHORT)
        assert served.under_way() == 1
        connection.close()


def test_the_number_of_connections_is_limited(serve: Callable[..., Any]) -> None:
    with serve(connections=3) as served:
        kept = [served.connect() for _ in range(3)]
        _until(lambda: len(served.server.server_state.connections) == 3)
        assert _all(served.connect()).startswith(b"HTTP/1.1 503 ")
        for connection in kept:
            connection.close()
        _until(lambda: not served.server.server_state.connections)
        assert httpx.get(f"{served.address}/healthz").is_success


def test_the_total_size_of_all_messages_is_limited(serve: Callable[..., Any]) -> None:
    with serve(message_bytes=300_000, uploads_per_key=8) as served:
        assert struct.pack(">H", 1009) in _all(_sent(served, _frame(400_000, 0)))  # larger than the limit
        first = _sent(served, _frame(250_000, 200_000))
        time.sleep(0.3)
        assert struct.pack(">H", 1013) in _all(_sent(served, _frame(250_000, 200_000)))
        first.close()
        _until(lambda: served.under_way() == 0)
        last = _sent(served, _frame(250_000, 250_000))
        assert b"no supported format" in _all(last)


def _sent(served: Served, data: bytes) -> socket.socket:
    connection = served.websocket(f"{JOBS}/stream", "secret")
    connection.sendall(data)
    return connection


def test_the_number_of_fragments_of_a_message_is_limited(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "FRAGMENTS", 10)
    with serve() as served:
        more = b"\x00\x81\0\0\0\0x"
        assert struct.pack(">H", 1009) in _all(_sent(served, b"\x02\x81\0\0\0\0x" + more * 20))


@pytest.mark.parametrize("by_socket", [False, True])
def test_a_stalled_upload_is_ended(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, *, by_socket: bool
) -> None:
    monkeypatch.setattr(uploads, "PACE_SECONDS", SHORT)
    monkeypatch.setattr("src.api.stream.PACE_SECONDS", SHORT)
    with serve() as served:
        connection = _sent(served, _frame(250_000, 200)) if by_socket else served.upload(**KEY)
        assert b"faster connection" in _all(connection)
        _until(lambda: served.under_way() == 0)
        assert list(served.settings.jobs.iterdir()) == []


def test_one_client_cannot_take_all_upload_places(serve: Callable[..., Any]) -> None:
    with serve(uploads=4, uploads_per_key=2) as served:
        stalled = [served.upload(**KEY) for _ in range(2)]
        _until(lambda: served.under_way() == 2)
        form = {"file": ("scan.nii", nifti())}
        mine = httpx.post(f"{served.address}{JOBS}", files=form, headers=KEY)
        assert (mine.status_code, mine.json()["type"]) == (429, "urn:pivot:TooMany")
        assert int(mine.headers["retry-after"]) > 0
        assert httpx.post(f"{served.address}{JOBS}", files=form, headers={"X-API-Key": "other"}).status_code == 202
        for connection in stalled:
            connection.close()


def test_an_upload_may_pause_within_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "PACE_SECONDS", 0.01)
    looked = asyncio.Event()

    class Watched(uploads.Pace):
        def count(self, _seconds: float, received: int) -> None:
            if not received:
                looked.set()

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 2**20
        await looked.wait()
        yield b"y"

    async def received() -> list[bytes]:
        return [piece async for piece in Watched(1).measured(body())]

    assert asyncio.run(received()) == [b"x" * 2**20, b"y"]


def test_a_stopping_server_does_not_wait_for_a_stalled_upload(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "STOP_SECONDS", 1.0)
    with serve() as served, served.upload(**KEY):
        _until(lambda: served.under_way() == 1)
        served.server.should_exit = True
        served.thread.join(20)
        assert not served.thread.is_alive()
        assert list(served.settings.jobs.iterdir()) == []


def test_forwarding_headers_from_this_machine_are_ignored(serve: Callable[..., Any]) -> None:
    """Otherwise each request could claim another address and evade the rate limit."""
    with serve(auth="none", api_keys={}, submissions_per_minute=1) as served:
        form = {"file": ("scan.nii", nifti())}
        statuses = [
            httpx.post(f"{served.address}{JOBS}", files=form, headers={"X-Forwarded-For": f"10.0.0.{n}"}).status_code
            for n in range(2)
        ]
    assert statuses == [202, 429]


def test_an_unpaired_surrogate_does_not_break_the_connection(serve: Callable[..., Any]) -> None:
    with serve() as served:
        text = json.dumps({"event": "start", "size": 4, "filename": "\ud800", "config": 'a: "\ud800"'}).encode()
        frames = b"\x81\xfe" + struct.pack(">HI", len(text), 0) + text + b"\x82\x84\0\0\0\0NRRD"
        assert b"urn:pivot:BadConfig" in _all(_sent(served, frames))
