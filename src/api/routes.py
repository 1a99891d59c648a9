"""The REST interface. `docs/service.md` is its contract."""
# ruff: noqa: FAST003 - `Found` uses the job_id

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from sqlalchemy.exc import DBAPIError

from .. import __version__
from . import jobs, review
from .jobs import Job, State
from .problems import NotCompleted, NotFound
from .schemas import PREFIX, FileList, FileOut, FindingMasks, JobList, JobListed, JobOut, Limits, Problem, ReadState
from .security import owner_of
from .storage import OUTLINES, PREVIEW, SUFFIXES, artifacts, remove, report_of
from .submission import Service, arriving, queue
from .uploads import FORM, read_form

__all__ = ["NEVER_STORED", "Completed", "Owner", "Served", "refusals", "router"]

PROBLEMS = {
    status: {"description": text, "content": {"application/problem+json": {"schema": Problem.model_json_schema()}}}
    for status, text in {
        400: "malformed request",
        401: "an API key is needed",
        403: "from another web site",
        404: "no such job",
        409: "not completed",
        412: "changed since",
        413: "too large",
        416: "no such range",
        422: "unusable scan or configuration",
        428: "no version named",
        429: "too many requests",
        503: "busy",
    }.items()
}
# A downloaded page runs its scripts in a sandbox.
SANDBOX = {
    "Content-Security-Policy": (
        "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' blob:; "
        "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; worker-src blob:"
    )
}
NEVER_STORED = {"Cache-Control": "no-store"}


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _owner(request: Request) -> str:
    return owner_of(request, _service(request).settings)


async def _job(request: Request, owner: "Owner", job_id: Annotated[str, Path(max_length=64)]) -> Job:
    service = _service(request)
    job = await service.ask(jobs.find, service.engine, job_id, owner)
    if job is None:
        msg = "there is no such job: it never existed, has expired, or belongs to another key"
        raise NotFound(msg)
    return job


Owner = Annotated[str, Depends(_owner)]
Served = Annotated[Service, Depends(_service)]
Found = Annotated[Job, Depends(_job)]


def _completed(service: Served, job: Found) -> Job:
    if job.state != "completed":
        shown = _shown(service, job)
        msg = f"the job is {job.state}" + (": ask again later" if job.open else "")
        raise NotCompleted(msg, state=job.state, progress=shown.progress, error=job.error)
    return job


Completed = Annotated[Job, Depends(_completed)]


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a route may answer with, for OpenAPI."""
    return {status: PROBLEMS[status] for status in (400, 401, 403, *statuses, 503)}


router = APIRouter(prefix="/api/v1")


@router.post("/inference", status_code=202, responses=refusals(413, 422, 429), openapi_extra={"requestBody": FORM})
async def submit(
    request: Request,
    response: Response,
    service: Served,
    owner: Owner,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> JobOut:
    """Submit a scan."""
    client = owner if owner.startswith("key:") or not request.client else request.client.host
    async with arriving(service, owner, client) as scan:
        file, config, patient = await read_form(request, scan.incoming, service.settings)
        await service.keep_patient(patient, scan.incoming.folder)
        job = await queue(service, scan, file, config, idempotency_key)
    response.headers.update({"Location": f"{PREFIX}/{job.id}", **NEVER_STORED})
    return _shown(service, job)


@router.get("/inference", responses=refusals())
async def list_jobs(
    response: Response,
    service: Served,
    owner: Owner,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(pattern=f"^{jobs.ID}$")] = None,
    status: State | None = None,
) -> JobList:
    """Your jobs, newest first."""
    found = await service.ask(jobs.page, service.engine, owner, limit + 1, cursor, status)
    shown, more = found[:limit], len(found) > limit
    following = f"{PREFIX}?limit={limit}&cursor={shown[-1].id}{f'&status={status}' if status else ''}" if more else None
    response.headers.update(NEVER_STORED)
    reviews = await service.ask(review.load_all, service.engine, [job.id for job in shown])
    return JobList(jobs=await asyncio.to_thread(_listed, service, shown, reviews), next=following)


@router.get("/inference/{job_id}", responses=refusals(404))
def show_job(response: Response, service: Served, job: Found) -> JobOut:
    """State and progress."""
    response.headers.update(NEVER_STORED)
    return _shown(service, job)


@router.get("/inference/{job_id}/results", responses=refusals(404, 409))
def results(service: Served, job: Completed) -> Response:
    """The JSON report, as from the command line."""
    try:
        content = report_of(service.settings.jobs, job).read_bytes()
    except FileNotFoundError:  # deleted after the lookup of the job
        msg = "the job was removed"
        raise NotFound(msg) from None
    return Response(content, media_type="application/json", headers=NEVER_STORED)


@router.get("/inference/{job_id}/outlines", responses=refusals(404, 409))
def outlines(service: Served, job: Completed) -> FindingMasks:
    """The masks of the findings, for viewers."""
    try:
        content = (service.settings.jobs / job.id / str(job.result) / OUTLINES).read_bytes()
    except FileNotFoundError:
        msg = "the job was removed, or an earlier release made it, without outlines"
        raise NotFound(msg) from None
    return FindingMasks.model_validate_json(content)


@router.get(
    "/inference/{job_id}/preview",
    response_class=FileResponse,
    responses={**refusals(404, 409), 204: {"description": "the scan is small: load it"}},
)
def preview(service: Served, job: Completed) -> Response:
    """A coarse image of a large scan (NIfTI), for viewers to show while they load the scan."""
    path = service.settings.jobs / job.id / str(job.result) / PREVIEW
    if not path.is_file():
        return Response(status_code=204, headers=NEVER_STORED)
    return FileResponse(path, media_type="application/octet-stream", headers=NEVER_STORED)


@router.get("/inference/{job_id}/files", responses=refusals(404))
def list_files(response: Response, service: Served, job: Found) -> FileList:
    """The files for download."""
    response.headers.update(NEVER_STORED)
    return FileList(files=[FileOut.of(artifact, job) for artifact in artifacts(service.settings.jobs, job)])


@router.get(
    "/inference/{job_id}/files/{file}",
    response_class=FileResponse,
    responses={**refusals(404, 416), 206: {"description": "a range"}, 304: {"description": "not changed"}},
)
def download(
    request: Request,
    service: Served,
    job: Found,
    file: Annotated[str, Path(max_length=64)],
    *,
    download: bool = False,
) -> Response:
    """One file, or a range of it."""
    found = next((one for one in artifacts(service.settings.jobs, job) if one.file == file), None)
    if found is None:
        msg = f"the job has no file of this name: {PREFIX}/{job.id}/files lists them"
        raise NotFound(msg)
    headers = {"ETag": found.etag, "Cache-Control": "private, no-cache", **(SANDBOX if file.endswith(".html") else {})}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if found.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return FileResponse(
        found.path,
        headers=headers,
        media_type=found.media_type,
        filename=found.path.name,
        content_disposition_type="attachment" if download else "inline",
    )


@router.delete(
    "/inference/{job_id}",
    response_model=None,
    responses={**refusals(404), 200: {"model": JobOut}, 204: {"description": "removed"}},
)
async def delete(service: Served, job: Found) -> Response:
    """Cancel a queued or running job. Remove an ended job with its files."""
    folder, engine = service.settings.jobs, service.engine
    try:
        cancelled = await service.ask(jobs.cancel, engine, job)
    except DBAPIError:  # on a full disk the database cannot even cancel: remove files first
        await asyncio.to_thread(remove, folder, job.id, "input" if job.open else "")
        cancelled = await service.ask(jobs.cancel, engine, job)
    if cancelled:
        await asyncio.to_thread(remove, folder, job.id, "input")
        now = await service.ask(jobs.find, engine, job.id, job.owner) or job
        return JSONResponse(_shown(service, now).model_dump(), headers=NEVER_STORED)
    await service.ask(jobs.forget, engine, job)
    await asyncio.to_thread(remove, folder, job.id)
    return Response(status_code=204)


@router.get("/limits", responses=refusals())
def limits(service: Served, owner: Owner) -> Limits:  # noqa: ARG001 - `owner` checks the key
    """The limits of this service."""
    settings = service.settings
    return Limits(
        version=__version__,
        model=settings.model_file.name,
        formats=list(SUFFIXES),
        upload_bytes=settings.upload_bytes,
        job_seconds=settings.job_seconds,
        retention_hours=settings.retention_hours,
    )


def _listed(service: Service, shown: list[Job], reviews: Mapping[str, Mapping[str, Any]]) -> list[JobListed]:
    """Jobs with how far each is read."""

    def read(job: Job) -> ReadState | None:
        done = job.state == "completed"
        return review.read(reviews.get(job.id), report_of(service.settings.jobs, job)) if done else None

    return [JobListed(**_shown(service, job).model_dump(), review=read(job)) for job in shown]


def _shown(service: Service, job: Job) -> JobOut:
    return JobOut.of(job, service.settings.retention_hours * 3600)
