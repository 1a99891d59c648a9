"""Sends DICOM files to a peer once, by C-STORE or STOW-RS. `outbox` repeats failed attempts."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pydicom
import requests
from pynetdicom import AE
from pynetdicom.association import Association

from ..errors import BadConfig
from .answers import Adapter, Client
from .settings import DicomPeer, DicomWebPeer, Peer, client_tls

__all__ = ["PeerGone", "check_peer", "open_web", "send"]

STORED = (0x0000, 0xB000, 0xB006, 0xB007)  # success, and warnings, PS3.4 B.2.3
OUT_OF_RESOURCES = 0xA700
REFUSED_FROM, REFUSED_TO = 400, 500  # HTTP: the data sent is at fault
NOT_FOR_GOOD = (401, 403, 404, 408, 429)  # except these: access, or a temporary condition


class PeerGone(Exception):
    """The peer does not respond now: try again later."""


def send(files: Sequence[Path], peer: Peer, ae_title: str) -> Iterator[tuple[Path, str | None]]:
    """Send the files in turn. Yield each path with the reason if the peer refused it for good, else None.

    Raises:
        PeerGone: the peer cannot be reached, broke off, or has no room. Files that were not yielded were not sent.
        BadConfig: the peer's certificates or login are unusable.
    """
    return _store(files, peer, ae_title) if isinstance(peer, DicomPeer) else _stow(files, peer)


def check_peer(peer: Peer) -> None:
    """Raise `BadConfig` if the certificates, the login or the URL of a peer are unusable."""
    if isinstance(peer, DicomPeer):
        client_tls(peer.tls)
    else:
        open_web(peer.url, _login(peer.login_from))


def open_web(url: str, login: str | None = None, timeout: float = 30.0) -> Client:
    """A client for a DICOMweb server; `login` is `user:password` or a bearer token.

    Raises:
        BadConfig: the URL is malformed.
    """
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, Adapter())
    user, colon, password = (login or "").partition(":")
    if colon:
        session.auth = (user, password)
    elif login:
        session.headers["Authorization"] = f"Bearer {login}"
    try:
        client = Client(url.rstrip("/"), session=session, timeout=timeout)
    except ValueError:
        msg = f"{url} is not the URL of a DICOMweb server: give one such as http://pacs:8042/dicom-web"
        raise BadConfig(msg) from None
    client.set_http_retry_params(retry=False)
    return client


def _store(files: Sequence[Path], peer: DicomPeer, ae_title: str) -> Iterator[tuple[Path, str | None]]:
    association = _associate(files, peer, ae_title)
    try:
        for file in files:
            yield file, _store_one(association, file)
    finally:
        if association.is_established:
            association.release()
        else:
            association.abort()


def _associate(files: Sequence[Path], peer: DicomPeer, ae_title: str) -> Association:
    entity = AE(ae_title)
    entity.maximum_pdu_size = 0
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = peer.timeout
    for sop_class, syntax in sorted({_kind(file) for file in files}):
        entity.add_requested_context(sop_class, syntax)
    context = client_tls(peer.tls)
    association = entity.associate(
        peer.host, peer.port, ae_title=peer.ae_title, max_pdu=0, tls_args=(context, peer.host) if context else None
    )
    if not association.is_established:
        what = "rejected the association" if association.is_rejected else "did not answer"
        msg = f"{peer.ae_title} at {peer.host}:{peer.port} {what}"
        raise PeerGone(msg)
    return association


def _store_one(association: Association, file: Path) -> str | None:
    try:
        status = association.send_c_store(file).get("Status")
    except ValueError:
        sop_class, _ = _kind(file)
        return f"the peer does not take {pydicom.uid.UID(sop_class).name}"
    except RuntimeError:
        status = None
    if status is None:
        msg = "broke off while it was sent a file"
        raise PeerGone(msg)
    if status & 0xFF00 == OUT_OF_RESOURCES:
        msg = f"has no room (status {status:04X})"
        raise PeerGone(msg)
    return None if status in STORED else f"the peer refused it with status {status:04X}"


def _kind(file: Path) -> tuple[str, str]:
    meta = pydicom.filereader.read_file_meta_info(file)
    return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)


def _stow(files: Sequence[Path], peer: DicomWebPeer) -> Iterator[tuple[Path, str | None]]:
    client = open_web(peer.url, _login(peer.login_from), peer.timeout)
    for file in files:
        try:
            client.store_instances([pydicom.dcmread(file)])
        except requests.HTTPError as error:
            code = error.response.status_code if error.response is not None else 0
            if not REFUSED_FROM <= code < REFUSED_TO or code in NOT_FOR_GOOD:
                msg = f"{peer.url} answered {code}"
                raise PeerGone(msg) from None
            yield file, f"the server refused it with status {code}"
        except requests.RequestException as error:
            msg = f"{peer.url} cannot be reached ({type(error).__name__})"
            raise PeerGone(msg) from None
        else:
            yield file, None


def _login(variable: str | None) -> str | None:
    if variable is None:
        return None
    if variable not in os.environ:
        msg = f"the environment variable {variable}, which holds the login of a destination, is not set"
        raise BadConfig(msg)
    return os.environ[variable]
