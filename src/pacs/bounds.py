"""Limits for peers: the length of a PDU and of a message, the data in transit, and the time for each.

pynetdicom reads as many bytes as a peer announces, without a time limit, and keeps them all. Here a PDU that is too
long or too slow ends its association. The rest of a dataset that is too long is discarded on arrival: the sender gets
its response (`dropped`) and continues with the next instance.
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
MOST_REQUEST = 2**18  # bytes of a PDU before an association is established; requests take less than 100 kB
MOST_COMMAND = 2**16  # bytes of a message's command set
AT_ONCE = 2  # instances of the largest size in transit at once, over all associations
ABORT = b"\x07\0\0\0\0\4\0\0\2\0"  # A-ABORT by the service provider, no reason given (PS3.8 9.3.8)


class PeerLimits:
    """The limits of one listener, shared by all its connections."""

    def __init__(self, settings: Listen) -> None:
        self.part = settings.max_pdu_kb * 2**10
        self.instance = settings.max_instance_mb * 2**20
        self.seconds = settings.network_timeout
        self._coming = WeakSet[BytesIO]()  # entries live as long as the buffers
        self._lock = threading.Lock()

    def opened(self, event: evt.Event) -> None:
        """Apply the limits to a peer that has just connected."""
        event.assoc.dul.socket = _Socket(cast("AssociationSocket", event.assoc.dul.socket), self)

    def too_much(self, dataset: BytesIO) -> bool:
        """Whether a peer's dataset is too long, or the data of all peers in transit or in memory is too much."""
        with self._lock:
            self._coming.add(dataset)
            return dataset.tell() > self.instance or sum(one.tell() for one in self._coming) > AT_ONCE * self.instance


class _Dropped(BytesIO):
    """Accepts writes and discards them."""

    def write(self, content: object, /) -> int:
        return len(cast("bytes", content))


def dropped(dataset: object) -> bool:
    """Whether a received dataset was dropped because it was too long."""
    return isinstance(dataset, _Dropped)


class _Socket(AssociationSocket):
    """Replaces the socket of an open connection."""

    def __init__(self, connection: AssociationSocket, bounds: PeerLimits) -> None:
        vars(self).update(vars(connection))
        self.bounds = bounds
        self._wait(bounds.seconds)

    def recv(self, nr_bytes: int) -> bytearray:
        """Read `size` bytes, or fewer if the peer closed the connection. Raise `OSError` to end the association."""
        dimse, established = self.assoc.dimse, self.assoc.is_established
        most = self.bounds.part + SPARE if established else MOST_REQUEST
        command = dimse.message.encoded_command_set.tell() if dimse.message else 0
        if nr_bytes > most or command > MOST_COMMAND or dimse.msg_queue.qsize():  # a peer may wait for its response
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
