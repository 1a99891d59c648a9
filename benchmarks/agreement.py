"""How well measurements of real nodules agree with readers. A part of `benchmarks.measurement`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from src.files import whole_file
from src.train.crops import Crop
from src.train.triage.lidc import RatedNodule
from src.types import Properties

__all__ = ["Reference", "agreement", "between_readers", "texture_name"]

Floats = npt.NDArray[np.float64]
NAMES = {1.0: "ground-glass", 5.0: "solid"}  # of readers' texture; between them lies part-solid
COLORS = {"ground-glass": "#2a9d8f", "part-solid": "#e9a23b", "solid": "#38518f"}
WITHIN = 30.0  # percent of the volume


class Reference(NamedTuple):
    """The reference for a nodule: the diameter (mm) of the sphere with its volume, and its texture (1 to 5)."""

    diameter: float
    texture: float

    @classmethod
    def of_crop(cls, crop: Crop) -> Self:
        """The crop's outline by one reader, including the pixels of the line."""
        return cls(crop.diameter, crop.texture)

    @classmethod
    def of_readers(cls, nodule: RatedNodule) -> Self:
        """The mean volume within the readers' lines, which lie just outside the nodule, and the median texture."""
        return cls(nodule.mean("diameter"), float(np.median([o.ratings["texture"] for o in nodule.outlines])))


def texture_name(texture: float) -> str:
    """The nodule's type, from the readers' texture."""
    return NAMES.get(texture, "part-solid")


def agreement(references: Sequence[Reference], measured: Sequence[Properties], path: Path) -> None:
    """Draw Bland and Altman's plots of diameter and volume, and print their figures."""
    readers = np.array([reference.diameter for reference in references])
    ours = np.array([found["effective_diameter_mm"] for found in measured], dtype=np.float64)
    types = np.array([texture_name(reference.texture) for reference in references])
    solid = types == "solid"
    _print_within(ours[solid], readers[solid])
    ok = np.isfinite(ours)
    readers, ours, types = readers[ok], ours[ok], types[ok]
    figure = Figure(figsize=(11, 4.6), dpi=110, layout="constrained")
    axes = figure.subplots(1, 2)
    print("Bias (95 % limits of agreement)")
    for plot, values, label in (
        (axes[0], ours - readers, "diameter: PIVOT - readers (mm)"),
        (axes[1], _difference(ours**3, readers**3), "volume: PIVOT - readers (% of their mean)"),
    ):
        for name in np.unique(types):
            part, color = types == name, COLORS[name]
            plot.scatter((readers + ours)[part] / 2, values[part], s=18, color=color, label=f"{name} ({part.sum()})")
            print(f"  {label}, {name}, n {part.sum()}: {_told(values[part])}")
        print(f"  {label}, all, n {len(values)}: {_told(values)}")
        for height, style in zip(_limits(values), ("-", "--", "--"), strict=True):
            plot.axhline(height, color="black", linewidth=1, linestyle=style)
        plot.set(xlabel="mean diameter (mm)", ylabel=label)
    axes[0].legend(frameon=False)
    with whole_file(path) as partial:
        figure.savefig(partial, metadata={"Software": None})


def between_readers(nodules: Iterable[RatedNodule]) -> None:
    """Print how many readers' volumes of solid nodules lie near the mean of the other readers of the same nodule."""
    pairs: list[tuple[float, float]] = []
    for nodule in nodules:
        diameters = np.array([outline.diameter for outline in nodule.outlines])
        if texture_name(Reference.of_readers(nodule).texture) == "solid" and len(diameters) > 1:
            others = (diameters.sum() - diameters) / (len(diameters) - 1)
            pairs.extend(zip(diameters, others, strict=True))
    print("One reader against the mean of the others:")
    _print_within(*np.array(pairs).T)


def _print_within(ours: Floats, readers: Floats) -> None:
    """Print one line on the diameters of solid nodules. NaN, a nodule that could not be measured, counts as a miss."""
    bias = float(np.nanmedian(ours - readers))
    error = np.nanmedian(np.abs(ours - readers - bias))
    near = np.abs((ours / (readers + bias)) ** 3 - 1) <= WITHIN / 100
    print(
        f"  {len(ours)} solid nodules: median difference {bias:+.2f} mm; without it a median error of {error:.2f} mm, "
        f"and {near.sum()} ({100 * near.mean():.0f} %) within {WITHIN:.0f} % of the volume"
    )


def _difference(one: Floats, two: Floats) -> Floats:
    """The difference, in percent of the mean of both."""
    return 200 * (one - two) / (one + two)


def _limits(values: Floats) -> tuple[float, float, float]:
    """The bias, and the 95 % limits of agreement (Bland and Altman, Lancet 1986;1:307-310)."""
    bias, spread = float(values.mean()), 1.96 * float(values.std(ddof=1))
    return bias, bias - spread, bias + spread


def _told(values: Floats) -> str:
    bias, low, high = _limits(values)
    return f"{bias:+.2f} ({low:.2f} to {high:.2f})"
