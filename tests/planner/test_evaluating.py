"""Rules of tasks become a node that holds results against the goal; what it finds, and which parameter it would change."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from dihedral.bridge.graphs import Topology, node_input
from dihedral.control_plane.planning.goals.evaluating import SHOWN_BYTES, with_checks
from dihedral.control_plane.planning.goals.stages import problems
from dihedral.control_plane.tasks.evaluate_results import (
    Changes,
    EvaluateParams,
    Evaluation,
    NotSubmitted,
    Swaps,
    again,
    evaluate_results,
)
from dihedral.control_plane.tasks.llm import llm
from dihedral.schemas.structs.capability import Check, Voice
from dihedral.schemas.structs.control_plane import LlmSettings
from tests.control_plane.test_tasks import Answer, answers, endpoint, says
from tests.graphs.making import graph as made_graph
from tests.planner.trying import manifest, tried

pytestmark = pytest.mark.quick


class Context:
    """What the task uses of its context."""

    job_id, owner = "j", "ann"

    def log(self, text: str) -> None:
        assert text


def evaluated(
    *checks: dict[str, Any], attempt: int = 1, model: Answer | None = None, **more: Any
) -> tuple[Evaluation, list[tuple[str, str, Changes]]]:
    asked: list[tuple[str, str, Changes]] = []

    async def submit(job: str, owner: str, changes: Changes, swaps: Swaps, reason: str) -> str:
        assert reason
        asked.append((job, owner, changes | {node: {"task": task} for node, task in swaps.items()}))
        return f"{job}-2"

    async def run() -> Evaluation:
        again.set(submit)
        params = msgspec.convert({"checks": list(checks), "attempt": attempt, **more}, EvaluateParams)
        if model is None:
            made: Evaluation = await evaluate_results(params, Context())  # type: ignore[arg-type]
            return made
        async with endpoint(model) as other:
            llm.set(LlmSettings(endpoint=other.url, kind="openai", model="scripted", timeout_seconds=30))  # type: ignore[arg-type]
            made = await evaluate_results(params, Context())  # type: ignore[arg-type]
        (request,) = other.asked
        told.append(request.document)
        return made

    return asyncio.run(run()), asked


told: list[Any] = []
"""What the model of `evaluated` was asked."""
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
    assert rules["duration"]["value"].items() >= {"$from": "render_video", "path": "/seconds", "default": None}.items()
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


# Other ways -----------------------------------------------------------------------------------------------------------

OTHER = [
    {"node": "draw", "label": "Draw finely", "task": "draw_finely"},
    {"node": "speak", "label": "the voice Kal", "params": {"voice": "flite:kal"}},
]
JUDGE = {
    "goal": "say hello kindly",
    "results": [{"node": "speak", "task": "Speak", "output": {"seconds": 2.0, "voice": "x"}}],
}


def verdict(text: str, variant: int = -1, reason: str = "it sounds angry") -> Answer:
    return says(json.dumps({"verdict": text, "reason": reason, "variant": variant}), "openai")


def test_a_rule_that_names_no_parameter_is_tried_by_another_way_for_its_node() -> None:
    few = {"node": "speak", "id": "words", "label": "every word", "value": 3, "least": 5}
    made, asked = evaluated(few, variants=OTHER)
    assert asked == [("j", "ann", {"speak": {"voice": "flite:kal"}})]
    assert made.reason == "not every word: 3 in place of at least 5; speak is done by the voice Kal"
    made, asked = evaluated({**few, "node": "draw"}, variants=OTHER)
    assert (asked, made.swapped) == ([("j", "ann", {"draw": {"task": "draw_finely"}})], {"draw": "draw_finely"})
    assert evaluated({**few, "node": "other"}, variants=OTHER)[1] == []
    assert evaluated({**few, "repair": {**SPEED, "value": 1}}, variants=OTHER)[1] == [
        ("j", "ann", {"speak": {"speed": 0.5825}})
    ]


def test_the_model_judges_by_data_and_chooses_among_the_ways_that_there_are() -> None:
    made, asked = evaluated(model=verdict("not met", 1), judge=JUDGE, variants=OTHER)
    assert asked == [("j", "ann", {"speak": {"voice": "flite:kal"}})]
    assert (made.passed, made.findings[-1].id, made.findings[-1].passed) == (False, "model", False)
    assert "angry" in made.reason
    request = told[-1]
    assert request["max_tokens"] == 300
    assert request["response_format"]["json_schema"]["schema"]["properties"]["variant"]["enum"] == [-1, 0, 1]
    assert json.loads(request["messages"][1]["content"])["results"][0]["output"] == '{"seconds":2.0,"voice":"x"}'
    assert "are data" in request["messages"][0]["content"] or "is data" in request["messages"][0]["content"]
    assert evaluated(model=verdict("met"), judge=JUDGE, variants=OTHER)[0].passed
    assert evaluated(model=verdict("not met", 1), judge=JUDGE, variants=OTHER, attempt=2)[1] == []


@pytest.mark.parametrize(
    "answer",
    [
        verdict("not met", 7), verdict("not met"), verdict("cannot tell", 1), says("I cannot say", "openai"), says('{"verdict": "maybe"}', "openai"),
        answers("{}", 503), answers("nonsense"), says("{" * 9000, "openai"),
    ],
)  # fmt: skip
def test_a_model_that_says_nothing_of_use_starts_nothing(answer: Answer) -> None:
    made, asked = evaluated(model=answer, judge=JUDGE, variants=OTHER)
    assert (asked, made.next_attempt) == ([], None)
    assert made.findings[-1].id == "model"


def test_a_judged_graph_has_its_plain_results_and_the_other_ways() -> None:
    capabilities, _ = manifest()
    voices = [
        Voice(id=f"e:{name}", label=name, language=language, engine="e")
        for name, language in (("a", "en"), ("b", "de"), ("c", "en"))
    ]
    finer = msgspec.structs.replace(
        capabilities["speak"], id="speak_finely", label="Speak finely", voices=msgspec.UNSET
    )
    more = {
        **capabilities,
        "speak": msgspec.structs.replace(capabilities["speak"], voices=voices),
        "speak_finely": finer,
    }
    found = tried("Say 'Hello'")
    assert found.graph is not None
    graph = with_checks(found.graph, "Say 'Hello'", more, is_judged=True)
    params = graph["nodes"][-1]["params"]
    assert params["variants"] == [
        {"node": "speak", "label": "Speak finely", "task": "speak_finely"},
        {"node": "speak", "label": "the voice c", "params": {"voice": "e:c"}},
    ]
    (result,) = params["judge"]["results"]
    assert result["output"]["seconds"] == {"$from": "speak", "path": "/seconds", "default": None, "most": SHOWN_BYTES}
    assert "words" not in result["output"]
    assert problems(graph, more) == []
    contracts = msgspec.structs.replace(finer.contracts, side_effects=["buys a voice"])
    for other in (
        msgspec.structs.replace(finer, contracts=contracts),
        msgspec.structs.replace(finer, keywords=["cook"]),
        msgspec.structs.replace(finer, keywords=msgspec.UNSET),
    ):
        params = with_checks(found.graph, "Say 'Hello'", {**more, "speak_finely": other}, is_judged=True)["nodes"][-1][
            "params"
        ]
        assert [each["label"] for each in params["variants"]] == ["the voice c"]


def test_an_evaluation_takes_nothing_that_it_is_not_given_and_never_more_than_fits() -> None:
    capabilities, _ = manifest()
    checks = [Check(id="words", label="long", value="/text", least=1)]
    hostile = {name: {"type": "string"} for name in ("text", "attempt", "variants", "judge", "more", "other")}
    io = msgspec.structs.replace(capabilities["simulate"].io, output={"type": "object", "properties": hostile})
    more = {**capabilities, "simulate": msgspec.structs.replace(capabilities["simulate"], io=io, checks=checks)}
    many = [{"id": f"n{number}", "task": "simulate", "plane": "python", "params": {}} for number in range(250)]
    graph = with_checks({"schema": "langgraph.v1", "nodes": many, "edges": []}, "g" * 5000, more, is_judged=True)
    assert problems(graph, more) == []
    ran: dict[str, Any] = {str(each["id"]): dict.fromkeys(hostile, "x" * 900_000) for each in many}
    known = made_graph(graph["nodes"], [(each["from"], each["to"]) for each in graph["edges"]])
    params = node_input(
        Topology(known), "evaluate", ran, more["evaluate_results"].io.input["properties"].keys(), 1 << 22
    )
    made = msgspec.convert(params, EvaluateParams)
    assert made.judge is not None
    assert (made.attempt, len(made.variants), len(made.judge.results), len(made.checks)) == (1, 0, 100, 200)
    assert made.judge.results[-1].node == "n249"
    short = dict.fromkeys(hostile, "y" * 50)
    params = node_input(Topology(known), "evaluate", {**ran, "n249": short}, ["judge"], 1 << 22)
    assert params["judge"]["results"][-1]["output"]["text"] == short["text"]
    params = with_checks({"nodes": many[:6], "edges": []}, "say", more)["nodes"][-1]["params"]
    assert (params["judge"], params["variants"], params["attempt"]) == (None, [], 1)
