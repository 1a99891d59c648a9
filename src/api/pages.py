"""The page at `/`. If it is not built, a text tells how to build it."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

__all__ = ["STATIC", "serve_page"]

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
<li><a href="/openapi.json">OpenAPI description</a></li>
<li><a href="/api/v1/inference">your jobs</a></li>
<li><a href="/healthz">health</a>, <a href="/readyz">readiness</a>, <a href="/metrics">metrics</a></li>
</ul>
</main>
</body>
</html>
"""


def serve_page(app: FastAPI, folder: Path = STATIC) -> None:
    """Serve the built page in `folder`. Call this last, because it takes all remaining addresses."""
    if (folder / "index.html").is_file():
        app.mount("/", StaticFiles(directory=folder, html=True))
        return

    @app.get("/", include_in_schema=False)
    def plain() -> HTMLResponse:
        return HTMLResponse(PLAIN, headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"})
