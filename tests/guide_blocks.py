"""Parses a guide in Markdown: its blocks, commands, statements, keys and fields."""

import ast
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

__all__ = ["FENCE", "commands", "facts", "leaves", "spans"]

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
Fact = tuple[str, str]


def commands(script: str) -> Iterator[list[str]]:
    """The words of each command of a shell script, without comments."""
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def spans(text: str) -> list[str]:
    """The text in backticks in the prose."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def leaves(value: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value below nested mappings with its path, such as `inference.tta.enabled`."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def facts(text: str) -> set[Fact]:
    """Everything a guide promises, as pairs of language and statement."""
    found = {("text", span) for span in spans(text)}
    for language, block in FENCE.findall(text):
        found |= {(language, fact) for fact in READERS[language](block)}
    return found


def _shell(script: str) -> Iterator[str]:
    return (shlex.join(words) for words in commands(script))


def _python(code: str) -> Iterator[str]:
    for statement in ast.parse(code).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            origin = f"{statement.module}." if isinstance(statement, ast.ImportFrom) else ""
            yield from (f"import {origin}{alias.name}" for alias in statement.names)
        else:
            yield ast.unparse(statement)


def _yaml(text: str) -> Iterator[str]:
    return (f"{path}: {value}" for path, value in leaves(yaml.safe_load(text)))


def _json(text: str) -> Iterator[str]:
    return _fields(json.loads(text))


def _fields(value: object, path: str = "") -> Iterator[str]:
    """The path of each key, such as `detections[].id`."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield f"{path}.{key}"
            yield from _fields(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from _fields(inner, f"{path}[]")


def _csv(text: str) -> Iterator[str]:
    yield text.splitlines()[0]


READERS = {"bash": _shell, "python": _python, "yaml": _yaml, "json": _json, "csv": _csv}
