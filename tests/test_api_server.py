"""Server and worker as separate processes, which are also killed at any moment."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import websockets

from src.api.client import AsyncInferenceClient, InferenceClient
from src.errors import BadScan

from .api_service import JOBS, free_port, nifti, served

QUICK = "inference: {patch_size: [32, 32, 32]}\noutput: {save_visualization: false}"
LARGE = 60_000_000  # bytes, as for a whole CT


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("server")) as (address, _):
        yield address


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    (tmp_path / "quick.yaml").write_text(QUICK)
    (tmp_path / "ct.nii").write_bytes(nifti())
    return tmp_path / "ct.nii"


def test_the_client_works_from_upload_to_results(address: str, scan: Path, tmp_path: Path) -> None:
    sent, seen = list[int](), list[dict[str, Any]]()
    with InferenceClient(base_url=address) as client:
        number = client.submit_inference(scan, tmp_path / "quick.yaml", progress=lambda done, _: sent.append(done))
        results = client.wait_for_results(number, timeout=120, progress=seen.append)
        paths = client.download_results(number, tmp_path / "out", scan=True)
        client.cancel(number)
    assert sent[-1] == scan.stat().st_size
    assert seen[-1]["status"] == "completed"
    assert results["scan_id"] == "ct"
    assert {path.name for path in paths} == {"ct_detections.json", "ct_heatmap.nii.gz", "ct.nii"}
    assert json.loads((tmp_path / "out" / "ct_detections.json").read_text()) == results
    assert (tmp_path / "out" / "ct.nii").read_bytes() == scan.read_bytes()
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_the_async_client_works_and_raises_failures(address: str, scan: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.nii"
    broken.write_bytes(nifti()[:400])

    async def use() -> None:
        async with AsyncInferenceClient(base_url=address) as client:
            number = await client.submit_inference(scan, tmp_path / "quick.yaml")
            assert (await client.wait_for_results(number, timeout=120))["scan_id"] == "ct"
            assert len(await client.download_results(number, tmp_path / "out")) == 2
            failing = await client.submit_inference(broken)
            with pytest.raises(BadScan, match=r"^broken\.nii: "):
                await client.wait_for_results(failing, timeout=120)

    asyncio.run(use())


@pytest.mark.parametrize("compression", ["deflate", None])
def test_one_message_may_have_60_mb(address: str, compression: str | None) -> None:
    """The size in the guide. The worker notices the bytes after the volume when the upload is complete."""

    async def send() -> dict[str, Any]:
        uri = f"{address.replace('http', 'ws')}{JOBS}/stream"
        async with websockets.connect(uri, compression=compression) as socket:
            await socket.send(nifti() + bytes(LARGE))
            async for text in socket:
                message: dict[str, Any] = json.loads(text)
        return message

    message = asyncio.run(send())
    assert message["status"] == "failed"
    assert "the header is wrong, or a copy failed" in message["error"]["detail"]
    assert httpx.get(f"{address}{JOBS}/{message['job_id']}").json()["size_bytes"] == LARGE + len(nifti())


def test_a_client_that_disconnects_causes_no_server_error(tmp_path: Path) -> None:
    with served(tmp_path, PIVOT_DEVICES="none") as (address, _):
        host, port = address.removeprefix("http://").split(":")
        head = f"POST {JOBS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n"
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n".encode())
            _until(lambda: bool(list((tmp_path / "data" / "jobs").iterdir())))
        _until(lambda: not list((tmp_path / "data" / "jobs").iterdir()))
    log = (tmp_path / "server.log").read_text()
    assert "Traceback" not in log
    assert "unexpected" not in log


def _until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_job_ends_exactly_once_whenever_its_worker_is_killed(scan: Path, tmp_path: Path) -> None:
    """`benchmarks.service kills` repeats this 30 times, also on PostgreSQL."""
    port, quick = free_port(), {"PIVOT_LEASE_SECONDS": "1"}
    with served(tmp_path, port, **quick) as (address, server), InferenceClient(base_url=address) as client:
        numbers = [client.submit_inference(scan, tmp_path / "quick.yaml") for _ in range(3)]
        worker = _worker(server.pid)
        worker.kill()
        orphan = _worker(server.pid, other_than=worker.pid)
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        orphan.wait(120)  # the worker may still be loading
    with served(tmp_path, port, **quick) as (address, _), InferenceClient(base_url=address) as client:
        for number in numbers:
            assert client.wait_for_results(number, timeout=120)["scan_id"] == "ct"
        folders = [path for number in numbers for path in (tmp_path / "data" / "jobs" / number).iterdir()]
    assert len(folders) == len(numbers)  # the results and no other file


def _worker(server: int, other_than: int | None = None) -> psutil.Process:
    """Wait for a worker process of the server and return it."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        running = [child for child in psutil.Process(server).children() if child.pid != other_than]
        if running:
            return running[0]
        time.sleep(0.05)
    raise TimeoutError
