"""A service with a tiny model, in this process or in a separate one."""

import io
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import nibabel
import numpy as np
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketTestSession

from src.api import jobs
from src.api.app import create_app
from src.api.database import jobs as jobs_table
from src.api.jobs import Job
from src.api.settings import Settings
from src.api.worker import Worker

from .small_scans import tiny_checkpoint

if TYPE_CHECKING:
    from src.api.submission import Service

__all__ = ["JOBS", "Api", "api_on", "free_port", "hostile_zips", "nifti", "served", "served_by", "wait_for"]

JOBS = "/api/v1/inference"
ROOT = Path(__file__).resolve().parents[1]


def lung_and_tissue(side: int) -> np.ndarray[Any, np.dtype[np.int16]]:
    """A cube of lung with tissue in its middle, both with noise, in HU."""
    noise = np.random.default_rng(0).normal(0, 1, (side, side, side))
    array = -870 + 40 * noise
    array[side // 4 : -side // 4] = 40 + 20 * noise[side // 4 : -side // 4]
    return array.astype(np.int16)


def nifti(side: int = 40) -> bytes:
    """A NIfTI file of lung with tissue in its middle, like a chest."""
    array = lung_and_tissue(side)
    content: bytes = nibabel.Nifti1Image(array, np.diag([2.0, 2.0, 2.0, 1.0])).to_bytes()
    return content


def served_by(client: TestClient) -> "Service":
    """The shared state of the handlers of the client's app."""
    service: Service = client.app.state.service  # type: ignore[attr-defined]
    return service


class Api:
    """A service whose worker runs only when `work` is called."""

    def __init__(self, client: TestClient, settings: Settings) -> None:
        self.client, self.settings = client, settings
        self.service = served_by(client)
        self.worker = Worker(settings, "cpu")

    def submit(self, content: bytes | None = None, name: str = "scan.nii", **kw: Any) -> httpx.Response:  # noqa: ANN401
        """Submit a scan."""
        files = {"file": (name, nifti() if content is None else content)}
        files |= {"config": kw.pop("config")} if "config" in kw else {}
        response: httpx.Response = self.client.post(JOBS, files=files, **kw)
        return response

    def connect(self, path: str, **kw: Any) -> WebSocketTestSession:  # noqa: ANN401 - headers, subprotocols
        """Open a WebSocket to the service under the client's host name."""
        return self.client.websocket_connect(f"ws://{self.client.base_url.host}{path}", **kw)

    def work(self) -> Job:
        """Run the next job and return its final state."""
        job = jobs.claim(self.service.engine, self.settings.lease_seconds)
        assert job is not None
        self.worker.work(job)
        done = jobs.find(self.service.engine, job.id, job.owner)
        assert done is not None
        return done

    def state(self, number: str) -> dict[str, Any]:
        """The job as the service returns it."""
        shown: dict[str, Any] = self.client.get(f"{JOBS}/{number}").json()
        return shown

    def clear(self) -> None:
        """Delete all jobs."""
        with self.service.engine.begin() as connection:
            connection.execute(jobs_table.delete())
        for folder in self.settings.jobs.iterdir():
            shutil.rmtree(folder)

    def left(self) -> list[str]:
        """Every file in the job folders."""
        return sorted(path.name for path in self.settings.jobs.rglob("*") if path.is_file())


@contextmanager
def api_on(folder: Path, host: str = "127.0.0.1", name: str = "localhost", **settings: Any) -> Iterator[Api]:  # noqa: ANN401
    """A service with its data in `folder`, and a client at the address `host` that calls it `name`."""
    checkpoint = folder / "best_model.pth"
    if not checkpoint.exists():
        tiny_checkpoint(checkpoint)
    made = Settings(**{"data": folder / "data", "checkpoint": checkpoint, "devices": (), "free_bytes": 1, **settings})
    with TestClient(create_app(made), f"http://{name}", client=(host, 50000), raise_server_exceptions=False) as client:
        api = Api(client, made)
        try:
            yield api
        finally:
            api.worker.engine.dispose()


def hostile_zips(folder: Path) -> dict[str, bytes]:
    """Hostile archives, by the reason for their refusal."""

    def packed(name: str, content: bytes, mode: int = 0) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            member = zipfile.ZipInfo(name)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = mode << 16
            archive.writestr(member, content)
        return buffer.getvalue()

    header = b"ObjectType = Image\nNDims = 3\nElementSpacing = 1 1 1\nDimSize = 9 9 9\nElementDataFile = /etc/passwd\n"
    return {
        "unsafe path": packed("../../escaped.nii", b"x"),
        "link": packed("link.nii", str(folder).encode(), stat.S_IFLNK | 0o777),
        "points to": packed("scan.mhd", header),
        "not an intact zip": packed("a.nii", b"x")[:40],
    }


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def served(folder: Path, port: int | None = None, **environment: str) -> Iterator[tuple[str, "subprocess.Popen[Any]"]]:
    """Start a server process as in the guide. Yields its address and the process."""
    port = port or free_port()
    if not (folder / "best_model.pth").exists():
        tiny_checkpoint(folder / "best_model.pth")
    variables = {"PIVOT_DATA": str(folder / "data"), "PIVOT_CHECKPOINT": str(folder / "best_model.pth"), **environment}
    command = [sys.executable, "-m", "uvicorn", "src.api.app:app", "--port", str(port)]
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PIVOT_FREE_BYTES": "1", **variables}, stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, server, folder / "server.log")
        yield address, server
    finally:
        server.terminate()
        server.wait(60)


def wait_for(address: str, server: "subprocess.Popen[Any]", log: Path) -> None:
    """Wait until the server at the address answers."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        assert server.poll() is None, log.read_text()
        try:
            if httpx.get(f"{address}/healthz").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError(log.read_text())
