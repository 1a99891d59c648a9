"""Attributes of a DICOM file, of which each is read once and checked; what is wrong is reported with name and value."""

from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from ..errors import BadScan

__all__ = ["Attributes", "Vector", "words"]

LONGEST = 64  # characters of a value that are reported

Vector = npt.NDArray[np.float64]


def words(header: Dataset, name: str) -> list[str]:
    """The values of an attribute, of which there may be none, one or several, as texts in capitals."""
    value = header.get(name)
    values = [] if value is None else [value] if isinstance(value, str | int | float) else list(value)
    return [str(item).strip().upper() for item in values]


class Attributes(NamedTuple):
    """Reads attributes from wherever in a file they stand first; `BadScan` tells which is missing or wrong."""

    file: str
    sources: list[Dataset]

    def get(self, name: str) -> Any:  # noqa: ANN401 - numbers, lists and texts alike
        """The first value that is stated, else None."""
        return next((source.get(name) for source in self.sources if source.get(name) not in (None, "")), None)

    def need(self, name: str) -> Any:  # noqa: ANN401 - as above
        """The first value that is stated; it must be."""
        value = self.get(name)
        if value is None:
            msg = f"{self.file} has no {name}: export the series again as original CT images"
            raise BadScan(msg)
        return value

    def numbers(self, name: str, count: int) -> Vector:
        """So many finite numbers, as many as must be stated."""
        value = self.need(name)
        numbers = np.asarray(value, float).reshape(-1)
        if numbers.size != count or not np.isfinite(numbers).all():
            self.refuse(name, f"not {count} finite number{'s' * (count > 1)}")
        return numbers

    def stated(self, name: str) -> float | None:
        """A number above zero, if one is stated, of an attribute that PIVOT can do without."""
        try:
            value = float(self.get(name))
        except (TypeError, ValueError):
            return None
        return value if 0 < value < np.inf else None

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number, which must be stated where there is no default."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        return int(self.need(name))

    def refuse(self, name: str, why: str) -> NoReturn:
        """Raise what is wrong with an attribute that is there."""
        value = self.need(name)
        text = "\\".join(map(str, value)) if isinstance(value, MultiValue | list) else str(value)
        msg = f"{self.file} has {name} {text[:LONGEST]}, {why}: export the series again as original CT images"
        raise BadScan(msg)
