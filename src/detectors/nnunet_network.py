"""nnU-Net's networks, built by nnU-Net's own package from checked arguments."""

import math
from typing import Annotated, Any, TypeAlias

from pydantic import Field
from torch import Tensor, nn

from ..config import Section
from ..errors import BadCheckpoint
from .networks import library
from .recipe import checked

__all__ = ["FoldsOfAxes", "UNetPlan", "built", "check_strides", "network_of"]

CONV, NORMS, ACTIVATIONS = "Conv3d", ("InstanceNorm3d", "BatchNorm3d"), ("LeakyReLU", "ReLU", "ELU", "GELU", "SiLU")

Count = Annotated[int, Field(ge=1, le=4096)]
Step = Annotated[int, Field(ge=1, le=64)]
Steps = Annotated[tuple[tuple[Step, Step, Step] | Step, ...], Field(max_length=12)]
PerStage: TypeAlias = Annotated[tuple[Step, ...], Field(max_length=12)] | Step
Number = Annotated[float, Field(ge=0, le=10)]


class _NormArguments(Section):
    eps: Number = 1e-5
    affine: bool = False
    momentum: Number = 0.1
    track_running_stats: bool = False


class _ActivationArguments(Section):
    inplace: bool = False
    negative_slope: Number | None = None


class UNetPlan(Section):
    """What the plans say of the network."""

    n_stages: Annotated[int, Field(ge=2, le=12)]
    features_per_stage: Annotated[tuple[Count, ...], Field(max_length=12)]
    conv_op: str
    kernel_sizes: Steps
    strides: Steps
    n_conv_per_stage: PerStage | None = None
    n_blocks_per_stage: PerStage | None = None
    n_conv_per_stage_decoder: PerStage
    conv_bias: bool = False
    norm_op: str
    norm_op_kwargs: _NormArguments | None = None
    dropout_op: None = None
    dropout_op_kwargs: Any = None  # of no dropout
    nonlin: str
    nonlin_kwargs: _ActivationArguments | None = None
    deep_supervision: bool = False  # of training; in inference it changes nothing
    nonlin_first: bool = False


class FoldsOfAxes(nn.Module):
    """The mean of the folds' logits.

    Args:
        folds: networks of the same classes.
        order: which of the axes X, Y, Z they see first, second and third.
    """

    def __init__(self, folds: list[nn.Module], order: tuple[int, int, int]) -> None:
        super().__init__()
        self.folds, self.order = nn.ModuleList(folds), order

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, C, X, Y, Z) of patches (N, 1, X, Y, Z)."""
        there = (0, 1, *(axis + 2 for axis in self.order))
        turned = x.permute(there)
        logits = self.folds[0](turned)
        for fold in self.folds[1:]:
            logits = logits + fold(turned)
        back: Tensor = (logits / len(self.folds)).permute([there.index(axis) for axis in range(5)])
        return back


def network_of(config: dict[str, Any], where: str) -> tuple[str, UNetPlan]:
    """The network's class and its arguments, as a configuration of the plans has them.

    Raises:
        BadCheckpoint: it is none that PIVOT knows.
    """
    given = config.get("architecture")
    if isinstance(given, dict):
        module, _, kind = str(given.get("network_class_name")).rpartition(".")
        arguments = given.get("arch_kwargs")
    else:
        module, kind, arguments = "dynamic_network_architectures", str(config.get("UNet_class_name")), _earlier(config)
    if kind not in ("PlainConvUNet", "ResidualEncoderUNet") or module.split(".")[0] != "dynamic_network_architectures":
        msg = f"{where} names the network {f'{module}.{kind}'[:80]!r}: PIVOT builds PlainConvUNet, ResidualEncoderUNet"
        raise BadCheckpoint(msg)
    values = checked(UNetPlan, arguments, f"{where}, architecture")
    named = [
        (values.conv_op, (CONV,)),
        (values.nonlin, ACTIVATIONS),
        *([(values.norm_op, NORMS)] * bool(values.norm_op)),
    ]
    for one, known in named:
        module, _, bare = str(one).rpartition(".")
        if bare not in known or module.split(".")[0] != "torch":
            msg = f"{where} names {str(one)[:80]!r}: PIVOT knows {', '.join(known)} of torch.nn"
            raise BadCheckpoint(msg)
    return kind, values


def _earlier(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments as plans before version 2.4 give them."""
    try:
        blocks = config["n_conv_per_stage_encoder"]
        base, most = int(config["UNet_base_num_features"]), int(config["unet_max_num_features"])
        per_stage = "n_conv_per_stage" if config.get("UNet_class_name") == "PlainConvUNet" else "n_blocks_per_stage"
        return {
            "n_stages": len(blocks),
            "features_per_stage": [min(base * 2**stage, most) for stage in range(min(len(blocks), 12))],
            "conv_op": "torch.nn.Conv3d",
            "kernel_sizes": config["conv_kernel_sizes"],
            "strides": config["pool_op_kernel_sizes"],
            per_stage: blocks,
            "n_conv_per_stage_decoder": config["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": "torch.nn.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }
    except (KeyError, TypeError, ValueError):
        return {}


def check_strides(values: UNetPlan, patch: tuple[int, int, int], where: str) -> None:
    """Raise `BadCheckpoint` if the network cannot take such a patch."""
    for axis, size in enumerate(patch):
        steps = [one if isinstance(one, int) else one[axis] for one in values.strides]
        if size % math.prod(steps):
            msg = f"{where}: the patch of {list(patch)} is no multiple of the network's strides"
            raise BadCheckpoint(msg)


def built(kind: str, values: UNetPlan, channels: int) -> nn.Module:
    """The network of this class with so many output channels, on weights of its own.

    Raises:
        BadCheckpoint: nnU-Net's package of networks is not installed.
    """
    parts = library("dynamic_network_architectures.architectures.unet", "nnunet")
    given = values.model_dump(
        exclude_none=True, exclude_unset=True, exclude={"deep_supervision", "conv_op", "norm_op", "nonlin"}
    )
    network: nn.Module = getattr(parts, kind)(
        input_channels=1,
        num_classes=channels,
        conv_op=nn.Conv3d,
        norm_op=getattr(nn, values.norm_op.rpartition(".")[2]),
        nonlin=getattr(nn, values.nonlin.rpartition(".")[2]),
        **given,
    )
    return network
