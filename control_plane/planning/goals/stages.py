"""The order of planning, as a LangGraph `StateGraph`: understand → choose → draft → check → repair or ask → explain.

    understand   the goal is read: tokens, quotes, numbers, negations; files by what they may be
    choose       offers for which the words ask, the most likely first
    draft        each of them as the end of a chain; the best draft with its parameters
    check        the graph's problems, as POST /api/plans finds them
    repair       only with a model: it gets the draft and every problem, and answers with another draft, which is checked again
    ask          what is open becomes questions
    explain      reasons, assumptions, how sure

Every step but `repair` is a pure function of the state. `plain` runs them one after the other, without LangGraph, for what must not wait
(suggestions while the user types); both give the same.

LangGraph is imported with the first goal (0.7 s, 70 MB), in a thread.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Any, TypedDict

import msgspec

from dihedral.control_plane.planning import plan as planning
from dihedral.control_plane.planning.goals import answering, building, filling
from dihedral.control_plane.planning.goals.building import Built
from dihedral.control_plane.planning.goals.changing import change
from dihedral.control_plane.planning.goals.drafting import Draft, Search
from dihedral.control_plane.planning.goals.files import File
from dihedral.control_plane.planning.goals.filling import Filled
from dihedral.control_plane.planning.goals.offers import Catalogue
from dihedral.control_plane.planning.goals.reading import Reading, read
from dihedral.schemas.structs.capability import Capability
from dihedral.schemas.structs.plan import Choice, Question, Reason
from dihedral.schemas.structs.submission import GraphSubmission

Object = dict[str, Any]


class Asked(msgspec.Struct, frozen=True):
    """What planning works with."""

    goal: str
    files: tuple[File, ...]
    known: Catalogue
    capabilities: Mapping[str, Capability]
    answers: Mapping[str, Any] = {}
    base: Object | None = None
    """The graph that the goal changes."""
    is_evaluated: bool = False


class Matched(msgspec.Struct):
    """What comes of it. `graph`: a submission without problems, or None."""

    graph: Object | None
    reasons: list[Reason]
    assumptions: list[str]
    unmet: list[str]
    questions: list[Question]
    confidence: float
    by_model: bool = False
    rounds: int = 0
    drafts: list[Object] = msgspec.field(default_factory=list)


class State(TypedDict, total=False):
    asked: Asked
    reading: Reading
    search: Search
    keys: list[str]
    ranked: list[tuple[float, Draft]]
    filled: Filled
    built: Built
    problems: list[planning.Problem]
    told: answering.Answer
    matched: Matched


Repair = Callable[[Asked, Matched], Awaitable[Matched]]


# Steps -----------------------------------------------------------------------------------------------------------------


def understand(state: State) -> State:
    asked = state["asked"]
    if asked.base is not None:
        return {"matched": _changed(asked), "ranked": []}
    left_out = [each for each in asked.files if asked.answers.get(f"file.{each.index}") != ""]
    reading = read(
        asked.goal, [file.name for file in left_out], asked.known.vocabulary, asked.known.naming, asked.known.choices
    )
    mentions = {mention.name.lower(): mention for mention in reading.mentions}
    files = []
    for number, each in enumerate(left_out):
        mention = mentions.get(each.name.lower())
        beside = {} if mention is None else {"around": mention.around, "before": mention.before}
        files.append(msgspec.structs.replace(each, index=number, **beside))
    return {"reading": reading, "search": Search(reading, files, asked.known, {}, {})}


def choose(state: State) -> State:
    if "matched" in state:
        return {}
    keys = state["search"].likely()
    wanted = state["asked"].answers.get("offer", state["asked"].answers.get("goal"))
    return {"keys": [wanted] if isinstance(wanted, str) and wanted in state["asked"].known.offers else keys}


def draft(state: State) -> State:
    if "matched" in state:
        return {}
    search, asked = state["search"], state["asked"]
    ranked = search.drafts(state["keys"])
    if not ranked:
        return {"ranked": []}
    best = ranked[0][1]
    filled = filling.fill(best, state["reading"], is_evaluated=asked.is_evaluated)
    built = building.build(best, asked.capabilities)
    if _take(search, best, built, asked.answers):
        built = building.build(best, asked.capabilities)
    return {"ranked": ranked, "filled": filled, "built": built}


def check(state: State) -> State:
    if not state["ranked"]:
        return {"problems": []}
    return {"problems": problems(state["built"].graph, state["asked"].capabilities)}


def ask(state: State) -> State:
    """Finds what is open. Without a draft that does what the goal asks, the question is what else shall be made."""
    if "matched" in state:
        return {}
    search, asked = state["search"], state["asked"]
    if not state["ranked"]:
        return {"matched": _cannot(state)}
    rivals = [each for _, each in state["ranked"][1:4]]
    told = answering.answer(search, state["ranked"][0][1], state["filled"], state["built"], rivals, asked.answers)
    if not told.is_meant and not isinstance(asked.answers.get("offer", asked.answers.get("goal")), str):
        return {"matched": _cannot(state)}
    wrong = state["problems"]
    if wrong and not told.questions:
        told.questions.append(Question(id="graph", text=f"The graph would not run: {wrong[0].detail}", choices=[]))
    return {"told": told}


def explain(state: State) -> State:
    if "matched" in state:
        return {}
    told, wrong = state["told"], state["problems"]
    graph = None if wrong else state["built"].graph
    made = Matched(graph, told.reasons, told.assumptions, told.unmet, told.questions, told.confidence)
    return {"matched": made}


STEPS: tuple[Callable[[State], State], ...] = (understand, choose, draft, check, ask, explain)


def plain(asked: Asked) -> Matched:
    """Runs the steps one after the other, without a model."""
    state: State = {"asked": asked}
    for step in STEPS:
        state.update(step(state))
    return state["matched"]


async def planned(asked: Asked, repair: Repair | None = None) -> Matched:
    """Runs the graph. The steps are in a thread, so the loop goes on. `repair`: asks the model."""
    if repair is None:
        return await asyncio.to_thread(_run, asked)
    graph = await asyncio.to_thread(_graph)
    state = await graph.ainvoke({"asked": asked}, {"configurable": {"repair": repair}})
    found: Matched = state["matched"]
    return found


def prepare() -> None:
    """Imports LangGraph and compiles the steps."""
    _graph()


def _run(asked: Asked) -> Matched:
    found: Matched = _graph().invoke({"asked": asked}, {"configurable": {"repair": None}})["matched"]
    return found


@cache
def _graph() -> Any:
    from langchain_core.runnables import RunnableConfig
    from langgraph.graph import END, START, StateGraph

    async def repaired(state: State, config: RunnableConfig) -> State:
        repair: Repair = config["configurable"]["repair"]
        return {"matched": await repair(state["asked"], state["matched"])}

    def after_explaining(state: State, config: RunnableConfig) -> str:
        return "repair" if config["configurable"].get("repair") is not None else END

    graph: Any = StateGraph(State)
    for step in STEPS:
        graph.add_node(step.__name__, step)
    repaired.__annotations__ = {"state": State, "config": RunnableConfig, "return": State}
    after_explaining.__annotations__ = {"state": State, "config": RunnableConfig, "return": str}
    graph.add_node("repair", repaired)
    names = [START, *(step.__name__ for step in STEPS)]
    for before, after in itertools.pairwise(names):
        graph.add_edge(before, after)
    graph.add_conditional_edges("explain", after_explaining, ["repair", END])
    graph.add_edge("repair", END)
    return graph.compile()


# Parts -----------------------------------------------------------------------------------------------------------------


def _take(search: Search, best: Draft, built: Built, answers: Mapping[str, Any]) -> bool:
    """Fills in answers to questions of an earlier plan: `NODE.param`, and `file.N` with the parameter that the file is for."""
    taken = False
    for place, use in enumerate(best.uses):
        for slot in use.offer.slots:
            name = f"{built.node_of(place, slot)}.{slot.field}"
            if name in answers and not slot.wrap and not filling.fits(slot, answers[name]):
                use.values[slot.name] = answers[name]
                use.why[slot.name] = "the answer to a question"
                taken = True
    for index, options in list(best.unclear):
        wish = answers.get(f"file.{index}")
        for place, slot_name in options:
            if wish == f"{best.uses[place].offer.id}.{slot_name}":
                use = best.uses[place]
                best.unclear.remove((index, options))
                search.give(best, use, use.offer.slot(slot_name), [search.files[index]], "the answer to a question")
                taken = True
                break
    return taken


def problems(graph: Object, capabilities: Mapping[str, Capability]) -> list[planning.Problem]:
    """Returns why a submission would be refused."""
    wrong = [planning.Problem(at, code, detail) for at, code, detail in building.shape_problems(graph)]
    if wrong:
        return wrong
    return planning.problems(planning.normalise(msgspec.convert(graph, GraphSubmission), "plan"), capabilities)


def _changed(asked: Asked) -> Matched:
    assert asked.base is not None
    found = change(asked.goal, list(asked.files), asked.known, asked.base)
    if asked.answers.get("unmet") is True:
        found.questions = [each for each in found.questions if each.id != "unmet"]
        found.confidence = max(found.confidence, 0.6)
    wrong = problems(found.graph, asked.capabilities)
    if wrong:
        found.questions.append(Question(id="graph", text=f"The graph would not run: {wrong[0].detail}", choices=[]))
    graph = None if wrong else found.graph
    return Matched(graph, found.reasons, found.assumptions, found.unmet, found.questions, found.confidence)


def _cannot(state: State) -> Matched:
    """What is answered where no task does it: what was not understood, and what could be done instead."""
    search = state["search"]
    asked = [each.written for each in state["reading"].tokens if each.counts]
    offers = sorted(search.known.offers, key=lambda key: -search.evidence.get(key, 0.0))
    near = [search.known.offers[key] for key in offers if search.evidence.get(key, 0.0) >= 0.3][:4]
    choices = [Choice(label=each.label, value=each.id) for each in near]
    if not choices:
        choices = [Choice(label=each.label, value=key) for key, each in answering.suggested(search.known, search.files)]
    words = ", ".join(asked)[:120]
    text = (
        f"No task here does that ({words}). What shall be made instead?"
        if asked
        else "What shall be made? The goal names nothing."
    )
    unmet = [f"no task here does {' '.join(asked)[:120]!r}"] if asked else []
    return Matched(None, [], [], unmet, [Question(id="goal", text=text, choices=choices)], 0.0)
