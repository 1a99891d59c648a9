"""Background tasks of the server: it keeps its workers running, and removes expired jobs."""

import asyncio
import logging
import math
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from ..errors import way_to
from ..processes import openmp_settings
from . import jobs
from .storage import remove, tidy
from .submission import Service

__all__ = ["start", "supervised", "sweep"]

log = logging.getLogger("pivot")
SWEEP_SECONDS = 60.0
ORPHAN_SECONDS = 3600.0  # a margin beyond the longest upload
STOP_SECONDS = 15.0  # for a worker to give its job back
STEADY_SECONDS = 60.0  # a worker that ran this long is restarted without a longer pause
MOST_SECONDS = 30.0  # between two starts
PACKAGES = Path(__file__).resolve().parents[2]  # the folder of the package, whatever its name


@asynccontextmanager
async def supervised(service: Service) -> AsyncIterator[None]:
    """Run a worker for each device (or on a Ray cluster), and regular sweeps, while the context is open."""
    ray, devices = service.settings.ray, service.settings.devices
    commands = [("ray_workers", "--address", ray)] if ray else [("worker", "--device", device) for device in devices]
    tasks = [asyncio.create_task(_keep_running(command)) for command in commands]
    tasks.append(asyncio.create_task(_keep_sweeping(service)))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def sweep(service: Service) -> None:
    """Remove expired jobs, folders without a job, and a killed worker's files of ended jobs."""
    settings = service.settings
    for job in jobs.expired(service.engine, settings.retention_hours * 3600):
        jobs.forget(service.engine, job)
        remove(settings.jobs, job.id)
    old = _old_folders(service)
    found = jobs.known(service.engine, old)
    for number in set(old) - {job.id for job in found}:
        remove(settings.jobs, number)
    for job in found:
        if not job.open:
            tidy(settings.jobs, job.id, job.result)
            service.seen[job.id] = math.inf  # it will not change any more


def _old_folders(service: Service) -> list[str]:
    """The folders that this server has known for longer than an upload takes. Clocks of files are not used."""
    settings, now = service.settings, time.monotonic()
    here = {folder.name for folder in settings.jobs.iterdir()} - service.arriving.keys()
    service.seen = {number: service.seen.get(number, now) for number in here}
    return [number for number, since in service.seen.items() if now - since > settings.upload_seconds + ORPHAN_SECONDS]


async def _keep_sweeping(service: Service) -> None:
    while True:
        try:
            await asyncio.to_thread(sweep, service)
        except Exception as error:  # noqa: BLE001 - after any error the next sweep may succeed
            log.warning("expired jobs could not be removed: %s (%s)", type(error).__name__, way_to(error))
        await asyncio.sleep(SWEEP_SECONDS)


async def _keep_running(command: Sequence[str]) -> None:
    """Start a module of this package with its arguments. Restart it whenever it ends or cannot be started."""
    pause, name = 1.0, " ".join(command)
    while True:
        start = time.monotonic()
        try:
            why = f"ended ({await _run(command)})"
        except Exception as error:  # noqa: BLE001 - after any error the next start may succeed
            why = f"could not be started ({type(error).__name__})"
        pause = 1.0 if time.monotonic() - start > STEADY_SECONDS else min(2 * pause, MOST_SECONDS)
        log.warning("`%s` %s: it is restarted in %.0f s", name, why, pause)
        await asyncio.sleep(pause)


async def _run(command: Sequence[str]) -> int:
    process = await start(*command, "--parent", str(os.getpid()))
    try:
        return await process.wait()
    finally:
        await _stop(process)


async def start(module: str, *arguments: str, stdout: int | None = None) -> Process:
    """A process of this package's `module`, with the settings of this one."""
    path = os.pathsep.join(filter(None, [str(PACKAGES), os.environ.get("PYTHONPATH")]))
    variables = {**os.environ, **openmp_settings(), "PYTHONPATH": path}
    command = (sys.executable, "-m", f"{__package__}.{module}", *arguments)
    return await asyncio.create_subprocess_exec(*command, env=variables, stdout=stdout)


async def _stop(process: Process) -> None:
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
