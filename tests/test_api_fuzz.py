"""Random requests cause no server error and leave no file.

`python -m benchmarks.service schema` and `benchmarks.fuzzing` send thousands of them to a server process.
"""

import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.schemas import OpenApiSchema
from starlette.types import Receive, Scope, Send

from benchmarks.fuzzing import mutated
from src.api import jobs

from .api_service import JOBS, Api, api_on, nifti, served_by

FEW = 8
OPEN: dict[str, Any] = {"auth": "none", "submissions_per_minute": 10**6, "queued_jobs": 10**6}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with api_on(tmp_path_factory.mktemp("fuzz"), **OPEN) as api:
        yield api


@pytest.fixture(scope="module")
def described(api: Api) -> OpenApiSchema:
    async def started(scope: Scope, receive: Receive, send: Send) -> None:
        """The app without its lifespan, because Schemathesis would start it a second time and end it after the test."""
        if scope["type"] == "lifespan":
            msg = "the app has been started"
            raise RuntimeError(msg)
        await api.client.app(scope, receive, send)

    return schemathesis.openapi.from_asgi("/openapi.json", started)


def test_no_request_causes_a_server_error(api: Api, described: OpenApiSchema) -> None:
    operations = [result.ok() for result in described.get_all_operations() if isinstance(result, Ok)]
    assert len(operations) > 8
    for operation in operations:
        called = 0

        @given(operation.as_strategy())
        @settings(max_examples=FEW, deadline=None, suppress_health_check=list(HealthCheck))
        def call(case: Any) -> None:  # noqa: ANN401
            nonlocal called
            called += 1
            answer = case.call()
            assert answer.status_code < 500, answer.text

        call()
        assert called
    assert served_by(api.client) is api.service  # Schemathesis did not start it again


def test_mutated_uploads_leave_nothing(api: Api) -> None:
    api.clear()
    form: dict[str, Any] = {"file": ("scan.nii", nifti(12)), "config": b"output: {save_visualization: false}"}
    request = httpx.Request("POST", "http://x", files=form)
    body, headers = request.read(), {"content-type": request.headers["content-type"]}
    chance = random.Random(1)  # noqa: S311 - keeps no secret
    seen = set()
    for _ in range(60):
        answer = api.client.post(JOBS, content=mutated(body, chance), headers=headers)
        seen.add(answer.status_code)
        assert answer.status_code < 500, answer.text
        if answer.status_code == 202:
            job = api.work()
            assert job.id == answer.json()["job_id"]
            assert job.state == "completed" or (job.error is not None and job.error["status"] == 422), job.error
            assert jobs.counts(api.service.engine)["running"] == 0
            api.client.delete(answer.json()["links"]["self"])
    assert {202, 400} <= seen
    assert api.left() == []
