"""The REST interface of reviews. `docs/service.md` is its contract."""

import asyncio
import json
import re
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path as File
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive

from ..results.findings_table import save_findings
from ..results.output_formatter import rounded
from ..results.reviewed import reviewed
from . import review
from .jobs import Job
from .problems import Busy, NotFound, Refused
from .review import NodulePoint, Review, ReviewIn
from .review_work import measured_at, rewritten
from .routes import NEVER_STORED, Completed, Owner, Served, refusals
from .storage import report_of, scan_id
from .submission import Service

__all__ = ["Bounded", "report_of_job", "router"]

BODY_BYTES, BODY_SECONDS = 2**20, 30.0
UNSAFE = r'[?"\\]'  # characters not allowed in a file name in a header
Kind = Literal["json", "csv", "pdf", "sr", "seg"]
TYPES = {
    "json": ("application/json", ".json"),
    "csv": ("text/csv", ".csv"),
    "pdf": ("application/pdf", ".pdf"),
    "sr": ("application/dicom", "_sr.dcm"),
    "seg": ("application/dicom", "_seg.dcm"),
}
FILES = {"pdf": "report.pdf", "sr": "nodules_sr.dcm", "seg": "nodules_seg.dcm"}
TRIES = 5  # attempts to add a nodule while others change the review


class NoVersion(Refused):
    """A change without the version that it is based on."""

    status = 428


class Outdated(Refused):
    """A change based on an old version."""

    status = 412


class NotReviewed(Refused):
    """A file of a review that does not exist."""

    status = 409


class Bounded(APIRoute):
    """A route with limits for the size of a request's body and the time to send it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with both limits."""
        handle = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            return await handle(Request(request.scope, _bounded(request.receive)))

        return bounded


def _bounded(receive: Receive) -> Receive:
    until, got = time.monotonic() + BODY_SECONDS, 0

    async def receive_some() -> Message:
        nonlocal got
        try:
            message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
        except TimeoutError:
            raise HTTPException(400, f"the request took longer than {BODY_SECONDS:.0f} s") from None
        got += len(message.get("body", b""))
        if got > BODY_BYTES:
            raise HTTPException(413, f"the request is larger than {BODY_BYTES} bytes")
        return message

    return receive_some


router = APIRouter(prefix="/api/v1/inference/{job_id}/review", route_class=Bounded)


@router.get("", responses=refusals(404, 409))
async def show_review(response: Response, service: Served, job: Completed) -> Review:
    """The review, with its version as `ETag`."""
    version, content = await service.ask(review.load, service.engine, job.id)
    return _answer(response, version, content, await report_of_job(service, job))


@router.put("", responses=refusals(404, 409, 412, 413, 428))
async def write_review(
    response: Response,
    service: Served,
    job: Completed,
    owner: Owner,
    new: ReviewIn,
    if_match: Annotated[str | None, Header(max_length=100)] = None,
) -> Review:
    """Replace the review. `If-Match` holds the `ETag` of the version that the change is based on."""
    if if_match is None:
        msg = "send If-Match with the ETag of the review that you change: GET it first"
        raise NoVersion(msg)
    report = await report_of_job(service, job)
    version, old = await service.ask(review.load, service.engine, job.id)
    content = review.change(old, new, report, _name(owner))
    saved = if_match == _tag(version) and await service.ask(review.save, service.engine, job.id, version, content)
    if not saved:
        msg = "the review was changed since you read it: GET it again, and repeat your change"
        raise Outdated(msg)
    return _answer(response, version + 1, content, report)


@router.post("/nodules", status_code=201, responses=refusals(404, 409, 413, 422))
async def add_nodule(response: Response, service: Served, job: Completed, owner: Owner, point: NodulePoint) -> Review:
    """Add a nodule at a point. The service measures it: what cannot be measured is null."""
    report = await report_of_job(service, job)
    measured = rounded(await measured_at(service, job, point))
    for _ in range(TRIES):
        version, old = await service.ask(review.load, service.engine, job.id)
        content = review.add(old, measured, _name(owner))
        if await service.ask(review.save, service.engine, job.id, version, content):
            return _answer(response, version + 1, content, report)
    msg = "the review is being changed by others: try again"
    raise Busy(msg, retry_after=1)


@router.get("/reviewed.{kind}", responses=refusals(404, 409, 422), response_class=Response)
async def reviewed_report(service: Served, job: Completed, kind: Kind) -> Response:
    """The report with the review, for download. `sr` and `seg` are DICOM objects, of jobs that asked for them."""
    version, content = await service.ask(review.load, service.engine, job.id)
    report = reviewed(await report_of_job(service, job), content)
    if kind == "json":
        body: str | bytes = json.dumps(report, indent=1, allow_nan=False)
    elif kind == "csv":
        body = await asyncio.to_thread(_table, report)
    elif version == 0:
        msg = "nobody has reviewed this job: its own files hold the same"
        raise NotReviewed(msg)
    else:
        body = await rewritten(service, job, report, FILES[kind])
    media, ending = TYPES[kind]
    # The scan's name is in the response only: addresses are logged.
    name = f"{scan_id(job.file)}_reviewed{ending}".encode("ascii", "replace").decode()
    headers = {"Content-Disposition": f'attachment; filename="{re.sub(UNSAFE, "_", name)}"', **NEVER_STORED}
    return Response(body, media_type=media, headers=headers)


def _table(report: dict[str, Any]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = File(folder, "table.csv")
        save_findings([report], path)
        return path.read_text(encoding="utf-8")


async def report_of_job(service: Service, job: Job) -> dict[str, Any]:
    """The report of a completed job, before any review."""
    try:
        content = await asyncio.to_thread(report_of(service.settings.jobs, job).read_bytes)
    except FileNotFoundError:  # deleted after the lookup of the job
        msg = "the job was removed"
        raise NotFound(msg) from None
    report: dict[str, Any] = json.loads(content)
    return report


def _answer(response: Response, version: int, content: dict[str, Any], report: dict[str, Any]) -> Review:
    response.headers.update({"ETag": _tag(version), **NEVER_STORED})
    return review.shown(version, content, report)


def _tag(version: int) -> str:
    return f'"{version}"'


def _name(owner: str) -> str:
    """The reader's name: the key's name, or the address of the request."""
    return owner.removeprefix("key:")
