"""Prints what importing every module of `src` changes in its process: `python -m tests.host_state`."""

import gc
import importlib
import json
import logging
import os
import pkgutil
import signal
import sys
import threading
import warnings

import torch

import src

LIBRARIES = (  # imported first, so that their own changes are not counted
    "alembic",
    "dicomweb_client",
    "fastapi",
    "highdicom",
    "matplotlib.pyplot",
    "nibabel",
    "pydicom",
    "pynetdicom",
    "python_multipart.multipart",
    "ray",
    "requests",
    "scipy.ndimage",
    "scipy.sparse",
    "SimpleITK",
    "skimage.measure",
    "sqlalchemy",
    "uvicorn",
)
RUN_ON_IMPORT = {"src.api.migrations.env"}  # Alembic runs its migrations when it imports this module


def state() -> set[str]:
    """The settings of the process, each as a line of text."""
    loggers = [logging.root, *(logging.getLogger(name) for name in logging.root.manager.loggerDict)]
    return {
        *(f"level of logger {one.name}: {one.level}" for one in loggers if one.level),
        *(f"handlers of logger {one.name}: {one.handlers}" for one in loggers if one.handlers),
        *(f"warning filter: {one}" for one in warnings.filters),
        *(f"signal {number}: {signal.getsignal(number)}" for number in signal.valid_signals()),
        *(f"environment: {name}={value}" for name, value in os.environ.items()),
        *(f"thread: {thread.name}" for thread in threading.enumerate()),
        f"garbage collector: {gc.get_threshold()} {gc.isenabled()} {gc.get_freeze_count()}",
        f"cudnn: {torch.backends.cudnn.benchmark} {torch.backends.cudnn.deterministic}",
        f"torch: {torch.get_num_threads()} {torch.get_default_dtype()} {torch.is_grad_enabled()}",
        f"folder: {os.getcwd()}",  # noqa: PTH109
    }


def main() -> None:
    """Import the libraries, then every module, and compare."""
    for name in LIBRARIES:
        importlib.import_module(name)
    before = state()
    names = [one.name for one in pkgutil.walk_packages(src.__path__, "src.") if one.name not in RUN_ON_IMPORT]
    for name in names:
        importlib.import_module(name)
    sys.stdout.write(json.dumps({"modules": len(names), "changed": sorted(before ^ state())}) + "\n")


if __name__ == "__main__":
    main()
