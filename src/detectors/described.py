"""A network of MONAI by its weights and a description: `model.pth` and `config.yaml`.

So nodule segmenters lie on Hugging Face; a RetinaNet's bare state dict is described in the same way.
"""

from typing import Annotated, Any

from pydantic import Field

from ..config import Section
from ..errors import BadCheckpoint
from .networks import ARCHITECTURES, RetinaNet, build
from .program import ProgramFile, open_program
from .recipe import BoxOutput, Foreign, Grid, MapOutput, Windows, checked, foreign
from .source import Source

__all__ = ["is_described", "read_described"]

DESCRIPTIONS = ("config.yaml", "config.yml", "config.json")
WEIGHTS = ("model.pth", "model.pt", "model.safetensors", "model/model.pth")
# Sections of training, which say nothing about inference.
TRAINING = (
    "augmentation", "checkpoint", "data", "dataset", "experiment", "logging", "loss", "optimizer", "paths", "scheduler",
    "seed", "train", "trainer", "training", "validation", "wandb",
)  # fmt: skip
# Of an architecture that is not named: an argument that only it has.
TOLD_BY = {
    "init_filters": "SegResNet",
    "upsample_kernel_size": "DynUNet",
    "feature_size": "SwinUNETR",
    "channels": "UNet",
}
PROGRAM = "program"
NAMES = ("architecture", "name", "type")  # keys under which a description names it
Text = Annotated[str, Field(max_length=200)]


class _Description(Section):
    """The description's sections, and what a report says about the model."""

    model: dict[str, Any]
    preprocessing: Grid
    inference: Windows = Windows()
    output: dict[str, Any] = Field(default_factory=dict)
    name: Text | None = None
    version: Text = "1"
    license: Text | None = None


def is_described(source: Source) -> bool:
    """Whether there is a description."""
    return source.first(*DESCRIPTIONS) is not None


def read_described(source: Source) -> Foreign:
    """The detector.

    Raises:
        BadCheckpoint: a key is unknown or wrong, or the weights do not fit.
    """
    name = source.one_of(*DESCRIPTIONS)
    where = f"{name} of {source.path}"
    given = {key: value for key, value in source.data(name).items() if key not in TRAINING}
    described = checked(_Description, given, where)
    architecture, arguments = _architecture(described.model, where)
    if architecture == PROGRAM:
        file = checked(ProgramFile, arguments, where)
        network: Any
        network, channels = open_program(source, file, described.inference.patch_size, where)
    else:
        weights = source.path.name if source.path.is_file() and not source.zip else source.one_of(*WEIGHTS)
        network = build(architecture, arguments, source.weights(weights), where)
        channels = int(arguments.get("out_channels", 2))
    output: MapOutput | BoxOutput
    if ARCHITECTURES.get(architecture) is RetinaNet:
        output = checked(BoxOutput, described.output, f"{where}, output")
        output.check_fits(network, where)
    else:
        output = checked(MapOutput, described.output, f"{where}, output")
        output.check_fits(channels, where)
    return foreign(
        source,
        network,
        (architecture, arguments),
        (described.preprocessing, described.inference, output),
        name=described.name,
        version=described.version,
        licence=described.license,
    )


def _architecture(model: dict[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """The network's name, and its arguments."""
    arguments = {key: value for key, value in model.items() if key not in NAMES}
    named = [str(model[key]) for key in NAMES if key in model]
    told = [name for key, name in TOLD_BY.items() if key in arguments]
    known = {name.lower(): name for name in (*ARCHITECTURES, PROGRAM)}
    if not (named or told):
        msg = (
            f"{where} does not name the network: add model.architecture, one of {', '.join((*ARCHITECTURES, PROGRAM))}"
        )
        raise BadCheckpoint(msg)
    wanted = named[0] if named else told[0]
    return known.get(wanted.lower(), wanted), arguments
