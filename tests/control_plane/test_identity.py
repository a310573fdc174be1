"""Names, tags, params and origin of jobs; ids shortened to a prefix; search over all jobs of the caller."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import pytest_asyncio

from tests.control_plane.locked import locked_house
from tests.control_plane.served import Served, made_settings, new_id, pointers, serve, submission
from tests.support.leaks import leaks
from tests.support.planes import node
from tests.support.servers import start_server

pytestmark = pytest.mark.asyncio(loop_scope="session")

TALE: dict[str, Any] = {
    "id": "tale",
    "label": "Tale",
    "description": "Params of several kinds.",
    "params": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "prompt": {"type": "string"},
            "steps": {"type": "integer", "default": 3},
            "pace": {"type": "number", "default": 0.5},
            "files": {"type": "array", "items": {"type": "object", "x-artifact": True}},
        },
    },
    "graph": {
        "schema": "langgraph.v1",
        "nodes": [
            {
                "id": "a",
                "task": "act",
                "plane": "python",
                "params": {"output": [{"$param": "prompt"}, {"$param": "steps"}]},
            }
        ],
        "edges": [],
    },
}
NAMES = ("Dusk, second try", "日本語の声", "مساء الخير", "🎬 " * 66, "Übung №1")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    directory = tmp_path_factory.mktemp("identity")
    process, url = start_server(directory)
    try:
        made = made_settings(url, directory)
        (directory / "pipelines" / "tale.json").write_text(json.dumps(TALE))
        async with serve(made) as found:
            await found.planes.start("python")
            yield found
            assert await leaks(found.planes.client) == []
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("name", NAMES)
async def test_a_job_has_the_name_and_the_tags_that_were_given(served: Served, name: str) -> None:
    job = await served.post(
        "/api/jobs", {"pipeline": "tale", "params": {"steps": 1}, "name": name, "tags": ["final", "vidéo", "final"]}
    )
    assert (job["name"], job["tags"]) == (name, ["final", "vidéo"])
    read = await served.job(job["jobId"])
    assert (read["name"], read["tags"]) == (name, ["final", "vidéo"])
    (row,) = (await served.get("/api/jobs", limit=1))["jobs"]
    assert (row["jobId"], row["name"], row["tags"]) == (job["jobId"], name, ["final", "vidéo"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "a\nb"),
        ("name", "x" * 201),
        ("name", "a\u202eb"),
        ("tags", ["a,b"]),
        ("tags", ["x"] * 21),
        ("tags", ["x" * 51]),
    ],
)
async def test_a_name_or_tag_that_cannot_be_shown_is_refused(served: Served, field: str, value: Any) -> None:
    problem = await served.post("/api/jobs", {"pipeline": "tale", field: value}, expect=422)
    assert all(each.startswith(f"/{field}") for each in pointers(problem))


async def test_a_pipelines_job_has_its_params_as_they_run_and_the_given_ones_marked(served: Served) -> None:
    job = await served.post("/api/jobs", {"pipeline": "tale", "params": {"steps": 2}})
    assert job["given"] == ["steps"]
    assert job["params"]["steps"] == 2
    defaults = {
        name: each["default"]
        for pipeline in (await served.get("/api/pipelines"))["pipelines"]
        if pipeline["id"] == "tale"
        for name, each in pipeline["params"]["properties"].items()
        if "default" in each
    }
    assert job["params"] == defaults | {"steps": 2}
    assert (await served.job(job["jobId"]))["params"] == job["params"]


async def test_a_job_without_name_tags_and_params_stores_no_byte_of_identity(served: Served) -> None:
    job = await served.submit(node("a"))
    assert await served.planes.client.hget(f"job:{job}", "about") is None
    read = await served.job(job)
    assert [read[each] for each in ("name", "tags", "task", "params", "given", "rerunOf", "thumbnail")] == [
        None, [], None, None, [], None, None,
    ]  # fmt: skip


async def test_a_job_is_named_by_its_prompt_else_by_its_first_file(served: Served) -> None:
    spoken = await served.post(
        "/api/jobs", {"pipeline": "tale", "params": {"prompt": "Once upon\na time " + "there was " * 30}}, expect=201
    )
    assert spoken["name"].startswith("Once upon a time there was")
    assert len(spoken["name"]) <= 81
    upload = await served.http.post("/api/artifacts", files={"file": ("日本語.wav", b"RIFF", "audio/wav")})
    reference = {name: upload.json()[name] for name in ("bucket", "key")}
    heard = await served.post("/api/jobs", {"pipeline": "tale", "params": {"files": [reference]}})
    assert heard["name"] == "日本語.wav"
    picture = await served.http.post("/api/artifacts", files={"file": ("dusk.png", b"\x89PNG", "image/png")})
    reference = {name: picture.json()[name] for name in ("bucket", "key")}
    seen = await served.post("/api/jobs", {"pipeline": "tale", "params": {"files": [reference]}})
    assert (seen["name"], seen["thumbnail"]) == ("dusk.png", reference)
    titled = await served.post("/api/jobs", submission(node("a"), metadata={"title": "By its title"}))
    assert titled["name"] == "By its title"


async def test_a_task_runs_alone_with_its_params(served: Served) -> None:
    job = await served.post("/api/jobs", {"task": "act", "params": {"log": 1}})
    assert (job["task"], job["pipeline"], job["params"]["log"], job["given"]) == ("act", None, 1, ["log"])
    assert (await served.ended(job["jobId"]))["status"] == "completed"


async def test_a_tasks_problems_point_into_its_params(served: Served) -> None:
    problem = await served.post("/api/jobs", {"task": "act", "params": {"log": "many", "logs": 1}}, expect=422)
    assert set(pointers(problem)) == {"/params/log", "/params/logs"}
    problem = await served.post("/api/jobs", {"task": "heavi", "params": {}}, expect=422)
    assert pointers(problem) == {"/task": "unknown_task"}
    assert "did you mean 'heavy'?" in problem["errors"][0]["detail"]


async def test_a_mistyped_pipeline_gets_a_suggestion(served: Served) -> None:
    problem = await served.post("/api/jobs", {"pipeline": "talle"}, expect=422)
    assert "did you mean 'tale'?" in problem["errors"][0]["detail"]


# Run again ------------------------------------------------------------------------------------------------------------


async def test_run_again_keeps_the_pipeline_the_params_and_the_origin_a4(served: Served) -> None:
    first = await served.post(
        "/api/jobs", {"pipeline": "tale", "params": {"steps": 1, "pace": 0}, "name": "First", "tags": ["t"]}
    )
    again = await served.post("/api/jobs", {"rerunOf": first["jobId"], "params": {"steps": 2}})
    assert (again["pipeline"], again["name"], again["tags"]) == ("tale", "First", ["t"])
    assert again["rerunOf"] == first["jobId"]
    assert again["params"] == first["params"] | {"steps": 2}
    back = await served.post("/api/jobs", {"rerunOf": again["jobId"][:12], "params": {"steps": None}, "name": "Back"})
    assert (back["given"], back["name"], back["rerunOf"]) == (["pace"], "Back", again["jobId"])


async def test_a_graph_and_a_task_are_run_again_as_they_were(served: Served) -> None:
    first = await served.submit(node("a"), node("b"), metadata={"title": "Two"})
    again = await served.post("/api/jobs", {"rerunOf": first})
    assert again["jobId"] != first
    assert set(await served.nodes(again["jobId"])) == {"a", "b"}
    assert (again["name"], again["rerunOf"]) == ("Two", first)
    problem = await served.post("/api/jobs", {"rerunOf": first, "params": {"steps": 1}}, expect=422)
    assert pointers(problem) == {"/params": "unknown_field"}
    alone = await served.post("/api/jobs", {"task": "act", "params": {"log": 1}})
    assert (await served.post("/api/jobs", {"rerunOf": alone["jobId"]}))["task"] == "act"


async def test_what_is_not_known_cannot_be_run_again(served: Served) -> None:
    problem = await served.post("/api/jobs", {"rerunOf": "no-such-job"}, expect=422)
    assert pointers(problem) == {"/rerunOf": "unknown_job"}


# Ids ------------------------------------------------------------------------------------------------------------------


async def test_an_id_may_be_shortened_to_any_unique_prefix(served: Served) -> None:
    name = new_id("prefix")
    one = await served.submit(node("a"), job=f"{name}-one")
    two = await served.submit(node("a"), job=f"{name}-two")
    assert (await served.job(one[:-1]))["jobId"] == one
    assert (await served.get(f"/api/jobs/{two[:-2]}/graph"))["workflowId"] == two
    assert (await served.get(f"/api/jobs/{two[:-2]}/events"))["jobId"] == two
    await served.ended(one)
    problem = await served.get(f"/api/jobs/{name}", expect=409)
    assert problem["code"] == "ambiguous_id"
    assert {each["detail"] for each in problem["errors"]} == {one, two}
    await served.delete(f"/api/jobs/{one}")
    await served.get(f"/api/jobs/{one}", expect=404)
    assert (await served.get(f"/api/jobs/{name}"))["jobId"] == two  # the only one that is left
    assert (await served.get("/api/jobs/pre", expect=404))["code"] == "unknown_job"
    await served.ended(two)
    three = await served.submit(node("a"), job=f"{name}-three")
    assert (await served.job(three[:-1]))["jobId"] == three  # made after the ids were read
    await served.ended(three)


async def test_what_changes_a_job_needs_its_whole_id(served: Served) -> None:
    """A DELETE of film that is sent again when film is gone must not delete film-2."""
    name = new_id("film")
    one, two = await served.submit(node("a"), job=name), await served.submit(node("a"), job=f"{name}-2")
    await served.ended(one)
    await served.ended(two)
    await served.delete(f"/api/jobs/{one}")
    assert (await served.get(f"/api/jobs/{one}"))["jobId"] == two
    problem = await served.delete(f"/api/jobs/{one}", 404)
    assert "whole id" in problem["detail"]
    for path in (f"/api/jobs/{one}/cancel", f"/api/jobs/{one}/retry", f"/api/jobs/{one}/nodes/a/finish"):
        assert (await served.post(path, expect=404))["code"] == "unknown_job"
    assert (await served.job(two))["status"] == "completed"


async def test_an_id_that_was_made_here_is_whole_and_nothing_is_searched_for_it(served: Served) -> None:
    """A client that asks again and again for a job that is gone costs one read each time."""
    gone, part = "0123456789abcdef" * 2, "nowhere-"
    await served.get(f"/api/jobs/{part}", expect=404)

    async def searches(wanted: str) -> int:
        before = await served.planes.client.info("commandstats")
        await served.get(f"/api/jobs/{wanted}", expect=404)
        after = await served.planes.client.info("commandstats")
        return int(after["cmdstat_zrange"]["calls"] - before["cmdstat_zrange"]["calls"])

    assert median([await searches(gone) for _ in range(9)]) == 0  # the planes' own looks use the same command
    assert median([await searches(part) for _ in range(9)]) > 0


async def test_a_prefix_and_a_search_find_no_job_of_another_owner(tmp_path: Path) -> None:
    async with locked_house(tmp_path) as house:
        for name in ("hers", "his"):
            await house.key(name)
        job = "secret-work"
        wish = submission(node("a"), job=job, name="Secret", tags=["hidden"])
        await house.ask("hers", "POST", "/api/jobs", 201, json=wish)
        for path in ("secret-wor", "secr"):
            await house.ask("his", "GET", f"/api/jobs/{path}", 404)
            assert (await house.ask("hers", "GET", f"/api/jobs/{path}"))["jobId"] == job
        problem = await house.ask("his", "POST", "/api/jobs", 422, json={"rerunOf": job})
        assert pointers(problem) == {"/rerunOf": "unknown_job"}
        for query in ("q=secret", "tag=hidden"):
            assert (await house.ask("his", "GET", f"/api/jobs?{query}"))["jobs"] == []
            assert [each["jobId"] for each in (await house.ask("hers", "GET", f"/api/jobs?{query}"))["jobs"]] == [job]


async def test_run_again_shows_nothing_to_a_key_that_may_not_read(tmp_path: Path) -> None:
    async with locked_house(tmp_path) as house:
        await house.key("hers")
        await house.key("drop", "submit", owner="hers")
        job = (await house.ask("hers", "POST", "/api/jobs", 201, json={"task": "act", "params": {"output": "secret"}}))[
            "jobId"
        ]
        for body in ({"rerunOf": job}, {"goal": "the same, but slower", "change": job}):
            for path in ("/api/jobs", "/api/plans"):
                problem = await house.ask("drop", "POST", path, 403, json=body)
                assert problem["code"] == "scope_missing"
                assert "secret" not in json.dumps(problem)
        again = await house.ask("hers", "POST", "/api/jobs", 201, json={"rerunOf": job})
        assert again["params"]["output"] == "secret"


# Search ---------------------------------------------------------------------------------------------------------------


async def _found(served: Served, **filters: Any) -> list[str]:
    """The names that a search finds, over all its pages."""
    names, cursor = [], None
    while True:
        page = await served.get("/api/jobs", **filters, **({"cursor": cursor} if cursor else {}))
        names += [job["name"] for job in page["jobs"]]
        cursor = page["next"]
        if cursor is None:
            return names


async def test_a_search_looks_at_name_tags_pipeline_task_and_given_params(served: Served) -> None:
    word = new_id("w").replace("-", "")
    given = {"steps": 3, "pace": 0}
    await served.post(
        "/api/jobs", {"pipeline": "tale", "params": given, "name": f"Übung {word}", "tags": ["one", word[:9]]}
    )
    await served.post("/api/jobs", {"task": "act", "params": {"log": 4}, "name": f"Alone {word}", "tags": ["one"]})
    assert await _found(served, q=f"übung {word.upper()}") == [f"Übung {word}"]
    assert await _found(served, q=f"{word} tale") == [f"Übung {word}"]
    assert await _found(served, q=f"{word} act") == [f"Alone {word}"]
    assert await _found(served, q=f"{word} pace") == [f"Übung {word}"]
    assert await _found(served, q=f"log 4 {word}", tag="one") == [f"Alone {word}"]
    assert await _found(served, tag=f"one,{word[:9]}") == [f"Übung {word}"]
    assert await _found(served, q=word[:9], pipeline="tale") == [f"Übung {word}"]
    assert await _found(served, q=f"{word} nowhere") == []


async def test_a_search_finds_what_is_stored_with_escapes_or_in_pieces(served: Served) -> None:
    word = new_id("w").replace("-", "")
    await served.post(
        "/api/jobs", {"pipeline": "tale", "params": {"prompt": f'{word} says "ÄH\\é" twice'}, "name": "Quoted"}
    )
    assert await _found(served, q=f'{word} "äh\\É"') == ["Quoted"]
    assert await _found(served, q=f"{word} prompt") == ["Quoted"]
    assert await _found(served, q=f'{word} "nowhere"') == []


async def test_a_search_finds_a_job_by_the_beginning_of_its_id(served: Served) -> None:
    job = await served.submit(node("a"), job=new_id("begin"), name="By its id")
    assert await _found(served, q=job[:-1]) == ["By its id"]


async def test_a_list_leaves_out_large_params_which_the_job_itself_has(served: Served) -> None:
    text = "a story " * 1000
    job = await served.post("/api/jobs", {"task": "act", "params": {"output": text}, "name": "Long"})
    (row,) = (await served.get("/api/jobs", q="long act", limit=1))["jobs"]
    assert "output" not in row["params"]
    assert row["given"] == ["output"]
    assert (await served.job(job["jobId"]))["params"]["output"] == text


async def stored(served: Served, job: str) -> str:
    return bytes(await served.planes.client.hget(f"job:{job}", "about") or b"").decode()  # type: ignore[arg-type]


async def test_params_too_large_to_list_are_left_to_the_graph_which_is_run_again(served: Served) -> None:
    """Lists and searches read what a job says of itself of hundreds of jobs at once."""
    first = await served.post("/api/jobs", {"task": "act", "params": {"output": "x" * 100_000}, "name": "Large"})
    await served.ended(first["jobId"])
    assert len(await stored(served, first["jobId"])) < 1000
    assert (await served.get("/api/jobs", q="Large"))["jobs"][0]["jobId"] == first["jobId"]
    again = await served.post("/api/jobs", {"rerunOf": first["jobId"]})
    await served.ended(again["jobId"])
    assert again["name"] == "Large"
    params = (await served.get(f"/api/jobs/{again['jobId']}/graph"))["nodes"][0]["params"]
    assert params == {"output": "x" * 100_000}


async def test_a_job_is_run_again_in_its_pool(served: Served) -> None:
    first = await served.post("/api/jobs", {"task": "act", "params": {}, "pool": "default"})
    await served.ended(first["jobId"])
    assert '"o":"default"' in await stored(served, first["jobId"])
    again = await served.post("/api/jobs", {"rerunOf": first["jobId"]})
    assert '"o":"default"' in await stored(served, again["jobId"])
