"""What can be done about an error: its class, and the param of the request that it names."""

import ast
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dihedral.control_plane.remedies import CAUSE, REMEDIES, origins, remedy_of
from dihedral.schemas.structs.graph import NodeError
from tests.control_plane.served import Served, node

GERMAN = Path(__file__).parents[2] / "control_plane/console/messages/de.js"
PICTURE = {"bucket": "inputs", "key": "a/b.png"}
PARAMS: dict[str, Any] = {"image": PICTURE, "steps": 3, "words": ["one"], "rate": 0.1}
TEMPLATE = {
    "nodes": [
        {"id": "n", "params": {"picture": {"$param": "image"}, "options": [{"a": {"$param": "rate"}}], "fixed": 3}}
    ]
}
CASES = [
    # code, message, details, class, param
    ("invalid_params", "Expected `int`, got `str` - at `$.steps`", {}, "change_inputs", "steps"),
    ("invalid_params", "Expected `str` - at `$.words[0]`", {}, "change_inputs", "words"),
    ("invalid_params", "Expected `str` - at `$.strange`", {}, "change_inputs", None),
    ("artifact_not_found", "there is no artifact inputs/a/b.png of yours", {}, "change_inputs", "image"),
    ("artifact_not_found", "there is no artifact inputs/c.png", {}, "change_inputs", None),
    ("invalid_input", "picture: has 3 pixels, and steps are too many", {}, "change_inputs", "image"),
    ("invalid_input", "the picture has no face", {}, "change_inputs", "image"),
    ("invalid_input", "options do not fit", {}, "change_inputs", "rate"),
    ("invalid_input", "steps and rate do not fit", {}, "change_inputs", None),
    ("invalid_input", "it is wrong", {"param": "rate"}, "change_inputs", "rate"),
    ("invalid_input", "it is wrong", {"param": ["rate"]}, "change_inputs", None),
    ("no_face", "nothing is to be seen", {}, "change_inputs", None),
    ("text_too_long", "too much", {}, "change_inputs", None),
    ("worker_lost", "lost at steps", {}, "resume", None),
    ("artifact_store_unavailable", "away", {}, "wait", None),
    ("disk_full", "full", {}, "free_space", None),
    ("rehearsals_off", "off", {}, "ask_operator", None),
    ("clipped_audio", "too loud", {}, "change_inputs", None),
    ("workflow_branch_dropped", "it drops node 3", {}, "change_inputs", None),
    ("missing_package", "no torch", {}, "ask_operator", None),
    ("boom", "it broke at steps", {}, "retry", None),
]  # fmt: skip


@pytest.mark.quick
@pytest.mark.parametrize("case", CASES)
def test_an_error_has_the_remedy_of_its_code_and_names_the_param(
    case: tuple[str, str, dict[str, Any], str, Any],
) -> None:
    code, message, details, wanted, param = case
    found = remedy_of(NodeError(code=code, message=message, details=details), PARAMS, origins(TEMPLATE, "n"))
    assert (found.class_, found.param) == (wanted, msgspec.UNSET if param is None else param)
    assert found.advice.endswith(".")


@pytest.mark.quick
def test_every_advice_is_translated() -> None:
    text = GERMAN.read_text()
    assert [advice for _, advice in REMEDIES.values() if f'"{advice}": "' not in text] == []


def codes(path: Path) -> set[str]:
    """Returns the codes of a module's task errors: those that it raises, and those that its docstrings name."""
    found: set[str] = set()
    for each in ast.walk(ast.parse(path.read_text())):
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Name) and each.func.id == "TaskError":
            given = [word.value for word in each.keywords if word.arg == "code"]
            found |= {str(code.value) for code in given if isinstance(code, ast.Constant)}
        elif isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            found |= set(
                re.findall(r"`([a-z]+(?:_[a-z]+)+)`", (ast.get_docstring(each) or "").partition("TaskError")[2])
            )
    return found


@pytest.mark.quick
def test_what_is_to_be_done_about_each_error_of_the_tasks_is_decided() -> None:
    root = Path(__file__).parents[2]
    paths = [
        path for part in ("control_plane/tasks", "data_plane", "bridge/tasks") for path in (root / part).rglob("*.py")
    ]
    found = {code: path.name for path in paths for code in codes(path)}
    assert len(found) > 40
    assert {
        code: name
        for code, name in found.items()
        if code not in REMEDIES and not (root / f"data_plane/tasks/{code}.py").exists()
    } == {}


@pytest.mark.asyncio(loop_scope="session")
async def test_a_failed_job_and_its_node_carry_a_remedy(served: Served) -> None:
    job = await served.ended(await served.submit(node("a", fail=True)))
    assert job["error"]["remedy"] == {"class": "retry", "advice": CAUSE}
    nodes = await served.nodes(job["jobId"])
    assert nodes["a"]["error"]["remedy"]["class"] == "retry"
    listed = await served.get("/api/jobs", q=job["jobId"])
    assert [each["error"]["remedy"] for each in listed["jobs"]] == [job["error"]["remedy"]]
