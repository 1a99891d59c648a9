"""Bounds of the listener on the length, volume and speed of transfers, and of the spool on its size."""

import errno
import io
import shutil
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.dsutils import encode

from src.errors import BadOutput
from src.pacs import spool as spools
from src.pacs.audit import Audit
from src.pacs.bounds import AT_ONCE, PeerLimits
from src.pacs.receiver import Receiver
from src.pacs.settings import Listen
from src.pacs.spool import Spool
from tests.pacs import audit_of, send_bytes, series_of, settings, transfer, until

SUCCESS, NO_ROOM, MISFIT = 0x0000, 0xA700, 0xC000
MIB = 2**20


class Listener(NamedTuple):
    port: int
    spool: Spool
    audit: Path

    def refusals(self) -> str:
        return self.audit.read_text()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    """A listener with narrow bounds."""
    spool, audit = Spool(tmp_path / "spool"), tmp_path / "audit.jsonl"
    listen = Listen(port=0, max_pdu_kb=16, max_instance_mb=1, network_timeout=2)
    receiver = Receiver(listen, spool, Audit(audit), None)
    yield Listener(receiver.start(), spool, audit)
    receiver.stop()


def test_an_instance_that_is_too_long_is_refused_and_the_next_is_accepted(listener: Listener) -> None:
    long, *others = series_of()
    long.PixelData = bytes(3 * MIB)
    with transfer(listener.port) as association:
        assert association.send_c_store(others[0]).Status == SUCCESS
        assert association.send_c_store(long).Status == NO_ROOM
        assert association.send_c_store(others[1]).Status == SUCCESS
    assert "max_instance_mb (1 MiB)" in listener.refusals()
    assert len(list(listener.spool.incoming.glob("*/*/*.dcm"))) == 2


@pytest.mark.parametrize(
    "sent",
    [
        b"\x04\0" + struct.pack(">I", 2**32 - 1) + bytes(2**16),
        b"\x04\0" + struct.pack(">I", 16 * 2**10 + 5000) + bytes(2**15),
        b"".join(b"\x04\0" + struct.pack(">IIBB", 16000, 15996, 1, 1) + bytes(15994) for _ in range(9)),
    ],
    ids=["a PDU of 4 GB", "a PDU above the bound", "an endless command"],
)
def test_only_a_peer_that_exceeds_its_bound_is_aborted(listener: Listener, sent: bytes) -> None:
    first, other, *_ = series_of()
    with transfer(listener.port) as association, transfer(listener.port) as bystander:
        assert association.send_c_store(first).Status == SUCCESS
        with closing(raw(association)) as connection:  # pynetdicom leaves the socket open after a reset
            connection.sendall(sent)
            until(lambda: not association.is_established, 10)
        assert association.is_aborted
        assert bystander.send_c_store(other).Status == SUCCESS
    assert "transfer interrupted" in listener.refusals()


def test_an_association_request_has_its_own_bound(listener: Listener) -> None:
    with closing(socket.create_connection(("127.0.0.1", listener.port), 10)) as caller:
        caller.sendall(b"\x01\0" + struct.pack(">I", 10 * MIB))
        assert caller.recv(10)[:1] == b"\x07"  # A-ABORT
        assert caller.recv(1) == b""


def test_an_unfinished_message_is_ended_after_the_time_limit(listener: Listener) -> None:
    with transfer(listener.port) as association:
        start = time.monotonic()
        with closing(raw(association)) as connection:
            connection.sendall(b"\x04\0\0\0\x10\0")
            while association.is_established:  # sends a byte now and then to keep the connection active
                assert time.monotonic() < start + 7
                with suppress(OSError):
                    connection.sendall(b"\0")
                time.sleep(0.2)


def test_the_total_of_all_simultaneous_transfers_is_bounded(listener: Listener) -> None:
    bounds = PeerLimits(Listen(max_instance_mb=1))
    coming = [io.BytesIO() for _ in range(AT_ONCE + 1)]
    for one in coming[:-1]:
        one.write(bytes(MIB))
        assert not bounds.too_much(one)
    coming[-1].write(b"1")
    assert bounds.too_much(coming[-1])
    del coming[0], one
    assert not bounds.too_much(coming[-1])
    assert listener


def test_a_data_set_cannot_choose_its_transfer_syntax(listener: Listener) -> None:
    """A group 0002 in the data set would be read as the file's and inflate 60 kB to 60 MB."""
    one = series_of()[0]
    name = DeflatedExplicitVRLittleEndian.encode()
    start = b"\x02\0\x10\0UI" + struct.pack("<H", len(name) + len(name) % 2) + name + b"\0" * (len(name) % 2)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = start + packer.compress(bytes(60 * MIB)) + packer.flush()
    with transfer(listener.port) as association:
        assert send_bytes(association, bomb, one.SOPInstanceUID) == MISFIT
        assert association.send_c_store(one).Status == SUCCESS
    assert "begins with the header of a file" in listener.refusals()


def test_a_header_that_is_too_long_is_refused(listener: Listener) -> None:
    one = series_of()[0]
    content = encode(one, is_implicit_vr=False, is_little_endian=True) or b""
    pixels = content.index(b"\xe0\x7f\x10\0OW")
    private = b"\x09\0\x01\x10OB\0\0" + struct.pack("<I", 900_000) + bytes(900_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.pacs.receiver.MOST_HEADER", 800_000)
        with transfer(listener.port) as association:
            long = content[:pixels] + private + content[pixels:]
            assert send_bytes(association, long, one.SOPInstanceUID) == MISFIT
            assert send_bytes(association, content, one.SOPInstanceUID) == SUCCESS
    assert "bytes or more before its pixels" in listener.refusals()


def raw(association: Association) -> socket.socket:
    connection = association.dul.socket
    assert connection is not None
    assert connection.socket is not None
    return connection.socket


def test_the_size_of_the_spool_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spools, "MEASURING", 0.0)
    spool = Spool(tmp_path, most=250)
    spool.add(bytes(100), "1.1", "1", "1", "x")
    spool.add(bytes(100), "1.1", "1", "1", "x")  # the same instance again takes no more room
    spool.add(bytes(100), "1.2", "1", "1", "x")
    with pytest.raises(OSError, match="max_spool_gb") as full:
        spool.add(bytes(100), "1.3", "1", "1", "x")
    assert full.value.errno == errno.EDQUOT
    with pytest.raises(OSError, match="max_spool_gb"):
        Spool(tmp_path, most=250).add(bytes(100), "1.3", "1", "1", "x")  # also after a restart
    aside = spool.set_aside(spool.take("1.2"))
    with pytest.raises(OSError, match="max_spool_gb"):
        spool.add(bytes(100), "1.3", "1", "1", "x")
    shutil.rmtree(aside)
    spool.finish(spool.take("1.1"))
    spool.add(bytes(200), "1.3", "1", "1", "x")
    assert not (tmp_path / "incoming/1.1").exists()


def test_room_for_results_is_kept_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, usage = Spool(tmp_path), shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**30 - 1))
    with pytest.raises(OSError, match="the disk is full"):
        spool.add(b"", "1.1", "1", "1", "x")
    assert not list((tmp_path / "incoming").iterdir())


def test_the_service_starts_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Spool(tmp_path).add(b"content", "1.1", "1", "1", "x")

    def full(folder: Path) -> Path:
        msg = "cannot write"
        raise BadOutput(msg) from OSError(errno.ENOSPC, "No space left on device", str(folder))

    monkeypatch.setattr(spools, "writable_folder", full)
    assert [study.name for study in Spool(tmp_path).waiting()] == ["1.1"]
    with pytest.raises(BadOutput):
        Spool(tmp_path / "none")


def test_a_truncated_line_does_not_damage_the_next(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(tmp_path, root, keep_results=tmp_path / "results", audit=tmp_path / "audit.jsonl")
    (tmp_path / "audit.jsonl").write_text('{"event": "sta')
    audit = Audit(tmp_path / "audit.jsonl")
    audit.write("started")
    first, *lines = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert first == '{"event": "sta'
    (tmp_path / "audit.jsonl").write_text("\n".join(lines) + "\n")
    assert audit_of(config, "started")

    monkeypatch.setattr("src.pacs.audit.MOST_WAITING", 2)
    with monkeypatch.context() as full:
        full.setattr("os.write", lambda *_: 0)
        for number in range(5):
            audit.write("event", number=number)
    audit.works()
    assert [line["number"] for line in audit_of(config, "event")] == [0, 1]
    assert [line["count"] for line in audit_of(config, "events lost")] == [3]
