"""Writes uploads from the network to the disk in pieces. No scan is in memory as a whole."""

import asyncio
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from ..config import load_config
from ..errors import BadConfig, BadScan
from ..plain_yaml import BadYaml, parse_yaml
from .problems import BadRequest, TooLarge
from .settings import Settings
from .storage import safe_name, study_name

__all__ = ["FORM", "Incoming", "Pace", "client_config", "read_form"]

PIECE = 2**20  # bytes written at once
HEAD = 512  # bytes that show the format
CONFIG_BYTES = 2**16
FORM_BYTES = 2**16  # of a form, besides its contents
PACE_SECONDS = 20.0  # of waiting, for one measurement of a client's pace
# The request in OpenAPI; `read_form` reads it.
FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "oneOf": [{"required": ["file"]}, {"required": ["study"]}],
                "additionalProperties": False,
                "properties": {
                    "file": {"type": "string", "format": "binary", "description": "the scan"},
                    "study": {
                        "type": "string",
                        "description": "instead of a scan: the StudyInstanceUID of a study that the service fetches",
                    },
                    "config": {"type": "string", "description": "the configuration in YAML"},
                    "patient": {"type": "string", "description": "what the guidelines may use, in YAML"},
                },
            },
            "encoding": {part: {"contentType": "application/yaml, text/plain"} for part in ("config", "patient")},
            "example": {"file": "scan.nii.gz", "config": "inference: {batch_size: 2}"},
        }
    },
}


class Incoming:
    """A scan that arrives in `folder`. `close` gives it its safe name. `limit` is in bytes."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.size = 0
        self.accepted = False  # as a job, which then owns the folder
        self.head = b""
        self._hash = hashlib.sha256()
        self._pending = bytearray()
        self._path = folder / ".partial"
        self._file = self._path.open("wb", buffering=0)  # closing then writes nothing, and cannot fail

    def take(self, data: bytes) -> None:
        """Take a piece. `flush` writes it.

        Raises:
            TooLarge: the scan exceeds the limit.
        """
        self.size += len(data)
        if self.size > self.limit:
            msg = f"the upload is larger than {self.limit} bytes, the limit of this service"
            raise TooLarge(msg)
        self.head += data[: HEAD - len(self.head)] if len(self.head) < HEAD else b""
        self._pending += data

    async def flush(self, least: int = PIECE) -> None:
        """Write the pending bytes if there are at least `least`."""
        if self._pending and len(self._pending) >= least:
            data, self._pending = self._pending, bytearray()
            await asyncio.to_thread(self._write, data)

    async def close(self, name: str | None) -> str:
        """Close the complete file, and return its safe name. `name` is None for a study to fetch."""
        await self.flush(0)
        self.abandon()
        if not self.size:
            msg = "the upload is empty: send the content of a scan as `file`"
            raise BadScan(msg)
        name = study_name(self.head) if name is None else safe_name(name, self.head)
        self._path.rename(self.folder / name)
        return name

    def abandon(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def digest(self) -> str:
        """SHA-256 of the written bytes."""
        return self._hash.hexdigest()

    def _write(self, data: bytearray) -> None:
        self._hash.update(data)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]


class Pace:
    """A client's sending rate, by the time spent waiting for it. Slow clients would hold places that others need."""

    def __init__(self, least: int) -> None:
        self.least = least  # bytes a second
        self._seconds, self._bytes = 0.0, 0

    def count(self, seconds: float, received: int) -> None:
        """Count bytes received in some seconds of waiting.

        Raises:
            BadRequest: the rate is too low.
        """
        self._seconds += seconds
        self._bytes += received
        if self._seconds >= PACE_SECONDS:
            if self._bytes < self.least * self._seconds:
                msg = f"less than {self.least} bytes of the upload came in a second: send it over a faster connection"
                raise BadRequest(msg)
            self._seconds, self._bytes = 0.0, 0

    async def measured(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The pieces of a body, which must come fast enough."""
        while (piece := await self._next(body)) is not None:
            yield piece

    async def _next(self, body: AsyncIterator[bytes]) -> bytes | None:
        """The next piece, or None at the end. The rate is checked while waiting, without ending the body."""
        coming = asyncio.ensure_future(anext(body, None))
        try:
            while True:
                start = time.monotonic()
                done, _ = await asyncio.wait([coming], timeout=PACE_SECONDS)
                piece = coming.result() if done else b""
                self.count(time.monotonic() - start, len(piece or b""))
                if done:
                    return piece
        finally:
            coming.cancel()


def client_config(text: bytes, settings: Settings) -> dict[str, Any]:
    """A client's configuration, with all defaults.

    Raises:
        BadConfig: the configuration is invalid, names another model than the server's, or needs too much memory.
    """
    data = _parsed(text)
    if data is not None and not isinstance(data, dict):
        msg = f"config must hold sections such as `inference:`, not a {type(data).__name__}"
        raise BadConfig(msg)
    config = load_config(data)
    whole = config.model_dump(mode="json")
    if re.search(r"\b(NaN|Infinity)\b", json.dumps(whole)):
        msg = "config holds a number that is not finite"
        raise BadConfig(msg)
    wanted, model = config.model.checkpoint, settings.model_file
    if wanted and wanted.name != model.name:
        msg = f"model.checkpoint is {wanted.name}, but this service runs {model.name}: remove the key"
        raise BadConfig(msg)
    x, y, z = config.inference.patch_size
    if x * y * z * config.inference.batch_size > settings.window_voxels:
        msg = f"inference.batch_size x patch_size is above {settings.window_voxels} voxels, the limit of this service"
        raise BadConfig(msg)
    return whole


def _parsed(text: bytes) -> Any:  # noqa: ANN401 - whatever the YAML holds
    try:
        return parse_yaml(text.decode("utf-8"))
    except (BadYaml, UnicodeDecodeError) as error:
        msg = f"config is not valid YAML: {' '.join(str(error).split())}"
        raise BadConfig(msg) from None


@dataclass
class _Form:
    """The parser's callbacks for a form. The scan goes to `incoming`, texts (`config`, `patient`) into memory."""

    incoming: Incoming
    source: str | None = None  # the part with the scan or study
    name: str | None = None  # of the scan
    texts: dict[str, bytearray] = field(default_factory=dict)
    ended: bool = False
    _field: str = ""
    _header: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))

    def on_part_begin(self) -> None:
        self._field = ""

    def on_header_begin(self) -> None:
        self._header = bytearray(), bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def on_header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            _, options = parse_options_header(value.decode("latin-1"))
            self._begin(options.get(b"name", b"").decode("latin-1"), options.get(b"filename", b""))

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field and self._field == self.source:
            self.incoming.take(data[start:end])
        elif (text := self.texts.get(self._field)) is not None:
            text += data[start:end]
            if len(text) > CONFIG_BYTES:
                msg = f"{self._field} is larger than {CONFIG_BYTES} bytes"
                raise TooLarge(msg)
        else:
            msg = "a part of the form has no name: send the parts `file` (or `study`) and `config`"
            raise BadRequest(msg)

    def on_end(self) -> None:
        self.ended = True

    def _begin(self, part: str, name: bytes) -> None:
        if part in ("file", "study") and self.source is None:
            self.source = part
            self.name = name.decode("utf-8", errors="replace") if part == "file" else None
        elif part in ("config", "patient") and part not in self.texts:
            self.texts[part] = bytearray()
        else:
            msg = f"the form has an extra part `{part[:40]}`: send one `file` or `study`, `config`, `patient`"
            raise BadRequest(msg)
        self._field = part


async def read_form(request: Request, incoming: Incoming, settings: Settings) -> tuple[str, bytes, bytes]:
    """Read a multipart form. Return the name of the scan (or study), the configuration, and the patient.

    Raises:
        BadRequest: the body is no such form, or comes too slowly.
        TooLarge: it exceeds the limit.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        msg = "send a multipart/form-data form with the scan as `file`"
        raise BadRequest(msg)
    if int(request.headers.get("content-length") or 0) > incoming.limit + CONFIG_BYTES + FORM_BYTES:
        msg = f"the upload is larger than {incoming.limit} bytes, the limit of this service"
        raise TooLarge(msg)
    form, seconds = _Form(incoming), settings.upload_seconds
    events = ("part_begin", "header_begin", "header_field", "header_value", "header_end", "part_data", "end")
    try:
        callbacks = {f"on_{name}": getattr(form, f"on_{name}") for name in events}
        parser = MultipartParser(options[b"boundary"], callbacks)  # type: ignore[arg-type]
        async with asyncio.timeout(seconds):
            await _feed(parser, Pace(settings.upload_rate).measured(request.stream()), incoming)
    except FormParserError as error:
        msg = f"the form is malformed: {error}"
        raise BadRequest(msg) from None
    except TimeoutError:
        msg = f"the upload took longer than {seconds:.0f} s, the limit of this service"
        raise BadRequest(msg) from None
    except ClientDisconnect:
        msg = "the client left before the end of the form"
        raise BadRequest(msg) from None
    if not form.ended or form.source is None:
        msg = "the form was cut short" if not form.ended else "the form has no part `file` or `study`"
        raise BadRequest(msg)
    config, patient = (bytes(form.texts.get(part, b"")) for part in ("config", "patient"))
    return await incoming.close(form.name), config, patient


async def _feed(parser: MultipartParser, body: AsyncIterator[bytes], incoming: Incoming) -> None:
    total = 0
    async for data in body:
        total += len(data)
        if total > incoming.limit + CONFIG_BYTES + FORM_BYTES:  # endless headers, or an epilogue
            msg = f"the upload is larger than {incoming.limit} bytes, the limit of this service"
            raise TooLarge(msg)
        parser.write(data)
        await incoming.flush()
