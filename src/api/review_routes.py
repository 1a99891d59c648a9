"""The REST interface of reviews. `docs/service.md` is its contract."""

import asyncio
import json
import tempfile
import time
from asyncio.subprocess import PIPE
from collections.abc import Callable, Coroutine
from pathlib import Path as File
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive

from ..errors import BadScan, PivotError
from ..results.findings_table import save_findings
from ..results.output_formatter import rounded
from ..results.reviewed import reviewed
from . import review
from .jobs import Job
from .problems import Busy, NotFound, Refused
from .review import Place, Review, ReviewIn
from .routes import NEVER_STORED, Completed, Owner, Served, refusals
from .storage import SCAN, report_of, scan_id
from .submission import Service
from .supervisor import start

__all__ = ["router"]

BODY_BYTES, BODY_SECONDS = 2**20, 30.0
MEASURE_SECONDS, GRACE_SECONDS = 300.0, 10.0
TRIES = 5  # to add a nodule while others change the review


class NoVersion(Refused):
    """A change that does not name the version that it is based on."""

    status = 428


class Outdated(Refused):
    """A change of an earlier version than the present one."""

    status = 412


class Bounded(APIRoute):
    """A route whose requests have a bounded body, and bounded time to send it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, which reads no more than that."""
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
    return _answer(response, version, content, await _report(service, job))


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
    report = await _report(service, job)
    version, old = await service.ask(review.load, service.engine, job.id)
    content = review.change(old, new, report, _name(owner))
    saved = if_match == _tag(version) and await service.ask(review.save, service.engine, job.id, version, content)
    if not saved:
        msg = "the review was changed since you read it: GET it again, and repeat your change"
        raise Outdated(msg)
    return _answer(response, version + 1, content, report)


@router.post("/nodules", status_code=201, responses=refusals(404, 409, 413, 422))
async def add_nodule(response: Response, service: Served, job: Completed, owner: Owner, place: Place) -> Review:
    """Add a nodule at a point. The service measures it: what cannot be measured is null."""
    report = await _report(service, job)
    measured = rounded(await _measured(service, job, place))
    for _ in range(TRIES):
        version, old = await service.ask(review.load, service.engine, job.id)
        content = review.add(old, measured, _name(owner))
        if await service.ask(review.save, service.engine, job.id, version, content):
            return _answer(response, version + 1, content, report)
    msg = "the review is being changed by others: try again"
    raise Busy(msg, retry_after=1)


@router.get("/reviewed.{kind}", responses=refusals(404, 409), response_class=Response)
async def reviewed_report(service: Served, job: Completed, kind: Literal["json", "csv"]) -> Response:
    """The report with the review, for download."""
    _, content = await service.ask(review.load, service.engine, job.id)
    report = reviewed(await _report(service, job), content)
    text = json.dumps(report, indent=1, allow_nan=False) if kind == "json" else await asyncio.to_thread(_table, report)
    # The name of the scan stands in the response alone: addresses get into logs.
    name = f"{scan_id(job.file)}_reviewed.{kind}".encode("ascii", "replace").decode().replace('"', "").replace("?", "_")
    headers = {"Content-Disposition": f'attachment; filename="{name}"', **NEVER_STORED}
    return Response(text, media_type="application/json" if kind == "json" else "text/csv", headers=headers)


def _table(report: dict[str, Any]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = File(folder, "table.csv")
        save_findings([report], path)
        return path.read_text(encoding="utf-8")


async def _measured(service: Service, job: Job, place: Place) -> dict[str, Any]:
    """The nodule at the place, measured in a confined process; one at a time."""
    folder = service.settings.jobs / job.id
    scans = [path for path in (folder / str(job.result) / SCAN).glob("*") if path.is_file()]
    if not scans:
        msg = "the scan of this job is not there any more"
        raise NotFound(msg)
    if service.measuring.locked():
        msg = "another nodule is being measured: try again"
        raise Busy(msg, retry_after=2)
    async with service.measuring:
        return await _run_measure(scans[0], place, folder, service.settings.memory)


async def _run_measure(scan: File, place: Place, folder: File, memory: int | None) -> dict[str, Any]:
    """The answer of the process that measures (`measure.py`)."""
    options = [f"--place={','.join(map(repr, place.coordinates_lps))}", f"--scratch={folder}"]
    options += [f"--seconds={MEASURE_SECONDS}", *([f"--memory={memory}"] if memory else [])]
    process = await start("measure", str(scan), *options, stdout=PIPE)
    try:
        output, _ = await asyncio.wait_for(process.communicate(), MEASURE_SECONDS + GRACE_SECONDS)
        answer = json.loads(output)
    except (TimeoutError, ValueError):
        msg = "the process that measured the nodule died, or took too long"
        raise PivotError(msg) from None
    finally:
        if process.returncode is None:
            process.kill()
    if error := answer.get("error"):
        raise (BadScan if error["kind"] == "BadScan" else PivotError)(error["message"])
    measured: dict[str, Any] = answer["nodule"]
    return measured


async def _report(service: Service, job: Job) -> dict[str, Any]:
    try:
        content = await asyncio.to_thread(report_of(service.settings.jobs, job).read_bytes)
    except FileNotFoundError:  # deleted since the job was found
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
    """The name of the reader: that of the key, or where the request came from."""
    return owner.removeprefix("key:")
