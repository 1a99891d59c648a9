"""A PACS for tests: DICOM series of small scans, senders, receivers, a real Orthanc, and the service."""

import io
import json
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from src.pacs.settings import PacsConfig
from src.types import Scan
from tests.dicom_files import CHEST, slice_dataset

__all__ = [
    "PATIENCE",
    "Archive",
    "Orthanc",
    "archive",
    "at_once",
    "audit_of",
    "free_port",
    "orthanc",
    "send_bytes",
    "series_of",
    "settings",
    "transfer",
    "until",
]

ORTHANC = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
PATIENCE = 300.0  # seconds, enough for a busy machine


def until(true: Callable[[], Any], seconds: float = PATIENCE) -> Any:  # noqa: ANN401 - the value that `true` returns
    """Wait until `true` returns a true value, and return the value."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.05)
    return value


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def series_of(
    scan: Scan | None = None, *, study: str | None = None, number: int = 1, edit: Callable[[Dataset], Any] | None = None
) -> list[Dataset]:
    """The slices of a scan, or a few slices of noise, as a chest CT series in a new study."""
    array, affine = (CHEST, None) if scan is None else (scan.array, scan.affine)
    study, series, frame = study or generate_uid(), generate_uid(), generate_uid()
    slices = []
    for z in range(array.shape[2]):
        one = slice_dataset(array, z=z) if affine is None else slice_dataset(array, affine, z)
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        one.SeriesNumber, one.BodyPartExamined, one.SliceThickness = number, "CHEST", "2.5"
        one.PatientBirthDate, one.PatientSex, one.AccessionNumber = "19500203", "F", "SECRET-ACC"
        if edit:
            edit(one)
        slices.append(one)
    return slices


def settings(folder: Path, root: Path, **more: Any) -> PacsConfig:  # noqa: ANN401 - any of `PacsConfig`
    """The service's settings for tests, with short waits and a low limit of slices."""
    inference = folder / "inference.yaml"
    inference.parent.mkdir(parents=True, exist_ok=True)
    inference.write_text("inference: {patch_size: [64, 64, 64], stride: [64, 64, 64]}\n")
    given = {
        "listen": {"port": 0},
        "spool": folder / "spool",
        "completeness": {"quiet_seconds": 1, "interrupted_seconds": 6},
        "series": {"slices": (4, 500)},
        "inference": {"config": inference, "checkpoint": root / "checkpoints" / "best_model.pth", "device": "cpu"},
        "retry": {"first_seconds": 0.2, "most_seconds": 1},
    }
    return PacsConfig.model_validate(given | more)


def audit_of(config: PacsConfig, event: str | None = None, **facts: object) -> list[dict[str, Any]]:
    """The lines of the audit trail, or those of an event with these facts."""
    file = config.audit or config.spool / "audit.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    wanted = {**facts, **({"event": event} if event else {})}
    return [line for line in lines if all(line.get(name) == value for name, value in wanted.items())]


@contextmanager
def transfer(port: int, called: str = "PIVOT", calling: str = "CT1", **options: Any) -> Iterator[Association]:  # noqa: ANN401
    """Open an association for images, PDF and C-ECHO, and release it at the end."""
    entity = AE(calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = PATIENCE
    entity.add_requested_context("1.2.840.10008.1.1")  # C-ECHO
    for sop_class in (CTImageStorage, MRImageStorage, SecondaryCaptureImageStorage, EncapsulatedPDFStorage):
        entity.add_requested_context(sop_class, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, ae_title=called, **options)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def send_bytes(association: Association, content: bytes, uid: str) -> int:
    """Send any bytes as a CT image; returns the status, or -1 without one."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = CTImageStorage, uid
    request.DataSet = io.BytesIO(content)
    [context] = [one for one in association.accepted_contexts if one.abstract_syntax == CTImageStorage]
    association._reactor_checkpoint.clear()  # noqa: SLF001 - as in `send_c_store`; otherwise pynetdicom's thread takes the answer
    until(lambda: association._is_paused)  # noqa: SLF001
    association.dimse.send_msg(request, context.context_id or 0)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()  # noqa: SLF001
    return int(getattr(answer, "Status", -1) or 0)


@dataclass
class Archive:
    """A storage provider that keeps what it receives; `failures` counts the transfers of a study that it aborts."""

    port: int
    received: list[Dataset] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    status: int = 0x0000

    def store(self, event: evt.Event) -> int:
        study = event.dataset.StudyInstanceUID
        if self.failures[study]:
            self.failures[study] -= 1
            event.assoc.abort()
            return 0xA700
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        if not self.status:
            self.received.append(dataset)
        return self.status

    def of(self, study: str) -> list[Dataset]:
        return [one for one in self.received if one.StudyInstanceUID == study]


@contextmanager
def archive(port: int | None = None) -> Iterator[Archive]:
    """Start a storage provider on a free port, or on this one."""
    kept = Archive(port or free_port())
    entity = AE("ARCHIVE")
    entity.supported_contexts = AllStoragePresentationContexts
    handlers: list[evt.EventHandlerType] = [(evt.EVT_C_STORE, kept.store)]
    server = entity.start_server(("127.0.0.1", kept.port), block=False, evt_handlers=handlers)
    assert server is not None
    try:
        yield kept
    finally:
        server.shutdown()


@dataclass
class Orthanc:
    """A running Orthanc."""

    http: httpx.Client
    dicom_port: int
    web: str | None  # URL of its DICOMweb service, where the plugin is installed

    def push(self, slices: Sequence[Dataset], folder: Path) -> str:
        """Store slices; returns Orthanc's identifier of their study."""
        folder.mkdir(parents=True, exist_ok=True)
        for number, one in enumerate(slices):
            one.save_as(folder / f"{number}.dcm", enforce_file_format=True)
            answer = self.http.post("/instances", content=(folder / f"{number}.dcm").read_bytes()).raise_for_status()
        return str(answer.json()["ParentStudy"])

    def send(self, study: str, peer: str = "pivot") -> None:
        """Send a study to a peer by C-STORE."""
        self.http.post(f"/modalities/{peer}/store", json=study, timeout=PATIENCE).raise_for_status()

    def know(self, port: int, peer: str = "pivot") -> None:
        """Register a modality."""
        self.http.put(f"/modalities/{peer}", json=["PIVOT", "127.0.0.1", port]).raise_for_status()

    def instances(self, study: str) -> dict[str, list[str]]:
        """For each modality, Orthanc's identifiers of the instances of a study."""
        found: dict[str, list[str]] = {}
        for series in self.http.get(f"/studies/{study}").raise_for_status().json()["Series"]:
            about = self.http.get(f"/series/{series}").raise_for_status().json()
            found.setdefault(about["MainDicomTags"]["Modality"], []).extend(about["Instances"])
        return found

    def file(self, instance: str) -> bytes:
        return self.http.get(f"/instances/{instance}/file").raise_for_status().content


@contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    """Start a real Orthanc on loopback with its storage in `folder`; skips the test if it is not installed."""
    if not Path(ORTHANC).exists():
        pytest.skip("needs Orthanc (Debian package orthanc)")
    folder.mkdir(parents=True, exist_ok=True)
    http_port, dicom_port = free_port(), free_port()
    options = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": http_port,
        "DicomPort": dicom_port,
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": True,
        "StableAge": 1,
        "Plugins": [str(DICOMWEB)] if DICOMWEB.exists() else [],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(options))
    log = (folder / "orthanc.log").open("wb")
    server = subprocess.Popen([ORTHANC, str(folder / "orthanc.json")], stdout=log, stderr=log)
    web = f"http://127.0.0.1:{http_port}/dicom-web" if DICOMWEB.exists() else None
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{http_port}", timeout=30, trust_env=False) as http:
            until(lambda: _answers(http))
            yield Orthanc(http, dicom_port, web)
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def _answers(http: httpx.Client) -> bool:
    try:
        return http.get("/system").is_success
    except httpx.TransportError:
        return False


def at_once(*actions: Callable[[], object]) -> None:
    """Run all calls at the same time."""
    threads = [threading.Thread(target=action) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
