"""Rules of tasks become a node that holds results against the goal; what it finds, and which parameter it would change."""

import asyncio
from typing import Any

import msgspec
import pytest

from dihedral.control_plane.planning.goals.evaluating import with_checks
from dihedral.control_plane.planning.goals.stages import problems
from dihedral.control_plane.tasks.evaluate_results import (
    Changes,
    EvaluateParams,
    Evaluation,
    NotSubmitted,
    again,
    evaluate_results,
)
from tests.planner.trying import manifest, tried

pytestmark = pytest.mark.quick


class Context:
    """What the task uses of its context."""

    job_id, owner = "j", "ann"

    def log(self, text: str) -> None:
        assert text


def evaluated(*checks: dict[str, Any], attempt: int = 1) -> tuple[Evaluation, list[tuple[str, str, Changes]]]:
    asked: list[tuple[str, str, Changes]] = []

    async def submit(job: str, owner: str, changes: Changes, reason: str) -> str:
        assert reason
        asked.append((job, owner, changes))
        return f"{job}-2"

    async def run() -> Evaluation:
        again.set(submit)
        params = msgspec.convert({"checks": list(checks), "attempt": attempt}, EvaluateParams)
        made: Evaluation = await evaluate_results(params, Context())  # type: ignore[arg-type]
        return made

    return asyncio.run(run()), asked


SPEED = {"node": "speak", "param": "speed", "value": 1.0, "minimum": 0.5, "maximum": 2}
LATE = {"node": "speak", "id": "duration", "label": "short", "value": 6, "most": 4, "repair": SPEED}


def test_a_planned_graph_gets_one_node_with_the_rules_that_have_a_bound_here() -> None:
    capabilities, _ = manifest()
    found = tried("a 12 second film from a.png, 640x360", ["a.png"])
    assert found.graph is not None
    graph = with_checks(found.graph, "a 12 second film from a.png, 640x360", capabilities)
    node = graph["nodes"][-1]
    assert (node["id"], node["task"], node["progressWeight"]) == ("evaluate", "evaluate_results", 0)
    rules = {each["id"]: each for each in node["params"]["checks"]}
    assert {name: (rules[name]["least"], rules[name]["most"]) for name in rules} == {
        "duration": (12, 12), "width": (640, 640), "height": (360, 360),
    }  # fmt: skip
    assert rules["duration"]["value"] == {"$from": "render_video", "path": "/seconds", "default": None}
    assert graph["edges"] == [{"from": "render_video", "to": "evaluate"}]
    assert problems(graph, capabilities) == []


def test_a_graph_without_a_rule_that_has_a_bound_stays_as_it_is() -> None:
    capabilities, _ = manifest()
    found = tried("Train a voice from my recording", ["me.wav"])
    assert found.graph is not None
    assert with_checks(found.graph, "Train a voice from my recording", capabilities) is found.graph


def test_what_is_too_long_is_tried_once_more_by_as_much_as_it_was_missed() -> None:
    made, asked = evaluated(LATE)
    assert (made.passed, made.next_attempt) == (False, "j-2")
    assert asked == [("j", "ann", {"speak": {"speed": 1.545}})]


def test_a_changed_parameter_keeps_its_limits_and_one_at_its_limit_is_not_tried_again() -> None:
    assert evaluated({**LATE, "value": 60})[1] == [("j", "ann", {"speak": {"speed": 2.0}})]
    made, asked = evaluated({**LATE, "repair": {**SPEED, "value": 2.0}})
    assert (made.passed, made.next_attempt, asked) == (False, None, [])


def test_the_second_attempt_is_the_last() -> None:
    made, asked = evaluated(LATE, attempt=2)
    assert (made.passed, made.next_attempt, asked) == (False, None, [])


def test_a_further_attempt_that_is_refused_is_told_and_the_job_completes() -> None:
    async def refuse(*_: object) -> str:
        raise NotSubmitted("this key has as many jobs alive as it may have")

    async def run() -> Evaluation:
        again.set(refuse)
        made: Evaluation = await evaluate_results(msgspec.convert({"checks": [LATE]}, EvaluateParams), Context())  # type: ignore[arg-type]
        return made

    made = asyncio.run(run())
    assert made.next_attempt is None
    assert "refused: this key has" in made.reason


@pytest.mark.parametrize(
    ("value", "least", "most", "passed"),
    [
        (5, None, 5, True), (5.2, None, 5, False), (["a", "b"], 2, 2, True), ("one two - three", 3, None, True),
        (None, 1, None, None), (True, 1, None, None), (3, None, None, None), (4, 5, None, False),
    ],
)  # fmt: skip
def test_numbers_lists_and_texts_are_measured_and_what_does_not_tell_is_no_failure(
    value: Any, least: Any, most: Any, passed: bool | None
) -> None:
    made, _ = evaluated({"node": "a", "id": "x", "label": "so", "value": value, "least": least, "most": most})
    assert made.findings[0].passed is passed
    assert made.passed is (passed is not False)
