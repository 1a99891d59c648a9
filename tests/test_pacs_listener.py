"""The PACS service with correct senders and archives, and with those that abort, disappear, repeat or send garbage."""

import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
import pytest
import yaml
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from pynetdicom import _config
from pynetdicom.association import Association
from pynetdicom.dsutils import encode, encode_file_meta

from src.pacs.audit import Audit
from src.pacs.listener import main
from src.pacs.outbox import Outbox, wait_before
from src.pacs.receiver import Receiver
from src.pacs.settings import Listen, PacsConfig, Retry, Tls, client_tls, load_pacs
from src.pacs.spool import Spool
from tests.dicom_files import CHEST, change, file_dataset, only, shift, without
from tests.pacs import PATIENCE, Archive, archive, audit_of, free_port, series_of, settings, transfer, until

MISFIT = 0xC000


class Service(NamedTuple):
    port: int
    config: PacsConfig
    archive: Archive
    acknowledged: str  # the study sent before the service was killed and restarted


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Service]:
    """The service, restarted after its process was killed, and an archive that takes its results."""
    folder, port = tmp_path_factory.mktemp("pacs"), free_port()
    with archive() as kept:
        config = settings(
            folder,
            root,
            destinations=[_peer(kept)],
            results=["sr", "pdf"],
            listen={"port": port, "allowed_ae_titles": ["CT1"], "network_timeout": PATIENCE},
            completeness={"quiet_seconds": 1, "interrupted_seconds": 10},
        )
        file, slices = folder / "pacs.yaml", series_of()
        file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
        with _service(file, root, config) as process:
            with transfer(port) as association:
                _send(association, slices)
            process.kill()
        assert not audit_of(config, "run started")
        with _service(file, root, config) as process:
            yield Service(port, config, kept, slices[0].StudyInstanceUID)
            process.terminate()
            assert process.wait(PATIENCE) == 0
        assert audit_of(config, "stopped")


def _peer(kept: Archive) -> dict[str, object]:
    return {"name": "archive", "kind": "dicom", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": kept.port}


@contextmanager
def _service(file: Path, root: Path, config: PacsConfig) -> Iterator[subprocess.Popen[bytes]]:
    """Start the service in a separate process and wait until it listens."""
    before = len(audit_of(config, "started"))
    process = subprocess.Popen([sys.executable, "-m", "src.pacs.listener", "--config", str(file)], cwd=root)
    try:
        until(lambda: len(audit_of(config, "started")) > before)
        yield process
    finally:
        process.kill()
        process.wait()


def test_acknowledged_instances_survive_a_kill(service: Service) -> None:
    until(lambda: len(service.archive.of(service.acknowledged)) == 2)
    assert len(audit_of(service.config, "run finished", study=service.acknowledged)) == 1


def test_only_known_peers_are_accepted(service: Service) -> None:
    with transfer(service.port) as known:
        assert known.send_c_echo().Status == 0
    for called, calling in (("PIVOT", "STRANGER"), ("OTHER", "CT1")):
        with transfer(service.port, called, calling) as refused:
            assert refused.is_rejected
    assert audit_of(service.config, "association rejected", peer="STRANGER")


def test_an_interrupted_transfer_waits_for_the_rest(service: Service) -> None:
    slices = series_of()
    uid = slices[0].StudyInstanceUID
    with transfer(service.port) as broken:
        _send(broken, slices[:6])
        broken.abort()
    until(lambda: audit_of(service.config, "transfer interrupted", study=uid, instances=6))
    with transfer(service.port) as whole:
        _send(whole, slices)
    until(lambda: audit_of(service.config, "run finished", study=uid))
    assert len(audit_of(service.config, "run started", study=uid)) == 1
    until(lambda: len(service.archive.of(uid)) == 2)

    with transfer(service.port) as again:  # the whole study a second time
        _send(again, slices)
    until(lambda: audit_of(service.config, "duplicate", study=uid))
    assert len(audit_of(service.config, "run started", study=uid)) == 1
    assert len(service.archive.of(uid)) == 2


def test_an_archive_that_was_unavailable_gets_its_results_later(service: Service) -> None:
    slices = series_of()
    uid = slices[0].StudyInstanceUID
    service.archive.failures[uid] = 3
    with transfer(service.port) as association:
        _send(association, slices)
    until(lambda: len(service.archive.of(uid)) == 2)
    failed = audit_of(service.config, "sending failed", study=uid)
    assert [line["attempt"] for line in failed] == [1, 2, 3]
    assert {str(one.SOPClassUID.name) for one in service.archive.of(uid)} == {
        "Comprehensive 3D SR Storage",
        "Encapsulated PDF Storage",
    }
    until(lambda: not list((service.config.spool / "outbox").iterdir()))


@pytest.mark.parametrize(
    ("status", "change_of", "event", "reason"),
    [
        (0xA900, {}, "result refused", "status A900"),
        (0xA700, {"retry": Retry(give_up_after_seconds=0)}, "results given up", "no room"),
        (
            0x0000,
            {"destinations": (), "retry": Retry(give_up_after_seconds=0)},
            "results given up",
            "no such destination",
        ),
    ],
)
def test_undeliverable_results_are_reported_and_retained(
    tmp_path: Path, root: Path, status: int, change_of: dict[str, object], event: str, reason: str
) -> None:
    file = tmp_path / "one.dcm"
    series_of()[0].save_as(file, enforce_file_format=True)
    with archive() as kept:
        kept.status = status
        config = settings(tmp_path, root, destinations=[_peer(kept)])
        Outbox(tmp_path / "outbox", config, Audit(tmp_path / "audit.jsonl")).put("1.2.3", [file], "run")
        later = config.model_copy(update={**change_of, "audit": tmp_path / "audit.jsonl"})
        outbox = Outbox(tmp_path / "outbox", later, Audit(tmp_path / "audit.jsonl"))
        outbox.send_due()
    [line] = audit_of(later, event, study="1.2.3", destination="archive")
    assert reason in line["reason"]
    assert not list(outbox.folder.iterdir())


def test_retry_waits_grow_to_a_limit() -> None:
    retry = Retry(first_seconds=5, most_seconds=60)
    assert [wait_before(attempt, retry) for attempt in (1, 2, 3, 4, 5, 1000)] == [5, 10, 20, 40, 60, 60]


Edit = Callable[[Dataset], Any]


def _pixels(values: np.ndarray[Any, Any]) -> Edit:
    """Return an edit that sets the stored values of every slice."""
    return change(PixelData=values.astype("<i2").tobytes())


def _uid(name: str, value: str) -> Edit:
    """Return an edit that sets an invalid UID, as some senders do."""
    return lambda one: one.add(DataElement(one[name].tag, "UI", value, validation_mode=pydicom.config.IGNORE))


def _halves(**values: object) -> Edit:
    """Return an edit that sets these values in half of the slices."""
    return lambda one: change(**values)(one) if one.InstanceNumber > 6 else None


SHAPE = CHEST.shape[1::-1]
FAULTS: dict[str, tuple[Edit, str]] = {
    "another modality": (change(Modality="MR", SOPClassUID=MRImageStorage), "modality MR is not CT"),
    "a localiser": (change(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "image type LOCALIZER"),
    "a reformation": (change(ImageType=["DERIVED", "SECONDARY", "MPR"]), "image type DERIVED or MPR"),
    "another body part": (change(BodyPartExamined="KNEE"), "body part KNEE"),
    "thick slices": (change(SliceThickness="5"), "slice thickness 5 mm, not 0 to 3 mm"),
    "few slices": (lambda one: one.InstanceNumber > 3 and change(SOPInstanceUID="")(one), "3 slices"),
    "a gap": (shift(2, lambda z: 25.0 if z > 5 else 0.0), "slices are missing"),
    "no position": (only(3, without("ImagePositionPatient")), "has no ImagePositionPatient"),
    "no spacing": (only(3, without("PixelSpacing")), "has no PixelSpacing"),
    "no rescaling": (only(3, without("RescaleSlope")), "has no RescaleSlope"),
    "no pixels": (only(3, without("PixelData")), "has no pixel data"),
    "cut pixels": (only(3, lambda one: change(PixelData=one.PixelData[:100])(one)), "cannot be decoded"),
    "colour": (only(3, change(SamplesPerPixel=3)), "is a colour image"),
    "two sizes": (only(3, change(Rows=10)), "mixes sizes"),
    "two spacings": (_halves(PixelSpacing=["1", "1"]), "mixes pixel spacings"),
    "two directions": (_halves(ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), "mixes orientations"),
    "bent directions": (change(ImageOrientationPatient=[1, 1, 0, 0, 1, 0]), "perpendicular"),
    "a tilted gantry": (shift(1, lambda z: 3.0 * z), "gantry tilt"),
    "one position": (shift(2, lambda z: -2.5 * z), "same position"),
    "no Hounsfield units": (change(RescaleIntercept="0"), "not Hounsfield units"),
    "the same in all voxels": (_pixels(np.zeros(SHAPE)), "not a CT scan"),
    "no frame of reference": (change(FrameOfReferenceUID=""), "no value of FrameOfReferenceUID"),
    "less than it states": (change(NumberOfSeriesRelatedInstances=40), "only 12 of the 40 instances"),
}


def test_faulty_studies_are_refused_with_a_reason(service: Service) -> None:
    sent = {}
    with transfer(service.port) as association:
        for name, (edit, _) in FAULTS.items():
            slices = series_of(edit=edit)
            sent[name] = slices[0].StudyInstanceUID
            _send(association, [one for one in slices if one.SOPInstanceUID])
    for name, (_, reason) in FAULTS.items():
        [refusal] = until(partial(audit_of, service.config, "study refused", study=sent[name]))
        assert reason in refusal["reason"], name
        assert str(service.config.spool) not in refusal["reason"], name
    assert not any(service.archive.of(uid) for uid in sent.values())
    assert "secret" not in (service.config.spool / "audit.jsonl").read_text().lower()
    until(lambda: not list((service.config.spool / "work").iterdir()))


def test_files_that_are_not_images_are_refused(service: Service) -> None:
    for sop_class, modality in ((SecondaryCaptureImageStorage, "OT"), (EncapsulatedPDFStorage, "DOC")):
        one = file_dataset(sop_class, modality=modality)
        one.StudyInstanceUID = generate_uid()
        with transfer(service.port) as association:
            _send(association, [one])
        uid = one.StudyInstanceUID
        [refusal] = until(partial(audit_of, service.config, "study refused", study=uid))
        assert f"modality {modality} is not CT" in refusal["reason"]


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # the service ignores it too
@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (_uid("StudyInstanceUID", "../../escape"), "StudyInstanceUID is missing or malformed"),
        (without("StudyInstanceUID"), "StudyInstanceUID is missing or malformed"),
        (_uid("SeriesInstanceUID", "1..2"), "SeriesInstanceUID is missing or malformed"),
        (change(SOPInstanceUID="1.2.3.4"), "another than the one that was announced"),
    ],
)
def test_faulty_instances_are_refused_at_once(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: Edit, reason: str
) -> None:
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)  # sends files unchanged
    one = series_of()[0]
    announced = one.SOPInstanceUID
    edit(one)
    with transfer(service.port) as association:
        assert _send_raw(association, _encoded(one), announced, tmp_path) == MISFIT
    assert any(reason in line["reason"] for line in audit_of(service.config, "instance refused"))


def test_random_bytes_are_refused_at_once(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
    with transfer(service.port) as association:
        assert _send_raw(association, b"\xff" * 300, generate_uid(), tmp_path) == MISFIT


def test_with_deidentification_only_deidentified_files_are_stored(tmp_path: Path) -> None:
    spool, audit = Spool(tmp_path / "spool"), Audit(tmp_path / "audit.jsonl")
    receiver = Receiver(Listen(port=0), spool, audit, b"key of 16 bytes.")
    slices, marked = series_of(), series_of(edit=change(BurnedInAnnotation="YES"))
    try:
        with transfer(receiver.start()) as association:
            _send(association, slices)
            assert association.send_c_store(marked[0]).Status == MISFIT
    finally:
        receiver.stop()
    assert "burned into" in (tmp_path / "audit.jsonl").read_text()
    assert len(list(spool.incoming.glob("*/*/*.dcm"))) == len(slices)
    for file in (file for file in tmp_path.rglob("*") if file.is_file()):
        for secret in ("SECRET", "Secret", "19500203", *(one.SOPInstanceUID for one in slices)):
            assert secret.encode() not in file.read_bytes(), file
            assert secret not in str(file)


def test_tls_requires_a_client_certificate(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl")
    pem, key = tmp_path / "one.pem", tmp_path / "one.key"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", pem, "-days", "2", *subject],
        check=True,
        capture_output=True,
    )
    listen = Listen.model_validate({"port": 0, "tls": {"certificate": pem, "key": key, "ca": pem}})
    receiver = Receiver(listen, Spool(tmp_path / "spool"), Audit(tmp_path / "audit.jsonl"), None)
    port = receiver.start()
    try:
        context = client_tls(Tls(certificate=pem, key=key, ca=pem))
        with transfer(port, tls_args=(context, "127.0.0.1")) as known:
            assert known.send_c_echo().Status == 0
        with closing(socket.create_connection(("127.0.0.1", port))) as silent:
            with transfer(port, tls_args=(context, "127.0.0.1")) as other:  # not delayed
                assert other.send_c_echo().Status == 0
            silent.sendall(b"\1\0\0\0\0\4plain")
            with suppress(ConnectionError):
                assert b"PIVOT" not in silent.recv(99)
        stranger = client_tls(Tls(ca=pem))
        assert stranger is not None
        plain = socket.create_connection(("127.0.0.1", port))
        unknown = stranger.wrap_socket(plain, server_hostname="127.0.0.1")  # without a certificate
        with closing(unknown), suppress(ssl.SSLError, ConnectionError):
            unknown.sendall(b"\1\0\0\0\0\4plain")
            assert not unknown.recv(1)
    finally:
        receiver.stop()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("destinations: []", "results would go nowhere"),
        ("keep_results: x\nlisten: {port: 70000}", "listen.port"),
        ("keep_results: x\nlisten: {ae_title: 'far too long a name'}", "listen.ae_title"),
        ("keep_results: x\nlisten: {tls: {ca: a.pem}}", "needs the listener's certificate"),
        ("keep_results: x\nseries: {slice: [1, 2]}", "did you mean slices"),
        ("destinations: [{kind: dicomweb, name: web, url: 'http://web', login_from: PIVOT_NO}]", "PIVOT_NO"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pacs.yaml").write_text(text)
    assert main(["--config", "pacs.yaml"]) == 2
    assert message in capsys.readouterr().err


def test_the_shipped_settings_are_the_documented_defaults(root: Path) -> None:
    shipped = load_pacs(root / "configs" / "pacs.yaml")
    assert shipped.series.prefer_kernel
    assert all(re.compile(word) for word in shipped.series.prefer_kernel)
    changed = {"destinations", "inference", "series"}
    default = PacsConfig(keep_results=Path("x")).model_dump(exclude=changed | {"keep_results"})
    assert shipped.model_dump(exclude=changed | {"keep_results"}) == default


def _send(association: Association, slices: Sequence[Dataset]) -> None:
    for one in slices:
        assert association.send_c_store(one).Status == 0


def _encoded(dataset: Dataset) -> bytes:
    return encode(dataset, is_implicit_vr=False, is_little_endian=True) or b""


def _send_raw(association: Association, content: bytes, announced: str, folder: Path) -> int:
    """Send any bytes as a CT image; returns the status."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, UID(announced)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = folder / "raw.dcm"
    file.write_bytes(b"\0" * 128 + b"DICM" + encode_file_meta(meta) + content)
    return int(association.send_c_store(file).Status)
