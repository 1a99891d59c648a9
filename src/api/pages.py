"""The page at `/`, and the API's description at `/docs`. If the page is not built, a text tells how to build it."""

from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles

from .problems import NotFound

__all__ = ["STATIC", "serve_docs", "serve_page"]

STATIC = Path(__file__).parent / "static"
PLAIN = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>PIVOT</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{font:1rem/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}
code,pre{font:0.9rem/1.4 ui-monospace,monospace}</style></head>
<body>
<main>
<h1>PIVOT</h1>
<p><strong>Research software, not a medical device.</strong></p>
<p>The service runs. Its page is not built in this checkout; with Node 20 or newer:</p>
<pre>cd web
npm ci
npm run build</pre>
<p>Without it, everything works over HTTP:</p>
<pre>curl -X POST http://localhost:8000/api/v1/inference -F "file=@scan.nii.gz"
curl http://localhost:8000/api/v1/inference/{job_id}/results</pre>
<ul>
<li><a href="docs">description of the API</a>, <a href="openapi.json">OpenAPI</a></li>
<li><a href="/api/v1/inference">your jobs</a></li>
<li><a href="/healthz">health</a>, <a href="/readyz">readiness</a>, <a href="/metrics">metrics</a></li>
</ul>
</main>
</body>
</html>
"""


# Swagger UI sets styles of elements, and has icons in its style sheet.
DOCS_POLICY = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
DOCS_POLICY += "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
DOCS = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>PIVOT API</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><main id="ui"></main>
<script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script></body>
</html>
"""
PARTS = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript", "start.js": "text/javascript"}
START = """SwaggerUIBundle({url: "openapi.json", dom_id: "#ui", validatorUrl: null, deepLinking: true});
"""


def serve_docs(app: FastAPI) -> None:
    """Serve Swagger UI at `/docs`, from the files of a package. It contacts no other site."""
    resources = files("fastapi_swagger.resources")

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(DOCS, headers={"Content-Security-Policy": DOCS_POLICY})

    @app.get("/docs/{name}", include_in_schema=False)
    def part(name: str) -> Response:
        if name not in PARTS:
            msg = "the description of the API has no such file"
            raise NotFound(msg)
        content = START.encode() if name == "start.js" else resources.joinpath(name).read_bytes()
        return Response(content, media_type=PARTS[name])


def serve_page(app: FastAPI, folder: Path = STATIC) -> None:
    """Serve the built page in `folder`. Call this last, because it takes all remaining addresses."""
    if (folder / "index.html").is_file():
        app.mount("/", StaticFiles(directory=folder, html=True))
        return

    @app.get("/", include_in_schema=False)
    def plain() -> HTMLResponse:
        return HTMLResponse(PLAIN, headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"})
