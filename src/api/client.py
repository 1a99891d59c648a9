"""The client of the HTTP service, sync and async. It loads neither torch nor the server.

Every method raises `ServiceError` if the service refuses or does not answer.
"""

import asyncio
import time
import uuid
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from ..errors import BadConfig, BadOutput
from ..given import path_of, words_for
from . import calls, review_calls
from .calls import Ask, ByteProgress, Call, Came, GivenConfig, JobProgress, Pause, ServiceError

__all__ = ["AsyncInferenceClient", "InferenceClient", "ServiceError"]

TIMEOUT = httpx.Timeout(60.0, connect=10.0)  # of each read and write, not of a whole upload
T = TypeVar("T")


class InferenceClient:
    """A connection to the service.

    Args:
        base_url: such as `http://localhost:8000`.
        api_key: is sent with every request. On the service's own machine it is not needed.
        retries: how often a request is repeated if the service does not answer or is busy.
        transport: of httpx, for tests and proxies.
    """

    def __init__(
        self, base_url: str, api_key: str | None = None, retries: int = 5, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.retries = retries
        self._http = httpx.Client(
            base_url=_address(base_url), headers=_headers(api_key), timeout=TIMEOUT, transport=transport
        )
        weakref.finalize(self, self._http.close)  # in case `close` is not called

    def submit_inference(
        self,
        scan_path: str | Path,
        config: GivenConfig = None,
        progress: ByteProgress | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """Send a scan (a file, or a DICOM folder, which is zipped) and a YAML file or mapping. Returns the job's id.

        `progress` is called with the number of bytes sent and of all bytes. Retries make no further job.

        Raises:
            BadScan, BadConfig: a file cannot be read, or the service refuses it.
        """
        return self._run(calls.submit(scan_path, config, progress, idempotency_key or uuid.uuid4().hex, self.retries))

    def submit_study(self, study_uid: str, config: GivenConfig = None, idempotency_key: str | None = None) -> str:
        """Make the service fetch the study with this StudyInstanceUID by DICOMweb. Returns the job's id.

        Raises:
            BadConfig: the configuration cannot be read, or the service refuses it.
            ServiceError: the service has no DICOMweb server, or `study` is no UID.
        """
        return self._run(calls.submit_study(study_uid, config, idempotency_key or uuid.uuid4().hex, self.retries))

    def job(self, job_id: str) -> dict[str, Any]:
        """State and progress of a job, as described in `docs/service.md`."""
        return self._run(calls.job(job_id, self.retries))

    def wait_for_results(
        self, job_id: str, timeout: float = 300, progress: JobProgress | None = None
    ) -> dict[str, Any]:
        """The report of a job, once it is completed. `progress` is called with the job at each poll.

        Raises:
            TimeoutError: the job has not ended after `timeout` seconds. It continues.
            BadScan, BadConfig, ServiceError: the job failed, or was cancelled.
        """
        return self._run(calls.results(job_id, timeout, progress, self.retries))

    def download_results(self, job_id: str, output_dir: str | Path, *, scan: bool = False) -> list[Path]:
        """Write the job's files into a folder, with the command line's file names. With `scan`, include the scan.

        Raises:
            BadOutput: the folder cannot be written to.
            ServiceError: the job is not completed.
        """
        return self._run(calls.download(job_id, path_of(output_dir, "output_dir", BadOutput), self.retries, scan=scan))

    def review(self, job_id: str) -> dict[str, Any]:
        """The review of a job, with its `version`, as in `docs/service.md`."""
        return self._run(review_calls.review(job_id, self.retries))

    def write_review(self, job_id: str, review: Mapping[str, Any]) -> dict[str, Any]:
        """Write a review: the result of `review` with your changes. Returns the new one.

        Raises:
            ServiceError: the review has changed since (412), or a finding does not belong to the job.
        """
        return self._run(review_calls.write_review(job_id, review, self.retries))

    def add_nodule(self, job_id: str, coordinates_lps: Sequence[float]) -> dict[str, Any]:
        """Add a nodule at a world point (LPS mm), which the service measures. Returns the new review.

        Raises:
            BadConfig: the coordinates are invalid.
            BadScan: the point is outside the scan.
        """
        return self._run(review_calls.add_nodule(job_id, coordinates_lps, self.retries))

    def download_reviewed(
        self, job_id: str, output_dir: str | Path, kinds: Sequence[str] = ("json", "csv", "pdf")
    ) -> list[Path]:
        """Write the reviewed report into a folder. `kinds` are `json`, `csv`, `pdf`, and for DICOM `sr` and `seg`.

        Raises:
            BadOutput: the folder cannot be written to.
            ServiceError: the job has no review, or no such file.
        """
        folder = path_of(output_dir, "output_dir", BadOutput)
        return self._run(review_calls.download_reviewed(job_id, folder, kinds, self.retries))

    def cancel(self, job_id: str) -> None:
        """Cancel a job that has not ended, or remove one that has."""
        self._run(calls.cancel(job_id, self.retries))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _run(self, call: Call[T]) -> T:
        came: Came = None
        try:
            while True:
                came = self._do(call.send(came))
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            call.close()

    def _do(self, step: Ask | Pause) -> Came:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            with self._http.stream(step.method, step.url, **_parts(step)) as answer:
                if step.sink is None or not answer.is_success:
                    answer.read()
                    return answer
                with step.sink.open("wb") as sink:
                    for piece in answer.iter_bytes():
                        sink.write(piece)
                return answer
        except httpx.TransportError as error:
            return error


class AsyncInferenceClient:
    """`InferenceClient` with the same methods, which you await."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        retries: int = 5,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.retries = retries
        self._http = httpx.AsyncClient(
            base_url=_address(base_url), headers=_headers(api_key), timeout=TIMEOUT, transport=transport
        )

    async def submit_inference(
        self,
        scan_path: str | Path,
        config: GivenConfig = None,
        progress: ByteProgress | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """Send a scan; see `InferenceClient.submit_inference`."""
        key = idempotency_key or uuid.uuid4().hex
        return await self._run(calls.submit(scan_path, config, progress, key, self.retries))

    async def submit_study(self, study_uid: str, config: GivenConfig = None, idempotency_key: str | None = None) -> str:
        """Make the service fetch a study; see `InferenceClient.submit_study`."""
        key = idempotency_key or uuid.uuid4().hex
        return await self._run(calls.submit_study(study_uid, config, key, self.retries))

    async def job(self, job_id: str) -> dict[str, Any]:
        """State and progress of a job."""
        return await self._run(calls.job(job_id, self.retries))

    async def wait_for_results(
        self,
        job_id: str,
        timeout: float = 300,  # noqa: ASYNC109 - as in the sync client; the job continues
        progress: JobProgress | None = None,
    ) -> dict[str, Any]:
        """The report of a job, once it is completed; see `InferenceClient.wait_for_results`."""
        return await self._run(calls.results(job_id, timeout, progress, self.retries))

    async def download_results(self, job_id: str, output_dir: str | Path, *, scan: bool = False) -> list[Path]:
        """Write the job's files into a folder; see `InferenceClient.download_results`."""
        folder = path_of(output_dir, "output_dir", BadOutput)
        return await self._run(calls.download(job_id, folder, self.retries, scan=scan))

    async def review(self, job_id: str) -> dict[str, Any]:
        """The review of a job; see `InferenceClient.review`."""
        return await self._run(review_calls.review(job_id, self.retries))

    async def write_review(self, job_id: str, review: Mapping[str, Any]) -> dict[str, Any]:
        """Write a review; see `InferenceClient.write_review`."""
        return await self._run(review_calls.write_review(job_id, review, self.retries))

    async def add_nodule(self, job_id: str, coordinates_lps: Sequence[float]) -> dict[str, Any]:
        """Add a nodule to a review; see `InferenceClient.add_nodule`."""
        return await self._run(review_calls.add_nodule(job_id, coordinates_lps, self.retries))

    async def download_reviewed(
        self, job_id: str, output_dir: str | Path, kinds: Sequence[str] = ("json", "csv", "pdf")
    ) -> list[Path]:
        """Write the reviewed report into a folder; see `InferenceClient.download_reviewed`."""
        folder = path_of(output_dir, "output_dir", BadOutput)
        return await self._run(review_calls.download_reviewed(job_id, folder, kinds, self.retries))

    async def cancel(self, job_id: str) -> None:
        """Cancel a job that has not ended, or remove one that has."""
        await self._run(calls.cancel(job_id, self.retries))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, call: Call[T]) -> T:
        came: Came = None
        try:
            while True:
                came = await self._do(call.send(came))
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            call.close()

    async def _do(self, step: Ask | Pause) -> Came:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            async with self._http.stream(step.method, step.url, **_parts(step)) as answer:
                if step.sink is None or not answer.is_success:
                    await answer.aread()
                    return answer
                with step.sink.open("wb") as sink:
                    async for piece in answer.aiter_bytes():
                        sink.write(piece)
                return answer
        except httpx.TransportError as error:
            return error


def _parts(step: Ask) -> dict[str, Any]:
    return {"headers": step.headers, "files": step.files() or None, "content": step.content}


def _address(url: str) -> str:
    if isinstance(url, str) and url.startswith(("http://", "https://")):
        return url
    msg = f"base_url must be an address such as http://localhost:8000, not {words_for(url)}"
    raise BadConfig(msg)


def _headers(api_key: str | None) -> dict[str, str]:
    return {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
