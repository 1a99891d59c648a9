"""Health and readiness of the service, and its metrics for Prometheus."""

import shutil
import time
from collections.abc import Iterable, Mapping

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import PivotError
from . import jobs, workers
from .security import owner_of
from .submission import Service

__all__ = ["Figures", "router"]

router = APIRouter()


class Figures:
    """Counts the requests of an app, in the registry of `/metrics`."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self.app = app
        labels = ("method", "route", "status")
        self.requests = Counter("pivot_http_requests", "Requests answered", labels, registry=registry)
        self.seconds = Histogram("pivot_http_seconds", "Time to answer", ("route",), registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, start = 500, time.perf_counter()

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            route = getattr(scope.get("route"), "path", "other")  # not the address: it has unlimited values
            method = scope["method"] if scope["method"] in ("GET", "POST", "DELETE", "HEAD", "OPTIONS") else "other"
            self.requests.labels(method, route, str(status)).inc()
            self.seconds.labels(route).observe(time.perf_counter() - start)


class Queue(Collector):
    """The number of jobs in each state and of living workers, at the time of the request."""

    def __init__(self, service: Service, counts: Mapping[str, int], living: int) -> None:
        self.service, self.counts, self.living = service, counts, living

    def collect(self) -> Iterable[Metric]:
        """The figures."""
        family = GaugeMetricFamily("pivot_jobs", "Jobs in each state", labels=["state"])
        for state, count in self.counts.items():
            family.add_metric([state], count)
        yield family
        yield GaugeMetricFamily("pivot_workers", "Workers that gave a sign of life", value=self.living)
        yield GaugeMetricFamily("pivot_uploads", "Uploads under way", value=len(self.service.arriving))
        free = shutil.disk_usage(self.service.settings.data).free
        yield GaugeMetricFamily("pivot_disk_free_bytes", "Free space of the data folder", value=free)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The server is alive."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "not ready"}})
async def readyz(request: Request) -> Response:
    """The database and the disk are usable, and a worker is alive if this server starts any."""
    service: Service = request.app.state.service
    settings, database, living = service.settings, "ok", 0
    try:
        await service.ask(jobs.counts, service.engine)
        living = await service.ask(workers.living, service.engine)
    except (SQLAlchemyError, PivotError):
        database = "unreachable"
    free = shutil.disk_usage(settings.data).free >= settings.free_bytes
    worked = living > 0 or not (settings.ray or settings.devices)
    ready = database == "ok" and free and worked
    content = {
        "status": "ok" if ready else "not ready",
        "database": database,
        "disk": "ok" if free else "nearly full",
        "workers": living,
    }
    return JSONResponse(content, 200 if ready else 503)


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    service: Service = request.app.state.service
    owner_of(request, service.settings)
    counts = await service.ask(jobs.counts, service.engine)
    queue = CollectorRegistry()
    queue.register(Queue(service, counts, await service.ask(workers.living, service.engine)))
    return Response(
        generate_latest(request.app.state.registry) + generate_latest(queue), media_type=CONTENT_TYPE_LATEST
    )
