"""Sections of a YAML file: their validation and their error messages."""

import difflib
import functools
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from ..errors import BadConfig
from ..files import here_or_shipped
from ..given import path_of
from ..plain_yaml import BadYaml, parse_yaml

__all__ = ["Section", "explain", "load_section"]

MOST_PROBLEMS = 20  # in a message
MOST_PLACES = 3  # of a key that several sections have
MOST_CHARACTERS = 200  # of a wrong value


class Section(BaseModel):
    """A part of the configuration. It is immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool_as_number(cls, value: object, info: ValidationInfo) -> object:
        """Refuse `true` for a number. Python would take it for 1."""
        given = value if isinstance(value, list | tuple) else [value]
        expected = cls.model_fields[str(info.field_name)].annotation
        if any(isinstance(one, bool) for one in given) and bool not in (expected, *get_args(expected)):
            msg = f"must not be true or false, but is {value!r}"
            raise ValueError(msg)
        return value


def _paths(kind: type[BaseModel], above: str = "") -> Iterator[str]:
    """Each section and key below a section with its path, such as `inference.tta.enabled`."""
    for name, field in kind.model_fields.items():
        yield f"{above}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _paths(field.annotation, f"{above}{name}.")


S = TypeVar("S", bound=Section)


def load_section(kind: type[S], source: dict[str, Any] | str | Path | None) -> S:
    """A section of the class `kind` from a YAML file, a mapping, or nothing (the defaults).

    Raises:
        BadConfig: the file cannot be read or is not YAML, or a key or value is wrong. The message lists every problem
            with its key's path.
    """
    where = "config" if source is None or isinstance(source, dict) else str(source)
    data = (
        source if source is None or isinstance(source, dict) else _read_yaml(here_or_shipped(path_of(source, "config")))
    )
    try:
        return kind.model_validate(data or {})
    except ValidationError as error:
        problems = "\n".join(f"  {line}" for line in explain(error, kind))
        msg = f"{where} cannot be used:\n{problems}"
        raise BadConfig(msg) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"cannot read the config {path}: {error.strerror}"
        raise BadConfig(msg) from None
    except (BadYaml, UnicodeDecodeError) as error:
        msg = f"{path} is not valid YAML: {' '.join(str(error).split())}"
        raise BadConfig(msg) from None
    if data is not None and not isinstance(data, dict):
        msg = f"{path} must hold sections such as `inference:`, not a {type(data).__name__}"
        raise BadConfig(msg)
    return data or {}


def explain(error: ValidationError, kind: type[BaseModel]) -> Iterable[str]:
    """One line for each problem: the key's path, the problem, and the given value. `kind` is the section's class."""
    wrong = error.errors()
    for item in wrong[:MOST_PROBLEMS]:
        path = ".".join(str(part) for part in item["loc"]) or "(top level)"
        if item["type"] == "extra_forbidden":
            yield f"{path}: unknown key{_suggestion(item['loc'], kind)}"
        elif item["type"] == "value_error":
            yield f"{path}: {item['ctx']['error']}"
        else:
            yield f"{path}: {item['msg']} (given: {textwrap.shorten(repr(item['input']), MOST_CHARACTERS)})"
    if len(wrong) > MOST_PROBLEMS:
        yield f"... and {len(wrong) - MOST_PROBLEMS} more"


def _suggestion(location: tuple[int | str, ...], kind: type[BaseModel]) -> str:
    """`; did you mean x?` if the unknown key at `location` belongs to another section, or resembles a known key."""
    elsewhere = [path for path in _paths(kind) if f".{path}".endswith(f".{location[-1]}")]
    if elsewhere:
        first, _, rest = elsewhere[0].partition(".")
        inner = functools.reduce(lambda below, key: f"{{{key}: {below}}}", reversed(rest.split(".")), "...")
        example = f", as in `{first}: {inner}`" if rest else ""
        return f"; it belongs to {' or '.join(elsewhere[:MOST_PLACES])}{example}"
    section: Any = kind
    for part in location[:-1]:
        section = getattr(section, "model_fields", {}).get(str(part), section)
        section = getattr(section, "annotation", section)
    close = difflib.get_close_matches(str(location[-1]), getattr(section, "model_fields", ()), n=1)
    return f"; did you mean {close[0]}?" if close else ""
