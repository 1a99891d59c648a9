"""Bounds of what peers send: how long a part and a message are, how much is on its way at once, how long it takes.

pynetdicom reads as many bytes as a peer announces, for as long as that takes, and keeps them all. A part that is too
long, or too slow, ends its association. Of a dataset that is too long the rest is dropped as it comes, so that the
sender gets its answer, `dropped`, and goes on with the next instance.
"""

import threading
import time
from contextlib import suppress
from io import BytesIO
from socket import SHUT_RDWR
from typing import TYPE_CHECKING, cast
from weakref import WeakSet

from pynetdicom import evt
from pynetdicom.transport import AssociationSocket

from .settings import Listen

if TYPE_CHECKING:
    import socket

__all__ = ["PeerLimits", "dropped"]

SPARE = 2**12  # for the header of a part
MOST_REQUEST = 2**18  # bytes of a part before an association is established: its request takes less than 100 kB
MOST_COMMAND = 2**16  # bytes of a message's command set
AT_ONCE = 2  # instances of the longest kind that may be on their way at once, for all associations
ABORT = b"\x07\0\0\0\0\4\0\0\2\0"  # A-ABORT by the service provider, no reason given (PS3.8 9.3.8)


class PeerLimits:
    """The bounds of one listener, for all its connections."""

    def __init__(self, settings: Listen) -> None:
        self.part = settings.max_pdu_kb * 2**10
        self.instance = settings.max_instance_mb * 2**20
        self.seconds = settings.network_timeout
        self._coming = WeakSet[BytesIO]()  # as long as anything holds them
        self._lock = threading.Lock()

    def opened(self, event: evt.Event) -> None:
        """A peer has connected: what it sends is bounded from now on."""
        event.assoc.dul.socket = _Socket(cast("AssociationSocket", event.assoc.dul.socket), self)

    def too_much(self, dataset: BytesIO) -> bool:
        """Whether what has come of a peer's dataset is too long, or too much of all is on its way or being kept."""
        with self._lock:
            self._coming.add(dataset)
            return dataset.tell() > self.instance or sum(one.tell() for one in self._coming) > AT_ONCE * self.instance


class _Dropped(BytesIO):
    """Takes what is written, and keeps nothing."""

    def write(self, content: object, /) -> int:
        return len(cast("bytes", content))


def dropped(dataset: object) -> bool:
    """Whether a dataset that has come was dropped, as it was too long."""
    return isinstance(dataset, _Dropped)


class _Socket(AssociationSocket):
    """Takes the place of an open connection's own."""

    def __init__(self, connection: AssociationSocket, bounds: PeerLimits) -> None:
        vars(self).update(vars(connection))
        self.bounds = bounds
        self._wait(bounds.seconds)

    def recv(self, nr_bytes: int) -> bytearray:
        """As many bytes, or fewer where the peer has closed the connection; raises `OSError` for one to be ended."""
        dimse, established = self.assoc.dimse, self.assoc.is_established
        most = self.bounds.part + SPARE if established else MOST_REQUEST
        command = dimse.message.encoded_command_set.tell() if dimse.message else 0
        if nr_bytes > most or command > MOST_COMMAND or dimse.msg_queue.qsize():  # a peer waits for its answer
            return self._end("the peer sends more than it may")
        if dimse.message and dimse.message.data_set and self.bounds.too_much(dimse.message.data_set):
            dimse.message.data_set = _Dropped()
        return self._receive(nr_bytes, self.bounds.seconds if established else self.assoc.acse_timeout)

    def _receive(self, count: int, seconds: float | None) -> bytearray:
        content, end = bytearray(count), time.monotonic() + (seconds or self.bounds.seconds)
        done = 0
        try:
            while done < count:
                self._wait(max(end - time.monotonic(), 0.001))
                with memoryview(content) as view:
                    got = cast("socket.socket", self.socket).recv_into(view[done:])
                if not got:
                    return content[:done]
                done += got
        except TimeoutError:
            return self._end("the peer is too slow")
        finally:
            self._wait(self.bounds.seconds)
        return content

    def _wait(self, seconds: float) -> None:
        if self.socket is not None and self.socket.fileno() >= 0:
            self.socket.settimeout(seconds or None)

    def _shutdown_socket(self) -> None:
        if self.socket is not None:
            with suppress(OSError):  # of a peer that has gone
                self.socket.shutdown(SHUT_RDWR)
            self.socket.close()

    def _end(self, reason: str) -> bytearray:
        if self.socket is not None:
            self.socket.settimeout(1)
            self.send(ABORT)
        self._shutdown_socket()
        raise OSError(reason)
