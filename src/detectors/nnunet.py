"""A trained-model folder of nnU-Net v2: `plans.json`, `dataset.json` and `fold_*/checkpoint_final.pth`.

`dynamic_network_architectures`, nnU-Net's own package of networks, builds the network. `pivot.yaml` may lie beside
them: what nnU-Net's files do not tell (`_Beside`).
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from ..config import Section
from ..errors import BadCheckpoint
from .networks import fitted
from .nnunet_network import FoldsOfAxes, built, check_strides, network_of
from .recipe import Foreign, Grid, MapOutput, Windows, checked, foreign
from .source import Source, Weights, plain_weights

__all__ = ["is_nnunet", "read_nnunet"]

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
FOLDS = tuple(f"fold_{number}" for number in range(10))
BESIDE = "pivot.yaml"
WANTED = re.compile(r"nodul|lesion|tumou?r|cancer|metasta", re.IGNORECASE)  # a label that is meant
READERS = {"NibabelIOWithReorient": "RAS"}  # which turns scans; others leave the axes as they are stored
STORED = "LPS"  # the axes of most files: DICOM's
SPLINES: dict[str, Any] = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
MOST_PARENTS = 8  # configurations that inherit from one another

Side = Annotated[int, Field(ge=8, le=1024)]


class _Settings(Section):
    """The parts of a configuration that results depend on."""

    patch_size: tuple[Side, Side, Side]
    spacing: tuple[float, float, float]
    normalization_schemes: tuple[Literal["CTNormalization"]]
    resampling_fn_data: Literal["resample_data_or_seg_to_shape"] = "resample_data_or_seg_to_shape"
    resampling_fn_data_kwargs: dict[str, Any] = SPLINES


class _Intensities(Section):
    """Of the training data's foreground, in HU."""

    mean: float
    std: Annotated[float, Field(gt=0)]
    percentile_00_5: float
    percentile_99_5: float
    max: float | None = None
    min: float | None = None
    median: float | None = None


class _Beside(Section):
    """What PIVOT is told beside nnU-Net's files."""

    axes: Annotated[str, Field(pattern="^[RL][AP][SI]$")] | None = None  # of the scans that it was trained on
    label: str | None = None  # the nodules' name in `dataset.json`
    name: Annotated[str, Field(max_length=200)] | None = None
    version: Annotated[str, Field(max_length=200)] = "2"
    license: Annotated[str, Field(max_length=200)] | None = None


class _Trained(NamedTuple):
    """A fold."""

    weights: Weights
    configuration: str


def is_nnunet(source: Source) -> bool:
    """Whether there are plans."""
    return source.has("plans.json")


def read_nnunet(source: Source) -> Foreign:
    """The detector: the mean of all folds.

    Raises:
        BadCheckpoint: it is no 3D network of one CT channel, a part that results depend on is unknown, no label is
            known to be the nodules', or the weights do not fit.
    """
    where = f"plans.json of {source.path}"
    plans, dataset = source.data("plans.json"), source.data("dataset.json")
    beside = checked(_Beside, source.data(BESIDE) if source.has(BESIDE) else {}, f"{BESIDE} of {source.path}")
    names = [name for fold in FOLDS if (name := _checkpoint_of(source, fold))]
    names = names or [source.one_of(*(f"fold_all/{name}" for name in CHECKPOINTS))]
    trained = [_trained(source, name) for name in names]
    config = _configuration(plans, trained[0].configuration, where)
    settings = checked(_Settings, {key: config[key] for key in _Settings.model_fields if key in config}, where)
    _check(settings, config, dataset, where)
    channel, channels, activation = _channel(dataset, beside.label, f"dataset.json of {source.path}")
    order = _order(plans.get("transpose_forward", [0, 1, 2]), where)
    kind, values = network_of(config, where)
    check_strides(values, settings.patch_size, where)
    folds = [fitted(lambda: built(kind, values, channels), fold.weights, where) for fold in trained]
    return foreign(
        source,
        FoldsOfAxes(folds, order),
        (kind, values.model_dump(mode="json", exclude_unset=True)),
        (
            _grid(plans, settings, order, beside.axes, where),
            Windows(patch_size=_in_order(settings.patch_size, order), overlap=0.5, like="nnU-Net"),
            MapOutput(activation=activation, channel=channel),
        ),
        name=beside.name or _text(dataset.get("name")) or _text(plans.get("dataset_name")),
        version=beside.version,
        licence=beside.license or _text(dataset.get("licence")) or _text(dataset.get("license")),
    )


def _checkpoint_of(source: Source, fold: str) -> str | None:
    return source.first(*(f"{fold}/{name}" for name in CHECKPOINTS))


def _trained(source: Source, name: str) -> _Trained:
    """A checkpoint without the state of its training, which is twice as large as its weights."""
    found = source.loaded(name)
    told = found.get("init_args") if isinstance(found, Mapping) else None
    configuration = told.get("configuration") if isinstance(told, Mapping) else None
    return _Trained(plain_weights(f"{name} of {source.path}", found), str(configuration or "3d_fullres"))


def _configuration(plans: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """The configuration of the plans, with what it inherits."""
    every = plans.get("configurations")
    parts: list[dict[str, Any]] = []
    wanted: object = name
    while isinstance(every, dict) and isinstance(part := every.get(str(wanted)), dict) and len(parts) < MOST_PARENTS:
        parts.insert(0, part)
        if (wanted := part.get("inherits_from")) is None:
            return {key: value for one in parts for key, value in one.items()}
    msg = f"{where} has no configuration {name!r}, or one that inherits from none"
    raise BadCheckpoint(msg)


def _check(settings: _Settings, config: dict[str, Any], dataset: dict[str, Any], where: str) -> None:
    """Refuse what would give other results than nnU-Net's."""
    channels = dataset.get("channel_names", dataset.get("modality"))
    if not isinstance(channels, dict) or len(channels) != 1:
        msg = f"{where}: it takes {len(channels or ())} channels; PIVOT gives one, the CT"
        raise BadCheckpoint(msg)
    if config.get("previous_stage"):
        msg = f"{where}: it is the second stage of a cascade, which PIVOT does not run: use 3d_fullres or 3d_lowres"
        raise BadCheckpoint(msg)
    if {**SPLINES, **settings.resampling_fn_data_kwargs} != SPLINES:
        msg = f"{where}: resampling_fn_data_kwargs must be {SPLINES}"
        raise BadCheckpoint(msg)


def _grid(
    plans: dict[str, Any], settings: _Settings, order: tuple[int, int, int], axes: str | None, where: str
) -> Grid:
    """The grid of the scan, and nnU-Net's normalisation of a CT as a range of HU and what it becomes."""
    channels = plans.get("foreground_intensity_properties_per_channel")
    given = channels.get("0") if isinstance(channels, dict) else None
    hu = checked(_Intensities, given, f"{where}, foreground_intensity_properties_per_channel")
    low, high = hu.percentile_00_5, hu.percentile_99_5
    values = {
        "axes": axes or READERS.get(str(plans.get("image_reader_writer")), STORED),
        "spacing": _in_order(settings.spacing, order),
        "clip_range": (low, high),
        "output_range": ((low - hu.mean) / hu.std, (high - hu.mean) / hu.std),
        "like": "nnU-Net",
    }
    return checked(Grid, values, where)


def _channel(dataset: dict[str, Any], wanted: str | None, where: str) -> tuple[int, int, Literal["softmax", "sigmoid"]]:
    """The output channel of the nodules, the number of channels, and what turns them into probabilities."""
    labels = dataset.get("labels")
    if not isinstance(labels, dict) or not all(
        isinstance(name, str) and _values(part) for name, part in labels.items()
    ):
        msg = f"{where} has no labels: expected names with whole numbers"
        raise BadCheckpoint(msg)
    shown = {name: _values(part) for name, part in labels.items() if name != "ignore"}
    regions = any(len(values) > 1 for values in shown.values())
    named = [name for name, values in shown.items() if set(values) != {0}]
    found = [name for name in named if name == wanted] if wanted else [name for name in named if WANTED.search(name)]
    found = found or (named if len(named) == 1 and not wanted else [])
    if len(found) != 1:
        msg = f"{where} does not tell which label is the nodules' ({', '.join(named)[:200]}): "
        msg += f"write `label: NAME` into {BESIDE} beside it"
        raise BadCheckpoint(msg)
    if regions:
        return named.index(found[0]), len(named), "sigmoid"
    numbers = sorted({values[0] for values in shown.values()})
    return numbers.index(shown[found[0]][0]), len(numbers), "softmax"


def _values(label: object) -> list[int]:
    """The numbers of a label or a region; none, if it is neither."""
    values: list[Any] = label if isinstance(label, list) else [label]
    return values if all(type(one) is int and one >= 0 for one in values) else []


def _order(forward: object, where: str) -> tuple[int, int, int]:
    """The axes of (X, Y, Z) as the network sees them. nnU-Net reads (Z, Y, X), then transposes."""
    if not isinstance(forward, list) or sorted(map(str, forward)) != ["0", "1", "2"]:
        msg = f"{where}: transpose_forward must be an order of 0, 1 and 2"
        raise BadCheckpoint(msg)
    first, second, third = (2 - int(axis) for axis in forward)
    return first, second, third


def _in_order(values: tuple[Any, Any, Any], order: tuple[int, int, int]) -> tuple[Any, Any, Any]:
    """Values of the network's axes, for X, Y and Z."""
    return values[order.index(0)], values[order.index(1)], values[order.index(2)]


def _text(value: object) -> str | None:
    return value[:200] if isinstance(value, str) and value else None
