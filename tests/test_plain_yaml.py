"""YAML read as values: the core schema of YAML 1.2, within bounds, in time linear in the length."""

import math
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.plain_yaml import BadYaml, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# nothing", None),
        ("a: 1", {"a": 1}),
        ("a: 010", {"a": 10}),  # eight in YAML 1.1
        ("a: 0o17", {"a": 15}),
        ("a: 0x1f", {"a": 31}),
        ("a: 1:30", {"a": "1:30"}),  # ninety in YAML 1.1
        ("a: 1e3", {"a": 1000.0}),
        ("a: [.5, -2, +3.25]", {"a": [0.5, -2, 3.25]}),
        ("a: .inf", {"a": math.inf}),
        ("a: yes", {"a": "yes"}),
        ("a: 'true'", {"a": "true"}),
        ("a: [true, False, ~, null]", {"a": [True, False, None, None]}),
        ("a: 2020-99-99", {"a": "2020-99-99"}),
        ("a:\n  - {b: c}\n  - |\n    d\n", {"a": [{"b": "c"}, "d\n"]}),
        ("<<: {a: 1}", {"<<": {"a": 1}}),
    ],
)
def test_values_are_those_of_the_core_schema(text: str, value: object) -> None:
    read = parse_yaml(text)
    assert read == value
    assert repr(read) == repr(value)  # 1 is neither True nor 1.0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1", "line"),
        ("a: 1\n---\nb: 2", "line 3: a second document"),
        ("a: 1\na: 2", "line 2: has the key a twice"),
        ("a: &x 1\nb: *x", "line 2: holds an alias"),
        ("a: !!python/object/apply:os.system [id]", "line 1: holds a tag"),
        ("a: !!binary aGk=", "holds a tag"),
        ("1: 2", "a key that is no text"),
        ("[a]: 2", "a key that is no text"),
        ('a: "\\ud800"', "half of a surrogate pair"),
        ('"\\udfff": 1', "half of a surrogate pair"),
        ('a: "b\\0"', "control character"),
        ("a: 0x" + "f" * 1000, "a number of more than"),
        ("a: " + "9" * 5000, "a text of more than"),
        ("a: x" + "y" * 5000, "a text of more than"),
        ("[" * 60_000, "nested more than 20 deep"),
        ("{a: " * 15_000, "nested more than 20 deep"),
        ("[a, " * 15_000, "nested more than 20 deep"),
        ("- " * 30_000, "nested more than 20 deep"),
        ("? " * 30_000, "nested more than 20 deep"),
        ("[" + "1," * 30_000 + "]", "more than 5000 values"),
        ("# " + "x" * 2**20, "more than 1048576 characters"),
    ],
)
def test_unsafe_yaml_is_refused_quickly(text: str, problem: str) -> None:
    start = time.process_time()
    with pytest.raises(BadYaml, match=problem):
        parse_yaml(text)
    assert time.process_time() - start < 5  # PyYAML takes minutes for some of them


@given(st.text(max_size=200) | st.text("[]{}:,-?&*!|>'\"%@` \n\tab01.", max_size=200))
def test_any_text_gives_a_value_or_an_error(text: str) -> None:
    with suppress(BadYaml):
        parse_yaml(text)
