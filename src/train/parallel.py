"""A training run on several processes (torchrun)."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from ..errors import BadConfig
from ..model.device import pick_device

__all__ = ["Workers", "workers"]

A = TypeVar("A")
B = TypeVar("B")
LONGEST_WAIT = timedelta(hours=12)  # for another process, which may still prepare its scans


@dataclass(frozen=True)
class Workers:
    """This process (`rank`) among `count` that train together, and its device."""

    device: torch.device
    rank: int = 0
    count: int = 1

    def map(self, function: Callable[[A], B], items: Sequence[A]) -> list[B]:
        """`function` of every item, in order, on all processes. Each computes its share. The results must pickle."""
        own = [function(item) for item in items[self.rank :: self.count]]
        if self.count == 1:
            return own
        shares: list[Any] = [None] * self.count
        distributed.all_gather_object(shares, own)
        return [shares[i % self.count][i // self.count] for i in range(len(items))]

    def average_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace floating-point tensors by their mean over all processes, in place."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, mean in zip(tensors, (flat / self.count).split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))


@contextmanager
def workers(device: str = "auto") -> Iterator[Workers]:
    """The processes that torchrun started, joined by nccl on CUDA, else by gloo. Without torchrun: this process.

    Raises:
        BadConfig: several processes cannot use the device.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Workers(pick_device(device))
        return
    own = _own_device(device, int(os.environ["LOCAL_RANK"]))
    if own.type == "cuda":
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=LONGEST_WAIT)
    try:
        yield Workers(own, distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def _own_device(device: str, local_rank: int) -> torch.device:
    """The CUDA device with this process's local rank, or the CPU."""
    if device not in ("auto", "cpu", "cuda"):
        msg = f"device {device!r}: several processes choose their devices themselves: use auto, cuda or cpu"
        raise BadConfig(msg)
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    found = torch.cuda.device_count()
    if local_rank >= found:
        msg = f"torchrun started more processes than this machine has GPUs ({found}): give --nproc-per-node {found}"
        raise BadConfig(msg)
    return torch.device("cuda", local_rank)
