"""The documented name of `runs.distributed`."""

from ..runs.distributed import connect, distributed_inference

__all__ = ["connect", "distributed_inference"]
