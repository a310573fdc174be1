"""The matcher over the manifest of everything that comes along, and what a table expects of it."""

import mimetypes
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from dihedral.bridge.tasks.registry import collect
from dihedral.control_plane.planning import pipelines
from dihedral.control_plane.planning.goals.files import File, file_kinds
from dihedral.control_plane.planning.goals.offers import Catalogue, catalogue
from dihedral.control_plane.planning.goals.stages import Asked, Matched, plain, problems
from dihedral.control_plane.tasks import BUILTIN as CONTROL
from dihedral.data_plane.tasks import BUILTIN as DATA
from dihedral.schemas.structs.capability import Capability
from tests.planner.goals import Goal


@cache
def manifest() -> tuple[dict[str, Capability], Catalogue]:
    capabilities = {name: made.capability for name, made in collect([*DATA, *CONTROL], plugins=False).items()}
    return capabilities, catalogue(capabilities, pipelines.load(""))


def given(names: Sequence[str]) -> list[File]:
    """`name`, or `bucket:name`."""
    found = []
    for index, each in enumerate(names):
        bucket, _, key = each.rpartition(":")
        kinds = file_kinds(key, mimetypes.guess_type(key)[0] or "", bucket)
        document = {"1": {"class_type": "A", "inputs": {}}} if "workflow" in key else None
        ref = {"bucket": bucket or "inputs", "key": key}
        text = "Once upon a time." if "text" in kinds else None
        found.append(File(ref, key.rpartition("/")[2], kinds, True, index, text=text, document=document))
    return found


def tried(text: str, files: Sequence[str] = (), answers: Mapping[str, Any] = {}) -> Matched:
    capabilities, known = manifest()
    return plain(Asked(text, tuple(given(files)), known, capabilities, answers))


def faults(goal: Goal) -> list[str]:
    """Returns what of a goal's plan is not as the table says."""
    found = tried(goal.text, goal.files)
    asked = {each.id for each in found.questions}
    if goal.cannot:
        return [] if found.graph is None and found.questions else [f"it should not be planned: {tasks_of(found)}"]
    if found.graph is None and goal.asks:
        return [] if set(goal.asks) - {"*"} <= asked and asked else [f"asks {sorted(asked)}, not {list(goal.asks)}"]
    if found.graph is None:
        return [f"no graph: {[each.text for each in found.questions]}"]
    wrong = [f"{each.pointer}: {each.detail}" for each in problems(found.graph, manifest()[0])]
    if goal.tasks and sorted(tasks_of(found)) != sorted(goal.tasks):
        wrong.append(f"tasks {tasks_of(found)}, not {list(goal.tasks)}")
    if set(goal.asks) - {"*"} - asked or (goal.asks and not asked):
        wrong.append(f"asks {sorted(asked)}, not {list(goal.asks)}")
    if not goal.asks and asked:
        wrong.append(f"asks {[each.text for each in found.questions]}")
    for name, value in goal.params.items():
        node, _, param = name.partition(".")
        params: Any = next((each["params"] for each in found.graph["nodes"] if each["id"] == node), {})
        actual = params.get(param)
        if param == "pictures" and actual is None:  # scenes of a picture each are pictures, too
            actual = [each["picture"] for each in params.get("scenes", []) if "picture" in each] or None
        if not _is(actual, value, param):
            wrong.append(f"{name} is {actual!r}, not {value!r}")
    return wrong


def tasks_of(found: Matched) -> list[str]:
    return [] if found.graph is None else [node["task"] for node in found.graph["nodes"]]


def _is(value: Any, wanted: Any, param: str) -> bool:
    """A number of files stands for a list of so many, a file's name for a reference to it."""
    if isinstance(wanted, int) and isinstance(value, list):
        return len(value) == wanted
    if isinstance(wanted, str) and isinstance(value, list):
        return len(value) == 1 and _is(value[0], wanted, param)
    if isinstance(wanted, str) and isinstance(value, dict) and "key" in value:
        return str(value["key"]).endswith(wanted)
    return bool(value == wanted)
