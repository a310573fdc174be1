"""What can be done about an error: its class, and the param of the request that it names."""

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


@pytest.mark.asyncio(loop_scope="session")
async def test_a_failed_job_and_its_node_carry_a_remedy(served: Served) -> None:
    job = await served.ended(await served.submit(node("a", fail=True)))
    assert job["error"]["remedy"] == {"class": "retry", "advice": CAUSE}
    nodes = await served.nodes(job["jobId"])
    assert nodes["a"]["error"]["remedy"]["class"] == "retry"
    listed = await served.get("/api/jobs", q=job["jobId"])
    assert [each["error"]["remedy"] for each in listed["jobs"]] == [job["error"]["remedy"]]
