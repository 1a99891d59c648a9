"""Parses YAML 1.2 into values: mappings, sequences and the scalars of its core schema, and nothing else.

PyYAML's constructor follows YAML 1.1, where `1:30` is ninety and `010` is eight. Its time grows with the square of the
depth, and the last of two equal keys wins. So this module builds the values from PyYAML's events, with limits.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
)

__all__ = ["BadYaml", "parse_yaml"]

MOST_TEXT = 2**20  # characters of a document
MOST_DEPTH = 20
MOST_SCALAR = 4096  # characters of a text
MOST_NODES = 5000
MOST_NUMBER = 40  # characters; longer numbers are no settings
# https://yaml.org/spec/1.2.2/#103-core-schema
CORE = (
    (re.compile(r"~|null|Null|NULL|"), lambda _: None),
    (re.compile(r"true|True|TRUE|false|False|FALSE"), lambda text: text in ("true", "True", "TRUE")),
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+"), lambda text: int(text, 0)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text, 0)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), lambda text: float(text.replace(".", ""))),
)
DEEP = f"is nested more than {MOST_DEPTH} deep"
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class BadYaml(ValueError):
    """An error in a document; `line` is its place, from 1, if known."""

    def __init__(self, what: str, line: int | None = None) -> None:
        super().__init__(what if line is None else f"line {line}: {what}")
        self.line = line


class _Loader(yaml.SafeLoader):
    """PyYAML's scanner looks far ahead in `[[[[`; its time grows with the square of the depth. This one does not."""

    def fetch_flow_collection_start(self, kind: type) -> None:
        if self.flow_level >= MOST_DEPTH:
            raise BadYaml(DEEP, self.line + 1)
        super().fetch_flow_collection_start(kind)


def parse_yaml(text: str) -> Any:  # noqa: ANN401 - whatever it holds
    """Parse the one document in `text`; None if it is empty.

    Raises:
        BadYaml: the text is no such document, or too large or deep for settings.
    """
    if len(text) > MOST_TEXT:
        msg = f"has more than {MOST_TEXT} characters"
        raise BadYaml(msg)
    try:
        events = _nodes(text)
        first = next(events, None)
        value = None if first is None else _value(first, events, 1)
        if (rest := next(events, None)) is not None:
            raise _at(rest, "a second document begins: write one")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise BadYaml(" ".join(str(getattr(error, "problem", None) or error).split()), mark and mark.line + 1) from None
    return value


def _nodes(text: str) -> Iterator[Event]:
    """The events of values, without those of the stream and its documents."""
    count = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, (NodeEvent, CollectionEndEvent)):
            count += 1
            if count > MOST_NODES:
                raise _at(event, f"holds more than {MOST_NODES} values")
            yield event


def _value(event: Event, events: Iterator[Event], depth: int) -> Any:  # noqa: ANN401
    if isinstance(event, AliasEvent):
        raise _at(event, f"holds an alias (*{event.anchor}): write out what it stands for")
    tag: str | None = getattr(event, "tag", None)
    if tag is not None:
        raise _at(event, f"holds a tag ({tag[:MOST_NUMBER]}): leave it out")
    if isinstance(event, ScalarEvent):
        return _scalar(event)
    if depth > MOST_DEPTH:
        raise _at(event, DEEP)
    return _mapping(events, depth) if isinstance(event, MappingStartEvent) else _sequence(events, depth)


def _sequence(events: Iterator[Event], depth: int) -> list[Any]:
    found = []
    while not isinstance(event := next(events), SequenceEndEvent):
        found.append(_value(event, events, depth + 1))
    return found


def _mapping(events: Iterator[Event], depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while not isinstance(event := next(events), MappingEndEvent):
        key = _value(event, events, depth + 1)
        if not isinstance(key, str):
            raise _at(event, "has a key that is no text")
        if key in found:
            raise _at(event, f"has the key {key[:MOST_NUMBER]} twice")
        found[key] = _value(next(events), events, depth + 1)
    return found


def _scalar(event: ScalarEvent) -> Any:  # noqa: ANN401
    text = event.value
    if len(text) > MOST_SCALAR:
        raise _at(event, f"holds a text of more than {MOST_SCALAR} characters")
    if UNPRINTABLE.search(text):
        raise _at(event, "holds a control character or half of a surrogate pair")
    if not event.implicit[0]:  # quoted, or a block
        return text
    for form, meaning in CORE:
        if form.fullmatch(text):
            if len(text) > MOST_NUMBER:
                raise _at(event, f"holds a number of more than {MOST_NUMBER} characters")
            return meaning(text)
    return text


def _at(event: Event, what: str) -> BadYaml:
    return BadYaml(what, event.start_mark.line + 1 if event.start_mark else None)
