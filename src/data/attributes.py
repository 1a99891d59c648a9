"""Reads the attributes of a DICOM file. Each is checked when it is read; errors name the attribute and its value."""

from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from ..errors import BadScan

__all__ = ["Attributes", "Vector", "words"]

LONGEST = 64  # characters of a value that an error quotes

Vector = npt.NDArray[np.float64]


def words(header: Dataset, name: str) -> list[str]:
    """The values of an attribute (none, one or several) as upper-case texts."""
    value = header.get(name)
    values = [] if value is None else [value] if isinstance(value, str | int | float) else list(value)
    return [str(item).strip().upper() for item in values]


class Attributes(NamedTuple):
    """Takes the first value of an attribute in several data sets. Raises `BadScan` if it is unusable."""

    file: str
    sources: list[Dataset]

    def get(self, name: str) -> Any:  # noqa: ANN401 - numbers, lists and texts alike
        """The first value found, else None."""
        return next((source.get(name) for source in self.sources if source.get(name) not in (None, "")), None)

    def need(self, name: str) -> Any:  # noqa: ANN401 - as above
        """The first value found. Raises `BadScan` if there is none."""
        value = self.get(name)
        if value is None:
            msg = f"{self.file} has no {name}: export the series again as original CT images"
            raise BadScan(msg)
        return value

    def numbers(self, name: str, count: int) -> Vector:
        """Exactly `count` finite numbers. Raises `BadScan` otherwise."""
        value = self.need(name)
        numbers = np.asarray(value, float).reshape(-1)
        if numbers.size != count or not np.isfinite(numbers).all():
            self.refuse(name, f"not {count} finite number{'s' * (count > 1)}")
        return numbers

    def stated(self, name: str) -> float | None:
        """A number above zero from an optional attribute; None if it is missing or unusable."""
        try:
            value = float(self.get(name))
        except (TypeError, ValueError):
            return None
        return value if 0 < value < np.inf else None

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number. Raises `BadScan` if it is missing and there is no default."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        return int(self.need(name))

    def refuse(self, name: str, why: str) -> NoReturn:
        """Raise `BadScan` for an attribute whose value is unusable."""
        value = self.need(name)
        text = "\\".join(map(str, value)) if isinstance(value, MultiValue | list) else str(value)
        msg = f"{self.file} has {name} {text[:LONGEST]}, {why}: export the series again as original CT images"
        raise BadScan(msg)
