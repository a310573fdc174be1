"""`dihedral ask`: a goal becomes a tree, its questions and a job; without a terminal nothing is asked and a script notices."""

import base64
import importlib.util
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client as Agent
from mcp.client.stdio import StdioServerParameters, stdio_client
from PIL import Image

from dihedral.ask import answer_of, plan_of, tree
from dihedral.client import AsyncClient, Client, Refused
from tests.front_door.running import Up, environment
from tests.front_door.test_cli import Shell, house, shell  # noqa: F401 - fixtures

SCRIPT = "Write a script about bees with 3 lines"


def test_a_goal_is_shown_as_a_tree_with_its_reasons_and_nothing_runs(shell: Shell) -> None:  # noqa: F811
    done = shell("ask", SCRIPT)
    lines = done.stdout.splitlines()
    assert lines[0] == "generate_script"
    assert any("prompt: what the goal says it is about" in line for line in lines)
    assert shell.json("jobs")["jobs"] == []


def test_a_certain_goal_runs_and_its_job_keeps_the_goal(shell: Shell) -> None:  # noqa: F811
    done = shell("ask", SCRIPT, "--run")
    job = shell.json("jobs")["jobs"][0]
    assert job["jobId"] in done.stdout
    assert job["status"] == "completed"
    shown = shell.json("show", job["jobId"])
    assert shown["graph"]["metadata"]["plan"]["goal"] == SCRIPT


def test_without_a_terminal_open_questions_are_printed_and_the_exit_code_is_a_refusal(shell: Shell) -> None:  # noqa: F811
    done = shell("ask", "Write a script", "--run", code=3)
    assert "open: generate_script.prompt" in done.stderr
    assert shell("ask", "order a pizza", code=3).stdout.startswith("cannot:")


def test_a_file_of_a_goal_is_uploaded_and_used(shell: Shell) -> None:  # noqa: F811
    (shell.directory / "note.txt").write_text("the bees are back")
    plan = shell.json("ask", "Store the text of this file as copy.txt", "--file", "note.txt")
    assert plan["graph"]["nodes"][0]["params"] == {"name": "copy.txt", "text": "the bees are back"}


def test_what_was_uploaded_for_a_goal_that_is_refused_is_deleted_again(shell: Shell) -> None:  # noqa: F811
    (shell.directory / "left.txt").write_text("nothing comes of me")
    with Client(shell.environ["DIHEDRAL_URL"]) as client:
        before = uploads(client)
        assert shell.json("ask", "order a pizza", "--file", "left.txt", code=3)["questions"]
        with pytest.raises(Refused):
            client.ask("order a pizza", files=[shell.directory / "left.txt"])
        assert uploads(client) == before


def uploads(client: Client) -> list[str]:
    """Returns the keys of what was uploaded; the examples come by themselves."""
    found = client.artifacts(bucket="inputs")["artifacts"]
    return [each["key"] for each in found if not each["key"].startswith("examples/")]


async def test_an_agent_asks_for_a_film_waits_and_sees_the_picture_that_the_answer_links(
    house: Up,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Over stdio with the official client: no key, no bucket and no address is known to the agent but that of its own upload."""
    Image.linear_gradient("L").resize((64, 36)).save(tmp_path / "dusk.png")
    command = StdioServerParameters(
        command=sys.executable, args=["-P", "-m", "dihedral.cli", "mcp", "--url", house.url], env=environment()
    )
    connecting: Any = Agent(stdio_client(command))
    async with AsyncClient(house.url) as uploads, connecting as agent:
        meta = await uploads.upload(tmp_path / "dusk.png")
        files = [{"bucket": meta["bucket"], "key": meta["key"]}]
        goal = "Make a film of 1 second from this picture, 64x36, 5 fps"
        submitted = await agent.call_tool("submit_job", {"goal": goal, "files": files})
        assert not submitted.is_error, submitted.content
        job = submitted.structured_content["jobId"]
        while (ended := await agent.call_tool("wait_job", {"jobId": job})).structured_content["finished"] is None:
            pass  # it has waited for 50 s
        assert ended.structured_content["status"] == "completed", ended.structured_content["error"]
        links = [each for each in ended.content if each.type == "resource_link"]
        assert "video/mp4" in [each.mime_type for each in links]
        assert links[0].mime_type.startswith("image/")
        (read,) = (await agent.read_resource(links[0].uri)).contents
    picture = Image.open(io.BytesIO(base64.b64decode(read.blob)))
    picture.load()
    assert picture.width > picture.height
    shades = picture.convert("L").resize((1, 2)).tobytes()
    assert shades[0] < shades[1]


async def test_the_example_of_a_langgraph_graph_speaks(house: Up) -> None:  # noqa: F811
    spec = importlib.util.spec_from_file_location(
        "langgraph_node", Path(__file__).parents[2] / "examples/langgraph_node.py"
    )
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    state = await example.graph(house.url).ainvoke({"subject": "bees"}, {"configurable": {"thread_id": "t"}})
    assert state["speak"]["outputs"]["speak"]["audio"]["bucket"] == "voices"


# On a terminal ---------------------------------------------------------------------------------------------------------


class Scripted:
    """A client that answers from lists, and a person who types."""

    def __init__(self, plans: list[Any], typed: list[str]) -> None:
        self.plans, self.typed, self.asked = plans, typed, []  # type: ignore[var-annotated]

    def upload(self, path: Path) -> Any:
        return {"bucket": "inputs", "key": path.name, "size_bytes": 1}

    def plan_goal(self, **request: Any) -> Any:
        self.asked.append(json.loads(json.dumps(request)))
        return self.plans.pop(0)

    def types(self, _: str) -> str:
        return self.typed.pop(0)


def question(id: str, *choices: Any, **more: Any) -> Any:
    return {"id": id, "text": f"{id}?", "choices": [{"label": str(each), "value": each} for each in choices], **more}


@pytest.mark.parametrize(
    ("asked", "typed", "answered"),
    [
        (question("a", "x", "y"), "2", "y"),
        (question("a", schema={"type": "string"}), "42", "42"),
        (question("a", schema={"type": "integer"}), "42", 42),
        (question("a", schema={"type": "object", "x-artifact": True}), "b.png", {"bucket": "inputs", "key": "b.png"}),
        (
            question("a", schema={"type": "array", "items": {"x-artifact": True}}),
            "b.png",
            [{"bucket": "inputs", "key": "b.png"}],
        ),
        (question("a"), "", None),
    ],
)
def test_an_answer_is_read_as_its_question_says(asked: Any, typed: str, answered: Any) -> None:
    uploaded: list[Any] = []
    assert answer_of(asked, Scripted([], []), lambda _: typed, uploaded) == answered
    files = answered if isinstance(answered, list) else [answered]
    assert uploaded == [each for each in files if isinstance(each, dict) and "key" in each]


def test_questions_are_asked_until_none_is_left() -> None:
    ready = {"questions": [], "certain": True}
    client = Scripted([{"questions": [question("speak.text")]}, ready], ["hello"])
    uploaded: list[Any] = []
    request, plan = plan_of(client, "speak", ["a.png"], uploaded, is_asking=True, ask=client.types)
    assert plan is ready
    assert request["answers"] == {"speak.text": "hello"}
    assert request["files"] == [{"bucket": "inputs", "key": "a.png"}] == uploaded


def test_a_tree_shows_ends_first_and_no_control_character() -> None:
    plan = {
        "graph": {"nodes": [{"id": "speak", "task": "speak"}, {"id": "film", "task": "render_video"}], "edges": [{"from": "speak", "to": "film"}]},
        "reasons": [{"nodeId": "speak", "param": "text", "text": "text: \x1b[31mred"}],
        "assumptions": [], "unmet": [], "confidence": 0.9, "model": None, "rounds": 0,
    }  # fmt: skip
    lines = tree(plan)
    assert lines[0] == "film (render_video)"
    assert lines[1] == "└─ speak"
    assert "\x1b" not in "".join(lines)


# Evaluation ------------------------------------------------------------------------------------------------------------

LONG = 'Say "The bees have come back to the garden, and all of them are humming in the sun." in 3 seconds'


def test_a_speech_that_is_longer_than_the_goal_says_is_spoken_once_more_and_faster(shell: Shell) -> None:  # noqa: F811
    assert "no parameter here takes '3 seconds'" in shell("ask", LONG, code=3).stdout
    done = shell("ask", LONG, "--evaluate", "--run")
    second, first = shell.json("jobs")["jobs"][:2]
    assert second["jobId"] == f"{first['jobId']}-2"
    assert second["rerunOf"] == first["jobId"]
    assert second["jobId"] in done.stdout
    nodes = {each["id"]: each for each in shell.json("show", first["jobId"])["graph"]["nodes"]}
    found = nodes["evaluate"]["output"]
    assert (found["passed"], found["nextAttempt"]) == (False, second["jobId"])
    assert "speed of speak becomes" in found["reason"]
    again = shell.json("show", second["jobId"])["graph"]
    nodes = {each["id"]: each for each in again["nodes"]}
    assert nodes["speak"]["params"]["speed"] == found["changed"]["speak"]["speed"] > 1
    assert nodes["speak"]["output"]["seconds"] <= 3 * 1.02
    assert (nodes["evaluate"]["output"]["passed"], nodes["evaluate"]["output"]["nextAttempt"]) == (True, None)
    assert again["metadata"]["plan"]["reason"] == found["reason"]


def test_a_result_that_is_as_the_goal_says_is_not_tried_again(shell: Shell) -> None:  # noqa: F811
    shell("ask", 'Say "Hello" in 20 seconds', "--evaluate", "--run")
    job = shell.json("jobs")["jobs"][0]
    assert not job["jobId"].endswith("-2")
    nodes = {each["id"]: each for each in shell.json("show", job["jobId"])["graph"]["nodes"]}
    assert [(each["id"], each["passed"]) for each in nodes["evaluate"]["output"]["findings"]] == [
        ("duration", True),
        ("words", True),
    ]
