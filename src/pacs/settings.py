"""The schema of configs/pacs.yaml: the listener, its rules for series, and the destinations of results."""

import socket
import ssl
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from ..config import Device, Section, load_section
from ..errors import BadConfig
from ..processes import memory_of_machine

__all__ = [
    "Completeness",
    "DicomPeer",
    "DicomWebPeer",
    "PacsConfig",
    "Peer",
    "Retry",
    "SeriesRules",
    "Tls",
    "client_tls",
    "load_pacs",
    "server_tls",
]

AeTitle = Annotated[str, StringConstraints(pattern=r"^[^\\\s](?:[^\\]{0,14}[^\\\s])?$")]  # PS3.5: 16 characters
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(ge=0, le=7 * 86400)]
Words = tuple[str, ...]
MEMORY_SHARE = 0.8  # fraction of the machine's memory for the worker process
HANDSHAKE = 30.0  # seconds for the TLS handshake, or for the rest of a message
ObjectKind = Literal["sr", "seg", "pm", "sc", "pdf"]


class Tls(Section):
    """PEM files. With `ca`, the other side must present a certificate that it signed."""

    certificate: Path | None = None  # required for the listener
    key: Path | None = None
    ca: Path | None = None


class Listen(Section):
    """The network address of the listener, and its limits."""

    ae_title: AeTitle = "PIVOT"
    bind: str = "127.0.0.1"
    port: Port = 11112  # 0: any free port
    allowed_ae_titles: tuple[AeTitle, ...] = ()  # empty: any AE title
    max_associations: Annotated[int, Field(ge=1, le=1000)] = 10
    network_timeout: Annotated[float, Field(gt=0, le=86400)] = (
        60.0  # seconds without data until the connection is closed
    )
    max_pdu_kb: Annotated[int, Field(ge=16, le=131072)] = 1024  # KiB; a larger PDU ends the association
    max_instance_mb: Annotated[int, Field(ge=1, le=65536)] = 512  # MiB; a larger instance is refused (A700)
    tls: Tls | None = None

    @model_validator(mode="after")
    def _has_a_certificate(self) -> "Listen":
        if self.tls and not (self.tls.certificate and self.tls.key):
            msg = "tls needs the listener's certificate and key"
            raise ValueError(msg)
        return self


class Completeness(Section):
    """When a study counts as complete."""

    quiet_seconds: Seconds = 30.0  # without a new instance
    interrupted_seconds: Seconds = 900.0  # wait for the rest of an interrupted or incomplete series


class SeriesRules(Section):
    """Which series of a study may be run, and which is preferred. Case is ignored."""

    modality: Words = ("CT",)
    body_part: Words = ("CHEST", "LUNG", "THORAX", "CHESTABDOMEN", "CHEST_TO_PELVIS")  # exact values
    body_part_missing: bool = True  # whether a series without BodyPartExamined may run
    exclude_image_type: Words = (
        "LOCALIZER",
        "DERIVED",
        "SECONDARY",
        "MPR",
        "MIP",
        "MINIP",
        "AVERAGE",
        "PROJECTION IMAGE",
    )
    slice_thickness: tuple[float, float] = (0.0, 3.0)  # mm, from and to
    slice_thickness_missing: bool = True
    slices: tuple[int, int] = (20, 5000)  # from and to
    prefer_kernel: Words = ()  # regular expressions for ConvolutionKernel, best first
    prefer: tuple[Literal["body_part", "kernel", "thin", "slices"], ...] = ("body_part", "kernel", "thin", "slices")


class Inference(Section):
    """How to run the chosen series."""

    checkpoint: Path | None = None
    config: Path | None = None
    device: Device | None = None
    time_limit: Annotated[int, Field(ge=1, le=7 * 86400)] = 3600  # seconds; a longer run is ended with its process
    memory_gb: Annotated[float, Field(gt=0)] | None = None  # of the worker process; none: four fifths of the machine's

    @property
    def memory(self) -> int | None:
        """The memory limit of the worker process in bytes; None if the machine's memory is unknown."""
        machine = memory_of_machine()
        if self.memory_gb is None:
            return None if machine is None else int(MEMORY_SHARE * machine)
        return int(self.memory_gb * 1e9)


class _Peer(Section):
    name: str
    timeout: Annotated[float, Field(gt=0, le=3600)] = 30.0  # seconds


class DicomPeer(_Peer):
    """A destination by C-STORE."""

    kind: Literal["dicom"]
    ae_title: AeTitle
    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    tls: Tls | None = None


class DicomWebPeer(_Peer):
    """A destination by STOW-RS. The environment variable holds `user:password` or a bearer token."""

    kind: Literal["dicomweb"]
    url: Annotated[str, StringConstraints(pattern=r"^https?://")]
    login_from: str | None = None


def _kind(peer: object) -> object:
    return peer.get("kind") if isinstance(peer, dict) else getattr(peer, "kind", None)


# A function chooses the type: pydantic's field discriminator does not work with fields that are validated before.
Peer = Annotated[
    Annotated[DicomPeer, Tag("dicom")] | Annotated[DicomWebPeer, Tag("dicomweb")],
    Discriminator(_kind, "kind", "a destination's kind is dicom or dicomweb"),
]


class Retry(Section):
    """How often to retry an unreachable peer. Each wait is twice the last."""

    first_seconds: Seconds = 5.0
    most_seconds: Seconds = 900.0
    give_up_after_seconds: Annotated[float, Field(ge=0)] = 3 * 86400.0


class PacsConfig(Section):
    """The whole of configs/pacs.yaml."""

    listen: Listen = Listen()
    spool: Path = Path("spool")
    max_spool_gb: Annotated[float, Field(gt=0)] | None = (
        None  # of images; more are refused (A700); none: limited by the disk
    )
    audit: Path | None = None  # default: `audit.jsonl` in the spool
    completeness: Completeness = Completeness()
    series: SeriesRules = SeriesRules()
    inference: Inference = Inference()
    results: tuple[ObjectKind, ...] = ("sr", "seg", "sc", "pdf")
    keep_results: Path | None = None  # a folder for the JSON report and its files; none: they are not kept
    destinations: tuple[Peer, ...] = ()
    retry: Retry = Retry()
    deidentify: bool = False
    deidentify_key: Path | None = None  # default: `deidentify.key` in the spool, created if missing

    @property
    def most_spooled(self) -> float:
        """The most bytes of images in the spool."""
        return float("inf") if self.max_spool_gb is None else self.max_spool_gb * 1e9

    @model_validator(mode="after")
    def _results_have_a_place(self) -> "PacsConfig":
        names = [peer.name for peer in self.destinations]
        if len(set(names)) < len(names):
            msg = f"two destinations have the same name: {names}"
            raise ValueError(msg)
        if not names and self.keep_results is None:
            msg = "results would go nowhere: give destinations or keep_results"
            raise ValueError(msg)
        return self


def load_pacs(path: str | Path) -> PacsConfig:
    """Read the settings from a YAML file.

    Raises:
        BadConfig: the file cannot be read, or a key or value is wrong.
    """
    return load_section(PacsConfig, path)


def server_tls(tls: Tls | None) -> ssl.SSLContext | None:
    """The listener's TLS context, or None without `tls`. Raises `BadConfig` for unusable files."""
    if tls is None:
        return None
    context = _NoWaiting(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_files(context, tls)
    if tls.ca:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_tls(tls: Tls | None) -> ssl.SSLContext | None:
    """The sender's TLS context, or None without `tls`. Raises `BadConfig` for unusable files.

    Without `ca`, the peer's certificate must be trusted by the machine.
    """
    if tls is None:
        return None
    context = ssl.create_default_context() if tls.ca is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_files(context, tls)
    return context


class _NoWaiting(ssl.SSLContext):
    """Performs the handshake at the first read, in the association's thread: a silent peer must not block others."""

    def wrap_socket(self, sock: socket.socket, *_: object, **__: object) -> ssl.SSLSocket:
        sock.settimeout(HANDSHAKE)
        return super().wrap_socket(sock, server_side=True, do_handshake_on_connect=False)


def _load_files(context: ssl.SSLContext, tls: Tls) -> None:
    try:
        if tls.ca:
            context.load_verify_locations(tls.ca)
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as error:
        msg = f"tls: the certificate files cannot be used ({error}): give PEM files that fit together"
        raise BadConfig(msg) from None
