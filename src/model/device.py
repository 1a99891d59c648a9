"""Where a network runs, and in which precision."""

import functools
import logging
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from ..errors import BadConfig

__all__ = ["autocast", "cudnn_benchmark", "pick_device", "precision"]

log = logging.getLogger("pivot")


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; `auto` is CUDA, then MPS, then the CPU.

    A device that this machine lacks becomes the CPU, with one warning.

    Raises:
        BadConfig: no device is called so.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        msg = f"unknown device {name!r}: use auto, cpu, cuda, cuda:1 or mps"
        raise BadConfig(msg)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if _is_present(name):
        return torch.device(name)
    _warn_once(name)
    return torch.device("cpu")


def precision(device: torch.device, *, mixed: bool) -> torch.dtype:
    """The type that convolutions compute in: float16 on CUDA, bfloat16 where the CPU has it in hardware."""
    if mixed and device.type == "cuda":
        return torch.float16
    if mixed and device.type == "cpu" and _cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """A context in which convolutions compute in `dtype`."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def _is_present(name: str) -> bool:
    kind, _, index = name.partition(":")
    if kind == "cuda":
        return torch.cuda.is_available() and int(index or 0) < torch.cuda.device_count()
    return kind == "cpu" or (kind == "mps" and torch.backends.mps.is_available())


@functools.cache
def _warn_once(name: str) -> None:
    log.warning("device %s is not available here: running on the CPU", name)


@functools.cache
def _cpu_has_bfloat16() -> bool:
    # Emulated bfloat16 is slower than float32, so the general "is supported" answer would not do.
    capabilities = torch.backends.cpu.get_cpu_capability()
    return capabilities.startswith("AVX512") and torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001


@contextmanager
def cudnn_benchmark(*, wanted: bool) -> Iterator[None]:
    """While the context is open, cuDNN tries which of its algorithms is fastest, if wanted."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, wanted
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
