"""Converts arguments of public functions to one type, and refuses anything else with a one-sentence message.

All public functions accept the same forms: paths as text or `Path`, arrays from NumPy or torch or as lists.
"""

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import BadConfig, BadScan, PivotError

__all__ = ["array_of", "is_path", "number_of", "numbers_of", "path_of", "words_for"]

MOST_TOLD = 60  # characters of an argument that a message quotes


def is_path(given: object) -> bool:
    """Whether the argument is a path, as text or as `Path`."""
    return isinstance(given, str | os.PathLike)


def path_of(given: Any, what: str, error: type[PivotError] = BadConfig) -> Path:  # noqa: ANN401 - whatever is given
    """Convert to a path. `what` is the argument's name.

    Raises:
        PivotError: of the type `error`: the argument is no path, is empty, or holds a NUL.
    """
    text = os.fspath(given) if is_path(given) else None
    if isinstance(text, str) and text and "\0" not in text:
        return Path(text)
    msg = f"{what} must be a path, not {words_for(given)}"
    raise error(msg)


def number_of(given: Any, what: str, least: float = -math.inf, most: float = math.inf) -> float:  # noqa: ANN401
    """Convert to a finite number from `least` to `most`.

    Raises:
        BadConfig: it is something else.
    """
    return _numbers(given, what, (), least, most)[0]


def numbers_of(
    given: Any,  # noqa: ANN401
    what: str,
    count: int = 3,
    least: float = -math.inf,
    most: float = math.inf,
) -> tuple[float, ...]:
    """Convert to `count` finite numbers, each from `least` to `most`.

    Raises:
        BadConfig: it is something else.
    """
    return _numbers(given, what, (count,), least, most)


def _numbers(given: Any, what: str, shape: tuple[int, ...], least: float, most: float) -> tuple[float, ...]:  # noqa: ANN401
    try:
        array = array_of(given, what, BadConfig)
    except BadConfig:
        array = np.empty(0)
    if array.shape == shape and array.dtype.kind in "iuf" and np.isfinite(array).all():
        values = tuple(float(value) for value in array.reshape(-1))
        if all(least <= value <= most for value in values):
            return values
    kind = f"{shape[0]} numbers" if shape else "a number"
    limits = f" from {least:g} to {most:g}" if math.isfinite(most) else f" of at least {least:g}"
    msg = f"{what} must be {kind}{limits if math.isfinite(least) else ''}, not {words_for(given)}"
    raise BadConfig(msg)


def array_of(given: Any, what: str, error: type[PivotError] = BadScan) -> npt.NDArray[Any]:  # noqa: ANN401
    """Convert a NumPy array (returned unchanged), a tensor on any device, or nested lists to an array of numbers.

    Raises:
        PivotError: of the type `error`: it is something else.
    """
    try:
        tensor = given.detach().cpu() if hasattr(given, "detach") else given
        array: npt.NDArray[Any] = np.asanyarray(tensor)
    except (TypeError, ValueError, RuntimeError, AttributeError):
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "biufc":
        msg = f"{what} must be an array of numbers, not {words_for(given)}"
        raise error(msg)
    return array


def words_for(given: object) -> str:
    """A short description of an argument, for a message."""
    if given is None:
        return "None"
    shape = getattr(given, "shape", None)
    if isinstance(shape, Iterable):
        return f"an array of shape {tuple(shape)}"
    text = " ".join(repr(given).split())
    if isinstance(given, str | bytes | int | float | list | tuple) and len(text) <= MOST_TOLD:
        return text
    return f"a {type(given).__name__}"
