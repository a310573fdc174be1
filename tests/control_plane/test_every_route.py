"""Every route, read from the application itself, asked by a stranger and with values that nobody should send.

A new route is walked without anyone thinking of it; a path parameter that `Hers.values` does not know is "default", the name of a pool.
"""

import asyncio
import json
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from litestar.params import QueryParameter
from litestar.routes import HTTPRoute

from dihedral.control_plane.app import create_app
from dihedral.control_plane.mcp import TOOLS
from tests.control_plane.locked import Locked, locked_house
from tests.control_plane.served import PROBLEM, checked, made_settings, new_id, node, submission
from tests.support.planes import RUNS, gate
from tests.support.polling import at_this_load

pytestmark = pytest.mark.asyncio(loop_scope="session")

MARK = "seen-by-alice-alone"
CHANGING = ("POST", "DELETE", "PUT", "PATCH")
HOSTILE = [
    "%00", "%0d%0aset-cookie:%20a=b", "%1b%5b31m", "%7f", "%c3%28", "%ed%a0%80", "%ff%fe", "%e2%80%ae", "%f0%9f%92%a9", "..", "%2e%2e%2f%2e%2e",
    "a%2fb", "%25%30%30", "*", "%7b%7d", "'%22%3c%3e", "x" * 4000, "-1", "9" * 400, "NaN", "true", "%20", "a:b", "%09",
]  # fmt: skip
"""Values as they stand in a request line: controls, what is no UTF-8, ways out, what is too long or of another type."""
HEADERS = [
    ("accept", "text/event-stream;q=\x07"), ("accept", "*/*," * 2000), ("accept-encoding", "gzip;q=nan, \xff"), ("range", "bytes=" + "9" * 3000),
    ("range", "bytes=5-2"), ("if-none-match", '"' * 500), ("if-range", "\xe9"), ("idempotency-key", "a\tb"), ("idempotency-key", "x" * 5000),
    ("last-event-id", "9" * 500), ("last-event-id", "-1"), ("traceparent", "00-zz"), ("cookie", "dihedral_session=%00; =;;;\xff"),
    ("origin", "http://["), ("host", "[::1"), ("x-forwarded-proto", "\xff"), ("content-type", "application/json; charset=\xff"),
    ("mcp-protocol-version", "\xff" * 100), ("content-encoding", "gzip"), ("x-anything", "x" * 50_000),
]  # fmt: skip
BODIES = [
    (b"", "application/json"), (b"\x00", "application/json"), (b'{"a":"\x1b[31m"}', "application/json"), (b"[" * 5000, "application/json"),
    (b'{"jobs":[' + b"9" * 5000 + b"]}", "application/json"), (b"\xff\xfe{}", "application/json"), (b'"\\ud800"', "application/json"),
    (b'{"graph":{"schema":"langgraph.v1","nodes":[{"id":"a\\u0000","task":"\\u001b[2J","plane":"\\r\\n"}],"edges":[]}}', "application/json"),
    (b"null", "application/json"), (b"{}", "text/plain"), (b"{}", "multipart/form-data"), (b"x", "multipart/form-data; boundary=a"),
    (b"--a\r\nContent-Disposition: form-data; name=\"file\"; filename=\"\x01\r\n\r\n", "multipart/form-data; boundary=a"),
    (b"{}", "\x07"), (b"{}", "application/x-www-form-urlencoded"),
]  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Locked]:
    async with locked_house(tmp_path_factory.mktemp("walked")) as made:
        for name in ("alice", "bob"):
            await made.key(name)
        await made.key("admin", "admin")

        async def known() -> bool:
            answer = await made.http.get("/api/capabilities", headers=made.of("admin"))
            return answer.status_code == 200 and "act" in {each["id"] for each in answer.json()["capabilities"]}

        await made.served.becomes(known)
        yield made


def routes() -> Iterator[tuple[str, str, list[str]]]:
    """Yields (method, path template, names of query parameters) of each route of the application."""
    for route in create_app(made_settings("redis://127.0.0.1:1", _nowhere())).routes:
        if isinstance(route, HTTPRoute):
            for method in sorted(route.methods - {"OPTIONS"}):
                handler = route.route_handler_map[method][0]
                parameters = handler.parsed_fn_signature.parameters
                names = [name for name, each in parameters.items() if isinstance(each.kwarg_definition, QueryParameter)]
                yield str(method), route.path, names


def _nowhere() -> Any:
    return Path(tempfile.mkdtemp(prefix="dih-"))


ROUTES = list(routes())


def filled(template: str, values: dict[str, str]) -> str:
    return re.sub(r"\{(\w+):\w+\}", lambda found: values.get(found[1], "default").lstrip("/"), template)


def names_in(template: str) -> list[str]:
    return re.findall(r"\{(\w+):\w+\}", template)


def assert_typed(answer: httpx.Response, *about: object) -> None:
    """An error is a whole problem, never a 500, and no answer carries a control character of the request in its head."""
    assert answer.status_code < 500, (*about, answer.status_code, answer.text[:300])
    if answer.status_code >= 400 and answer.request.method != "HEAD":
        assert answer.headers["content-type"] in (PROBLEM, "application/json"), (*about, answer.text[:300])
        document = answer.json()
        assert document.get("code") or document.get("error"), (*about, document)
        assert "Traceback" not in answer.text, about
    for value in answer.headers.values():
        assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value), about


# A stranger -------------------------------------------------------------------------------------------------------------


class Hers(msgspec.Struct):
    """What alice has: jobs in three states, a file of a job, an upload, and the letter of a node that was given up."""

    jobs: list[str]
    artifacts: list[dict[str, str]]
    letter: str
    key_id: str

    def ids(self) -> list[str]:
        return [*self.jobs, *(each["key"] for each in self.artifacts), self.letter, self.key_id]

    def values(self) -> Iterator[dict[str, str]]:
        for job in self.jobs:
            for artifact in self.artifacts:
                yield {
                    "job_id": job, "node_id": "a", "bucket": artifact["bucket"], "key": artifact["key"], "letter_id": self.letter,
                    "name": "graph.json", "path": "jobs/" + job, "key_id": self.key_id,
                }  # fmt: skip


async def made_by_alice(house: Locked) -> Hers:
    named = {"name": MARK, "note": MARK}
    one = await house.submit("alice", node("a", output={"text": MARK}), metadata=named)
    stores = {"id": "a", "task": "upload_artifact", "plane": "node", "params": {"name": "hers.txt", "text": MARK}}
    two = await house.submit("alice", stores, metadata=named)
    broken = await house.submit("alice", node("a", fail=True, output=MARK), metadata=named)
    for job in (one, two, broken):
        await house.ended("alice", job)
    async with house.served.no_worker():
        worker = await house.served.planes.start("python")
        lost = await house.submit("alice", node("a", task="once", wait=new_id(), output=MARK))
        await house.served.becomes(lambda: ("begin", "a") in RUNS)
        await house.served.planes.kill(worker)
    await house.served.planes.start("python", light=64)
    await house.ended("alice", lost)
    running = await house.submit("alice", node("a", wait="held-by-alice", output=MARK), metadata=named)
    document = await house.ask("alice", "GET", f"/api/jobs/{two}")
    uploaded = await house.upload("alice", MARK.encode(), "hers.txt")
    artifacts = [
        {"bucket": str(each["bucket"]), "key": str(each["key"])} for each in [*document["artifacts"], uploaded]
    ]

    async def letters() -> Any:
        found = (await house.ask("admin", "GET", "/api/dead-letters"))["deadLetters"]
        return [each["id"] for each in found if each["jobId"] == lost]

    return Hers(
        [one, two, broken, lost, running], artifacts, (await house.served.becomes(letters))[0], house.ids["alice"]
    )


async def state_of(house: Locked, hers: Hers) -> list[Any]:
    jobs = [await house.ask("alice", "GET", f"/api/jobs/{job}") for job in hers.jobs]
    metas = [
        await house.ask("alice", "GET", f"/api/artifacts-meta/{each['bucket']}/{each['key']}")
        for each in hers.artifacts
    ]
    letter = await house.ask("admin", "GET", f"/api/dead-letters/{hers.letter}")
    return [*({name: job[name] for name in ("status", "attempt", "artifacts")} for job in jobs), *metas, letter]


def bodies_about(hers: Hers) -> list[Any]:
    reference = hers.artifacts[0]
    return [
        {},
        {"from": "start"},
        submission(node("x", output=reference), job=hers.jobs[0]),
        {"jobs": [submission(node("x", output=reference)), submission(node("y"), job=hers.jobs[0])]},
    ]


async def test_no_route_shows_or_changes_what_another_owner_has(house: Locked) -> None:
    hers = await made_by_alice(house)
    before = await state_of(house, hers)
    asked = 0
    for method, template, queries in ROUTES:
        is_about_hers = bool(set(names_in(template)) & {"job_id", "letter_id", "key", "key_id"})
        paths = list(dict.fromkeys(filled(template, values) for values in hers.values()))
        hints = [{}, *({"jobId": job} for job in hers.jobs if "jobId" in queries)]
        for path in paths:
            for document in bodies_about(hers) if method in CHANGING else [None]:
                for hint in hints:
                    answer = await house.http.request(
                        method, path, headers=house.of("bob"), params=hint, json=document, follow_redirects=False
                    )
                    asked += 1
                    assert_typed(answer, method, path, document)
                    assert MARK not in answer.text, (method, path)
                    if is_about_hers:
                        refusals = (403, 404) if not document else (403, 404, 422)
                        assert answer.status_code in refusals, (method, path, answer.status_code, answer.text[:200])
                    elif method == "GET" and not names_in(template):
                        assert not [each for each in hers.ids() if each in answer.text], (method, path)
    assert asked > 150
    await house.ask("admin", "GET", f"/api/dead-letters/{hers.letter}")
    assert await state_of(house, hers) == before
    gate("held-by-alice").set()
    await house.ended("alice", hers.jobs[-1])


async def test_no_tool_of_an_agent_shows_or_changes_what_another_owner_has(house: Locked) -> None:
    gate("held-by-alice").clear()
    hers = await made_by_alice(house)
    before = await state_of(house, hers)
    for job in hers.jobs:
        for artifact in hers.artifacts:
            given = {
                "jobId": job, "job_id": job, "nodeId": "a", "seconds": 0, "outputs": True, "name": MARK[:4], "limit": 100, "graph": None,
                **artifact,
            }  # fmt: skip
            for name, tool in TOOLS.items():
                fields = {field.encode_name for field in msgspec.structs.fields(tool.arguments)}
                arguments = {key: value for key, value in given.items() if key in fields}
                text = await _called(house, "tools/call", {"name": name, "arguments": arguments})
                assert MARK not in text, name
                if {"jobId", "key"} & fields:
                    assert '"isError":true' in text, (name, text[:300])
            uris = [f"jobs/{job}", f"jobs/{job}/events", f"artifacts/{artifact['bucket']}/{artifact['key']}"]
            for uri in uris:
                text = await _called(house, "resources/read", {"uri": f"dihedral://{uri}"})
                assert '"error"' in text, uri
                assert MARK not in text, uri
    listed = await _called(house, "resources/list", {})
    assert not [each for each in hers.ids() if each in listed]
    assert await state_of(house, hers) == before
    gate("held-by-alice").set()


async def _called(house: Locked, method: str, params: Any) -> str:
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return (await house.http.post("/mcp", json=message, headers=house.of("bob"))).text


async def test_no_socket_shows_what_another_owner_has(house: Locked) -> None:
    gate("held-by-alice").clear()
    hers = await made_by_alice(house)
    async with asyncio.timeout(at_this_load(60)), house.socket("bob") as socket:
        for job in hers.jobs:
            for action in ("subscribe", "unsubscribe"):
                await socket.send(json.dumps({"action": action, "jobId": job, "after": 0}))
                text = str(await socket.recv())
                assert json.loads(text)["type"] == "response", text
                assert json.loads(text).get("reason") == "unknown_job" or action == "unsubscribe", text
                assert MARK not in text
    gate("held-by-alice").set()


# What nobody should send ------------------------------------------------------------------------------------------------


PLAIN = {
    "job_id": "none", "node_id": "a", "bucket": "inputs", "key": "none", "letter_id": "0-1", "name": "graph.json", "path": "none", "key_id": "0" * 16,
}  # fmt: skip


@pytest.mark.parametrize("name", ["admin", None])
async def test_a_hostile_path_or_parameter_is_answered_by_a_problem(house: Locked, name: str | None) -> None:
    """`name` None: without a key, so that what is refused before a handler is walked too, with each value everywhere at once.

    A parameter that no route has is looked at before there is a handler: each route gets it with every fourth value, by turns.
    """
    base = str(house.http.base_url).rstrip("/")
    for number, (method, template, queries) in enumerate(ROUTES):
        for place, value in enumerate(HOSTILE):
            plain, names = filled(template, PLAIN), names_in(template)
            is_its_turn = place % 4 == number % 4
            if name is None:
                walked = names or is_its_turn
                paths = [f"{filled(template, dict.fromkeys(PLAIN, value))}?{value}={value}"] if walked else []
            else:
                paths = [filled(template, {**PLAIN, each: value}) for each in names]
                paths += [f"{plain}?{query}={value}" for query in [*queries, *([value] if is_its_turn else [])]]
            for path in paths:
                answer = await _as_it_is(house, name, method, base, path)
                assert_typed(answer, method, path)


async def _as_it_is(house: Locked, name: str | None, method: str, base: str, path: str, **more: Any) -> httpx.Response:
    """Sends the path without what a client would mend in it."""
    url = httpx.URL(f"{base}/")
    request = house.http.build_request(method, url, headers=house.of(name), **more)
    request.url = url.copy_with(raw_path=path.encode("latin-1"))
    return await house.http.send(request, follow_redirects=False)


async def test_a_hostile_head_is_answered_by_a_problem(house: Locked) -> None:
    for method, template, _ in ROUTES:
        for header, value in HEADERS:
            answer = await house.http.request(
                method,
                filled(template, PLAIN),
                headers=[
                    *((key.encode(), text.encode()) for key, text in house.of("admin").items()),
                    (header.encode(), value.encode("latin-1")),
                ],
            )
            assert_typed(answer, method, template, header)


async def test_a_hostile_body_is_answered_by_a_problem(house: Locked) -> None:
    large = b'{"graph":"' + b"x" * (5 << 20) + b'"}'
    for method, template, _ in ROUTES:
        bodies = [*BODIES, (large, "application/json")] if method == "POST" else BODIES[:3]
        for content, kind in bodies:
            headers = [*((key.encode(), text.encode()) for key, text in house.of("admin").items())]
            answer = await house.http.request(
                method,
                filled(template, PLAIN),
                content=content,
                headers=[*headers, (b"content-type", kind.encode("latin-1"))],
            )
            assert_typed(answer, method, template, kind, content[:60])
            if content is large and template not in ("/api/jobs/batch", "/api/artifacts"):
                assert answer.status_code in (404, 413, 409, 200), (template, answer.status_code)


async def test_a_method_that_a_route_does_not_have_is_a_problem(house: Locked) -> None:
    for template in {template for _, template, _ in ROUTES}:
        there = {method for method, other, _ in ROUTES if other == template}
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"} - there:
            answer = await house.http.request(method, filled(template, PLAIN), headers=house.of("admin"))
            assert answer.status_code in (405, 400), (method, template, answer.status_code)
            if answer.status_code == 405:
                checked(answer)
