"""What a regular expression from a capability can cost, so that none is run on the event loop for longer than a moment.

A capability's schema is written by a worker, and its patterns meet the texts of users in the control plane. Python's engine backtracks: `(a+)+$` over 40
letters takes hours. The cost is bounded from above by counting choices: each repetition of variable length offers as many as it is long, and they multiply;
where one stands within another there is no useful bound. What may cost too much is left to the task, which checks its own params in its slot.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from re import _constants as sre
from re import _parser
from typing import Any, Final

MOST_STEPS: Final = 10_000_000
"""Steps of the engine, some tens of nanoseconds each."""
REPEATS: Final = frozenset({sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT})


@lru_cache(1024)
def steps(pattern: str, length: int) -> float:
    """Returns an upper bound of the steps for a text of this length; infinite where there is none. What is no pattern costs nothing: it is refused where it is used."""
    try:
        parsed = _parser.parse(pattern)
    except re.error:
        return 0.0
    except (OverflowError, RecursionError):
        return float("inf")
    first = parsed[0] if len(parsed) else None
    is_anchored = first is not None and first[0] is sre.AT and first[1] in (sre.AT_BEGINNING, sre.AT_BEGINNING_STRING)
    return _choices(parsed, length) * (1 if is_anchored else length + 1)


def is_affordable(pattern: str, text: str) -> bool:
    length = (
        1 << (len(text) - 1).bit_length() if text else 0
    )  # few different lengths, so that the bound is computed once
    return length + steps(pattern, length) <= MOST_STEPS


def _choices(parsed: Any, length: int) -> float:
    found = 1.0
    for operation, argument in parsed:
        if operation in REPEATS:
            least, most, body = argument
            inner = _choices(body, length)
            if inner > 1 and most > 1:
                return float("inf")
            found *= inner * (min(most, length) - min(least, length) + 1)
        elif operation is sre.GROUPREF:
            found *= length + 1
        else:
            for part in _parts(operation, argument):
                found *= _choices(part, length)
            if operation is sre.BRANCH:
                found *= len(argument[1])
    return found


def _parts(operation: Any, argument: Any) -> Iterator[Any]:
    if operation is sre.BRANCH:
        yield from argument[1]
    elif operation is sre.SUBPATTERN:
        yield argument[3]
    elif operation in (sre.ASSERT, sre.ASSERT_NOT):
        yield argument[1]
    elif operation is sre.ATOMIC_GROUP:
        yield argument
    elif operation is sre.GROUPREF_EXISTS:
        yield from (part for part in argument[1:] if part)


def without_costly_names(schema: Any) -> Any:
    """Returns a copy of a schema whose patternProperties are affordable for any name; without one of them nothing can be said of other members."""
    if isinstance(schema, list):
        return [without_costly_names(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    copy = {name: without_costly_names(each) for name, each in schema.items()}
    patterns = copy.get("patternProperties")
    if isinstance(patterns, dict) and not all(steps(each, MOST_STEPS // 4) <= MOST_STEPS for each in patterns):
        for name in ("patternProperties", "additionalProperties", "unevaluatedProperties"):
            copy.pop(name, None)
    return copy
