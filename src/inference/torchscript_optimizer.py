"""The documented name of `model.torchscript_optimizer`."""

from ..model.torchscript_optimizer import optimize_model

__all__ = ["optimize_model"]
