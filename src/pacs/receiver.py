"""The C-STORE and C-ECHO provider. It acknowledges an instance once it is on disk."""

import threading
import uuid
from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

from pydicom.uid import UID
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer

from ..data.part10 import read_dicom
from ..dicom_io.deidentify import deidentify
from ..errors import BadOutput, BadScan, lacking
from .audit import Audit, unforeseen
from .bounds import PeerLimits, dropped
from .settings import Listen, server_tls
from .spool import Spool

if TYPE_CHECKING:
    from pynetdicom.dimse_primitives import C_STORE

__all__ = ["Receiver"]

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000  # PS3.4 B.2.3
SILENCE = 3.0  # seconds for a peer to request an association; silent peers must not block places
# No deflated syntax: a sender could make it unpack to any size.
TRANSFER_SYNTAXES = [syntax for syntax in ALL_TRANSFER_SYNTAXES if "Deflate" not in UID(syntax).name]
MOST_HEADER = 2**23  # bytes; 20 million bytes of small elements take half a minute to read
META = (b"\x02\x00", b"\x00\x02")  # group 0002 (file meta information), in either byte order
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


@dataclass
class _Visit:
    """An association, and the instances that it sent of each study."""

    peer: str
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    studies: Counter[str] = field(default_factory=Counter)
    current: str = ""  # the current study; the previous one counts as sent completely


class Receiver:
    """Listens from `start` to `stop`. With `key`, instances are de-identified before they are stored."""

    def __init__(self, settings: Listen, spool: Spool, audit: Audit, key: bytes | None) -> None:
        self.settings, self.spool, self.audit, self.key = settings, spool, audit, key
        self._visits: dict[Association, _Visit] = {}
        self._lock = threading.Lock()
        self._server: ThreadedAssociationServer | None = None

    def start(self) -> int:
        """Listen in background threads. Return the port.

        Raises:
            BadOutput: the port is unusable.
            BadConfig: the certificates are unusable.
        """
        handlers: list[evt.EventHandlerType] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_ECHO, lambda _: SUCCESS),
            (evt.EVT_CONN_OPEN, PeerLimits(self.settings).opened),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_RELEASED, self._released),
            (evt.EVT_CONN_CLOSE, self._closed),
        ]
        address = (self.settings.bind, self.settings.port)
        try:
            server = self._entity().start_server(
                address, block=False, ssl_context=server_tls(self.settings.tls), evt_handlers=handlers
            )
        except OSError as error:
            msg = f"cannot listen on {address[0]}:{address[1]} ({error.strerror}): change listen.bind or listen.port"
            raise BadOutput(msg) from None
        assert isinstance(server, ThreadedAssociationServer)  # noqa: S101 - it does not block
        self._server = server
        return int(server.server_address[1])

    def stop(self) -> None:
        """Accept no more associations, and end the open ones."""
        if self._server:
            self._server.shutdown()

    def _entity(self) -> AE:
        entity = AE(self.settings.ae_title)
        entity.maximum_pdu_size = self.settings.max_pdu_kb * 2**10
        entity.maximum_associations = self.settings.max_associations
        entity.network_timeout = entity.dimse_timeout = self.settings.network_timeout
        entity.acse_timeout = min(SILENCE, self.settings.network_timeout)
        entity.require_called_aet = True
        entity.require_calling_aet = list(self.settings.allowed_ae_titles)
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(str(context.abstract_syntax), TRANSFER_SYNTAXES)
        entity.add_supported_context(Verification)
        return entity

    def _store(self, event: evt.Event) -> int:
        visit = self._visit(event.assoc)
        try:
            return self._keep(event, visit)
        except Exception as error:  # noqa: BLE001 - refuse one instance; the association continues
            lack = lacking(error)
            if lack:
                self._refused(visit, f"cannot be stored: {getattr(lack, 'strerror', None) or 'not enough memory'}")
                return OUT_OF_RESOURCES
            self._refused(visit, str(error) if isinstance(error, BadScan) else unforeseen(error))
            return CANNOT_UNDERSTAND
        finally:
            if dataset := _dataset(event):
                dataset.truncate(0)  # it would stay until the next one arrives

    def _keep(self, event: evt.Event, visit: _Visit) -> int:
        if not self.audit.works():  # refuse what cannot be audited
            return OUT_OF_RESOURCES
        if dropped(_dataset(event)):
            most = self.settings.max_instance_mb
            self._refused(visit, f"is longer than listen.max_instance_mb ({most} MiB), or too many come at once")
            return OUT_OF_RESOURCES
        content, (study, series, instance) = self._content(event)
        self.spool.add(content, study, series, instance, visit.name)
        if visit.current and visit.current != study:
            self.spool.close(visit.name, self._others(visit), visit.current)
        visit.current = study
        visit.studies[study] += 1
        return SUCCESS

    def _refused(self, visit: _Visit, reason: str) -> None:
        self.audit.write("instance refused", peer=visit.peer, reason=reason)

    def _content(self, event: evt.Event) -> tuple[bytes, tuple[str, str, str]]:
        """The file to store, and the UIDs of study, series and instance."""
        content = event.encoded_dataset()
        if event.encoded_dataset(include_meta=False)[:2] in META:  # it would change the transfer syntax
            msg = "begins with the header of a file: send the dataset alone"
            raise BadScan(msg)
        start = BytesIO(content[:MOST_HEADER])
        try:
            header = read_dicom(start, specific_tags=[*UIDS, "SOPClassUID"], stop_before_pixels=True)
            study, series, instance = (str(header.get(name, "")) for name in UIDS)
        except Exception as error:
            if lacking(error):
                raise
            msg = "is not a readable dataset: send it again"
            raise BadScan(msg) from error
        if start.tell() >= MOST_HEADER:
            msg = f"has {MOST_HEADER} bytes or more before its pixels"
            raise BadScan(msg)
        if instance != event.file_meta.MediaStorageSOPInstanceUID:
            msg = "its SOPInstanceUID is another than the one that was announced, or missing"
            raise BadScan(msg)
        return (content, (study, series, instance)) if self.key is None else _deidentified(content, self.key)

    def _visit(self, association: Association) -> _Visit:
        with self._lock:
            return self._visits.setdefault(association, _Visit(str(association.requestor.ae_title)))

    def _others(self, visit: _Visit) -> set[str]:
        with self._lock:
            return {other.name for other in self._visits.values()} - {visit.name}

    def _rejected(self, event: evt.Event) -> None:
        self.audit.write("association rejected", peer=str(event.assoc.requestor.ae_title))

    def _released(self, event: evt.Event) -> None:
        self._end(event.assoc, interrupted=False)

    def _closed(self, event: evt.Event) -> None:
        """The connection has closed. Without a release before, the association was interrupted."""
        if not event.assoc.is_established:  # and no request is awaited any more
            queue: Any = event.assoc.dul.to_user_queue
            queue.put(None)  # as the timeout does
        self._end(event.assoc, interrupted=True)

    def _end(self, association: Association, *, interrupted: bool) -> None:
        with self._lock:
            visit = self._visits.pop(association, None)
        if visit is None:
            return
        if not interrupted:
            self.spool.close(visit.name, self._others(visit))
        for study, instances in visit.studies.items():
            event = "transfer interrupted" if interrupted else "received"
            self.audit.write(event, study=study, peer=visit.peer, instances=instances)


def _dataset(event: evt.Event) -> BytesIO | None:
    return cast("C_STORE", event.request).DataSet


def _deidentified(content: bytes, key: bytes) -> tuple[bytes, tuple[str, str, str]]:
    try:
        dataset = read_dicom(BytesIO(content))
        deidentify(dataset, key)
        buffer = BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
    except BadScan:
        raise
    except Exception as error:
        if lacking(error):
            raise
        msg = f"cannot be de-identified ({type(error).__name__}), so it is not kept"
        raise BadScan(msg) from error
    study, series, instance = (str(dataset.get(name, "")) for name in UIDS)
    return buffer.getvalue(), (study, series, instance)
