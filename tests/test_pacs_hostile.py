"""The PACS service with malformed objects, full disks and damaged folders: no study affects another."""

import errno
import io
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, generate_uid
from pynetdicom import AE

from src.errors import BadOutput, BadScan, PivotError
from src.pacs import processing
from src.pacs.audit import Audit
from src.pacs.completeness import arrivals
from src.pacs.listener import _repeat
from src.pacs.outbox import STATE, Outbox
from src.pacs.processing import Outcome, Processor
from src.pacs.receiver import SILENCE, Receiver
from src.pacs.settings import Listen, SeriesRules
from src.pacs.spool import ATTEMPTS, Spool
from src.pacs.web import pull_study
from tests.pacs import PATIENCE, audit_of, series_of, settings, transfer, until

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
NO_ROOM = 0xA700
MISFIT = 0xC000


def encoded(one: Dataset) -> bytes:
    buffer = io.BytesIO()
    one.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def poisoned(one: Dataset, text: bytes = b"1e999 ") -> bytes:
    """The encoded instance with a NumberOfStudyRelatedInstances that is not a number."""
    content = encoded(one)
    rows = content.index(b"\x28\x00\x02\x00US")
    return content[:rows] + b"\x20\x00\x06\x12IS" + struct.pack("<H", len(text)) + text + content[rows:]


class Service:
    """A processor with a replaceable `run` instead of the network."""

    def __init__(self, folder: Path, root: Path, **more: Any) -> None:  # noqa: ANN401 - any of `PacsConfig`
        more = {"keep_results": folder / "results", "completeness": {"quiet_seconds": 0}, **more}
        self.config = settings(folder, root, **more)
        self.spool, self.audit = Spool(self.config.spool), Audit(self.config.spool / "audit.jsonl")
        self.outbox = Outbox(self.spool.outbox, self.config, self.audit)
        self.processor = Processor(self.config, self.spool, self.outbox, self.audit)

    def receive(self, slices: list[Dataset], change: Callable[[Dataset], bytes] = encoded) -> str:
        for one in slices:
            self.spool.add(change(one), one.StudyInstanceUID, one.SeriesInstanceUID, one.SOPInstanceUID, "a")
        self.spool.close("a", set())
        return str(slices[0].StudyInstanceUID)

    def work_again(self) -> None:
        self.processor._pauses.clear()  # noqa: SLF001 - as if the waiting time had passed
        self.processor.work()

    def events(self, study: str) -> list[str]:
        return [line["event"] for line in audit_of(self.config, study=study)]


@pytest.fixture
def service(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(processing, "helpers", ThreadPoolExecutor)
    monkeypatch.setattr(processing, "_load", lambda _settings: None)
    monkeypatch.setattr(processing, "_run", lambda _series, _folder, _config: Outcome(0, []))
    running = Service(tmp_path, root)
    yield running
    running.processor.close()


@pytest.mark.parametrize("text", [b"1e999 ", b"-5", b"1\\2 ", b"\xff\xfe", b"9" * 12, b"0x10"])
def test_an_invalid_number_affects_no_other_study(service: Service, text: bytes) -> None:
    bad = service.receive(series_of(), lambda one: poisoned(one, text))
    good = service.receive(series_of())
    assert arrivals(service.spool.incoming / bad)[0].stated_in_study in (None, 999999999999)
    service.processor.work()
    assert "run finished" in service.events(good)
    assert not audit_of(service.config, "error")


def test_an_error_in_one_study_does_not_stop_the_others(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = service.receive(series_of()), service.receive(series_of())

    def look(study: Path) -> Any:  # noqa: ANN401 - as `arrivals`
        if study.name == bad:
            raise RecursionError
        return arrivals(study)

    monkeypatch.setattr(processing, "arrivals", look)
    for _ in range(3):
        service.processor.work()
    assert "run finished" in service.events(good)
    assert service.events(bad) == ["study waits"]  # reported once


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    return fail


def caused(error: Exception) -> BadOutput:
    wrapped = BadOutput("cannot write")
    wrapped.__cause__ = error
    return wrapped


STAGES: dict[str, tuple[Callable[[Service], object], str]] = {
    "begin": (lambda service: service.spool, "begin"),
    "name of the run": (lambda service: service.spool, "run_name"),
    "run": (lambda _: processing, "_run"),
    "outbox": (lambda service: service.outbox, "put"),
    "record": (lambda service: service.spool, "record_run"),
    "finish": (lambda service: service.spool, "finish"),
    "take": (lambda service: service.spool, "take"),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("error", [FULL, caused(FULL), OSError(errno.EMFILE, "Too many open files")])
def test_a_full_disk_does_not_count_as_a_failure_of_the_study(
    service: Service, monkeypatch: pytest.MonkeyPatch, stage: str, error: Exception
) -> None:
    study = service.receive(series_of())
    owner, name = STAGES[stage]
    with monkeypatch.context() as full:
        full.setattr(owner(service), name, raising(error))
        for _ in range(5):
            service.work_again()
        assert "study refused" not in service.events(study)
        assert len(list(service.config.spool.glob(f"*/{study}/*/*.dcm"))) == len(series_of())
        before = len(service.events(study))
        service.processor.work()  # nothing is done or reported during the pause
        assert len(service.events(study)) == before
    service.work_again()
    assert service.events(study)[-1] in ("run finished", "duplicate")
    assert not list(service.spool.work.iterdir())
    assert len(list(service.spool.outbox.iterdir())) <= 1


def test_other_errors_of_a_run_are_attributed_to_the_study(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (PivotError("no lungs"), KeyError("x"), FileNotFoundError(errno.ENOENT, "gone")):
        monkeypatch.setattr(processing, "_run", raising(error))
        study = service.receive(series_of())
        service.processor.work()
        assert service.events(study)[-1] == "study refused"


def test_damaged_folders_do_not_stop_other_studies(tmp_path: Path) -> None:
    root = tmp_path / "spool"
    spool = Spool(root)
    (root / "partial" / "left").mkdir()
    (root / "partial" / "left" / "1.dcm").touch()
    for folder in ("incoming", "work"):
        (root / folder / "notes.txt").touch()
        (root / folder / "not-a-uid").mkdir()
    series = root / "work" / "1.2" / "3.4"
    series.mkdir(parents=True)
    (series / "5.6.dcm").touch()
    (series.parent / ATTEMPTS).write_text("\0\0")
    spool = Spool(root)
    assert not list((root / "partial").iterdir())
    assert spool.waiting() == []
    assert [study.name for study in spool.taken()] == ["1.2"]
    assert spool.attempts(series.parent) == (0, 0)
    for record in ("{", "[]", '{"3.4": 7}', "\udcff"):
        (root / "done" / "1.2.json").write_text(record, encoding="utf-8", errors="surrogateescape")
        assert not spool.was_run(series)
    spool.record_run(series)
    assert spool.was_run(series)


def test_a_finished_study_leaves_the_queue_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    study = tmp_path / "work" / "1.2"
    (study / "3.4").mkdir(parents=True)
    (study / "3.4" / "5.6.dcm").touch()
    monkeypatch.setattr("shutil.rmtree", lambda *_arguments, **_options: None)  # killed before it removed anything
    spool.finish(study)
    assert spool.taken() == []


class Disk:
    """`os.write` on a disk with `room` bytes left."""

    def __init__(self, room: int) -> None:
        self.room, self._write = room, os.write

    def __call__(self, file: int, content: bytes) -> int:
        if not self.room:
            raise FULL
        written = self._write(file, content[: self.room])
        self.room -= written
        return written


def test_an_audit_that_cannot_be_written_waits_and_loses_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "audit.jsonl"
    audit = Audit(file)
    with monkeypatch.context() as full:
        full.setattr(os, "write", Disk(150))  # the second line is cut
        for number in range(4):
            audit.write("event", number=number, more="x" * 30)
        assert not audit.works()
        assert [json.loads(line)["number"] for line in file.read_text().splitlines()] == [0]
    assert audit.works()
    assert [json.loads(line)["number"] for line in file.read_text().splitlines()] == [0, 1, 2, 3]


def test_no_study_is_run_without_an_audit_line(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    study = service.receive(series_of())
    with monkeypatch.context() as full:
        full.setattr(service.audit, "works", lambda: False)
        service.processor.work()
    assert service.events(study) == []
    service.processor.work()
    assert "run finished" in service.events(study)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[tuple[Receiver, int]]:
    listening = Receiver(
        Listen(port=0, max_associations=3), Spool(tmp_path / "spool"), Audit(tmp_path / "audit.jsonl"), None
    )
    port = listening.start()
    yield listening, port
    listening.stop()


@pytest.mark.parametrize(
    ("part", "failure", "status"),
    [
        ("audit.works", lambda: False, NO_ROOM),
        ("spool.add", raising(FULL), NO_ROOM),
        ("spool.add", raising(MemoryError()), NO_ROOM),
        ("spool.add", raising(RuntimeError("what?")), MISFIT),
        ("_content", raising(MemoryError()), NO_ROOM),
        ("_content", raising(RecursionError()), MISFIT),
    ],
)
def test_the_status_tells_the_sender_whether_to_retry(
    receiver: tuple[Receiver, int],
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    failure: Callable[..., Any],
    status: int,
) -> None:
    listening, port = receiver
    *path, name = part.split(".")
    owner: object = listening
    for step in path:
        owner = getattr(owner, step)
    slices = series_of()
    with transfer(port) as association:
        with monkeypatch.context() as failing:
            failing.setattr(owner, name, failure)
            assert association.send_c_store(slices[0]).Status == status
        assert association.send_c_store(slices[1]).Status == 0


def answers(port: int) -> bool:
    with transfer(port) as association:
        return bool(association.is_established and association.send_c_echo().Status == 0)


@pytest.mark.parametrize("said", [b"", b"\x01", b"GET / HTTP/1.0\r\n\r\n", b"\x01\0" + struct.pack(">I", 2**32 - 1)])
def test_closed_connections_do_not_count_towards_the_limit(
    receiver: tuple[Receiver, int], monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    listening, port = receiver
    server: Any = listening._server  # noqa: SLF001
    monkeypatch.setattr(server.ae, "acse_timeout", 10 * PATIENCE)  # no time limit may close a connection
    for _ in range(6):  # twice the limit
        with closing(socket.create_connection(("127.0.0.1", port))) as caller:
            caller.sendall(said)
    until(lambda: answers(port))


def test_an_idle_connection_is_closed_within_seconds(
    receiver: tuple[Receiver, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    listening, port = receiver
    server: Any = listening._server  # noqa: SLF001
    assert server.ae.acse_timeout == SILENCE < 5
    monkeypatch.setattr(server.ae, "network_timeout", 10 * PATIENCE)  # no other time limit may close it
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
    until(lambda: answers(port))
    for one in silent:
        one.close()


def test_a_data_set_that_inflates_beyond_its_bound_is_refused(receiver: tuple[Receiver, int]) -> None:
    entity = AE("CT1")
    entity.add_requested_context(CTImageStorage, DeflatedExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", receiver[1], ae_title="PIVOT")
    assert not association.accepted_contexts
    association.abort()


def test_a_damaged_delivery_does_not_stop_other_results(tmp_path: Path, root: Path) -> None:
    config = settings(tmp_path, root, keep_results=tmp_path / "results")
    outbox = Outbox(tmp_path / "outbox", config, Audit(config.spool / "audit.jsonl"))
    file = tmp_path / "one.dcm"
    file.write_bytes(b"one")
    for run in ("a", "b"):
        outbox.put("1.2", [file], run)
        outbox.put("1.2", [file], run)
    assert sorted(path.name for path in outbox.folder.iterdir()) == ["a", "b"]
    (outbox.folder / "a" / STATE).write_text("{")
    outbox.send_due()  # without destinations, so results leave the queue
    outbox.send_due()
    assert [path.name for path in outbox.folder.iterdir()] == ["a"]
    assert (outbox.folder / "a" / "one.dcm").read_bytes() == b"one"
    assert len(audit_of(config, "results stay")) == 1


def test_stopping_ends_sending_after_the_current_result(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tmp_path, root, keep_results=tmp_path / "results")
    outbox = Outbox(tmp_path / "outbox", config, Audit(config.spool / "audit.jsonl"))
    (tmp_path / "one.dcm").write_bytes(b"one")
    for run in ("a", "b"):
        outbox.put("1.2", [tmp_path / "one.dcm"], run)
    sent = list[int]()

    def send(*_: object) -> None:
        outbox.stopping.set()
        sent.append(1)

    monkeypatch.setattr(outbox, "_send_run", send)
    outbox.send_due()
    assert sent == [1]


class Stop:
    """An event that is set after `count` waits and records them."""

    def __init__(self, count: int) -> None:
        self.waits: list[float] = []
        self.count = count

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return len(self.waits) > self.count


def test_a_persistent_error_is_logged_once_and_retried_less_often(tmp_path: Path) -> None:
    stop = Stop(12)
    _repeat(raising(ValueError("x")), stop, Audit(tmp_path / "audit.jsonl"))  # type: ignore[arg-type]
    assert len((tmp_path / "audit.jsonl").read_text().splitlines()) == 1
    assert stop.waits[:4] == [0.25, 0.5, 1.0, 2.0]
    assert max(stop.waits) == 30.0


class Server:
    """A DICOMweb server that lists a series and sends these instances."""

    def __init__(self, slices: list[Dataset], *, stated: int | None = None, series: str | None = None) -> None:
        self.slices, self.stated = slices, len(slices) if stated is None else stated
        self.series = series or slices[0].SeriesInstanceUID
        self.asked: list[str] = []

    def search_for_series(self, study_instance_uid: str, **_options: object) -> list[dict[str, Any]]:
        self.asked.append(study_instance_uid)
        return [{"0020000E": {"vr": "UI", "Value": [self.series]}, "00080060": {"vr": "CS", "Value": ["CT"]}}]

    def search_for_instances(self, **_options: object) -> list[dict[str, Any]]:
        return [{"00080018": {"vr": "UI", "Value": [generate_uid()]}} for _ in range(self.stated)]

    def retrieve_instance_metadata(self, *_uids: str) -> dict[str, Any]:
        header = Dataset()
        header.update({element.tag: element for element in self.slices[0] if element.tag.group != 0x7FE0})
        return dict(header.to_json_dict())

    def iter_series(self, *_uids: str, **_options: object) -> Iterator[Dataset]:
        return iter(self.slices)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda slices: Server([*slices[:-1], renamed(slices[-1], "StudyInstanceUID", "../../out")]), "another Study"),
        (lambda slices: Server([renamed(one, "StudyInstanceUID", "1.9") for one in slices]), "another Study"),
        (lambda slices: Server([*slices[:-1], renamed(slices[-1], "SeriesInstanceUID", "1.9")]), "another Series"),
        (lambda slices: Server(slices, series="../1"), "malformed"),
        (lambda slices: Server(slices, stated=len(slices) + 1), "only 12 of 13"),
        (lambda slices: Server(slices, stated=len(slices) - 1), "more than 11"),
    ],
)
def test_unexpected_instances_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[list[Dataset]], Server], reason: str
) -> None:
    slices = series_of(study="1.2.3.4")
    server = make(slices)
    monkeypatch.setattr("src.pacs.web.open_web", lambda *_: server)
    with pytest.raises(BadScan, match=reason):
        pull_study("http://server", "1.2.3.4", tmp_path / "pulled", rules=SeriesRules(slices=(4, 500)))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("study", ["..", ".", "../..", "1..2", "", "1.2/../3", "1" * 65])
def test_only_valid_uids_are_requested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: str) -> None:
    server = Server(series_of())
    monkeypatch.setattr("src.pacs.web.open_web", lambda *_: server)
    with pytest.raises(BadScan, match="malformed"):
        pull_study("http://server", study, tmp_path)
    assert not server.asked


def renamed(one: Dataset, name: str, uid: str) -> Dataset:
    """The instance with a UID that may be invalid."""
    one.add(DataElement(one[name].tag, "UI", uid, validation_mode=config.IGNORE))
    return one
