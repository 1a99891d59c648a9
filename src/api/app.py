"""The HTTP service: `uvicorn src.api.app:app`."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from prometheus_client import CollectorRegistry
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from .. import __version__
from ..errors import BadConfig
from ..quiet import quiet_libraries
from . import followup_routes, health, review_routes, routes, stream
from .database import open_database
from .pages import serve_docs, serve_page
from .problems import handle_problems
from .security import SecurityHeaders
from .serving import BoundedApp
from .settings import Settings, load_settings
from .submission import Service
from .supervisor import supervised

__all__ = ["app", "create_app"]

ABOUT = "Lung nodules on chest CT: found, measured, triaged. Research software, not a medical device."


def create_app(settings: Settings) -> FastAPI:
    """The service with these settings. Its database and workers start when the app starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        settings.make_folders()
        service = app.state.service = Service(settings, open_database(settings.url))
        try:
            with quiet_libraries():
                async with supervised(service):
                    yield
        finally:
            service.close()

    # FastAPI's own documentation pages load scripts from other sites: `pages` has one without.
    app = BoundedApp(
        settings,
        title="PIVOT",
        version=__version__,
        description=ABOUT,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.registry = CollectorRegistry()
    for router in (routes.router, review_routes.router, followup_routes.router, stream.router, health.router):
        app.include_router(router)
    handle_problems(app)
    app.add_middleware(health.Figures, registry=app.state.registry)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "X-API-Key", "Idempotency-Key", "If-Match", "Range"],
            expose_headers=["ETag", "Location", "Retry-After", "Content-Range"],
        )
    app.add_middleware(SecurityHeaders)
    if settings.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(settings.trusted_proxies))
    serve_docs(app)
    serve_page(app)
    return app


def _app() -> FastAPI:
    try:
        return create_app(load_settings())
    except BadConfig as error:
        sys.exit(f"error: {error}")


app = _app()
