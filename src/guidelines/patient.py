"""The patient data that guidelines need, from YAML. It enters neither logs nor outputs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from ..config import Section
from ..errors import BadConfig
from ..given import path_of
from ..plain_yaml import BadYaml, parse_yaml

__all__ = ["Patient", "load_patient"]


class Patient(Section):
    """The known facts. Unknown ones stay None: no guideline gets a default."""

    model_config = ConfigDict(strict=True)

    age: Annotated[int, Field(ge=0, le=120)] | None = None  # years
    sex: Literal["female", "male"] | None = None
    smoking: Literal["never", "former", "current"] | None = None
    family_history: bool | None = None  # of lung cancer
    emphysema: bool | None = None
    prior_cancer: bool | None = None  # any cancer that may spread to the lung
    immunosuppressed: bool | None = None
    setting: Literal["screening", "incidental"] | None = None
    prior_ct: bool | None = None  # an earlier chest CT exists
    risk: Literal["low", "high"] | None = None  # as a physician estimates it

    def __repr_args__(self) -> Iterator[tuple[str, object]]:
        """An empty text: printing a patient must reveal nothing."""
        return iter(())

    def missing(self, *fields: str) -> list[str]:
        """The given fields that are unknown."""
        return [field for field in fields if getattr(self, field) is None]


def load_patient(source: Patient | dict[str, Any] | str | Path | None = None) -> Patient:
    """A `Patient` from a YAML file, a mapping, another `Patient`, or None (nothing is known).

    Raises:
        BadConfig: the file cannot be read, or a key or value is wrong; the message does not repeat the values.
    """
    if isinstance(source, Patient):
        return source
    where = "patient" if source is None or isinstance(source, dict) else str(source)
    data = source if source is None or isinstance(source, dict) else _read(path_of(source, "patient"))
    try:
        return Patient.model_validate({} if data is None else data)
    except ValidationError as error:
        msg = f"{where} cannot be used:\n" + "\n".join(f"  {line}" for line in _explain(error))
    raise BadConfig(msg)


def _read(path: Path) -> object:
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"cannot read the patient file {path}: {error.strerror}"
    except (BadYaml, UnicodeDecodeError) as error:
        line = getattr(error, "line", None)
        msg = f"{path} is not valid YAML" + (f": see line {line}" if line else "")
    raise BadConfig(msg)


def _explain(error: ValidationError) -> Iterator[str]:
    """As `config.explain`, but without the values."""
    for item in error.errors(include_input=False):
        path = ".".join(str(part) for part in item["loc"])
        match item["type"]:
            case "extra_forbidden":
                yield f"{path}: unknown key; known are {', '.join(Patient.model_fields)}"
            case "model_type":
                yield "it must hold keys such as `age: 62`"
            case _:
                yield f"{path}: {item['msg']}"
