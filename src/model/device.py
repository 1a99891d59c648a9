"""The device that a network runs on, and its precision."""

import functools
import logging
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from ..errors import BadConfig
from ..given import words_for

__all__ = ["autocast", "cudnn_benchmark", "pick_device", "precision"]

log = logging.getLogger("pivot")


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """The device called `name`, or the given torch device. `auto` is CUDA if there is one, else MPS, else the CPU.

    If this machine lacks the device, the CPU is used, with one warning.

    Raises:
        BadConfig: the name is unknown.
    """
    name = str(name) if isinstance(name, torch.device) else name
    if not (isinstance(name, str) and re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name)):
        msg = f"unknown device {words_for(name)}: use auto, cpu, cuda, cuda:1 or mps"
        raise BadConfig(msg)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if _is_present(name):
        return torch.device(name)
    _warn_once(name)
    return torch.device("cpu")


def precision(device: torch.device, *, mixed: bool) -> torch.dtype:
    """The type that convolutions compute in: float16 on CUDA, bfloat16 if the CPU has it in hardware, else float32."""
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
    # PyTorch's "is supported" includes emulation, which is slower than float32.
    capabilities = torch.backends.cpu.get_cpu_capability()
    return capabilities.startswith("AVX512") and torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001


@contextmanager
def cudnn_benchmark(*, wanted: bool) -> Iterator[None]:
    """Set `torch.backends.cudnn.benchmark` while the context is open. With it cuDNN picks its fastest algorithm."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, wanted
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
