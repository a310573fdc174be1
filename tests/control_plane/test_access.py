"""Who is let in, what he may, and whose jobs and artifacts he sees; on REST, event streams and the WebSocket alike."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import websockets
from litestar.routes import HTTPRoute

from dihedral.bridge.artifacts.local import LocalStore
from dihedral.bridge.artifacts.owned import OwnedStore
from dihedral.bridge.artifacts.store import BadKey
from dihedral.control_plane import api_keys
from dihedral.control_plane.__main__ import OpenToAll, refuse_open_to_all
from dihedral.control_plane.access import MAX_SESSIONS
from dihedral.control_plane.app import create_app
from dihedral.schemas.structs.settings import Settings
from tests.control_plane.locked import locked_house
from tests.control_plane.served import checked, edge, made_settings, new_id, node, submission
from tests.support.planes import RUNS, gate
from tests.support.polling import at_this_load

pytestmark = pytest.mark.asyncio(loop_scope="session")

UNKNOWN = "dhk_0123456789abcdef_" + "A" * 43
SECONDS = 20


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    async with locked_house(tmp_path_factory.mktemp("locked"), allowed_origins=["https://console.example"]) as house:
        for name in ("alice", "bob"):
            await house.key(name)
        await house.key("admin", "admin")
        for scope in ("submit", "read", "cancel", "operate"):
            await house.key(scope, scope, owner="alice")
        await house.served.becomes(lambda: house.http.get("/api/session", headers=house.of("cancel")))

        async def known() -> Any:
            return (await house.http.get("/api/session", headers=house.of("read"))).status_code == 200

        await house.served.becomes(known)
        yield house


async def said(socket: Any, job: Any) -> Any:
    await socket.send(json.dumps({"action": "subscribe", "jobId": job}))
    async with asyncio.timeout(at_this_load(SECONDS)):
        return json.loads(await socket.recv())


# Keys -------------------------------------------------------------------------------------------------------------------


async def test_every_route_but_the_public_ones_wants_a_key(house: Any, tmp_path: Path) -> None:
    """Read from the application's own routes, so that a new one is closed without anybody thinking of it."""
    seen = set()
    for route in create_app(made_settings("redis://127.0.0.1:1", tmp_path)).routes:
        if not isinstance(route, HTTPRoute):
            continue
        path = re.sub(r"\{[^}]*\}", "x", route.path)
        for method in sorted(route.methods - {"OPTIONS"}):
            answer = await house.http.request(method, path)
            seen.add((method, path, answer.status_code == 401))
    public = {path for _, path, closed in seen if not closed}
    assert public == {
        "/",
        "/console",
        "/console/x",
        "/docs",
        "/docs/x",
        "/health",
        "/health/live",
        "/health/ready",
        "/llms.txt",
        "/schema",
        "/schema/openapi.json",
        "/schema/x",
        "/schemas/x",
    }
    assert ("GET", "/metrics", True) in seen
    assert len(seen) > 30


@pytest.mark.parametrize(
    "header", ["", "Bearer", f"Bearer {UNKNOWN}", "Bearer x", "Basic YTpi", "Bearer dhk_é", "alice"]
)
async def test_what_is_no_key_is_refused(house: Any, header: Any) -> None:
    house.http.cookies.clear()  # of a test that signed in
    answer = await house.http.get("/api/jobs", headers=[(b"authorization", header.encode())] if header else [])
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert checked(answer)["code"] in ("no_api_key", "bad_api_key")


async def test_another_secret_with_the_right_id_is_refused(house: Any) -> None:
    token = house.tokens["alice"]
    wrong = token[:-1] + ("A" if token[-1] != "A" else "B")
    answer = await house.http.get("/api/jobs", headers={"Authorization": f"Bearer {wrong}"})
    assert checked(answer)["code"] == "bad_api_key"


async def test_a_key_is_stored_as_a_hash_only_and_each_is_another(house: Any) -> None:
    token = await house.key("stored")
    secret = token.split("_", 2)[2]  # which may have a _ itself
    dump = {name: await house.client.dump(name) for name in await house.client.keys("*")}
    assert not any(secret.encode() in raw for raw in dump.values())
    rows = b"".join((await house.client.hgetall("dihedral:keys")).values())
    assert api_keys.digest(token).encode() in rows
    assert secret.encode() not in rows
    assert len({(await house.key("stored")) for _ in range(20)}) == 20


async def test_a_revoked_key_is_refused_within_a_second_or_two(house: Any) -> None:
    await house.key("gone")
    await house.served.becomes(lambda: _is(house, "gone", 200))
    await api_keys.revoke(house.client, house.ids["gone"])
    began = time.monotonic()
    await house.served.becomes(lambda: _is(house, "gone", 401))
    assert time.monotonic() - began < at_this_load(5)


async def test_an_expired_key_is_refused(house: Any) -> None:
    await house.key("short", expires_seconds=3)
    await house.served.becomes(lambda: _is(house, "short", 200))
    await house.served.becomes(lambda: _is(house, "short", 401))


async def _is(house: Any, name: Any, status: Any) -> Any:
    return (await house.http.get("/api/jobs", headers=house.of(name))).status_code == status


SCOPED = [
    ("GET", "/api/jobs", "read"),
    ("GET", "/api/jobs/x", "read"),
    ("GET", "/api/jobs/x/graph", "read"),
    ("GET", "/api/jobs/x/events", "read"),
    ("GET", "/api/status/x", "read"),
    ("GET", "/api/capabilities", "read"),
    ("GET", "/api/pipelines", "read"),
    ("GET", "/api/workers", "read"),
    ("GET", "/api/queues", "read"),
    ("GET", "/api/presets", "read"),
    ("GET", "/api/presets/tasks/x/y", "read"),
    ("PUT", "/api/presets/tasks/x/y", "submit"),
    ("DELETE", "/api/presets/tasks/x/y", "submit"),
    ("PUT", "/api/favourites/inputs/x", "submit"),
    ("DELETE", "/api/favourites/inputs/x", "submit"),
    ("GET", "/api/artifacts", "read"),
    ("GET", "/api/artifacts/inputs/x", "read"),
    ("GET", "/api/artifacts-meta/inputs/x", "read"),
    ("GET", "/metrics", "read"),
    ("POST", "/api/session", "read"),
    ("POST", "/api/jobs", "submit"),
    ("POST", "/api/jobs/batch", "submit"),
    ("POST", "/api/plans", "submit"),
    ("POST", "/api/train", "submit"),
    ("POST", "/api/artifacts", "submit"),
    ("POST", "/api/jobs/x/retry", "submit"),
    ("PATCH", "/api/jobs/x", "submit"),
    ("POST", "/api/jobs/x/front", "operate"),
    ("POST", "/api/queues/node/default/resume", "operate"),
    ("POST", "/api/queues/node/x/pause", "operate"),
    ("POST", "/api/workers/x/drain", "operate"),
    ("POST", "/api/workers/x/resume", "operate"),
    ("POST", "/api/jobs/x/cancel", "cancel"),
    ("POST", "/api/jobs/x/nodes/a/finish", "cancel"),
    ("DELETE", "/api/jobs/x", "cancel"),
    ("DELETE", "/api/artifacts/inputs/x", "cancel"),
    ("GET", "/api/dead-letters", "admin"),
    ("POST", "/api/dead-letters/x/requeue", "admin"),
    ("DELETE", "/api/dead-letters/x", "admin"),
]


@pytest.mark.parametrize(("method", "path", "scope"), SCOPED, ids=lambda value: value)
async def test_a_route_is_there_for_its_scope_and_for_admins_alone(
    house: Any, method: Any, path: Any, scope: Any
) -> None:
    for name in ("submit", "read", "cancel", "operate", "admin"):
        answer = await house.http.request(method, path, headers=house.of(name))
        refused = answer.status_code == 403 and checked(answer)["code"] == "scope_missing"
        assert refused == (name not in (scope, "admin")), (name, answer.text)


# Owners -----------------------------------------------------------------------------------------------------------------


async def test_a_job_of_somebody_else_is_not_there(house: Any) -> None:
    name = new_id()
    job = await house.submit("alice", node("a", wait=name), job=new_id())
    asks = [
        ("GET", f"/api/jobs/{job}"),
        ("GET", f"/api/jobs/{job}/graph"),
        ("GET", f"/api/jobs/{job}/events"),
        ("GET", f"/api/status/{job}"),
        ("POST", f"/api/jobs/{job}/cancel"),
        ("POST", f"/api/jobs/{job}/nodes/a/finish"),
        ("POST", f"/api/jobs/{job}/retry"),
        ("PATCH", f"/api/jobs/{job}"),
        ("DELETE", f"/api/jobs/{job}"),
    ]
    for method, path in asks:
        assert (await house.ask("bob", method, path, 404))["code"] == "unknown_job", path
    stream = {"Accept": "text/event-stream"}
    assert (await house.ask("bob", "GET", f"/api/jobs/{job}/events", 404, headers=stream))["code"] == "unknown_job"
    async with house.socket("bob") as bob, house.socket("alice") as alice, house.socket("admin") as admin:
        assert (await said(bob, job))["reason"] == "unknown_job"
        assert (await said(alice, job))["message"] == "subscribed"
        assert (await said(admin, job))["message"] == "subscribed"
    assert (await house.ask("alice", "GET", f"/api/jobs/{job}"))["status"] in ("queued", "running")
    assert (await house.ask("read", "GET", f"/api/jobs/{job}"))["jobId"] == job, "another key of the same owner"
    gate(name).set()
    await house.ended("admin", job)
    assert (await house.ask("bob", "DELETE", f"/api/jobs/{job}", 404))["code"] == "unknown_job"
    await house.ask("alice", "DELETE", f"/api/jobs/{job}", 204)


async def test_a_list_has_ones_own_jobs_only_on_every_page(house: Any) -> None:
    mine = [await house.submit(name, node("a")) for name in ("alice", "bob", "alice", "bob", "alice")]
    seen, cursor = [], None
    while True:
        page = await house.ask("bob", "GET", "/api/jobs", params={"limit": 1} | ({"cursor": cursor} if cursor else {}))
        seen += [job["jobId"] for job in page["jobs"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert {mine[1], mine[3]} <= set(seen)
    assert not {mine[0], mine[2], mine[4]} & set(seen)
    everybody = [job["jobId"] for job in (await house.ask("admin", "GET", "/api/jobs", params={"limit": 500}))["jobs"]]
    assert set(mine) <= set(everybody)


async def test_the_same_bytes_and_key_of_another_owner_are_another_request(house: Any) -> None:
    """Else whoever guesses a submission is handed the job that it made."""
    job, headers = new_id(), {"Idempotency-Key": "one"}
    body = submission(node("a"), job=job)
    await house.ask("alice", "POST", "/api/jobs", 201, json=body, headers=headers)
    await house.ask("alice", "POST", "/api/jobs", 200, json=body, headers=headers)
    assert (await house.ask("bob", "POST", "/api/jobs", 409, json=body, headers=headers))["code"] == "job_exists"
    free = submission(node("a"))
    hers = await house.ask("alice", "POST", "/api/jobs", 201, json=free, headers={"Idempotency-Key": "two"})
    his = await house.ask("bob", "POST", "/api/jobs", 201, json=free, headers={"Idempotency-Key": "two"})
    assert hers["jobId"] != his["jobId"]


async def test_an_upload_is_there_for_its_owner_alone(house: Any) -> None:
    meta = await house.upload("alice")
    assert meta["owner"] == "alice"
    place = f"{meta['bucket']}/{meta['key']}"
    for path in (f"/api/artifacts/{place}", f"/api/artifacts-meta/{place}"):
        await house.ask("alice", "GET", path)
        await house.ask("admin", "GET", path)
        assert (await house.ask("bob", "GET", path, 404))["code"] == "unknown_artifact"
    assert (await house.ask("bob", "DELETE", f"/api/artifacts/{place}", 404))["code"] == "unknown_artifact"
    keys = {
        name: {each["key"] for each in (await house.ask(name, "GET", "/api/artifacts"))["artifacts"]}
        for name in ("alice", "bob", "admin")
    }
    assert meta["key"] in keys["alice"] & keys["admin"]
    assert meta["key"] not in keys["bob"]
    await house.ask("alice", "DELETE", f"/api/artifacts/{place}", 204)


async def test_what_a_job_stores_belongs_to_its_owner(house: Any) -> None:
    task = {"id": "a", "task": "upload_artifact", "plane": "node", "params": {"name": "x.txt", "text": "hers"}}
    job = await house.submit("alice", task)
    (meta,) = (await house.ended("alice", job))["artifacts"]
    assert meta["owner"] == "alice"
    assert (await house.ask("alice", "GET", f"/api/artifacts/{meta['bucket']}/{meta['key']}")).text == "hers"
    assert await house.ask("bob", "GET", f"/api/artifacts/{meta['bucket']}/{meta['key']}", 404)


async def test_a_job_cannot_read_the_artifacts_of_another_owner(house: Any) -> None:
    """Whoever writes the params can put any reference there: the submission is refused, and one handed on by $from is not there for the run."""
    meta = await house.upload("alice")
    reference = {"bucket": meta["bucket"], "key": meta["key"]}
    direct = {"id": "a", "task": "prepare_assets", "plane": "node", "params": {"assets": [reference]}}
    assert (await house.ended("alice", await house.submit("alice", direct)))["status"] == "completed"
    await house.ask("bob", "POST", "/api/jobs", 422, json=submission(direct))
    handed = {
        "id": "b", "task": "prepare_assets", "plane": "node", "params": {"assets": [{"$from": "o", "path": "/ref"}]}
    }  # fmt: skip
    for name, status in (("alice", "completed"), ("bob", "failed")):
        job = await house.submit(name, node("o", output={"ref": reference}), handed, edges=[edge("o", "b")])
        found = await house.ended(name, job)
        assert found["status"] == status
        if status == "failed":
            assert found["error"]["code"] == "artifact_not_found"


async def test_nobody_can_say_in_his_graph_that_he_is_somebody_else(house: Any) -> None:
    meta = await house.upload("alice")
    made = node("o", output={"ref": {"bucket": meta["bucket"], "key": meta["key"]}})
    read = {
        "id": "a", "task": "prepare_assets", "plane": "node", "params": {"assets": [{"$from": "o", "path": "/ref"}]}
    }  # fmt: skip
    forged = submission(made, read, edges=[edge("o", "a")], metadata={"dihedral.owner": "alice"})
    forged["graph"]["metadata"] = {"dihedral.owner": "alice"}
    job = (await house.ask("bob", "POST", "/api/jobs", 201, json=forged))["jobId"]
    assert (await house.ended("bob", job))["status"] == "failed"
    graph = await house.ask("bob", "GET", f"/api/jobs/{job}/graph")
    assert graph["metadata"]["dihedral.owner"] == "bob"


async def test_examples_are_everybodys_to_read_and_nobodys_to_delete(house: Any) -> None:
    store = LocalStore(Path(house.served.settings.artifacts.directory))
    await store.put("inputs", "examples/x.txt", b"for all", "text/plain")
    await store.put("inputs", "older/x.txt", b"of nobody", "text/plain")
    assert (await house.ask("bob", "GET", "/api/artifacts/inputs/examples/x.txt")).text == "for all"
    await house.ask("bob", "DELETE", "/api/artifacts/inputs/examples/x.txt", 404)
    await house.ask("bob", "GET", "/api/artifacts/inputs/older/x.txt", 404)
    assert (await house.ask("admin", "GET", "/api/artifacts/inputs/older/x.txt")).text == "of nobody"


async def test_workers_do_not_tell_whose_jobs_they_run(house: Any) -> None:
    name = new_id()
    job = await house.submit("alice", node("a", wait=name))

    async def told() -> Any:
        workers = (await house.ask("admin", "GET", "/api/workers"))["workers"]
        return any(each["jobId"] == job for worker in workers for each in worker["running"])

    await house.served.becomes(told)
    workers = (await house.ask("bob", "GET", "/api/workers"))["workers"]
    assert workers
    assert not any(worker["running"] for worker in workers)
    gate(name).set()
    await house.ended("alice", job)


# Limits of a key --------------------------------------------------------------------------------------------------------


async def test_a_key_submits_no_more_than_its_rate(house: Any) -> None:
    await house.key("slow", jobs_per_minute=2)
    await house.served.becomes(lambda: _is(house, "slow", 200))
    body = submission(node("a"))
    batch = (await house.ask("slow", "POST", "/api/jobs/batch", json={"jobs": [body] * 3}))["jobs"]
    assert [each.get("code") for each in batch] == [None, None, "rate_limited"]
    answer = await house.http.post("/api/jobs", json=body, headers=house.of("slow"))
    assert (answer.status_code, checked(answer)["code"]) == (429, "rate_limited")
    assert 1 <= int(answer.headers["retry-after"]) <= 30


async def test_a_key_has_no_more_jobs_alive_than_its_quota(house: Any) -> None:
    await house.key("few", max_alive=1)
    await house.served.becomes(lambda: _is(house, "few", 200))
    name = new_id()
    job = await house.submit("few", node("a", wait=name))
    assert (await house.ask("few", "POST", "/api/jobs", 429, json=submission(node("a"))))["code"] == "quota_reached"
    gate(name).set()
    await house.ended("few", job)
    await house.ended("few", await house.submit("few", node("a")))


async def test_a_key_passes_its_quota_neither_by_retry_nor_by_requeue(house: Any) -> None:
    await house.key("again", "submit,read,cancel,admin", max_alive=1)
    await house.served.becomes(lambda: _is(house, "again", 200))
    async with house.served.no_worker():
        worker = await house.served.planes.start("python")
        failed = await house.submit("again", node("f", task="once", wait=(lost := new_id())))
        await house.served.becomes(lambda: ("begin", "f") in RUNS)
        await house.served.planes.kill(worker)
    await house.served.planes.start("python", light=64)
    assert (await house.ended("again", failed))["error"]["code"] == "worker_lost"

    async def dead() -> Any:
        letters = (await house.ask("again", "GET", "/api/dead-letters"))["deadLetters"]
        return next((letter for letter in letters if letter["jobId"] == failed), None)

    letter = await dead()
    job = await house.submit("again", node("a", wait=(name := new_id())))
    for path in (f"/api/jobs/{failed}/retry", f"/api/dead-letters/{letter['id']}/requeue"):
        answer = await house.http.post(path, headers=house.of("again"))
        assert (answer.status_code, checked(answer)["code"]) == (429, "quota_reached"), path
        assert answer.headers["retry-after"] == "5"
    assert (await house.ask("again", "GET", f"/api/jobs/{failed}"))["status"] == "failed"
    assert await dead(), "a refused requeue keeps the letter"
    gate(name).set()
    await house.ended("again", job)
    gate(lost).set()
    await house.ask("again", "POST", f"/api/dead-letters/{letter['id']}/requeue")
    assert await dead() is None
    await house.ended("again", failed)


async def test_a_key_has_no_more_sockets_and_streams_than_it_may(tmp_path: Path) -> None:
    async with locked_house(tmp_path, max_sockets_per_key=2) as house:
        await house.key("alice")
        await house.served.becomes(lambda: _is(house, "alice", 200))
        name = new_id()
        job = await house.submit("alice", node("a", wait=name))
        stream = {**house.of("alice"), "Accept": "text/event-stream"}
        async with house.socket("alice"), house.http.stream("GET", f"/api/jobs/{job}/events", headers=stream) as events:
            assert events.status_code == 200
            lines = events.aiter_lines()
            async with asyncio.timeout(at_this_load(SECONDS)):
                await anext(lines)
            assert (await house.refused("alice"))["code"] == "too_many_sockets"
            answer = await house.http.get(f"/api/jobs/{job}/events", headers=stream)
            assert (answer.status_code, checked(answer)["code"]) == (429, "too_many_sockets")

        async def free() -> Any:
            try:
                async with house.socket("alice"):
                    return True
            except websockets.InvalidStatus:
                return False

        await house.served.becomes(free)
        gate(name).set()


# What goes on for long --------------------------------------------------------------------------------------------------


async def test_an_open_socket_and_stream_end_when_their_key_is_revoked(house: Any) -> None:
    await house.key("leaver")
    await house.served.becomes(lambda: _is(house, "leaver", 200))
    name = new_id()
    job = await house.submit("leaver", {**node("a", wait=name), "retries": {"maxAttempts": 1}})
    stream = {**house.of("leaver"), "Accept": "text/event-stream"}
    async with house.socket("leaver") as socket, house.http.stream("GET", f"/api/jobs/{job}/events", headers=stream):
        assert (await said(socket, job))["message"] == "subscribed"
        await api_keys.revoke(house.client, house.ids["leaver"])
        async with asyncio.timeout(at_this_load(SECONDS)):
            await socket.wait_closed()
        assert (socket.close_code, socket.close_reason) == (1008, "the API key is no longer valid")
    gate(name).set()


# Browsers ---------------------------------------------------------------------------------------------------------------


async def cookie_of(house: Any, name: Any, **headers: Any) -> Any:
    answer = await house.http.post("/api/session", headers={**house.of(name), **headers})
    assert answer.status_code == 200, answer.text
    house.http.cookies.clear()
    value = answer.cookies["dihedral_session"]
    return {"Cookie": f"dihedral_session={value}"}, answer.headers["set-cookie"], answer.json()


async def test_a_session_cookie_is_for_this_site_and_no_script(house: Any) -> None:
    cookie, attributes, document = await cookie_of(house, "alice")
    assert (document["owner"], document["scopes"]) == ("alice", ["submit", "read", "cancel"])
    for attribute in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age="):
        assert attribute.lower() in attributes.lower(), attributes
    assert "secure" not in attributes.lower()
    _, attributes, _ = await cookie_of(house, "alice", **{"X-Forwarded-Proto": "https"})
    assert "secure" in attributes.lower()
    value = cookie["Cookie"].partition("=")[2]
    assert not any(value.encode() in name for name in await house.client.keys("session:*")), "kept as a hash"


async def test_a_session_reads_and_watches_but_changes_nothing(house: Any) -> None:
    cookie, _, _ = await cookie_of(house, "alice")
    meta = await house.upload("alice")
    job = await house.submit("alice", node("a"))
    await house.ended("alice", job)
    assert (await house.ask(None, "GET", f"/api/artifacts/inputs/{meta['key']}", headers=cookie)).text == "of hers"
    stream = {**cookie, "Accept": "text/event-stream"}
    assert "event: status" in (await house.ask(None, "GET", f"/api/jobs/{job}/events", headers=stream)).text
    async with house.socket(None, **cookie) as socket:
        assert (await said(socket, job))["message"] == "subscribed"
    changes = [
        ("POST", "/api/jobs"), ("POST", "/api/train"), ("POST", f"/api/jobs/{job}/cancel"), ("POST", f"/api/jobs/{job}/retry"),
        ("DELETE", f"/api/jobs/{job}"), ("POST", "/api/artifacts"), ("POST", "/api/session"),
    ]  # fmt: skip
    for method, path in changes:
        assert (await house.ask(None, method, path, 401, headers=cookie))["code"] == "no_api_key", path


async def test_a_session_ends_when_it_is_told_to_and_with_its_key(house: Any) -> None:
    await house.key("brief")
    await house.served.becomes(lambda: _is(house, "brief", 200))
    first, _, _ = await cookie_of(house, "brief")
    second, _, _ = await cookie_of(house, "brief")
    await house.ask(None, "DELETE", "/api/session", 204, headers=first)
    assert (await house.ask(None, "GET", "/api/jobs", 401, headers=first))["code"] == "session_ended"
    await house.ask(None, "GET", "/api/jobs", headers=second)
    await api_keys.revoke(house.client, house.ids["brief"])

    async def ended() -> Any:
        return (await house.http.get("/api/jobs", headers=second)).status_code == 401

    await house.served.becomes(ended)
    forged = {"Cookie": "dihedral_session=" + "A" * 43}
    assert (await house.ask(None, "GET", "/api/jobs", 401, headers=forged))["code"] == "session_ended"


async def test_pages_of_other_sites_neither_act_nor_watch_nor_read(house: Any) -> None:
    evil = {"Origin": "https://evil.example"}
    cookie, _, _ = await cookie_of(house, "alice")
    assert (await house.ask("alice", "POST", "/api/train", 403, headers=evil))["code"] == "origin_forbidden"
    assert (await house.refused(None, **cookie, **evil))["code"] == "origin_forbidden"
    answer = await house.http.get("/api/jobs", headers={**cookie, **evil})
    assert "access-control-allow-origin" not in answer.headers
    preflight = {**evil, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    answer = await house.http.options("/api/jobs", headers=preflight)
    assert "access-control-allow-origin" not in answer.headers


async def test_our_own_pages_and_the_allowed_ones_may(house: Any) -> None:
    own = {"Origin": f"http://127.0.0.1:{house.served.port}"}
    friend = {"Origin": "https://console.example"}
    for origin in (own, friend):
        await house.ask("alice", "POST", "/api/plans", headers=origin, json=submission(node("a")))
        async with house.socket("alice", **origin):
            pass
    answer = await house.http.get("/api/jobs", headers={**house.of("alice"), **friend})
    assert answer.headers["access-control-allow-origin"] == "https://console.example"
    assert answer.headers["access-control-allow-credentials"] == "true"
    preflight = {**friend, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    answer = await house.http.options("/api/jobs", headers=preflight)
    assert answer.headers["access-control-allow-origin"] == "https://console.example"


# Without keys -----------------------------------------------------------------------------------------------------------


async def test_without_a_key_everything_is_open_until_the_first_is_made(tmp_path: Path) -> None:
    async with locked_house(tmp_path, first_key=False) as house:
        job = await house.submit(None, node("a"))
        before = await house.ended(None, job)
        assert before["status"] == "completed"
        meta = await house.upload(None)
        assert "owner" not in meta
        view = await house.ask(None, "GET", "/api/session")
        assert (view["owner"], view["scopes"]) == (None, ["submit", "read", "cancel", "operate", "admin"])
        await house.ask(None, "GET", "/metrics")
        name = new_id()
        async with house.socket() as socket:
            waiting = await house.submit(None, node("a", wait=name))
            assert (await said(socket, waiting))["message"] == "subscribed"
            await house.key("alice")
            await house.key("admin", "admin")
            await house.served.becomes(lambda: _is(house, None, 401))
            async with asyncio.timeout(at_this_load(SECONDS)):
                await socket.wait_closed()
            assert socket.close_code == 1008
        assert (await house.ask("admin", "GET", f"/api/jobs/{job}"))["jobId"] == job
        assert await house.ask("alice", "GET", f"/api/jobs/{job}", 404)
        await api_keys.revoke(house.client, house.ids["alice"])
        await api_keys.revoke(house.client, house.ids["admin"])
        await house.served.becomes(lambda: _is(house, "admin", 401))
        assert await _is(house, None, 401), "the last key's revocation opens nothing"
        gate(name).set()


async def test_an_open_control_plane_is_not_for_pages_of_other_sites(tmp_path: Path) -> None:
    """No secret protects it, so the browser's word must: a foreign Origin, or a name that leads here by DNS rebinding."""
    async with locked_house(tmp_path, first_key=False, allowed_hosts=["box.example"]) as house:
        evil = {"Origin": "http://evil.example"}
        for path in ("/api/train", "/api/jobs", "/api/artifacts"):
            assert (await house.ask(None, "POST", path, 403, headers=evil))["code"] == "origin_forbidden"
        assert (await house.refused(None, **evil))["code"] == "origin_forbidden"
        port = house.served.port
        rebound = {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"}
        assert (await house.ask(None, "GET", "/api/jobs", 421, headers=rebound))["code"] == "host_forbidden"
        assert (await house.ask(None, "POST", "/api/train", 421, headers=rebound))["code"] == "host_forbidden"
        for host in ("[::1", "no name", "a.b:c"):
            answer = await house.http.get("/api/jobs", headers={"Host": host})
            assert answer.status_code in (400, 421), (host, answer.text)
        assert (await house.ask(None, "POST", "/api/train", 403, headers={"Origin": "http://["}))[
            "code"
        ] == "origin_forbidden"
        for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "box.example"):
            await house.ask(None, "GET", "/api/jobs", headers={"Host": host})


async def test_beyond_loopback_nobody_gets_in_without_a_key_unless_told_so(tmp_path: Path) -> None:
    """Also where there is none: a control plane that started while Redis was away must not be open."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with locked_house(tmp_path / "a", first_key=False, host="0.0.0.0") as house:
        assert (await house.ask(None, "GET", "/api/jobs", 401))["code"] == "no_api_key"
        assert (await house.refused(None))["code"] == "no_api_key"
        assert (await house.ask(None, "GET", "/health/ready"))["status"] == "ok"
    async with locked_house(tmp_path / "b", first_key=False, host="0.0.0.0", insecure=True) as house:
        await house.ask(None, "GET", "/api/jobs")


async def test_keys_of_the_settings_are_there_from_the_start(tmp_path: Path) -> None:
    keys = f"# ours\nadmin admin {UNKNOWN}\n\n"
    async with locked_house(tmp_path, first_key=False, keys=keys) as house:
        house.tokens["admin"] = UNKNOWN
        await house.ask(None, "GET", "/api/jobs", 401)
        found = await house.ask("admin", "GET", "/api/session")
        assert (found["owner"], found["scopes"]) == ("admin", list(api_keys.SCOPES))
        everywhere = msgspec.convert(msgspec.to_builtins(house.served.settings), Settings)
        everywhere.control.host = "0.0.0.0"
        refuse_open_to_all(everywhere)
        everywhere.control.keys = ""
        with pytest.raises(OpenToAll):
            refuse_open_to_all(everywhere)


@pytest.mark.parametrize(
    "line", [f"admin {UNKNOWN}", "admin admin dhk_short", f"admin everything {UNKNOWN}", f"no/body read {UNKNOWN}"]
)
async def test_a_line_that_is_no_key_is_refused_without_showing_it(line: Any) -> None:
    with pytest.raises(api_keys.KeyRefused) as error:
        api_keys.given(line)
    assert "dhk_0" not in str(error.value)


# What was found later ---------------------------------------------------------------------------------------------------


async def test_a_repeated_idempotency_key_shows_no_job_of_another_owner(house: Any) -> None:
    job, key = new_id(), {"Idempotency-Key": new_id()}
    body = submission(node("a"), job=job)
    await house.ask("alice", "POST", "/api/jobs", 201, json=body, headers=key)
    await house.ended("alice", job)
    await house.ask("alice", "DELETE", f"/api/jobs/{job}", 204)
    await house.submit("bob", node("secret_of_bob"), job=job)
    problem = await house.ask("alice", "POST", "/api/jobs", 409, json=body, headers=key)
    assert problem["code"] == "job_gone"
    await house.ended("bob", job)


async def test_a_refused_submission_leaves_no_idempotency_key_behind(house: Any) -> None:
    await house.key("full", max_alive=1)
    await house.served.becomes(lambda: _is(house, "full", 200))
    job = await house.submit("full", node("a", wait=(name := new_id())))
    for _ in range(5):
        answer = await house.http.post(
            "/api/jobs", json=submission(node("a")), headers={**house.of("full"), "Idempotency-Key": new_id()}
        )
        assert answer.status_code == 429
    assert await house.client.keys("idempotency:full:*") == []
    gate(name).set()
    await house.ended("full", job)


async def test_a_key_keeps_no_more_sessions_than_the_limit(house: Any) -> None:
    await house.key("many")
    await house.served.becomes(lambda: _is(house, "many", 200))
    first, _, _ = await cookie_of(house, "many")
    before = len(await house.client.keys("session:*"))
    for _ in range(MAX_SESSIONS + 5):
        last, _, _ = await cookie_of(house, "many")
    assert len(await house.client.keys("session:*")) <= before + MAX_SESSIONS + 1
    await house.ask(None, "GET", "/api/jobs", 401, headers=first)
    await house.ask(None, "GET", "/api/jobs", headers=last)


async def test_logging_out_closes_the_sockets_of_the_session_and_no_others(house: Any) -> None:
    job = await house.submit("alice", node("a", wait=(name := new_id())))
    one, _, _ = await cookie_of(house, "alice")
    other, _, _ = await cookie_of(house, "alice")
    async with house.socket(None, **one) as socket, house.socket(None, **other) as stays:
        assert (await said(socket, job))["message"] == "subscribed"
        await house.ask(None, "DELETE", "/api/session", 204, headers=one)
        async with asyncio.timeout(at_this_load(SECONDS)):
            await socket.wait_closed()
        assert socket.close_code == 1008
        assert (await said(stays, job))["message"] == "subscribed"
    gate(name).set()
    await house.ended("alice", job)


async def test_streams_that_are_asked_for_at_once_are_counted_before_they_begin(tmp_path: Path) -> None:
    async with locked_house(tmp_path, max_sockets_per_key=2) as house:
        await house.key("alice")
        await house.served.becomes(lambda: _is(house, "alice", 200))
        job = await house.submit("alice", node("a", wait=(name := new_id())))
        stream = {**house.of("alice"), "Accept": "text/event-stream"}
        statuses = []

        async def one() -> None:
            async with house.http.stream("GET", f"/api/jobs/{job}/events", headers=stream) as answer:
                statuses.append(answer.status_code)
                if answer.status_code == 200:
                    await asyncio.sleep(1)

        await asyncio.gather(*(one() for _ in range(12)))
        assert sorted(statuses) == [200] * 2 + [429] * 10
        gate(name).set()


async def test_a_page_over_plain_http_does_not_act_behind_https(house: Any) -> None:
    host = f"127.0.0.1:{house.served.port}"
    secure = {"X-Forwarded-Proto": "https"}
    refused = await house.ask(
        "alice", "POST", "/api/jobs", 403, json={}, headers={"Origin": f"http://{host}", **secure}
    )
    assert refused["code"] == "origin_forbidden"
    for origin, more in ((f"https://{host}", secure), (f"https://{host}", {}), (f"http://{host}", {})):
        await house.ask("alice", "POST", "/api/jobs", 422, json={}, headers={"Origin": origin, **more})


async def test_a_job_of_a_taken_id_writes_over_no_checkpoint_of_another_owner(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    hers, his = OwnedStore(store, "alice", "alice"), OwnedStore(store, "bob", "bob")
    await hers.put("loras", "job/node/checkpoint", b"hers", "application/octet-stream", job_id="job", node_id="node")
    with pytest.raises(BadKey):
        await his.put("loras", "job/node/checkpoint", b"his", "application/octet-stream", job_id="job", node_id="node")
    assert b"".join([chunk async for chunk in hers.open("loras", "job/node/checkpoint")]) == b"hers"
    await hers.put("loras", "job/node/checkpoint", b"new", "application/octet-stream", job_id="job", node_id="node")
    await his.put("loras", "job/node/n-1/out", b"his", "application/octet-stream", job_id="job", node_id="node")
