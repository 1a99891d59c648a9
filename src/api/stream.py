"""The WebSocket interface. `docs/service.md` is its contract."""

import asyncio
import json
import logging
import time
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from ..errors import PivotError, way_to
from . import jobs
from .jobs import Job
from .problems import BadRequest, Busy, NotFound, Refused, plain, problem
from .schemas import message
from .security import owner_of
from .serving import allow_large_messages, received_bytes
from .storage import report_of
from .submission import Arriving, Service, arriving, queue
from .uploads import PACE_SECONDS, Pace

__all__ = ["router"]

log = logging.getLogger("pivot")
POLL_SECONDS = 0.25
NORMAL, POLICY, FAULT, TRY_LATER = 1000, 1008, 1011, 1013  # https://www.iana.org/assignments/websocket/websocket.xhtml

router = APIRouter(prefix="/api/v1/inference")


@router.websocket("/stream")
async def submit(socket: WebSocket) -> None:
    """Receive a scan, then report its job until it ends."""
    service: Service = socket.app.state.service
    settings = service.settings
    try:
        owner = owner_of(socket, settings)
        client = owner if owner.startswith("key:") or not socket.client else socket.client.host
        async with arriving(service, owner, client) as scan, asyncio.timeout(settings.upload_seconds):
            allow_large_messages(socket, min(settings.upload_bytes, settings.message_bytes))
            await _accept(socket)
            name, config = await _receive(socket, scan, Pace(settings.upload_rate))
            job = await queue(service, scan, await scan.incoming.close(name), config, None)
        await _follow(socket, service, job)
    except WebSocketDisconnect:
        pass
    except Exception as error:  # noqa: BLE001 - every error is reported to the client
        await _refuse(socket, error)


@router.websocket("/{job_id}/stream")
async def follow(socket: WebSocket, job_id: str) -> None:
    """Report a job, from its present state until it ends."""
    service: Service = socket.app.state.service
    try:
        owner = owner_of(socket, service.settings)
        await _accept(socket)
        job = await service.ask(jobs.find, service.engine, job_id, owner)
        await _follow(socket, service, _found(job))
    except WebSocketDisconnect:
        pass
    except Exception as error:  # noqa: BLE001
        await _refuse(socket, error)


async def _accept(socket: WebSocket) -> None:
    offered = socket.scope.get("subprotocols") or []
    await socket.accept(subprotocol=offered[0] if offered else None)


async def _receive(socket: WebSocket, scan: Arriving, pace: Pace) -> tuple[str, bytes]:
    """The name and configuration of the scan. Its bytes go to `scan.incoming`."""
    first = await _paced(socket, pace)
    if isinstance(first, bytes):
        scan.incoming.take(first)
        return "", b""
    start = _event(first, "start")
    size = start.get("size")
    if not (size is None or (isinstance(size, int) and size > 0)):
        msg = "`size` must be a positive number of bytes"
        raise BadRequest(msg)
    while size is None or scan.incoming.size < size:
        piece = await _paced(socket, pace)
        if isinstance(piece, str):
            _event(piece, "end")
            break
        scan.incoming.take(piece)
        await scan.incoming.flush()
    if size not in (None, scan.incoming.size):
        msg = f"{scan.incoming.size} bytes arrived, but `size` is {size}"
        raise BadRequest(msg)
    return str(start.get("filename") or ""), str(start.get("config") or "").encode(errors="surrogatepass")


async def _paced(socket: WebSocket, pace: Pace) -> str | bytes:
    """The next message. Its bytes must come fast enough, if the server counts them."""
    counted = received_bytes(socket)
    if counted is None:
        return await _next(socket)
    coming = asyncio.ensure_future(_next(socket))
    try:
        while True:
            start, before = time.monotonic(), counted()
            await asyncio.wait([coming], timeout=PACE_SECONDS)
            pace.count(time.monotonic() - start, counted() - before)
            if coming.done():
                return coming.result()
    finally:
        coming.cancel()


async def _next(socket: WebSocket) -> str | bytes:
    received = await socket.receive()
    if received["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(received.get("code", NORMAL))
    content: str | bytes = received["bytes"] if received.get("bytes") is not None else received["text"]
    return content


def _event(text: str, wanted: str) -> dict[str, Any]:
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict) or event.get("event") != wanted:
        msg = f'send the scan as a binary message, or {{"event": "{wanted}"}} as text'
        raise BadRequest(msg)
    return event


async def _follow(socket: WebSocket, service: Service, job: Job) -> None:
    """Send the job's state whenever it changes, until the job ends or the client leaves."""
    if service.streams >= service.settings.streams:
        msg = f"{service.streams} connections follow jobs, the limit of this server: ask for the job's state instead"
        raise Busy(msg, retry_after=10)
    leaving = asyncio.ensure_future(_wait_for_disconnect(socket))
    sent: dict[str, Any] = {}
    service.streams += 1
    try:
        while not leaving.done():
            report = await asyncio.to_thread(_report, service, job) if job.state == "completed" else None
            if (current := message(job, report)) != sent:
                await socket.send_json(current)
                sent = current
            if not job.open:
                await socket.close(NORMAL)
                return
            await asyncio.wait([leaving], timeout=POLL_SECONDS)
            job = await _reloaded(service, job)
    finally:
        service.streams -= 1
        leaving.cancel()


async def _wait_for_disconnect(socket: WebSocket) -> None:
    """Return when the client disconnects. Its messages are ignored."""
    with suppress(WebSocketDisconnect):
        while True:
            await _next(socket)


async def _reloaded(service: Service, job: Job) -> Job:
    return _found(await service.ask(jobs.find, service.engine, job.id, job.owner))


def _found(job: Job | None) -> Job:
    if job is None:
        msg = "there is no such job: it never existed, was removed, has expired, or belongs to another key"
        raise NotFound(msg)
    return job


def _report(service: Service, job: Job) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(report_of(service.settings.jobs, job).read_bytes())
    return report


async def _refuse(socket: WebSocket, error: Exception) -> None:
    """Send the problem, and close. The code tells the client whether to try again."""
    if isinstance(error, TimeoutError):
        error = BadRequest("the upload took too long")
    known, code = plain(error), POLICY
    if known is None:
        log.error("a WebSocket met an unexpected %s (%s)", type(error).__name__, way_to(error))
        known, code = PivotError(f"unexpected {type(error).__name__}; see the server's log"), FAULT
    elif isinstance(known, Refused) and known.retry_after is not None:
        code = TRY_LATER
    with suppress(WebSocketDisconnect, RuntimeError):  # the client has left
        if socket.application_state.name == "CONNECTING":
            await _accept(socket)  # a refused handshake cannot carry a reason
        await socket.send_json(message(None, error=problem(known)))
        await socket.close(code)
