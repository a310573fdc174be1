"""The light tasks of the control plane: what they ask of an LLM endpoint and make of its answer, and what they do with artifacts."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dihedral.bridge.artifacts.local import LocalStore
from dihedral.bridge.tasks.calling import run_light
from dihedral.bridge.tasks.registry import collect
from dihedral.bridge.tasks.runs import NodeRun, RunControl
from dihedral.control_plane.tasks import BUILTIN
from dihedral.control_plane.tasks.llm import llm
from dihedral.schemas.structs.control_plane import LlmKind, LlmSettings
from tests.control_plane.served import edge, new_id, node, pointers, submission
from tests.support.outcomes import Seen, ended
from tests.support.polling import at_this_load

pytestmark = pytest.mark.asyncio(loop_scope="session")

REGISTRY = collect(BUILTIN, plugins=False)
KEY = "sk-a-key-that-nobody-may-read"
SECONDS = 20
"""Far above what any answer here takes; what would hang ends as a failure."""


class Asked:
    """One request as it came in."""

    def __init__(self, head: bytes, body: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.path, _ = first.split(" ")
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.document = json.loads(body)


Answer = Callable[[Asked, asyncio.StreamWriter], Coroutine[Any, Any, None]]


SERVING = ("._accept_connection2", "Endpoint.serve")


class Endpoint:
    """A real HTTP server that keeps what it was asked. `gone`: a client hung up before it had its answer."""

    def __init__(self, answer: Answer) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self.gone = asyncio.Event()
        self._answer = answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).removesuffix(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            asked = Asked(head, await reader.readexactly(length))
            self.asked.append(asked)
            answering = asyncio.create_task(self._answer(asked, writer))
            leaving = asyncio.create_task(reader.read())
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                self.gone.set()
            for each in (answering, leaving):
                each.cancel()
            ends = await asyncio.gather(answering, leaving, return_exceptions=True)
            if isinstance(ends[0], ConnectionError):
                self.gone.set()
        except asyncio.IncompleteReadError:
            self.gone.set()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def endpoint(answer: Answer) -> AsyncIterator[Endpoint]:
    made = Endpoint(answer)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        await settled()
        server.close()


async def settled() -> None:
    """Waits until each connection that a server accepted has ended. What the end of a loop leaves open is a ResourceWarning, and so is a socket of which a
    closed server makes a transport: a client that gives up within milliseconds leaves both."""
    while left := [
        each for each in asyncio.all_tasks() if getattr(each.get_coro(), "__qualname__", "").endswith(SERVING)
    ]:
        await asyncio.wait(left)


def answers(body: bytes | str, status: int = 200) -> Answer:
    content = body.encode() if isinstance(body, str) else body

    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status} Said\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + content)
        await writer.drain()

    return answer


def says(text: str, kind: str = "ollama") -> Answer:
    """The API's own form around the text of a model."""
    chat = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}
    return answers(json.dumps({"model": "m", "response": text, "done": True} if kind == "ollama" else chat))


async def never(_: Asked, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def drips(_: Asked, writer: asyncio.StreamWriter) -> None:
    """Never silent for long, and never done."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


class Said:
    """An Emit that remembers."""

    def __init__(self) -> None:
        self.fractions: list[float] = []
        self.lines: list[str] = []

    def progress(self, fraction: float) -> None:
        self.fractions.append(fraction)

    def data(self, name: str, payload: dict[str, Any]) -> None:
        raise AssertionError("none of these tasks publishes data")

    def log(self, level: str, message: str) -> None:
        self.lines.append(message)

    def waits(self, reason: str) -> None:
        raise AssertionError("none of these tasks waits")


async def run(
    task: str, store: LocalStore | None = None, said: Said | None = None, settings: LlmSettings | None = None, **params: Any
) -> Seen:  # fmt: skip
    """One run of a task, as the executor of the control plane makes it."""
    made = NodeRun(
        job_id="job", node_id="node", task=task, attempt=1, nonce=new_id("nonce"), params=params, timeout_seconds=60
    )
    before = llm.set(settings or LlmSettings())
    try:
        async with asyncio.timeout(at_this_load(SECONDS)):
            return await ended(run_light(REGISTRY, made, store, said or Said(), RunControl()))
    finally:
        llm.reset(before)


def output(outcome: Seen) -> Any:
    assert outcome.status == "completed", outcome.error
    assert outcome.output is not None
    return msgspec.json.decode(outcome.output)


def reason(outcome: Seen) -> str:
    assert outcome.error is not None
    return outcome.error.message


def refusal(outcome: Seen) -> tuple[str, bool]:
    """(code, whether another attempt is worth it) of a failure; it tells no secret."""
    assert outcome.status == "failed", outcome.output
    assert outcome.error is not None
    assert KEY not in msgspec.json.encode(outcome.error).decode()
    assert KEY[:12] not in msgspec.json.encode(outcome.error).decode()
    return outcome.error.code, outcome.retryable


async def write(url: str, kind: str = "ollama", *, lines: int = 2, prompt: str = "the sea", **more: Any) -> Seen:
    settings = LlmSettings(endpoint=url, kind=LlmKind(kind), **{"timeout_seconds": SECONDS, **more})
    return await run("generate_script", settings=settings, prompt=prompt, lines=lines)


SCRIPT = '{"title": "The sea", "lines": ["It comes.", "It goes."]}'
WRITTEN = {"title": "The sea", "lines": ["It comes.", "It goes."]}


# generate_script: what is asked ---------------------------------------------------------------------------------------


async def test_ollama_is_asked_for_the_prompt_and_its_answer_is_the_script() -> None:
    prompt = 'Zoë\'s "sea" {in the evening}\n\U0001f30a'
    async with endpoint(says(SCRIPT)) as ollama:
        written = output(await write(ollama.url, model="llama-of-ours", prompt=prompt))
    assert written == {"script": WRITTEN, "source": "ollama", "model": "llama-of-ours"}
    (asked,) = ollama.asked
    assert (asked.method, asked.path) == ("POST", "/api/generate")
    assert "authorization" not in asked.headers
    assert asked.headers["content-type"] == "application/json"
    assert {name: asked.document[name] for name in ("model", "stream", "format")} == {
        "model": "llama-of-ours", "stream": False, "format": "json",
    }  # fmt: skip
    assert prompt in asked.document["prompt"]
    assert "exactly 2 " in asked.document["prompt"]


@pytest.mark.parametrize("base", ["", "/", "/v1", "/v1/"])
async def test_an_openai_compatible_endpoint_is_asked_with_the_key(base: Any) -> None:
    async with endpoint(says(SCRIPT, "openai")) as openai:
        written = output(await write(openai.url + base, "openai", api_key=KEY, model="gpt-of-theirs"))
    assert written == {"script": WRITTEN, "source": "openai", "model": "gpt-of-theirs"}
    (asked,) = openai.asked
    assert (asked.method, asked.path) == ("POST", "/v1/chat/completions")
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.document["model"] == "gpt-of-theirs"
    assert asked.document["messages"][0]["role"] == "user"
    assert "the sea" in asked.document["messages"][0]["content"]


async def test_a_key_from_a_file_with_a_last_newline_is_a_key() -> None:
    async with endpoint(says(SCRIPT, "openai")) as openai:
        output(await write(openai.url, "openai", api_key=f"{KEY}\n"))
    assert openai.asked[0].headers["authorization"] == f"Bearer {KEY}"


async def test_without_an_endpoint_a_template_writes_and_the_output_says_so(served: Any) -> None:
    first, again = [
        await served.submit(node("a", task="generate_script", plane="node", prompt="A walk by the sea.", lines=7))
        for _ in range(2)
    ]
    assert (await served.ended(first))["status"] == (await served.ended(again))["status"] == "completed"
    written = (await served.nodes(first))["a"]["output"]
    assert (written["source"], written["model"]) == ("template", None)
    assert len(written["script"]["lines"]) == 7
    assert "A walk by the sea" in written["script"]["lines"][0]
    assert (await served.nodes(again))["a"]["output"] == written, "the same prompt, the same lines"
    logged = [each for each in (await served.get(f"/api/jobs/{first}/events"))["events"] if each["type"] == "log"]
    assert ["llm.endpoint" in each["message"] for each in logged] == [True]


@pytest.mark.parametrize("prompt", [" ", "...", "\n\n", "x" * 10_000, "\u2028", "{}"])
async def test_the_template_has_a_script_for_every_prompt(prompt: Any) -> None:
    script = output(await run("generate_script", prompt=prompt, lines=50))["script"]
    assert script["title"]
    assert len(script["lines"]) == 50
    assert all(line.strip() and len(line) <= 300 for line in script["lines"])


@pytest.mark.parametrize(
    ("params", "pointer"),
    [({"prompt": ""}, "/prompt"), ({"prompt": "a", "lines": 0}, "/lines"), ({"prompt": "a", "lines": 51}, "/lines"), ({}, "")],
)  # fmt: skip
async def test_params_that_are_none_are_refused_before_anything_runs(served: Any, params: Any, pointer: Any) -> None:
    problem = await served.post(
        "/api/plans", submission(node("a", task="generate_script", plane="node", **params)), expect=422
    )
    assert set(pointers(problem)) == {f"/graph/nodes/0/params{pointer}"}


# generate_script: what is made of the answer --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (SCRIPT, ["It comes.", "It goes."]),
        (f"Sure!\n```json\n{SCRIPT}\n```", ["It comes.", "It goes."]),
        ("1. It comes.\n2. It goes.\n", ["It comes.", "It goes."]),
        ("- It comes.\n\n* It goes.\n- And a third.", ["It comes.", "It goes."]),
        ("It {always} comes.", ["It {always} comes."]),
        ('{"lines": ["1984 was cold.", "3.5 km away"]}', ["1984 was cold.", "3.5 km away"]),
        ('{"lines": "It comes.\\nIt goes."}', ["It comes.", "It goes."]),
        ('{"title": null, "lines": ["It\\tcomes.\\n", 7, null, ["x"], "It goes."]}', ["It comes.", "It goes."]),
        ('{"lines": ["' + "long " * 100 + '"]}', [("long " * 100)[:300].rstrip()]),
        ('{"lines": ["\\ud83d\\ude00 smile", "caf\\u00e9"]}', ["\U0001f600 smile", "café"]),
    ],
)
async def test_the_forms_in_which_models_answer_are_all_a_script(text: Any, lines: Any) -> None:
    async with endpoint(says(text)) as ollama:
        script = output(await write(ollama.url))["script"]
    assert [line.rstrip() for line in script["lines"]] == lines
    assert script["title"] in ("The sea", "the sea")


@pytest.mark.parametrize(
    "text",
    [
        "", " \n\t", "```\n```", "{}", '{"lines": []}', '{"lines": ["", "  ", "1."]}', '{"lines": [1, null, {}]}', '{"lines": 4}',
        '{"title": "cut off", "lines": ["It comes.", "It go', '{"lines": ["lone \\ud800"]}', "[" * 100_000, '{"lines":' * 50_000 + "1" + "}" * 50_000,
    ],
)  # fmt: skip
async def test_a_model_that_writes_no_script_may_be_asked_again(text: Any) -> None:
    async with endpoint(says(text)) as ollama:
        assert refusal(await write(ollama.url)) == ("llm_bad_answer", True)


@pytest.mark.parametrize("kind", ["ollama", "openai"])
@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>Sign in</html>", b"\xff\xfe", b"null", b"[]", b'"text"', b"{}", b'{"error": "no such model"}', b'{"response": null}',
        b'{"response": {"lines": ["a"]}}', b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}',
        b'{"choices": [{"message": {"content": 5}}]}', b'{"choices": {"0": 1}}', b'{"choices": [null]}', b'{"response": "cut', b"[" * 100_000,
    ],
)  # fmt: skip
async def test_an_answer_that_is_not_the_apis_is_a_refusal_that_no_repeat_mends(kind: Any, body: Any) -> None:
    async with endpoint(answers(body)) as other:
        assert refusal(await write(other.url, kind)) == ("llm_bad_answer", False)


async def test_a_huge_answer_is_left_unread() -> None:
    """What does not fit is not kept: the endpoint is not ours, the memory is."""
    sent = 0

    async def floods(_: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\nConnection: close\r\n\r\n{"response": "')
        while sent < 67_108_864:
            writer.write(b"x" * 65_536)
            await writer.drain()
            sent += 65_536

    async with endpoint(floods) as ollama:
        assert refusal(await write(ollama.url)) == ("llm_bad_answer", False)
        async with asyncio.timeout(at_this_load(SECONDS)):
            await ollama.gone.wait()
    assert sent < 32 * 1024 * 1024


# generate_script: an endpoint that fails ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(500, True), (502, True), (503, True), (408, True), (429, True), (400, False), (401, False), (404, False), (302, False), (204, False)],
)  # fmt: skip
async def test_a_refusal_is_worth_another_attempt_where_it_may_pass(status: Any, retryable: Any) -> None:
    body = "" if status == 204 else json.dumps({"error": f"the key {KEY} is wrong"})
    async with endpoint(answers(body, status)) as other:
        outcome = await write(other.url, "openai", api_key=KEY)
    assert refusal(outcome) == ("llm_refused", retryable)
    assert str(status) in reason(outcome)
    assert status == 204 or "is wrong" in reason(outcome)


async def test_a_key_at_the_cut_of_a_long_refusal_is_not_told_by_half() -> None:
    async with endpoint(answers("x" * 185 + KEY, 401)) as other:
        assert refusal(await write(other.url, "openai", api_key=KEY)) == ("llm_refused", False)


async def test_nobody_at_the_endpoint_is_worth_another_attempt() -> None:
    assert refusal(await write("http://127.0.0.1:1", api_key=KEY)) == ("llm_unavailable", True)


async def test_an_endpoint_whose_name_leads_into_the_private_network_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The operator named a host, not this machine; with it would go the key."""

    async def getaddrinfo(loop: Any, host: Any, port: Any, **_: Any) -> Any:
        assert host == "llm.example"
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    async with endpoint(answers("anything", 200)) as other:
        url = other.url.replace("127.0.0.1", "llm.example")
        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
        outcome = await write(url, api_key=KEY)
        assert refusal(outcome) == ("llm_misconfigured", False)
        assert "outgoing.allow" in reason(outcome)
        assert other.asked == []


@pytest.mark.parametrize("silence", [never, drips])
async def test_an_answer_takes_no_longer_than_the_timeout(silence: Any) -> None:
    async with endpoint(silence) as slow:
        outcome = await write(slow.url, api_key=KEY, timeout_seconds=0.3)
        assert refusal(outcome) == ("llm_unavailable", True)
        async with asyncio.timeout(at_this_load(SECONDS)):
            await slow.gone.wait()


async def test_a_connection_that_is_cut_is_worth_another_attempt() -> None:
    async def cuts(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"respon')
        await writer.drain()

    async with endpoint(cuts) as other:
        assert refusal(await write(other.url)) == ("llm_unavailable", True)


@pytest.mark.parametrize("url", ["localhost:11434", "ftp://127.0.0.1", "http://127.0.0.1:port", "nonsense"])
async def test_an_endpoint_that_is_no_address_is_worth_no_other_attempt(url: Any) -> None:
    outcome = await write(url, api_key=KEY)
    assert refusal(outcome) == ("llm_misconfigured", False)
    assert "llm.endpoint" in reason(outcome)


@pytest.mark.parametrize("key", [f"{KEY}\nX-Other: 1", f"{KEY}\u00e9\u4e00", f"{KEY}\x00"])
async def test_a_key_that_no_header_can_carry_is_not_told_either(key: Any) -> None:
    async with endpoint(says(SCRIPT)) as other:
        outcome = await write(other.url, api_key=key)
    assert refusal(outcome) == ("llm_misconfigured", False)
    assert "llm.apiKey" in reason(outcome)
    assert other.asked == []


# generate_script: as a job --------------------------------------------------------------------------------------------


@asynccontextmanager
async def asking(served: Any, url: str, **more: Any) -> AsyncIterator[None]:
    """The running application with another endpoint."""
    before = served.settings.llm
    served.settings.llm = LlmSettings(endpoint=url, timeout_seconds=SECONDS, **more)
    try:
        yield
    finally:
        served.settings.llm = before


async def test_a_busy_endpoint_is_asked_again_and_the_job_completes(served: Any) -> None:
    turns = iter([answers("busy", 429), says(SCRIPT)])

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await next(turns)(asked, writer)

    wish = {
        **node("a", task="generate_script", plane="node", prompt="the sea", lines=2),
        "retries": {"maxAttempts": 2},
    }
    async with endpoint(answer) as ollama, asking(served, ollama.url):
        job = await served.submit(wish)
        assert (await served.ended(job))["status"] == "completed"
    made = (await served.nodes(job))["a"]
    assert (made["output"]["script"], made["retries"]["attempt"]) == (WRITTEN, 2)
    assert len(ollama.asked) == 2


async def test_a_job_that_is_cancelled_waits_for_no_answer(served: Any) -> None:
    async with endpoint(never) as ollama, asking(served, ollama.url):
        job = await served.submit(node("a", task="generate_script", plane="node", prompt="the sea"))
        await served.becomes(lambda: ollama.asked)
        await served.post(f"/api/jobs/{job}/cancel", expect=202)
        assert (await served.ended(job))["status"] == "cancelled"
        await served.becomes(ollama.gone.is_set)
    assert len(ollama.asked) == 1


@pytest.mark.parametrize("key", [KEY, f"{KEY}\nX-Other: 1"])
async def test_the_key_is_in_nothing_that_can_be_read_of_a_failed_job(
    served: Any, caplog: pytest.LogCaptureFixture, key: Any
) -> None:
    caplog.set_level("DEBUG")
    refuses = answers(json.dumps({"error": f"Incorrect API key provided: {KEY}"}), 401)
    async with endpoint(refuses) as openai, asking(served, openai.url, kind=LlmKind.openai, api_key=key):
        job = await served.submit(node("a", task="generate_script", plane="node", prompt="the sea"))
        ended = await served.ended(job)
    assert ended["status"] == "failed"
    assert ended["error"]["code"] in ("llm_refused", "llm_misconfigured")
    kept = [
        json.dumps(ended),
        json.dumps(await served.get(f"/api/jobs/{job}/graph")),
        json.dumps(await served.get(f"/api/jobs/{job}/events")),
        (await served.http.get("/metrics")).text,
        str(await served.planes.client.hgetall(f"job:{job}")),
        caplog.text,
    ]
    assert all(KEY not in text for text in kept)


# prepare_assets -------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "artifacts")


def ref(key: str, bucket: str = "inputs") -> dict[str, str]:
    return {"bucket": bucket, "key": key}


async def test_assets_are_described_in_order_and_counted(store: Any) -> None:
    for key, content in (("a/one.txt", b"one"), ("b/two.txt", b"three")):
        await store.put("inputs", key, content, "text/plain")
    said = Said()
    wish = [ref("b/two.txt"), ref("a/one.txt"), ref("b/two.txt")]
    found = output(await run("prepare_assets", store, said, assets=wish))
    assert [(each["key"], each["size_bytes"]) for each in found["assets"]] == [
        ("b/two.txt", 5), ("a/one.txt", 3), ("b/two.txt", 5),
    ]  # fmt: skip
    assert found["totalBytes"] == 13
    assert said.fractions[-1] == 1
    assert said.fractions == sorted(said.fractions)


@pytest.mark.parametrize(
    ("asset", "code"),
    [
        (ref("not/there.txt"), "artifact_not_found"), (ref("there.txt", "loras"), "artifact_not_found"),
        (ref("../there.txt"), "bad_artifact_key"), (ref(".tmp"), "bad_artifact_key"), (ref("there.txt/"), "bad_artifact_key"),
    ],
)  # fmt: skip
async def test_one_asset_that_is_not_there_fails_all_before_anything_expensive(
    store: Any, asset: Any, code: Any
) -> None:
    await store.put("inputs", "there.txt", b"x", "text/plain")
    outcome = await run("prepare_assets", store, assets=[ref("there.txt"), asset])
    assert refusal(outcome) == (code, False)
    assert asset["key"] in reason(outcome)


async def test_assets_need_a_store() -> None:
    assert refusal(await run("prepare_assets", None, assets=[ref("a")])) == ("no_artifact_store", False)


@pytest.mark.parametrize("assets", [[], [{"bucket": "inputs"}], ["inputs/a"], {}, [{"bucket": "B", "key": "a"}]])
async def test_what_is_no_list_of_assets_is_refused_at_once(served: Any, assets: Any) -> None:
    wish = submission(node("a", task="prepare_assets", plane="node", assets=assets))
    problem = await served.post("/api/plans", wish, expect=422)
    assert all(pointer.startswith("/graph/nodes/0/params/assets") for pointer in pointers(problem))


# upload_artifact ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "content", "kind"),
    [
        ({"text": "café\n"}, "café\n".encode(), "text/plain; charset=utf-8"),
        ({"text": ""}, b"", "text/plain; charset=utf-8"),
        ({"base64": base64.b64encode(bytes(range(256))).decode()}, bytes(range(256)), "application/octet-stream"),
        ({"base64": ""}, b"", "application/octet-stream"),
        ({"document": {"a": [1, 2.5, None, "é"]}}, '{"a":[1,2.5,null,"é"]}'.encode(), "application/json"),
        ({"document": []}, b"[]", "application/json"),
        ({"document": False}, b"false", "application/json"),
        ({"text": "a,b", "contentType": "text/csv; charset=utf-8", "bucket": "videos"}, b"a,b", "text/csv; charset=utf-8"),
    ],
)  # fmt: skip
async def test_an_uploaded_artifact_is_the_jobs_and_comes_back_as_it_went_in(
    served: Any, given: Any, content: Any, kind: Any
) -> None:
    job = await served.submit(node("a", task="upload_artifact", plane="node", name="it.bin", **given))
    ended = await served.ended(job)
    assert ended["status"] == "completed", ended["error"]
    said = (await served.nodes(job))["a"]["output"]
    (meta,) = ended["artifacts"]
    assert said["artifact"] == {"bucket": meta["bucket"], "key": meta["key"]}
    assert meta["bucket"] == given.get("bucket", "inputs")
    assert meta["key"].startswith(f"{job}/a/")
    assert meta["key"].endswith("/it.bin")
    assert (meta["size_bytes"], meta["content_type"], meta["job_id"]) == (len(content), kind, job)
    answer = await served.http.get(f"/api/artifacts/{meta['bucket']}/{meta['key']}")
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, content, kind)


@pytest.mark.parametrize(
    "given",
    [
        {}, {"text": "a", "document": 1}, {"text": "", "base64": ""}, {"base64": "a"}, {"base64": "====", "contentType": "image/png"},
        {"base64": "YQ==\n"}, {"base64": "Y Q="}, {"base64": "café"}, {"base64": "_-8="},
    ],
)  # fmt: skip
async def test_content_that_is_none_is_refused_and_nothing_is_stored(store: Any, given: Any) -> None:
    assert refusal(await run("upload_artifact", store, name="it.bin", **given)) == ("invalid_input", False)
    assert await store.list() == []


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": "../it"}, "name"), ({"name": ""}, "name"), ({"name": "it\n"}, "name"), ({"name": "a/b"}, "name"),
        ({"name": "x" * 129}, "name"), ({"bucket": "elsewhere"}, "bucket"), ({"bucket": "inputs\n"}, "bucket"), ({"bucket": ".meta"}, "bucket"),
        ({"contentType": "text/html\r\nSet-Cookie: a=b"}, "contentType"), ({"contentType": "text/plain\n"}, "contentType"),
        ({"contentType": "text"}, "contentType"), ({"contentType": "text/\u4e00"}, "contentType"), ({"contentType": "a/" + "b" * 300}, "contentType"),
    ],
)  # fmt: skip
async def test_a_name_a_bucket_or_a_type_that_is_none_is_refused_at_once(served: Any, wrong: Any, field: Any) -> None:
    """A type goes into a header of whoever downloads it."""
    params = {"name": "it.txt", "text": "x", **wrong}
    problem = await served.post(
        "/api/plans", submission(node("a", task="upload_artifact", plane="node", **params)), expect=422
    )
    assert set(pointers(problem)) == {f"/graph/nodes/0/params/{field}"}


async def test_a_store_that_cannot_be_written_is_worth_another_attempt(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("a file where the directory should be")
    outcome = await run("upload_artifact", LocalStore(tmp_path / "artifacts"), name="it.txt", text="x")
    assert refusal(outcome) == ("artifact_store_unavailable", True)


# merge_capabilities ---------------------------------------------------------------------------------------------------


def entry(id: str, plane: str = "python", **more: Any) -> dict[str, Any]:
    return {"id": id, "plane": plane, **more}


async def test_capabilities_are_merged_by_id_and_plane_and_the_later_wins() -> None:
    merged = output(
        await run(
            "merge_capabilities",
            lists=[[entry("b", version="1"), entry("a")], [entry("b", version="2"), entry("b", "node")]],
            capabilities=[entry("a", label="ours", unheard={"of": [1]})],
        )
    )
    assert merged == {
        "capabilities": [entry("b", "node"), entry("a", label="ours", unheard={"of": [1]}), entry("b", version="2")]
    }


async def test_nothing_merged_is_nothing() -> None:
    assert output(await run("merge_capabilities")) == {"capabilities": []}
    assert output(await run("merge_capabilities", lists=[[], []])) == {"capabilities": []}


@pytest.mark.parametrize(
    "wrong", [{}, {"id": "a"}, {"plane": "node"}, {"id": "", "plane": "node"}, {"id": 1, "plane": "node"}, {"id": "a", "plane": None}]
)  # fmt: skip
async def test_an_entry_that_names_nothing_is_refused_with_its_place(wrong: Any) -> None:
    for given in ({"lists": [[], [entry("a"), wrong]]}, {"capabilities": [entry("a"), wrong]}):
        outcome = await run("merge_capabilities", **given)
        assert refusal(outcome) == ("invalid_input", False)
        assert ("/lists/1/1" if "lists" in given else "/capabilities/1") in reason(outcome)


async def test_a_parents_capabilities_are_merged_with_what_params_name(served: Any) -> None:
    """The one by name, from the parent's output, the other by `$from`; over both planes."""
    found = [entry("a", version="2"), entry("c")]
    job = await served.submit(
        node("parent", output={"capabilities": found}),
        node("other", output={"kept": [[entry("a", version="1"), entry("b")]]}),
        node("merge", task="merge_capabilities", plane="node", lists={"$from": "other", "path": "/kept"}),
        edges=[edge("parent", "merge"), edge("other", "merge")],
    )
    ended = await served.ended(job)
    assert ended["status"] == "completed", ended["error"]
    assert (await served.nodes(job))["merge"]["output"] == {
        "capabilities": [entry("a", version="2"), entry("b"), entry("c")]
    }
