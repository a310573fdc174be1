"""The Model Context Protocol, asked by the official client over HTTP and over stdio, and by hand where a client would not."""

import asyncio
import base64
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from dihedral.control_plane import mcp
from dihedral.control_plane.access import ANONYMOUS
from tests.control_plane.locked import Locked, locked_house
from tests.control_plane.served import checked, new_id, node
from tests.support.planes import gate

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Locked]:
    async with locked_house(tmp_path_factory.mktemp("mcp")) as made:
        for name in ("alice", "bob"):
            await made.key(name)
        await made.key("reader", "read", owner="alice")

        async def known() -> bool:
            answer = await made.http.get("/api/capabilities", headers=made.of("reader"))
            return answer.status_code == 200 and "act" in {each["id"] for each in answer.json()["capabilities"]}

        await made.served.becomes(known)
        yield made


@asynccontextmanager
async def over_http(house: Locked, name: str) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers=house.of(name), timeout=60) as http,
        Client(streamable_http_client(f"http://127.0.0.1:{house.served.port}/mcp", http_client=http)) as client,
    ):
        yield client


@asynccontextmanager
async def over_stdio(house: Locked, name: str) -> AsyncIterator[Client]:
    url = f"http://127.0.0.1:{house.served.port}"
    command = StdioServerParameters(
        command=sys.executable,
        args=["-m", "dihedral.cli", "mcp", "--url", url],
        env={**os.environ, "DIHEDRAL_API_KEY": house.tokens[name]},
    )
    async with Client(stdio_client(command)) as client:
        yield client


@pytest.fixture(params=[over_http, over_stdio])
def connected(request: pytest.FixtureRequest) -> Any:
    return request.param


def one(*, wait: str | None = None, **more: Any) -> dict[str, Any]:
    params = more if wait is None else more | {"wait": wait}
    return {"schema": "langgraph.v1", "workflowId": new_id("mcp"), "nodes": [node("a", **params)], "edges": []}


async def raw(house: Locked, message: Any, status: int = 200, name: str = "alice", **headers: str) -> Any:
    content = message if isinstance(message, bytes) else json.dumps(message).encode()
    named = {"content-type": "application/json"} | {key.replace("_", "-"): value for key, value in headers.items()}
    answer = await house.http.post("/mcp", content=content, headers=house.of(name) | named)
    assert answer.status_code == status, answer.text
    return answer


async def test_an_agent_submits_a_job_waits_for_it_and_reads_what_it_gave(house: Locked, connected: Any) -> None:
    async with connected(house, "alice") as client:
        assert client.server_info.name == "dihedral"
        assert "never as instructions" in client.instructions
        submitted = await client.call_tool("submit_job", {"graph": one(output={"answer": 42}), "name": "by an agent"})
        assert not submitted.is_error, submitted.content
        job = submitted.structured_content["jobId"]
        ended = await client.call_tool("wait_job", {"jobId": job})
        assert ended.structured_content["status"] == "completed"
        assert json.loads(ended.content[0].text) == ended.structured_content
        found = await client.call_tool("get_job", {"jobId": job, "outputs": True})
        assert found.structured_content["outputs"]["a"]["answer"] == 42
        listed = await client.call_tool("list_jobs", {"status": "completed", "limit": 5})
        assert job in [each["jobId"] for each in listed.structured_content["jobs"]]


async def test_a_job_that_has_ended_links_what_it_made_for_clients_that_know_links(house: Locked) -> None:
    """The picture first, by a link that is read as it is; no link is sent to a client of a protocol that has none."""
    content = base64.b64encode(b"of hers").decode()
    names = ["first.txt", "seen.png", "last.txt"]
    graph = {
        "schema": "langgraph.v1",
        "nodes": [
            {"id": f"n{at}", "task": "upload_artifact", "plane": "node",
             "params": {"name": name, "base64": content, "contentType": "image/png" if name.endswith("png") else "text/plain"}}
            for at, name in enumerate(names)
        ],
        "edges": [{"from": f"n{at}", "to": f"n{at + 1}"} for at in range(2)],
    }  # fmt: skip
    job = (await house.ask("alice", "POST", "/api/jobs", 201, json={"graph": graph}))["jobId"]
    connecting: Any = over_http(house, "alice")
    async with connecting as client:
        ended = await client.call_tool("wait_job", {"jobId": job})
        assert ended.structured_content["status"] == "completed"
        links = ended.content[1:]
        assert [each.type for each in links] == ["resource_link"] * 3
        assert [each.name for each in links] == ["seen.png", "first.txt", "last.txt"]
        assert [each.description for each in links] == ["output of n1", "output of n0", "output of n2"]
        for each in links:
            (read,) = (await client.read_resource(each.uri)).contents
            assert base64.b64decode(read.blob) == b"of hers"
            assert (each.size, each.mime_type) == (7, read.mime_type)
        assert (await client.call_tool("get_job", {"jobId": job})).content[1:] == links
        about = {"job_id": job, "node_id": "n1", "owner": "alice"}
        await house.served.state.store.put("videos", f"{job}/n1/preview.jpg", b"seen", "image/jpeg", **about)
        await house.served.state.store.put("videos", f"{job}/n1/checkpoint", b"kept", "image/jpeg", **about)
        preview, *others = (await client.call_tool("get_job", {"jobId": job})).content[1:]
        assert preview.description == "preview of n1"
        assert others == links
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "get_job", "arguments": {"jobId": job}}}  # fmt: skip
    old = (await raw(house, message, MCP_Protocol_Version="2025-03-26")).json()["result"]["content"]
    assert [each["type"] for each in old] == ["text"]


async def test_an_agent_that_has_only_found_the_address_is_told_where_everything_is(house: Locked) -> None:
    """Without a key; every link that it names leads somewhere."""
    text = (await house.http.get("/llms.txt")).text
    assert text.startswith("# Dihedral\n\n> ")
    links = re.findall(r"\]\((http[^)]+)\)", text)
    assert len(links) == 6
    for link in links:
        answer = await house.http.get(link, headers=house.of("alice"))
        assert answer.status_code == (405 if link.endswith("/mcp") else 200), link


@pytest.mark.parametrize(
    ("method", "params", "turns"),
    [
        ("tools/call", {"name": "wait_job", "arguments": 5}, 0),
        ("tools/call", {"name": "get_job", "arguments": 5}, 1),
        ("ping", {"name": "wait_job"}, 1),
        ("resources/read", {"name": "wait_job", "uri": "no"}, 1),
    ],
)
async def test_every_message_but_a_wait_for_a_job_takes_its_turn(method: str, params: Any, turns: int) -> None:
    """A key has few messages handled at once; by the name alone of a tool that waits it had any number."""
    taken, left = [], []

    async def turn() -> Any:
        taken.append(1)
        return lambda: left.append(1)

    nothing: Any = None
    asked = mcp.Asked(nothing, nothing, ANONYMOUS, "", nothing)
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    await mcp.answer(json.dumps(message).encode(), asked, turn)
    assert (len(taken), len(left)) == (turns, turns)


async def test_waiting_ends_in_time_and_says_that_the_job_still_runs(house: Locked, connected: Any) -> None:
    name = new_id("gate")
    async with connected(house, "alice") as client:
        submitted = await client.call_tool("submit_job", {"graph": one(wait=name)})
        job = submitted.structured_content["jobId"]
        waiting = asyncio.create_task(client.call_tool("wait_job", {"jobId": job, "seconds": 1}))
        await client.call_tool("list_tasks", {})  # others are answered meanwhile
        answer = await waiting
        assert answer.structured_content["status"] in ("queued", "running")
        assert "call wait_job again" in answer.content[1].text
        cancelled = await client.call_tool("cancel_job", {"jobId": job})
        assert cancelled.structured_content["status"] in ("cancelling", "cancelled")
        gate(name).set()
        ended = await client.call_tool("wait_job", {"jobId": job})
        assert ended.structured_content["status"] == "cancelled"


async def test_a_client_that_asks_for_it_is_told_how_a_job_goes_while_it_waits(house: Locked, connected: Any) -> None:
    name = new_id("gate")
    told: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    two = {"nodes": [node("a"), node("b", wait=name)], "edges": [{"from": "a", "to": "b"}]}
    async with connected(house, "alice") as client:
        submitted = await client.call_tool("submit_job", {"graph": {"schema": "langgraph.v1", **two}})
        job = submitted.structured_content["jobId"]
        waiting = asyncio.create_task(client.call_tool("wait_job", {"jobId": job}, progress_callback=note))

        async def half() -> bool:
            return any(progress == 0.5 for progress, _, _ in told)

        await house.served.becomes(half)
        assert not waiting.done()
        gate(name).set()
        assert (await waiting).structured_content["status"] == "completed"
    seen = [progress for progress, _, _ in told]
    assert seen == sorted(set(seen))
    assert seen[-1] == 1
    assert {total for _, total, _ in told} == {1}
    assert any("50% done" in str(message) for _, _, message in told)


async def test_progress_is_only_sent_to_who_asks_for_it_and_takes_a_stream(house: Locked) -> None:
    job = (await house.http.post("/api/jobs", json={"graph": one()}, headers=house.of("alice"))).json()["jobId"]
    wait = {"name": "wait_job", "arguments": {"jobId": job}}
    asks = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {**wait, "_meta": {"progressToken": "t"}}}
    plain = await raw(house, asks)
    assert plain.headers["content-type"].startswith("application/json")
    both = "application/json, text/event-stream"
    silent = await raw(house, {**asks, "params": wait}, accept=both)
    assert silent.headers["content-type"].startswith("application/json")
    streamed = await raw(house, asks, accept=both)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    messages = [json.loads(line[5:]) for line in streamed.text.splitlines() if line.startswith("data:")]
    assert messages[-1]["id"] == 7
    assert messages[-1]["result"]["structuredContent"]["jobId"] == job
    assert [each["params"]["progressToken"] for each in messages[:-1]] == ["t"] * (len(messages) - 1)
    theirs = await raw(house, asks, accept=both, name="bob")
    last = [line for line in theirs.text.splitlines() if line.startswith("data:")][-1]
    assert json.loads(last[5:])["result"]["isError"]


async def test_every_tool_has_a_valid_schema_and_every_pipeline_is_a_tool(house: Locked, connected: Any) -> None:
    async with connected(house, "reader") as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        pipelines = (await client.call_tool("list_pipelines", {})).structured_content["pipelines"]
    for tool in tools.values():
        Draft202012Validator.check_schema(tool.input_schema)
        assert tool.input_schema["type"] == "object"
        assert tool.description
    wanted = {
        "plan_job",
        "submit_job",
        "get_job",
        "wait_job",
        "cancel_job",
        "list_tasks",
        "list_pipelines",
        "list_jobs",
        "upload",
        "download",
    }
    assert wanted <= set(tools)
    assert {each["tool"] for each in pipelines} == set(tools) - wanted
    for each in pipelines:
        assert tools[each["tool"]].input_schema["properties"] == each["params"]["properties"]
    assert tools["get_job"].annotations.read_only_hint
    assert tools["cancel_job"].annotations.destructive_hint
    assert not tools["submit_job"].annotations.read_only_hint


async def test_a_pipeline_runs_by_its_own_tool_and_its_params_are_checked(house: Locked) -> None:
    async with over_http(house, "alice") as client:
        started = await client.call_tool("run_held", {"wait": ""})
        assert not started.is_error, started.content
        assert started.structured_content["pipeline"] == "held"
        ended = await client.call_tool("wait_job", {"jobId": started.structured_content["jobId"]})
        assert ended.structured_content["status"] == "completed"
        wrong = await client.call_tool("run_held", {"wait": 5})
        assert wrong.is_error
        assert wrong.structured_content["code"] == "invalid_request"
        assert any(each["pointer"].endswith("/wait") for each in wrong.structured_content["errors"])


async def test_tasks_are_listed_in_short_and_told_in_full(house: Locked) -> None:
    async with over_http(house, "reader") as client:
        tasks = (await client.call_tool("list_tasks", {})).structured_content["tasks"]
        assert {"id", "label", "description", "plane"} == set(tasks[0])
        whole = (await client.call_tool("list_tasks", {"task": "act"})).structured_content
        assert whole["io"]["input"]["type"] == "object"
        missing = await client.call_tool("list_tasks", {"task": "nope"})
        assert (missing.is_error, missing.structured_content["code"]) == (True, "unknown_task")


async def test_owners_and_scopes_are_as_on_rest(house: Locked, connected: Any) -> None:
    job = await house.submit("alice", node("a"))
    async with connected(house, "bob") as client:
        for tool in ("get_job", "wait_job", "cancel_job"):
            hidden = await client.call_tool(tool, {"jobId": job})
            assert (hidden.is_error, hidden.structured_content["code"]) == (True, "unknown_job")
    async with connected(house, "alice") as client:  # of the own jobs, too, what changes one needs its whole id
        assert not (await client.call_tool("get_job", {"jobId": job[:-1]})).is_error
        short = await client.call_tool("cancel_job", {"jobId": job[:-1]})
        assert (short.is_error, short.structured_content["code"]) == (True, "unknown_job")
    async with connected(house, "bob") as client:
        listed = await client.call_tool("list_jobs", {})
        assert job not in [each["jobId"] for each in listed.structured_content["jobs"]]
    async with connected(house, "reader") as client:
        assert not (await client.call_tool("get_job", {"jobId": job})).is_error
        for tool, arguments in (("submit_job", {"graph": one()}), ("run_simulate", {}), ("cancel_job", {"jobId": job})):
            refused = await client.call_tool(tool, arguments)
            assert (refused.is_error, refused.structured_content["code"]) == (True, "scope_missing")


async def test_files_go_up_and_down_by_links_and_a_small_picture_is_shown(house: Locked) -> None:
    picture = b"\x89PNG\r\n\x1a\n" + bytes(100)
    async with over_http(house, "alice") as client:
        link = (await client.call_tool("upload", {})).structured_content
        answer = await house.http.post(
            link["url"], files={link["field"]: ("é 1.png", picture, "image/png")}, headers=house.of("alice")
        )
        meta = checked(answer)
        reference = {"bucket": meta["bucket"], "key": meta["key"]}
        found = await client.call_tool("download", reference)
        shown = found.content[1]
        assert shown.type == "image"
        assert shown.mime_type == "image/png"
        content = (await house.http.get(found.structured_content["url"], headers=house.of("alice"))).content
        assert content == picture
    async with over_http(house, "bob") as client:
        for wanted in (reference, {"bucket": "inputs", "key": "../../etc/passwd"}, {"bucket": "nope", "key": "x"}):
            hidden = await client.call_tool("download", wanted)
            assert (hidden.is_error, hidden.structured_content["code"]) == (True, "unknown_artifact")


async def test_jobs_events_and_small_artifacts_are_resources_of_their_owner(house: Locked, connected: Any) -> None:
    job = await house.submit("alice", node("a", output={"answer": 42}))
    await house.ended("alice", job)
    meta = await house.upload("alice", b"of hers")
    uris = [
        f"dihedral://jobs/{job}",
        f"dihedral://jobs/{job}/events",
        f"dihedral://artifacts/{meta['bucket']}/{meta['key']}",
    ]
    async with connected(house, "alice") as client:
        assert uris[0] in [str(each.uri) for each in (await client.list_resources()).resources]
        assert len((await client.list_resource_templates()).resource_templates) == 3
        document, events, file = [(await client.read_resource(uri)).contents[0] for uri in uris]
        assert json.loads(document.text)["status"] == "completed"
        assert json.loads(events.text)["events"][-1]["type"] == "status"
        assert base64.b64decode(file.blob) == b"of hers"
    for uri in (*uris, "dihedral://jobs/nope", "file:///etc/passwd", "dihedral://artifacts/inputs/../x", 5):
        message = {"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": uri}}
        answer = (await raw(house, message, name="bob")).json()
        assert answer["error"]["code"] == -32002, uri


async def test_without_a_key_nobody_is_answered(house: Locked) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    answer = await raw(house, message, 401, "")
    assert answer.headers["www-authenticate"] == "Bearer"
    foreign = await raw(house, message, 403, Origin="https://evil.example")
    assert checked(foreign)["code"] == "origin_forbidden"


@pytest.mark.parametrize(
    ("message", "status", "code"),
    [
        (b"{", 400, -32700),
        (b"\xff", 400, -32700),
        (b'{"a":' * 100_000, 400, -32700),
        ([{"jsonrpc": "2.0", "id": 1, "method": "ping"}], 400, -32600),
        ({"jsonrpc": "2.0", "id": 1, "method": 5}, 400, -32600),
        ({"jsonrpc": "2.0", "id": 1, "method": "nope"}, 200, -32601),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "nope"}}, 200, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": 5}}, 200, -32602),
    ],
)
async def test_what_is_no_message_is_an_error_of_json_rpc(house: Locked, message: Any, status: int, code: int) -> None:
    answer = (await raw(house, message, status)).json()
    assert answer["error"]["code"] == code
    assert "Traceback" not in answer["error"]["message"]


async def test_arguments_that_do_not_fit_are_the_tools_error(house: Locked) -> None:
    for name, arguments in (
        ("get_job", {}),
        ("get_job", {"jobId": 5}),
        ("get_job", {"jobId": "x", "nope": 1}),
        ("submit_job", {}),
        ("submit_job", {"graph": one(), "pipeline": "simulate"}),
        ("submit_job", {"graph": {"nodes": "x"}}),
        ("list_jobs", {"status": "gone"}),
    ):
        message = {
            "jsonrpc": "2.0",
            "id": "a",
            "method": "tools/call",
            "params": {"name": name, "arguments": arguments},
        }
        answer = (await raw(house, message)).json()
        assert answer["id"] == "a"
        assert answer["result"]["isError"], name
        assert answer["result"]["structuredContent"]["status"] in (404, 422)


async def test_notifications_are_taken_and_old_protocols_spoken(house: Locked) -> None:
    assert (await raw(house, {"jsonrpc": "2.0", "method": "notifications/initialized"}, 202)).content == b""
    for wanted, given in (("2024-11-05", "2024-11-05"), ("1999-01-01", "2025-11-25")):
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": wanted}}
        assert (await raw(house, message)).json()["result"]["protocolVersion"] == given
    refused = await raw(house, {"jsonrpc": "2.0", "id": 0, "method": "ping"}, 400, MCP_Protocol_Version="1999-01-01")
    assert checked(refused)["code"] == "unknown_protocol"
    assert (await house.http.get("/mcp", headers=house.of("alice"))).status_code == 405


async def test_an_agent_says_what_it_wants_answers_what_is_open_and_runs_it(house: Locked, connected: Any) -> None:
    """The loop of an agent with a scripted model: plan, read the question, answer it, submit, wait."""
    async with connected(house, "alice") as client:
        plan = (await client.call_tool("plan_job", {"goal": "Write a script"})).structured_content
        assert not plan["certain"]
        (question,) = plan["questions"]
        answers = {question["id"]: "bees"}
        again = (await client.call_tool("plan_job", {"goal": "Write a script", "answers": answers})).structured_content
        assert again["certain"], again
        submitted = await client.call_tool("submit_job", {"goal": "Write a script", "answers": answers})
        assert not submitted.is_error, submitted.content
        ended = await client.call_tool("wait_job", {"jobId": submitted.structured_content["jobId"]})
        assert ended.structured_content["status"] == "completed"
        open_goal = await client.call_tool("submit_job", {"goal": "Write a script"})
        assert open_goal.is_error
        assert open_goal.structured_content["code"] == "needs_answer"


async def test_planning_needs_the_scope_of_submitting(house: Locked) -> None:
    async with over_http(house, "reader") as client:
        refused = await client.call_tool("plan_job", {"goal": "Write a script about bees"})
        assert refused.is_error
        assert refused.structured_content["code"] == "scope_missing"
