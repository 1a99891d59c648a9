"""Authentication, rate limits, and the security headers for browsers."""

import hashlib
import hmac
import ipaddress
import re
import time
from collections import OrderedDict

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import Forbidden, TooMany, Unauthorized
from .settings import Settings

__all__ = ["RateLimit", "SecurityHeaders", "hashed", "owner_of"]

FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
LOCAL, PUBLIC = "local", "public"
KEY_PROTOCOL = 2  # a WebSocket's second subprotocol is the key
REMEMBERED = 10_000  # clients whose rate is kept
HEADERS = {
    # The page needs its own files, the pictures that it makes, and the service.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def hashed(key: str) -> str:
    """The stored form of a key. Keys are random, so a fast hash is enough."""
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def owner_of(connection: HTTPConnection, settings: Settings) -> str:
    """The owner of the jobs that this request or WebSocket may see.

    Raises:
        Unauthorized: the key is missing or wrong.
        Forbidden: the request comes from a page of another web site.
    """
    headers = connection.headers
    _check_origin(headers, settings)
    key = _key_of(connection)
    if key is not None:
        names = [name for name, known in settings.api_keys.items() if hmac.compare_digest(known, hashed(key))]
        if not names:
            msg = "the API key is unknown"
            raise Unauthorized(msg)
        return f"key:{names[0]}"
    if settings.auth == "none":
        return PUBLIC
    if settings.auth == "loopback" and _is_local(connection):
        return LOCAL
    msg = "send an API key: Authorization: Bearer KEY, or X-API-Key: KEY"
    raise Unauthorized(msg)


class RateLimit:
    """At most `per_minute` calls of each client, evenly spread or at once."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()  # calls left, and the time of this count

    def take(self, client: str) -> None:
        """Count one call.

        Raises:
            TooMany: the client has no call left.
        """
        now = time.monotonic()
        left, since = self._spent.pop(client, (float(self.per_minute), now))
        left = min(self.per_minute, left + (now - since) * self.per_minute / 60)
        if left < 1:
            self._spent[client] = left, now
            msg = f"more than {self.per_minute} submissions in a minute: send them more slowly"
            raise TooMany(msg, retry_after=int((1 - left) * 60 / self.per_minute) + 1)
        self._spent[client] = left - 1, now
        if len(self._spent) > REMEMBERED:
            self._spent.popitem(last=False)


class SecurityHeaders:
    """Adds the security headers to every response. Headers that a response sets itself are kept."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


def _key_of(connection: HTTPConnection) -> str | None:
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    protocols = connection.scope.get("subprotocols") or []
    if len(protocols) == KEY_PROTOCOL:
        return str(protocols[1])
    return connection.headers.get("x-api-key")


def _is_local(connection: HTTPConnection) -> bool:
    """Whether the request comes from this machine, to a local name, and not through a proxy.

    The name is checked because another site's name may resolve to 127.0.0.1 (DNS rebinding).
    """
    if any(name in connection.headers for name in FORWARDED):
        return False
    asked = re.sub(r":\d+$", "", connection.headers.get("host", "")).strip("[]")
    return _is_loopback(connection.client.host if connection.client else "") and _is_loopback(asked)


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _check_origin(headers: Headers, settings: Settings) -> None:
    """Refuse requests from pages of other web sites, which browsers name in `Origin`."""
    origin = headers.get("origin")
    if origin is None or origin in settings.cors_origins or origin.partition("://")[2] == headers.get("host"):
        return
    msg = "requests from pages of other web sites are refused: PIVOT_CORS_ORIGINS allows some"
    raise Forbidden(msg)
