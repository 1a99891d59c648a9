"""Networks of MONAI, built by MONAI from checked arguments, with the given weights."""

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias

import torch
from pydantic import Field
from torch import nn

from ..config import Section
from ..errors import BadCheckpoint
from ..model.checkpoint import first_line
from .recipe import checked
from .source import Weights

__all__ = ["ARCHITECTURES", "RetinaNet", "build", "fitted", "library"]

Count = Annotated[int, Field(ge=1, le=4096)]
Blocks = Annotated[tuple[Annotated[int, Field(ge=0, le=64)], ...], Field(min_length=1, max_length=8)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1, max_length=12)]
Kernel: TypeAlias = Annotated[int, Field(ge=1, le=31)] | tuple[Annotated[int, Field(ge=1, le=31)], ...]
Kernels = Annotated[tuple[Kernel, ...], Field(min_length=1, max_length=12)]
Few = Annotated[int, Field(ge=1, le=48)]
Share = Annotated[float, Field(ge=0, le=1)]
Word = Annotated[str, Field(max_length=40)]
Layer: TypeAlias = Word | tuple[Word | dict[str, bool | float | Word], ...]  # MONAI's: a name, or name and arguments


class _Segmenter(Section):
    spatial_dims: Literal[3] = 3
    in_channels: Literal[1] = 1
    img_size: Any = None  # earlier versions of MONAI asked for it; it changes nothing
    out_channels: Annotated[int, Field(ge=1, le=200)] = 2


class SegResNet(_Segmenter):
    """Of Myronenko, BrainLes 2018."""

    init_filters: Count = 8
    blocks_down: Blocks = (1, 2, 2, 4)
    blocks_up: Blocks = (1, 1, 1)
    dropout_prob: Share | None = None
    act: Layer = ("RELU", {"inplace": True})
    norm: Layer = ("GROUP", {"num_groups": 8})
    use_conv_final: Literal[True] = True
    upsample_mode: Literal["deconv", "nontrainable", "pixelshuffle"] = "nontrainable"


class DynUNet(_Segmenter):
    """nnU-Net's first network."""

    kernel_size: Kernels
    strides: Kernels
    upsample_kernel_size: Kernels
    filters: Counts | None = None
    dropout: Share | None = None
    norm_name: Layer = ("INSTANCE", {"affine": True})
    act_name: Layer = ("leakyrelu", {"inplace": True, "negative_slope": 0.01})
    deep_supervision: bool = False  # of training; in inference it changes nothing
    deep_supr_num: Count = 1
    res_block: bool = False
    trans_bias: bool = False


class UNet(_Segmenter):
    """With residual units."""

    channels: Counts
    strides: Kernels
    kernel_size: Kernel = 3
    up_kernel_size: Kernel = 3
    num_res_units: Annotated[int, Field(ge=0, le=32)] = 0
    act: Layer = "PRELU"
    norm: Layer = "INSTANCE"
    dropout: Share = 0.0
    bias: bool = True
    adn_ordering: Annotated[str, Field(pattern="^[NDA]{1,3}$")] = "NDA"


class SwinUNETR(_Segmenter):
    """Of Hatamizadeh, BrainLes 2021."""

    # Small, because MONAI cannot build it without memory.
    feature_size: Annotated[int, Field(ge=12, le=96)] = 24
    depths: tuple[Few, Few, Few, Few] = (2, 2, 2, 2)
    num_heads: tuple[Few, Few, Few, Few] = (3, 6, 12, 24)
    window_size: Kernel = 7
    patch_size: Annotated[int, Field(ge=1, le=16)] = 2
    qkv_bias: bool = True
    mlp_ratio: Annotated[float, Field(gt=0, le=16)] = 4.0
    norm_name: Layer = "instance"
    drop_rate: Share = 0.0
    attn_drop_rate: Share = 0.0
    dropout_path_rate: Share = 0.0
    normalize: bool = True
    downsample: Literal["merging", "mergingv2"] = "merging"
    use_v2: bool = False


class RetinaNet(Section):
    """Of MONAI's detection package: a ResNet, a feature pyramid, and two heads."""

    backbone: Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200"] = (
        "resnet50"
    )
    spatial_dims: Literal[3] = 3
    n_input_channels: Literal[1] = 1
    conv1_t_size: Kernel = (7, 7, 7)
    conv1_t_stride: Kernel = (2, 2, 1)
    shortcut_type: Literal["A", "B"] = "B"
    bias_downsample: bool = True
    widen_factor: Annotated[float, Field(gt=0, le=8)] = 1.0
    no_max_pool: bool = False
    returned_layers: Annotated[tuple[Annotated[int, Field(ge=1, le=4)], ...], Field(min_length=1, max_length=4)] = (
        1,
        2,
    )
    num_classes: Annotated[int, Field(ge=1, le=100)] = 1
    num_anchors: Annotated[int, Field(ge=1, le=32)] = 3
    size_divisible: Kernels | Kernel = (16, 16, 8)


ARCHITECTURES: dict[str, type[Section]] = {
    kind.__name__: kind for kind in (SegResNet, DynUNet, UNet, SwinUNETR, RetinaNet)
}


def library(name: str, extra: str) -> Any:  # noqa: ANN401 - a module that may be missing
    """A module of an optional library, without its warnings on being imported.

    Raises:
        BadCheckpoint: it is not installed. The message names the extra.
    """
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        msg = f"this detector needs {extra}: run `pip install 'pivot-ct[{extra}]'` "
        msg += f"(in a checkout: `uv sync --extra {extra}`)"
        raise BadCheckpoint(msg)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def build(architecture: str, arguments: dict[str, Any], weights: Weights, where: str) -> nn.Module:
    """The network in eval mode, with the weights.

    Raises:
        BadCheckpoint: MONAI is not installed, an argument is wrong, or the weights do not fit.
    """
    if (kind := ARCHITECTURES.get(architecture)) is None:
        msg = f"{where} names the network {architecture!r}: PIVOT builds {', '.join(ARCHITECTURES)}"
        raise BadCheckpoint(msg)
    values = checked(kind, arguments, where)
    make: Callable[[Any], nn.Module] = _retinanet if isinstance(values, RetinaNet) else _segmenter
    return fitted(lambda: make(values), weights, where, "cpu" if isinstance(values, SwinUNETR) else "meta")


def fitted(make: Callable[[], nn.Module], weights: Weights, where: str, device: str = "meta") -> nn.Module:
    """The network that `make` builds, in eval mode, with the weights.

    It is first built without memory (on the device `meta`), so that arguments alone, however large, cost none.

    Raises:
        BadCheckpoint: the arguments contradict each other, or the weights do not fit.
    """
    try:
        with torch.device(device), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shapes = {name: tuple(value.shape) for name, value in make().state_dict().items()}
    except Exception as error:  # noqa: BLE001 - of any of the libraries' checks
        msg = f"{where}: the network cannot be built ({first_line(error)})"
        raise BadCheckpoint(msg) from None
    problems = [
        *(f"lack {name}" for name in sorted(shapes.keys() - weights.keys())[:1]),
        *(f"hold {name}, which it has not" for name in sorted(weights.keys() - shapes.keys())[:1]),
        *(
            f"have {name} of {tuple(weights[name].shape)}, not {shape}"
            for name, shape in shapes.items()
            if name in weights and tuple(weights[name].shape) != shape
        ),
    ]
    if problems:
        msg = f"{where}: the weights do not fit the network: they {' and '.join(problems[:3])}"
        raise BadCheckpoint(msg)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = make()
    network.load_state_dict(weights)
    return network.float().eval()


def _segmenter(values: Section) -> nn.Module:
    given = values.model_dump(exclude_unset=True, exclude={"img_size"})
    ends = values.model_dump(include={"spatial_dims", "in_channels", "out_channels"})  # MONAI has other defaults
    arguments = {key: _as_given(value) for key, value in {**given, **ends}.items()}
    network: nn.Module = getattr(library("monai.networks.nets", "monai"), type(values).__name__)(**arguments)
    return network


def _retinanet(values: RetinaNet) -> nn.Module:
    own = ("returned_layers", "num_classes", "num_anchors", "size_divisible", "backbone")
    arguments = {key: _as_given(value) for key, value in values.model_dump().items() if key not in own}
    backbone = getattr(library("monai.networks.nets.resnet", "monai"), values.backbone)(**arguments)
    parts = library("monai.apps.detection.networks.retinanet_network", "monai")
    extractor = parts.resnet_fpn_feature_extractor(backbone, 3, False, list(values.returned_layers), None)  # noqa: FBT003
    network: nn.Module = parts.RetinaNet(
        3, values.num_classes, values.num_anchors, extractor, size_divisible=_as_given(values.size_divisible)
    )
    return network


def _as_given(value: object) -> Any:  # noqa: ANN401 - as MONAI takes it
    """Lists, as in a file, for tuples of numbers: some of MONAI's checks ask for them. Layers stay tuples."""
    if isinstance(value, tuple) and not any(isinstance(one, str | dict) for one in value):
        return [_as_given(one) for one in value]
    return value
