"""What is wrong with a request is said as a problem, all of it at once, and never as a 500."""

import asyncio
import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.control_plane.served import PROBLEM, checked, edge, graph, new_id, node, pointers, submission
from tests.support.polling import at_this_load

pytestmark = pytest.mark.asyncio(loop_scope="session")

MIB = 1 << 20
HEAD = (
    b'{"graph":{"schema":"langgraph.v1","edges":[],"nodes":[{"id":"a","task":"act","plane":"python","params":{"output":'
)
TAIL = b"}}]}}"
ROUTES = ("/api/jobs", "/api/plans")


def deep(levels: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * levels + b"1" * (opening != b"[") + closing * levels


@pytest.mark.parametrize("path", [*ROUTES, "/api/jobs/batch", "/api/train"])
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nonsense",
        b'{"graph":',
        b"\xff\xfe",
        b'{"pipeline":"\xff"}',
        b'{"metadata":{"a":NaN}}',
        b"{}x",
        b"\x00",
        b" ",
    ],
    ids=repr,
)
async def test_what_is_not_json_is_400(served: Any, path: Any, body: Any) -> None:
    answer = await served.raw(path, body)
    assert answer.status_code == 400
    assert answer.json()["code"] == "not_json"


@pytest.mark.parametrize("path", [*ROUTES, "/api/jobs/batch"])
@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"1", b'"graph"', b'{"grpah":{}}'])
async def test_json_of_another_shape_is_refused(served: Any, path: Any, body: Any) -> None:
    answer = await served.raw(path, body)
    assert answer.status_code == (400 if body == b"" else 422)


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "json"]
)
@pytest.mark.parametrize("path", [*ROUTES, "/api/jobs/batch", "/api/train"])
async def test_a_body_that_says_it_is_something_else_is_415(served: Any, path: Any, kind: Any) -> None:
    answer = await served.raw(path, json.dumps(submission(node("a"))).encode(), kind)
    assert answer.status_code == 415
    assert answer.json()["code"] == "unsupported_media_type"


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=utf-8", "application/vnd.dihedral+json"]
)
async def test_json_by_any_of_its_names_is_taken(served: Any, kind: Any) -> None:
    answer = await served.raw("/api/plans", json.dumps(submission(node("a"))).encode(), kind)
    assert answer.status_code == 200


async def test_every_wrong_field_is_named_at_once(served: Any) -> None:
    body = submission(
        {"id": "a b", "task": "act", "plane": "gpu", "params": [], "colour": "red"}, priority="urgent", extra=1
    )
    body["graph"]["edges"] = [{"from": "a"}]
    problem = await served.post("/api/jobs", body, expect=422)
    assert pointers(problem) == {
        "/extra": "unknown_field",
        "/priority": "not_one_of",
        "/graph/nodes/0/id": "bad_pattern",
        "/graph/nodes/0/plane": "not_one_of",
        "/graph/nodes/0/params": "wrong_type",
        "/graph/nodes/0/colour": "unknown_field",
        "/graph/edges/0": "missing_field",
    }
    assert problem["code"] == "invalid_request"


async def test_every_problem_of_the_plan_is_named_at_once(served: Any) -> None:
    nodes = [node("a", task="acct"), node("a"), node("b", task="light_node", plane="python"), node("c", wait=5, nope=1)]
    body = submission(*nodes, edges=[edge("b", "c"), edge("c", "b"), edge("c", "x")])
    for path in ROUTES:
        problem = await served.post(path, body, expect=422)
        assert (
            pointers(problem)
            == {
                "/graph/nodes/0/task": "unknown_task",
                "/graph/nodes/1/id": "duplicate_id",
                "/graph/nodes/2/plane": "wrong_plane",
                "/graph/nodes/3/params/wait": "invalid_param",
                "/graph/nodes/3/params/nope": "unknown_param",
                "/graph/edges/2/to": "unknown_node",
                "/graph/edges/0": "cycle",
            }
            or sorted(pointers(problem)) == []
        )


async def test_problems_of_the_plan_are_named_beside_those_of_the_shape(served: Any) -> None:
    """Before, a misspelt plane hid that the task was unknown and that an edge led nowhere, until the next try."""
    nodes = [
        {"id": "a", "task": "act", "plane": "pyton"},
        {"id": "b", "task": "no_such_task", "plane": "python", "colour": "red"},
        {"id": "c", "task": "act", "plane": "node", "retries": {"maxAttempts": "two"}},
        {"id": "d", "task": "act", "plane": "python", "params": {"wait": {"$from": "nobody"}, "sleep": 1}},
    ]
    edges = [{"from": "a", "to": "ghost"}, {"from": "a", "to": "b", "kind": "sometimes"}]
    body = {"graph": {"schema": "langgraph.v1", "nodes": nodes, "edges": edges}, "priority": "urgent"}
    body["webhook"] = {"url": "http://127.0.0.1/x", "secret": "whsec_" + "A" * 32}
    for path in ("/api/plans", "/api/jobs"):
        found = pointers(await served.post(path, body, expect=422))
        assert found == {
            "/priority": "not_one_of",
            "/graph/nodes/0/plane": "not_one_of",
            "/graph/nodes/1/colour": "unknown_field",
            "/graph/nodes/2/retries/maxAttempts": "wrong_type",
            "/graph/edges/1/kind": "not_one_of",
            "/graph/nodes/1/task": "unknown_task",
            "/graph/nodes/2/plane": "wrong_plane",
            "/graph/edges/0/to": "unknown_node",
            "/graph/nodes/3/params/wait/$from": "unknown_node",
            "/graph/nodes/3/params/sleep": "unknown_param",
            "/webhook/url": "forbidden_url",
        }
    batch = await served.post("/api/jobs/batch", {"jobs": [body]}, expect=200)
    assert pointers(batch["jobs"][0]) == found
    problem = await served.post(
        "/api/jobs", {"pipeline": "simulate", "params": {"steps": -1, "stepz": 1}, "priority": 5}, expect=422
    )
    assert set(pointers(problem)) == {"/priority", "/params/steps", "/params/stepz"}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"nodes": [{"id": "a b", "task": "act", "plane": "python"}, {"id": "b", "task": "act", "plane": "python", "params": {"wait": {"$from": "a b"}}}]}, "/graph/nodes/0/id"),
        ({"nodes": [{"task": "act", "plane": "python"}], "edges": [{"from": "x", "to": "x"}]}, "/graph/nodes/0"),
        ({"nodes": [{"id": "a", "plane": "python"}], "edges": []}, "/graph/nodes/0"),
        ({"nodes": ["a"], "edges": [{"from": "a", "to": "b"}]}, "/graph/nodes/0"),
        ({"nodes": [], "edges": [{"from": "a", "to": 1}]}, "/graph/edges/0/to"),
        ({"nodes": [], "edges": [{"from": "a"}]}, "/graph/edges/0"),
        ({"nodes": {}, "edges": []}, "/graph/nodes"),
        ({"nodes": [{"id": "a", "task": 5, "plane": "python"}], "edges": []}, "/graph/nodes/0/task"),
    ],
)  # fmt: skip
async def test_no_problem_is_named_that_comes_from_the_wrong_shape_alone(
    served: Any, changed: dict[str, Any], named: str
) -> None:
    body = {"graph": {"schema": "langgraph.v1", **changed}}
    found = set(pointers(await served.post("/api/plans", body, expect=422)))
    assert {
        each for each in found if not each.startswith(named) and each not in ("/graph/edges/0/from", "/graph/nodes")
    } == set()


async def test_a_pipeline_and_its_params_are_checked(served: Any) -> None:
    problem = await served.post("/api/jobs", {"pipeline": "simulat"}, expect=422)
    assert pointers(problem) == {"/pipeline": "unknown_pipeline"}
    problem = await served.post("/api/jobs", {"pipeline": "simulate", "params": {"steps": -1, "stepz": 1}}, expect=422)
    assert set(pointers(problem)) == {"/params/steps", "/params/stepz"}
    problem = await served.post("/api/jobs", {"pipeline": "simulate", **submission(node("a"))}, expect=422)
    assert pointers(problem) == {"": "graph_or_pipeline"}
    problem = await served.post("/api/jobs", {}, expect=422)
    assert pointers(problem) == {"": "graph_or_pipeline"}
    problem = await served.post("/api/jobs", {"params": {}, **submission(node("a"))}, expect=422)
    assert pointers(problem) == {"/params": "unknown_field"}


@pytest.mark.parametrize(
    "id", ["", "a/b", "../a", "a\x00b", "\x00", "ä", "a\n", "-a", ".a", "a" * 129, 5, None, "\ud800"]
)
async def test_an_id_of_other_characters_is_refused(served: Any, id: Any) -> None:
    body = json.dumps(
        submission(node("a"), job=id) if id is not None else {"graph": {**graph(node("a")), "workflowId": None}}
    )
    answer = await served.raw("/api/jobs", body.encode())
    # half a surrogate pair is no text at all, so no JSON either
    assert answer.status_code == (400 if id == "\ud800" else 422)
    if answer.status_code == 422:
        assert set(pointers(answer.json())) == {"/graph/workflowId"}


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity", b'"\\ud800"', b"01", b"'a'", b'"\x01"'])
async def test_a_value_that_json_has_not_is_400(served: Any, value: Any) -> None:
    for path in ROUTES:
        answer = await served.raw(path, HEAD + value + TAIL)
        assert (answer.status_code, answer.json()["code"]) == (400, "not_json")


@pytest.mark.parametrize("digits", [19, 20, 30, 300, 5000])
async def test_a_number_of_any_length_is_taken_or_refused(served: Any, digits: Any) -> None:
    answer = await served.raw("/api/plans", HEAD + b"1" * digits + TAIL)
    if digits == 19:
        assert answer.json()["nodes"][0]["params"]["output"] == 1111111111111111111
    else:
        assert answer.status_code in (200, 400, 422), answer.text


async def test_a_number_beyond_every_float_is_refused(served: Any) -> None:
    for path in ROUTES:
        assert (await served.raw(path, HEAD + b"1e400" + TAIL)).status_code == 422


async def test_of_a_repeated_key_the_last_counts(served: Any) -> None:
    answer = await served.raw("/api/plans", HEAD + b'1,"output":2' + TAIL)
    assert answer.json()["nodes"][0]["params"]["output"] == 2


# Size and depth -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [66, 900, 5000, 100_000])
@pytest.mark.parametrize("shape", [(b"[", b"]"), (b'{"a":', b"}")], ids=["arrays", "objects"])
@pytest.mark.parametrize("path", [*ROUTES, "/api/jobs/batch"])
async def test_deep_nesting_is_refused(served: Any, path: Any, shape: Any, levels: Any) -> None:
    body = HEAD + deep(levels, *shape) + TAIL
    if path == "/api/jobs/batch":
        body = b'{"jobs":[' + body + b"]}"
    answer = await served.raw(path, body)
    if path == "/api/jobs/batch" and answer.status_code == 200:
        (problem,) = answer.json()["jobs"]
    else:
        problem = answer.json()
    assert problem["status"] == 422
    assert set(pointers(problem).values()) == {"too_deep"}


@pytest.mark.parametrize(
    "where",
    [
        "metadata",
        "params",
        "graph/context",
        "graph/metadata",
        "graph/nodes/0/telemetry",
        "graph/nodes/0/input",
        "graph/nodes/0/output",
    ],
)
async def test_deep_nesting_is_refused_wherever_it_stands(served: Any, where: Any) -> None:
    body = submission(node("a")) if where != "params" else {"pipeline": "simulate"}
    *path, name = where.split("/")
    at: Any = body
    for part in path:
        at = at[int(part)] if isinstance(at, list) else at[part]
    at[name] = "HERE"
    text = json.dumps(body).replace('"HERE"', '{"a":' * 70 + "1" + "}" * 70).encode()
    answer = await served.raw("/api/jobs", text)
    assert answer.status_code == 422
    assert set(pointers(answer.json()).values()) == {"too_deep"}


async def test_64_levels_are_not_too_deep(served: Any) -> None:
    answer = await served.raw("/api/plans", HEAD + deep(60) + TAIL)
    assert answer.status_code == 200


async def test_twenty_thousand_nodes_are_refused_quickly_while_others_are_served(served: Any) -> None:
    body = json.dumps(submission(*({"id": f"n{i}", "task": "act", "plane": "python"} for i in range(20_000)))).encode()
    assert len(body) < served.settings.control.body_limit_bytes
    begun = time.monotonic()
    refused = asyncio.create_task(served.raw("/api/jobs", body))
    answered = 0
    while not refused.done():
        await served.get("/health/live")
        answered += 1
    answer = await refused
    assert answer.status_code == 422
    assert pointers(answer.json()) == {"/graph/nodes": "too_many"}
    assert time.monotonic() - begun < at_this_load(10)
    assert answered > 2, "the loop goes on while a thread looks for the problems"


async def test_a_hundred_problems_are_enough(served: Any) -> None:
    problem = await served.post("/api/jobs", submission(*(node(f"n{i}", task="none") for i in range(500))), expect=422)
    assert len(problem["errors"]) == 100


async def _talk(served: Any, head: str, body: list[bytes]) -> tuple[bytes, bytes]:
    """Sends a request as it is; (the answer, and that of a second request on the same connection)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        writer.write(head.replace("\n", "\r\n").encode())
        for chunk in body:
            writer.write(chunk)
            await writer.drain()
        first = await asyncio.wait_for(_answer(reader), at_this_load(10))
        writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        return first, await asyncio.wait_for(_answer(reader), at_this_load(10))
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
    )
    return head + await reader.readexactly(length)


@pytest.mark.parametrize("path", [*ROUTES, "/api/train", "/api/jobs/x/retry"])
async def test_a_body_that_announces_60_mb_is_413_and_the_connection_goes_on(served: Any, path: Any) -> None:
    head = f"POST {path} HTTP/1.1\nhost: x\ncontent-type: application/json\ncontent-length: {60 * MIB}\n\n"
    answer, second = await _talk(served, head, [b" " * MIB] * 60)
    assert answer.startswith(b"HTTP/1.1 413")
    assert PROBLEM.encode() in answer
    assert second.startswith(b"HTTP/1.1 200")


async def test_a_body_that_is_too_large_is_refused_before_it_comes(served: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(
        b"POST /api/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 62914560\r\n\r\n"
    )
    answer = await asyncio.wait_for(_answer(reader), at_this_load(5))
    writer.close()
    assert answer.startswith(b"HTTP/1.1 413")


async def test_a_chunked_body_of_60_mb_is_413_and_the_connection_goes_on(served: Any) -> None:
    head = "POST /api/jobs HTTP/1.1\nhost: x\ncontent-type: application/json\ntransfer-encoding: chunked\n\n"
    chunk = f"{MIB:x}\r\n".encode() + b" " * MIB + b"\r\n"
    answer, second = await _talk(served, head, [chunk] * 60 + [b"0\r\n\r\n"])
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"body_too_large"' in answer
    assert second.startswith(b"HTTP/1.1 200")


async def test_a_client_that_goes_away_in_the_middle_of_its_body_is_no_error_of_ours(
    served: Any, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(
        b"POST /api/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    )
    await writer.drain()
    writer.close()

    async def counted() -> Any:
        text = (await served.http.get("/metrics")).text
        assert 'route="/api/jobs",status="500"' not in text
        return 'route="/api/jobs",status="400"' in text

    await served.becomes(counted)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# Addresses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", ["none", "a%00b", "..%2f..%2fetc", "%ff", "a b", "a*", "x" * 5000, "%F0%9F%98%80", "-"])
async def test_an_unknown_job_is_404_whatever_its_id(served: Any, job: Any) -> None:
    for method, path in [
        ("GET", ""), ("GET", "/graph"), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/retry"), ("DELETE", ""),
        ("POST", "/nodes/a/finish"),
    ]:  # fmt: skip
        answer = await served.http.request(method, f"/api/jobs/{job}{path}")
        assert answer.status_code == 404, (method, path)
        assert checked_at(answer)["code"] in ("unknown_job", "not_found")
    answer = await served.http.get(f"/api/status/{job}")
    assert answer.status_code == 404


def checked_at(answer: Any) -> Any:
    document = answer.json()
    assert answer.headers["content-type"] == PROBLEM
    return document


@pytest.mark.parametrize(
    "path", ["/nothing", "/api", "/api/", "/api/jobs/a/b/c", "/api/graphs/x", "/schemas/none.json"]
)
async def test_an_address_that_is_none_is_404(served: Any, path: Any) -> None:
    answer = await served.http.get(path)
    assert answer.status_code == 404
    assert checked_at(answer)["status"] == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/api/jobs"),
        ("DELETE", "/api/jobs"),
        ("GET", "/api/plans"),
        ("POST", "/api/workers"),
        ("PUT", "/api/jobs/x"),
        ("POST", "/health/live"),
    ],
)
async def test_a_method_that_is_none_is_405_and_says_which_are(served: Any, method: Any, path: Any) -> None:
    answer = await served.http.request(method, path)
    assert answer.status_code == 405
    assert checked(answer)["code"] == "method_not_allowed"
    assert method not in answer.headers["allow"]
    assert answer.headers["allow"]


@pytest.mark.parametrize(
    "query",
    [
        "status=done", "status=running,", "status=", "limit=0", "limit=501", "limit=x", "limit=1.5", "limit=", "since=soon", "since=",
        "since=2026-01-01T00:00:00", "until=2026-13-01T00:00:00Z", 
        "since=1e300", "cursor=x", "cursor=%00", "cursor=OTk5", "cursor=", "limit=" + "9" * 5000, "statuss=failed", "page=2",
        "pipeline=a&pipeline=b", "limit=1&limit=2", "pipeline=", "cursor=" + "QTpi", "since=1700000000",
    ],
)  # fmt: skip
async def test_a_filter_that_cannot_be_obeyed_is_refused(served: Any, query: Any) -> None:
    answer = await served.http.get(f"/api/jobs?{query}")
    assert answer.status_code == 422, answer.text
    problem = checked(answer)
    assert problem["code"] == "invalid_parameter"
    assert query.split("=")[0] in (problem["detail"] + str(problem["errors"]))


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/events?after=-1"), ("GET", "/events?after=x"), ("GET", "/events?after=" + "9" * 30), ("GET", "/events?before=1"),
     ("DELETE", "?artifacts=maybe"), ("DELETE", "?artefacts=true"), ("POST", "/cancel?force=1"), ("GET", "?full=1"),
     ("POST", "/retry?from=start")],
)  # fmt: skip
async def test_a_parameter_that_cannot_be_obeyed_is_refused(served: Any, method: Any, path: Any) -> None:
    answer = await served.http.request(method, f"/api/jobs/none{path}")
    assert answer.status_code == 422
    assert checked(answer)["code"] == "invalid_parameter"


# Anything -------------------------------------------------------------------------------------------------------------

TEXT = st.text(max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT | st.sampled_from(["$from", "path", "default", "wait"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
IDS = st.sampled_from(["a", "b", "c"]) | TEXT


def mostly(good: st.SearchStrategy, bad: st.SearchStrategy = JSON) -> st.SearchStrategy:
    return st.one_of(good, good, good, good, bad)


NODES = st.fixed_dictionaries(
    {"id": mostly(IDS), "task": mostly(st.sampled_from(["act", "light_node", "merge_capabilities", "none"])), "plane": mostly(st.sampled_from(["node", "python"]))},
    optional={
        "params": mostly(st.dictionaries(st.sampled_from(["output", "wait", "fail", "log", "x"]), JSON, max_size=3)), "input": JSON, "output": JSON,
        "timeoutSeconds": JSON, "tags": JSON, "retries": JSON, "telemetry": JSON, "progressWeight": JSON, "name": JSON, "error": JSON,
    },
)  # fmt: skip
EDGES = st.fixed_dictionaries({"from": mostly(IDS), "to": mostly(IDS)}, optional={"kind": JSON, "metadata": JSON})
GRAPHS = st.fixed_dictionaries(
    {"schema": mostly(st.just("langgraph.v1")), "nodes": mostly(st.lists(NODES, max_size=4)), "edges": mostly(st.lists(EDGES, max_size=4))},
    optional={"workflowId": JSON, "context": JSON, "metadata": JSON},
)  # fmt: skip
SUBMISSIONS = st.fixed_dictionaries(
    {},
    optional={
        "graph": mostly(GRAPHS), "pipeline": mostly(st.sampled_from(["simulate", "talking_picture"])), "params": JSON, "startAt": JSON | st.just("2999-01-01T00:00:00Z"),
        "priority": JSON, "metadata": JSON,
    },
)  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(document=st.one_of(JSON, GRAPHS.map(lambda made: {"graph": made}), SUBMISSIONS))
async def test_no_document_at_all_makes_a_500(served: Any, document: Any) -> None:
    body = json.dumps(document, allow_nan=False).encode("utf-8", "surrogatepass")
    planned = await served.raw("/api/plans", body)
    submitted = await served.raw("/api/jobs", body)
    assert planned.status_code in (200, 400, 422)
    assert submitted.status_code in ((201, 409) if planned.status_code == 200 else (planned.status_code,))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(body=st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")))
async def test_no_bytes_at_all_make_a_500(served: Any, body: Any) -> None:
    for path in (*ROUTES, "/api/jobs/batch"):
        assert (await served.raw(path, body)).status_code in (400, 422)


async def test_the_service_is_well_after_all_this(served: Any) -> None:
    job = await served.submit(node("a"), job=new_id())
    assert (await served.ended(job))["status"] == "completed"
