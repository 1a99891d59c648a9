"""The CSV files of an evaluation: marks, nodules, excluded findings and the list of scans.

Columns are found by name. Ids are text: `056` is not `56`. Coordinates are world millimetres. Marks and nodules must
be in the same frame (LUNA16 and PIVOT: LPS).
"""

import csv
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import BadConfig

__all__ = ["FindingTable", "MarkTable", "read_findings", "read_marks", "read_seriesuids"]

ID = "seriesuid"
POINT = ("coordX", "coordY", "coordZ")
TYPES = ("nodule_type", "type")  # the first column found is used


class MarkTable(NamedTuple):
    """A detector's marks: n points with probabilities. These may be any finite numbers; higher is surer."""

    scan: npt.NDArray[np.intp]  # (n,) positions in the list of scans
    point: npt.NDArray[np.float64]  # (n, 3) mm
    probability: npt.NDArray[np.float64]  # (n,)
    scans_without_file: int | None = None  # for a folder of reports


class FindingTable(NamedTuple):
    """n nodules or excluded findings of listed scans. A negative diameter means unknown."""

    scan: npt.NDArray[np.intp]  # (n,) positions in the list of scans
    point: npt.NDArray[np.float64]  # (n, 3) mm
    diameter: npt.NDArray[np.float64]  # (n,) mm
    kind: tuple[str, ...] | None = None  # nodule types, if the table has them
    patient: tuple[str, ...] | None = None  # of each nodule, if the table has them
    unlisted: int = 0  # rows of scans that are not in the list; they are left out


class _Table(NamedTuple):
    path: Path
    columns: dict[str, list[str]]
    lines: list[int]


def read_seriesuids(path: Path) -> tuple[str, ...]:
    """The ids of all evaluated scans, one a line, with or without the header `seriesuid`.

    Raises:
        BadConfig: the file cannot be read, is empty, has several columns, or repeats an id.
    """
    rows = _rows(path)
    for line, row in rows:
        if len(row) != 1:
            _fail(path, f"has {len(row)} columns: give one id a line", line)
    ids = [(line, row[0]) for line, row in rows if row[0] != ID]
    if not ids:
        _fail(path, "lists no scans")
    _refuse_repeats(path, [line for line, _ in ids], [name for _, name in ids])
    return tuple(name for _, name in ids)


def read_marks(path: Path, series: Sequence[str]) -> MarkTable:
    """The marks of a table with `seriesuid,coordX,coordY,coordZ,probability`.

    Raises:
        BadConfig: the table is broken, repeats a row, or marks a scan that is not in `series`.
    """
    table = _read(path, (ID, *POINT, "probability"))
    ids = table.columns[ID]
    places = {name: place for place, name in enumerate(series)}
    for name, line in zip(ids, table.lines, strict=True):
        if name not in places:
            _fail(path, f"column {ID}: {name!r} is not in the list of scans (ids are compared as text)", line)
    point, probability = _points(table), _numbers(table, "probability")
    _refuse_repeats(path, table.lines, zip(ids, *point.T.tolist(), probability.tolist(), strict=True))
    return MarkTable(np.array([places[name] for name in ids], dtype=np.intp), point, probability)


def read_findings(path: Path, series: Sequence[str], *, repeats: bool = False) -> FindingTable:
    """The findings of a table with `seriesuid,coordX,coordY,coordZ,diameter_mm`, in listed scans.

    Optional columns: `nodule_type` or `type`, and `patient`. With `repeats` a place may be listed twice. For excluded
    findings this changes nothing.

    Raises:
        BadConfig: the table is broken or repeats a place.
    """
    table = _read(path, (ID, *POINT, "diameter_mm"))
    places = {name: place for place, name in enumerate(series)}
    ids, point, diameter = table.columns[ID], _points(table), _numbers(table, "diameter_mm")
    if not repeats:
        _refuse_repeats(path, table.lines, zip(ids, *point.T.tolist(), strict=True))
    listed = [row for row, name in enumerate(ids) if name in places]
    return FindingTable(
        np.array([places[ids[row]] for row in listed], dtype=np.intp),
        point[listed],
        diameter[listed],
        _texts(table, TYPES, listed),
        _texts(table, ("patient",), listed),
        len(ids) - len(listed),
    )


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The line numbers and stripped cells of all lines that are not blank."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            return [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise BadConfig(msg) from None
    except (csv.Error, UnicodeDecodeError) as error:
        msg = f"{path} is not a CSV file: {error}"
        raise BadConfig(msg) from None


def _read(path: Path, needed: Sequence[str]) -> _Table:
    rows = _rows(path)
    if not rows:
        _fail(path, f"is empty: name the columns {','.join(needed)} in its first line")
    line, header = rows[0]
    missing = [name for name in needed if name not in header]
    if missing:
        _fail(path, f"lacks the column {', '.join(missing)}; it has {', '.join(header)}", line)
    if len(set(header)) < len(header):
        _fail(path, f"names a column twice: {', '.join(header)}", line)
    for line, row in rows[1:]:
        if len(row) != len(header):
            _fail(path, f"has {len(row)} cells, but the header has {len(header)} columns", line)
    columns = {name: [row[i] for _, row in rows[1:]] for i, name in enumerate(header)}
    return _Table(path, columns, [line for line, _ in rows[1:]])


def _numbers(table: _Table, column: str) -> npt.NDArray[np.float64]:
    values = np.empty(len(table.lines))
    for row, text in enumerate(table.columns[column]):
        try:
            values[row] = float(text)
        except ValueError:
            values[row] = np.nan
        if not np.isfinite(values[row]):
            _fail(table.path, f"column {column}: {text!r} is not a finite number", table.lines[row])
    return values


def _points(table: _Table) -> npt.NDArray[np.float64]:
    return np.stack([_numbers(table, name) for name in POINT], axis=1)


def _texts(table: _Table, names: Sequence[str], rows: Sequence[int]) -> tuple[str, ...] | None:
    for name in names:
        if name in table.columns:
            return tuple(table.columns[name][row] or "unknown" for row in rows)
    return None


def _refuse_repeats(path: Path, lines: Sequence[int], keys: Iterable[Hashable]) -> None:
    seen: dict[Hashable, int] = {}
    for line, key in zip(lines, keys, strict=True):
        first = seen.setdefault(key, line)
        if first != line:
            _fail(path, f"repeats line {first}: remove one of them", line)


def _fail(path: Path, problem: str, line: int | None = None) -> None:
    msg = f"{path}{f', line {line}:' if line else ''} {problem}"
    raise BadConfig(msg)
