"""The comparison of a job with an earlier one. `docs/service.md` is its contract."""

import asyncio
import json
import tempfile
from pathlib import Path as File
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from ..files import write_json
from ..results.reviewed import reviewed
from . import jobs, review
from .jobs import Job
from .problems import BadRequest, NotFound
from .review_routes import Bounded, report_of_job
from .review_work import run, scan_of
from .routes import NEVER_STORED, Completed, Owner, Served, refusals
from .submission import Service

__all__ = ["router"]

LONGEST = 36_525  # days, a hundred years

router = APIRouter(prefix="/api/v1/inference/{job_id}/followup", route_class=Bounded)


class Prior(BaseModel):
    """The earlier examination of the same patient."""

    model_config = ConfigDict(extra="forbid")

    prior: Annotated[str, Field(pattern=f"^{jobs.ID}$", description="its job")]
    days: Annotated[int | None, Field(ge=1, le=LONGEST, description="from then to now; null: not known")] = None


@router.post("", responses=refusals(404, 409, 422), response_class=Response)
async def compare_with_prior(service: Served, job: Completed, owner: Owner, asked: Prior) -> Response:
    """Nodules matched, new and resolved, their growth, and where each point lies in the other scan.

    Both reports are taken as their readers left them. The answer is kept with the job until a review changes.
    """
    prior = await service.ask(jobs.find, service.engine, asked.prior, owner)
    if prior is None or prior.state != "completed":
        msg = "there is no such earlier job, or it is not completed"
        raise NotFound(msg)
    if prior.id == job.id:
        msg = "a job cannot be compared with itself"
        raise BadRequest(msg)
    reports, versions = {}, []
    for name, one in (("baseline", prior), ("followup", job)):
        version, content = await service.ask(review.load, service.engine, one.id)
        reports[name] = reviewed(await report_of_job(service, one), content)
        versions.append(version)
    kept = service.settings.jobs / job.id / str(job.result) / f".followup-{prior.id}.json"
    key = [*versions, asked.days]
    answer = await asyncio.to_thread(_kept, kept, key)
    if answer is None:
        answer = await _compared(service, job, prior, reports, asked.days)
        await asyncio.to_thread(write_json, {"key": key, "answer": answer}, kept)
    return Response(json.dumps(answer), media_type="application/json", headers=NEVER_STORED)


async def _compared(
    service: Service, job: Job, prior: Job, reports: dict[str, dict[str, Any]], days: int | None
) -> dict[str, Any]:
    """Compare in a separate process (`follow.py`), and add the nodules' labels."""
    folder = service.settings.jobs / job.id
    with tempfile.TemporaryDirectory(prefix="followup-", dir=folder, ignore_cleanup_errors=True) as scratch:
        task, target = File(scratch, "task.json"), File(scratch, "followup.json")
        await asyncio.to_thread(write_json, reports, task)
        options = [f"--baseline={scan_of(service, prior)}", f"--task={task}", f"--target={target}"]
        options += [f"--days={days}"] if days else []
        await run(service, job, "follow", scan_of(service, job), *options)
        answer: dict[str, Any] = json.loads(await asyncio.to_thread(target.read_bytes))
    for name, report in reports.items():
        labels = {one["id"]: _label(one) for one in (*report["detections"], *report["masses"])}
        for nodule in answer["nodules"]:
            if nodule[name]:
                nodule[name]["label"] = labels.get(nodule[name]["id"])
    return answer


def _label(found: dict[str, Any]) -> str:
    """The label of a finding in a reviewed report: the reader's own, or the finding's number."""
    own = found["confidence"] is None and found["review"]
    return str(own["finding"]) if own else str(found["id"] + 1)


def _kept(path: File, key: list[int | None]) -> dict[str, Any] | None:
    """The stored answer, if it belongs to the same reviews and days."""
    try:
        kept: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return kept["answer"] if kept["key"] == key else None
