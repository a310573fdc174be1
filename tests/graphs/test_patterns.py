"""Patterns of capabilities, which workers write, meet texts of users on the control plane's event loop."""

import time
from typing import Any

import pytest

from dihedral.control_plane.planning.patterns import is_affordable
from dihedral.control_plane.planning.schema_check import Check
from dihedral.control_plane.tasks.upload_artifact import CONTENT_TYPE

COSTLY = [
    ("(a+)+$", "a" * 40 + "b"),
    ("^(a|aa)+$", "a" * 60 + "b"),
    ("^(a*)*$", "a" * 40 + "b"),
    ("(x+x+)+y", "x" * 40),
    ("^([a-z]+\\d?)+$", "a" * 40 + "-"),
    ("^a*a*a*a*a*b$", "a" * 3000),
    ("a+$", "a" * 60_000 + "b"),
    ("^(?:(?:a{1,20}){1,20}){1,20}$", "a" * 60 + "b"),
    ("(?=(a+))\\1b", "a" * 30_000),
]


@pytest.mark.parametrize(("pattern", "text"), COSTLY)
@pytest.mark.parametrize("is_proven", [True, False])
def test_a_pattern_that_may_take_long_is_left_to_the_task(pattern: str, text: str, is_proven: bool) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"text": {"type": "string", "pattern": pattern}}}
    if not is_proven:
        schema["minProperties"] = 2  # what is not shown valid goes to jsonschema
    begun = time.process_time()
    complaints = Check(schema).complaints({"text": text})
    assert time.process_time() - begun < 1
    assert [each for each in complaints if "pattern" in each.detail or "match" in each.detail] == []


@pytest.mark.parametrize("pattern", ["^(a+)+$", "(a|aa)*x"])
def test_costly_names_of_members_are_left_to_the_task(pattern: str) -> None:
    schema = {"type": "object", "patternProperties": {pattern: {"type": "integer"}}, "additionalProperties": False}
    begun = time.process_time()
    assert Check(schema).complaints({"a" * 50 + "!": "x"}) == ()
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", "inputs", "-"),
        ("^[a-z]+$", "a" * 100_000, "a" * 100_000 + "1"),
        ("^(?:ab){2,3}$", "abab", "ab"),
        ("^([A-Za-z]{1,60}/[A-Za-z]{1,60}(;[ -~]{0,127})?)?$", "text/plain", "text"),
        ("abc", "xxabcxx", "ab"),
    ],
)
def test_an_ordinary_pattern_is_checked_at_once(pattern: str, good: str, bad: str) -> None:
    check = Check({"type": "object", "properties": {"text": {"type": "string", "pattern": pattern}}})
    assert check.complaints({"text": good}) == ()
    assert [each.path for each in check.complaints({"text": bad})] == [("text",)]


def test_our_own_patterns_are_checked() -> None:
    assert is_affordable(CONTENT_TYPE, "x" * 255)
