"""Limits for uvicorn's connections, in force before a client is authenticated.

Start the server with uvicorn's command line, without options. The limits are set at the start of the app's lifespan,
before the first connection. Another protocol (`--http`, `--ws`) keeps its own limits.
"""

import asyncio
import logging
import resource
import sys
from collections.abc import Callable
from typing import Any, cast

from fastapi import FastAPI, WebSocket
from starlette.types import Message, Receive, Scope, Send
from uvicorn import Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ..errors import PivotError, way_to
from .settings import Settings

__all__ = ["BoundedApp", "allow_large_messages", "received_bytes"]

SERVER = "pivot.server"  # a key in the scope of a WebSocket
log = logging.getLogger("pivot")
QUIET_SECONDS = 20.0  # for a request's header, and between requests
STOP_SECONDS = 20.0  # for running requests when the server ends
HEADER_BYTES = 2**16  # of a request
MESSAGE_BYTES = 2**16  # of a WebSocket's message, until its sender is authenticated and may send a scan
FRAGMENTS = 2**16  # of one message; even short ones need memory
LINGER_SECONDS = 2.0  # for the answer to reach a client that still sends
SPARE_FILES = 64  # kept for the database, uploads and worker processes
TRY_LATER, TOO_LARGE = 1013, 1009
FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class BoundedApp(FastAPI):
    """The app. It sets limits on its server, and keeps a reference to the server's side of each WebSocket."""

    def __init__(self, settings: Settings, **options: Any) -> None:  # noqa: ANN401 - those of FastAPI
        super().__init__(**options)
        self.bounds = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on. Before the first connection, set the limits.

        An unexpected error has been answered already. It is not raised again: the server would log its message, which
        may name a patient.
        """
        server = getattr(receive, "__self__", None)
        if scope["type"] == "lifespan":
            if isinstance(config := getattr(server, "config", None), Config):
                _bound(config, self.bounds)
            else:
                log.info("connections and messages are bounded by the server's own settings only")
            send = _with_plain_errors(send)
        elif scope["type"] == "websocket":
            scope[SERVER] = server
        try:
            await super().__call__(scope, receive, send)
        except Exception as error:
            if scope["type"] != "http":
                raise
            log.error("a request met an unexpected %s (%s)", type(error).__name__, way_to(error))  # noqa: TRY400


def allow_large_messages(socket: WebSocket, limit: int) -> None:
    """Allow one message of this connection up to `limit` bytes, without a timeout. Its sender is authenticated."""
    server = socket.scope.get(SERVER)
    if isinstance(server, _WebSocket):
        server.conn.max_message_size = limit
        server.ping_timeout = None  # a pong cannot come in the middle of a large message


def received_bytes(socket: WebSocket) -> Callable[[], int] | None:
    """A function that returns the bytes received over this WebSocket; None if the server does not count them."""
    server = socket.scope.get(SERVER)
    return (lambda: server.received) if isinstance(server, _WebSocket) else None


def _with_plain_errors(send: Send) -> Send:
    """Report a failed start with only the error's message, if it is a `PivotError`."""

    async def send_plain(message: Message) -> None:
        error = sys.exc_info()[1]
        if message["type"] == "lifespan.startup.failed" and isinstance(error, PivotError):
            message = {**message, "message": f"error: {error}"}
        await send(message)

    return send_plain


def _bound(config: Config, settings: Settings) -> None:
    held = _Held(settings.message_bytes)
    if config.http_protocol_class is HttpToolsProtocol:
        config.http_protocol_class = cast("Any", type("Http", (_Http,), {"most": settings.connections}))
    if config.ws_protocol_class is WebSocketsSansIOProtocol:
        config.ws_protocol_class = cast("Any", type("WebSocket", (_WebSocket,), {"held_by_all": held}))
    config.ws_per_message_deflate = False
    config.ws_max_size = MESSAGE_BYTES
    config.timeout_graceful_shutdown = config.timeout_graceful_shutdown or int(STOP_SECONDS)
    app: Any = config.loaded_app
    if isinstance(app, ProxyHeadersMiddleware):  # it trusts every proxy on this machine; the settings name the trusted
        config.loaded_app = app.app


class _Http(HttpToolsProtocol):
    """A connection that is closed if no request comes, if a header is too long, or if there are too many."""

    most = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._unfinished = 0  # bytes of a header or trailer
        self._quiet: asyncio.TimerHandle | None = None
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if len(self.connections) > min(self.most, max(1, files - SPARE_FILES)):
            transport.write(FULL)
            transport.close()
            return
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        before, self._unfinished = self._unfinished + len(data), -1
        super().data_received(data)
        self._unfinished = before if self._unfinished < 0 else 0
        if self._unfinished > HEADER_BYTES:
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._unfinished = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unfinished = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self.cycle is not None and self.cycle.response_complete:  # the request was refused before its end
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self._stop_timer()
        super().handle_websocket_upgrade()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _start_timer(self) -> None:
        state = self._is_idle(), self.cycle
        self._quiet = self.loop.call_later(QUIET_SECONDS, self._close_if_idle, *state)

    def _close_if_idle(self, was_idle: bool, cycle: object) -> None:  # noqa: FBT001 - the state at the start
        if was_idle and self._is_idle() and self.cycle is cycle:
            self.transport.close()
        else:
            self._start_timer()

    def _stop_timer(self) -> None:
        if self._quiet is not None:
            self._quiet.cancel()


class _Held:
    """Bytes of incomplete messages in all connections."""

    def __init__(self, most: int) -> None:
        self.most, self.bytes = most, 0


class _WebSocket(WebSocketsSansIOProtocol):
    """A connection whose incomplete message is counted. After a refusal its input is discarded."""

    held_by_all = _Held(0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.received = self._held = 0
        self._discarding = False
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self._discarding:
            return
        self._set_held(self._held + len(data))
        if self.close_sent:
            if self._held > MESSAGE_BYTES:
                self._discard_input()
                return
        elif self.held_by_all.bytes > self.held_by_all.most:
            self._fail(TRY_LATER, "too many large messages at once: try again, or send in pieces")
            return
        super().data_received(data)
        if len(self.frames) > FRAGMENTS and not self.close_sent:
            self._fail(TOO_LARGE, "a message in too many fragments")

    async def receive(self) -> Any:  # noqa: ANN401 - as in the server
        message = await super().receive()
        self._set_held(0)
        return message

    async def send(self, message: Any) -> None:  # noqa: ANN401
        await super().send(message)
        if message["type"] == "websocket.close":
            self.conn.max_message_size = MESSAGE_BYTES
            if self._held > MESSAGE_BYTES:
                self._discard_input()
            self._set_held(0)

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_held(0)
        super().connection_lost(exc)

    def _set_held(self, count: int) -> None:
        self.held_by_all.bytes += count - self._held
        self._held = count

    def _fail(self, code: int, reason: str) -> None:
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self._discard_input()

    def _discard_input(self) -> None:
        """Read on and discard. Otherwise a client that still sends would not see why it was refused."""
        self._discarding = True
        self.frames = []
        self.conn.reader.buffer.clear()
        self._set_held(0)
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)
