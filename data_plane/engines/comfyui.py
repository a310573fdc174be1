"""A ComfyUI server, as it answers over HTTP and WebSocket (0.3 and later).

Its history and its queue are the truth, its messages are only hints: they are lost with the socket, and a prompt may end without one. So every
decision reads the state. An id that stands in neither place was lost by a restart or deleted by a person; it never means done.
The queue is read before the history, and the history once more: a prompt moves from the one to the other, and is read twice rather than missed.

Large because the whole protocol of one server stands here.
"""

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import quote, urlsplit, urlunsplit

from msgspec import field

from dihedral.bridge.outgoing import Forbidden, own_guard
from dihedral.bridge.tasks.registry import TaskError
from dihedral.schemas.strict import Strict

if TYPE_CHECKING:  # imported with the first server: httpx alone is a tenth of a worker's start
    import httpx
    from websockets.asyncio.client import ClientConnection

Workflow = dict[str, dict[str, Any]]

ANSWER_SECONDS = 30.0
TRANSFER_SECONDS = 600.0
MESSAGE_BYTES = 64 * 1024 * 1024  # a preview, or an error with the inputs of its node
CANCEL_SINCE = (0, 26)  # the first version that cancels by id whatever the state
SHOWN = 5  # problems of a workflow in one message; the details have all
HEADER_BYTES = 4
PREVIEW, PREVIEW_WITH_METADATA = 1, 4
SUFFIXES = {1: "jpg", 2: "png"}
HOW_TO_EXPORT = (
    "this is a workflow as ComfyUI's editor saves it; export it with Workflow → Export (API), or Save (API Format)"
)

State = Literal["pending", "running", "ended", "absent"]


class ServerSettings(Strict, kw_only=True, rename="camel"):
    """[comfyui.NAME]. url: one server, or several that take turns. headers: of each request, such as those that a proxy wants.

    allow: hosts that may have a private address, where the name is neither localhost nor an address. memoryMib: device memory that it takes from
    this machine; above 0, it is asked to free it whenever its queue is empty. loras: the folder in which it looks for LoRAs, where this worker can
    write to it. waitSeconds: how long a node waits for a server that is away.
    """

    url: str | list[str]
    headers: dict[str, str] = field(default_factory=dict)
    allow: list[str] = field(default_factory=list)
    memory_mib: int = 0
    loras: str = ""
    wait_seconds: float = 600.0

    @property
    def urls(self) -> list[str]:
        return [self.url] if isinstance(self.url, str) else self.url


class ComfySettings(Strict, kw_only=True, rename="camel"):
    servers: dict[str, ServerSettings] = field(default_factory=dict)


class Away(Exception):
    """The server does not answer, or not yet."""


class Seen(NamedTuple):
    """`entry`: of the history, where it has ended. `client_id`: who posted it, where it is in the queue."""

    state: State
    entry: dict[str, Any]
    client_id: str


class Server:
    """One server address. Every method raises Away where no server answers there, and TaskError where the answer is not ComfyUI's."""

    def __init__(self, url: str, settings: ServerSettings) -> None:
        self.url = url.rstrip("/")
        self.version = ""
        self._headers = settings.headers
        self._guard = own_guard(self.url, settings.allow)
        try:
            self._guard.check_url(self.url)
        except Forbidden as error:
            raise TaskError(f"[comfyui] url {_shown(url)}: {error}", code="invalid_settings") from None
        import httpx

        from dihedral.bridge.guarded_transport import GuardedTransport

        self._unreachable = httpx.TransportError
        self._http = httpx.AsyncClient(
            transport=GuardedTransport(self._guard),
            headers=settings.headers,
            timeout=httpx.Timeout(ANSWER_SECONDS, read=TRANSFER_SECONDS),
            trust_env=False,
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def greet(self) -> None:
        """Reads its version."""
        answer = await self._json("GET", "/system_stats")
        system = answer.get("system")
        if not isinstance(system, dict):
            raise self._foreign("/system_stats")
        self.version = str(system.get("comfyui_version") or "")

    async def queue_length(self) -> int:
        found = await self._json("GET", "/queue")
        return len(found.get("queue_running", [])) + len(found.get("queue_pending", []))

    async def look(self, prompt_id: str) -> Seen:
        for place in ("queue", "history", "queue", "history"):
            if place == "history":
                entry = (await self._json("GET", f"/history/{quote(prompt_id)}")).get(prompt_id)
                if isinstance(entry, dict):
                    return Seen("ended", entry, "")
                continue
            queue = await self._json("GET", "/queue")
            for name, state in (("queue_running", "running"), ("queue_pending", "pending")):
                for item in queue.get(name, []):
                    if isinstance(item, list) and len(item) > 1 and item[1] == prompt_id:
                        extra = item[3] if len(item) > 3 and isinstance(item[3], dict) else {}
                        return Seen("running" if state == "running" else "pending", {}, str(extra.get("client_id", "")))
        return Seen("absent", {}, "")

    async def post(
        self, prompt_id: str, client_id: str, workflow: Workflow, outputs: Sequence[str] | None
    ) -> dict[str, Any]:
        """Returns the node_errors: branches that the server drops, while it runs the others.

        Raises:
            TaskError: `invalid_workflow`, with every problem that it names.
        """
        body: dict[str, Any] = {"prompt": workflow, "client_id": client_id, "prompt_id": prompt_id}
        if outputs is not None:
            body["partial_execution_targets"] = list(outputs)
        answer = await self._ask("POST", "/prompt", json=body)
        content = self._decoded(answer, "/prompt")
        if answer.status_code == 400:
            raise refused(content)
        if answer.status_code != 200 or content.get("prompt_id") != prompt_id:
            raise self._foreign("/prompt", answer)
        errors = content.get("node_errors")
        return errors if isinstance(errors, dict) else {}

    async def withdraw(self, prompt_id: str) -> State:
        """Stops this prompt and no other, and returns in which state it was."""
        seen = await self.look(prompt_id)
        if seen.state in ("ended", "absent"):
            return seen.state
        if _numbers(self.version) >= CANCEL_SINCE:
            answer = await self._ask("POST", f"/api/jobs/{quote(prompt_id)}/cancel", json={})
            if answer.status_code == 200:
                return seen.state
        if (
            seen.state == "pending"
        ):  # the server ignores an interrupt of a pending prompt, and a delete of a running one
            await self._ask("POST", "/queue", json={"delete": [prompt_id]})
            seen = await self.look(prompt_id)
        if seen.state == "running":
            await self._ask("POST", "/interrupt", json={"prompt_id": prompt_id})
        return "pending" if seen.state == "absent" else seen.state

    async def upload(self, file: Path, name: str, folder: str) -> str:
        """Uploads the file and returns the name that the server chose; workflows use it from now on."""
        with file.open("rb") as content:
            answer = await self._ask(
                "POST",
                "/upload/image",
                files={"image": (name, content)},
                data={"subfolder": folder, "overwrite": "true", "type": "input"},
            )
        if answer.status_code == 413:
            raise TaskError(
                f"{name} is larger than ComfyUI takes: start it with a larger --max-upload-size",
                code="comfyui_upload_refused",
            )
        content_json = self._decoded(answer, "/upload/image") if answer.status_code == 200 else {}
        if not isinstance(content_json.get("name"), str):
            raise self._foreign("/upload/image", answer)
        subfolder = content_json.get("subfolder")
        return f"{subfolder}/{content_json['name']}" if subfolder else str(content_json["name"])

    async def download(self, file: Mapping[str, Any], to: Path) -> None:
        query = {name: str(file.get(name) or "") for name in ("filename", "subfolder", "type")}
        try:
            async with self._http.stream("GET", f"{self.url}/view", params=query) as answer:
                if answer.status_code != 200:
                    raise TaskError(
                        f"ComfyUI answers {answer.status_code} for its own file {query['filename']!r}: was it deleted there?",
                        code="comfyui_file_missing",
                    )
                with to.open("wb") as target:
                    async for chunk in answer.aiter_bytes(1 << 20):
                        target.write(chunk)
        except self._unreachable as error:
            raise Away(_reason(error)) from error

    async def free_memory(self) -> None:
        await self._ask("POST", "/free", json={"unload_models": True, "free_memory": True})

    @asynccontextmanager
    async def messages(self, client_id: str) -> AsyncIterator["ClientConnection"]:
        """Opens the server's WebSocket, and requests previews that name their node."""
        import websockets

        parts = urlsplit(self.url)
        scheme = "wss" if parts.scheme == "https" else "ws"
        port = parts.port or (443 if scheme == "wss" else 80)
        address = urlunsplit((scheme, parts.netloc, f"{parts.path}/ws", f"clientId={client_id}", ""))
        try:
            host = await self._guard.resolve(parts.hostname or "", port)
            socket = await websockets.connect(
                address, host=host, port=port, additional_headers=self._headers, max_size=MESSAGE_BYTES, proxy=None,
                open_timeout=ANSWER_SECONDS,
            )  # fmt: skip
        except Forbidden as error:
            raise TaskError(f"[comfyui] url {_shown(self.url)}: {error}", code="invalid_settings") from None
        except (OSError, TimeoutError, websockets.WebSocketException) as error:
            raise Away(_reason(error)) from error
        try:
            await socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
            yield socket
        except websockets.WebSocketException as error:
            raise Away(_reason(error)) from error
        finally:
            await socket.close()

    async def _json(self, method: str, path: str) -> dict[str, Any]:
        answer = await self._ask(method, path)
        if answer.status_code != 200:
            raise self._foreign(path, answer)
        return self._decoded(answer, path)

    async def _ask(self, method: str, path: str, **more: Any) -> "httpx.Response":
        try:
            answer = await self._http.request(method, f"{self.url}{path}", **more)
        except Forbidden as error:
            raise TaskError(f"[comfyui] url {_shown(self.url)}: {error}", code="invalid_settings") from None
        except self._unreachable as error:
            raise Away(_reason(error)) from error
        if answer.status_code in (429, 502, 503, 504):
            raise Away(f"it answers {answer.status_code}")
        if answer.status_code in (401, 403):
            raise TaskError(
                f"{_shown(self.url)} answers {answer.status_code}: set the headers of [comfyui.NAME] that its proxy wants",
                code="comfyui_forbidden",
            )
        return answer

    def _decoded(self, answer: "httpx.Response", path: str) -> dict[str, Any]:
        try:
            content = answer.json()
        except (ValueError, RecursionError):
            raise self._foreign(path, answer) from None
        if not isinstance(content, dict):
            raise self._foreign(path, answer)
        return content

    def _foreign(self, path: str, answer: "httpx.Response | None" = None) -> TaskError:
        what = f"status {answer.status_code}, {answer.headers.get('content-type', 'no type')}" if answer else "JSON"
        return TaskError(
            f"{_shown(self.url)}{path} answers {what}, which is not what ComfyUI answers: does the url lead to ComfyUI?",
            code="comfyui_protocol",
            details={"body": answer.text[:500] if answer else ""},
        )


# Workflows ----------------------------------------------------------------------------------------------------------


def checked(workflow: Any) -> Workflow:
    """Raises: TaskError `ui_workflow`, `invalid_workflow`."""
    if isinstance(workflow, dict) and isinstance(workflow.get("nodes"), list):
        raise TaskError(HOW_TO_EXPORT, code="ui_workflow")
    if not isinstance(workflow, dict) or not workflow:
        raise TaskError("the workflow has no nodes", code="invalid_workflow")
    for id, node in workflow.items():
        if not (
            isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)
        ):
            raise TaskError(
                f'node {id!r} of the workflow needs "class_type" and "inputs", as the API format has them',
                code="invalid_workflow",
            )
    return json.loads(json.dumps(workflow))  # type: ignore[no-any-return]


def place_value(workflow: Workflow, key: str, value: Any) -> None:
    """`key`: NODE.INPUT. Raises: TaskError `invalid_input`, where the workflow has no such input."""
    id, divider, name = key.partition(".")
    if not divider or id not in workflow:
        raise TaskError(
            f"{key!r} names no input: write NODE.INPUT; the nodes are {_some(workflow)}", code="invalid_input"
        )
    inputs = workflow[id]["inputs"]
    if name not in inputs:
        raise TaskError(
            f"node {id} ({workflow[id]['class_type']}) has no input {name!r}; it has {_some(inputs)}",
            code="invalid_input",
        )
    inputs[name] = value


def place_outputs(workflow: Workflow, folder: str) -> None:
    """Lets every node that saves write below `folder`, so that no run reads the files of another."""
    for node in workflow.values():
        prefix = node["inputs"].get("filename_prefix")
        if isinstance(prefix, str) and not prefix.startswith(folder):
            node["inputs"]["filename_prefix"] = f"{folder}/{prefix.lstrip('/')}"


def refused(content: dict[str, Any]) -> TaskError:
    """Returns the error for an answer with status 400."""
    error = content.get("error")
    error = error if isinstance(error, dict) else {"type": "", "message": str(error)}
    problems = list(node_problems(content.get("node_errors") or {}))
    told = "; ".join(problems[:SHOWN]) or str(error.get("message") or error.get("type") or "no reason given")
    more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return TaskError(
        f"ComfyUI refuses the workflow: {told}{more}",
        code="invalid_workflow",
        details={"type": str(error.get("type", "")), "problems": problems[:50]},
    )


def node_problems(errors: Mapping[str, Any]) -> list[str]:
    found = []
    for id, of_node in errors.items():
        for each in of_node.get("errors", []) if isinstance(of_node, dict) else []:
            advice = ""
            if each.get("type") == "value_not_in_list":
                advice = " (ComfyUI has no such file or choice; models must lie where ComfyUI looks for them)"
            found.append(
                f"node {id} ({of_node.get('class_type', '?')}): {each.get('message', '')}: {each.get('details', '')}"[
                    :500
                ]
                + advice
            )
    return found


# Outcomes -----------------------------------------------------------------------------------------------------------


def check_success(entry: Mapping[str, Any]) -> None:
    """Raises: TaskError `out_of_memory`, `comfyui_node_failed`, `comfyui_interrupted`."""
    status = entry.get("status") or {}
    messages = [each for each in status.get("messages", []) if isinstance(each, list) and len(each) == 2]
    name, said = messages[-1] if messages else ("", {})
    if name == "execution_interrupted":
        raise TaskError(
            "this prompt was interrupted in ComfyUI", code="comfyui_interrupted", details={"node": said.get("node_id")}
        )
    if status.get("status_str") == "success" and status.get("completed", True):
        return
    for name, said in reversed(messages):
        if name == "execution_error":
            kind, told = str(said.get("exception_type", "")), str(said.get("exception_message", "")).strip()
            out = "OutOfMemory" in kind or "out of memory" in told.lower()
            raise TaskError(
                f"node {said.get('node_id')} ({said.get('node_type')}) failed: {kind}: {told}"[:1500],
                code="out_of_memory" if out else "comfyui_node_failed",
                details={
                    "node": said.get("node_id"),
                    "type": said.get("node_type"),
                    "traceback": "".join(map(str, said.get("traceback") or []))[-6000:],
                },
            )
    raise TaskError("ComfyUI says that the prompt failed, but not why", code="comfyui_node_failed")


def files_of(entry: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Yields (node, file) for every dict with a file name, under any key; custom nodes choose their own keys."""
    found = []
    for node, output in (entry.get("outputs") or {}).items():
        for values in output.values() if isinstance(output, dict) else []:
            for each in values if isinstance(values, list) else []:
                if isinstance(each, dict) and isinstance(each.get("filename"), str) and each["filename"]:
                    found.append((str(node), each))
    return found


def texts_of(entry: Mapping[str, Any]) -> dict[str, list[str]]:
    found = {}
    for node, output in (entry.get("outputs") or {}).items():
        values = output.get("text") if isinstance(output, dict) else None
        lines = [values] if isinstance(values, str) else values if isinstance(values, list | tuple) else []
        if texts := [each for each in lines if isinstance(each, str)]:
            found[str(node)] = texts
    return found


def cached_of(entry: Mapping[str, Any]) -> list[str]:
    for each in (entry.get("status") or {}).get("messages", []):
        if isinstance(each, list) and len(each) == 2 and each[0] == "execution_cached":
            return [str(node) for node in each[1].get("nodes", [])]
    return []


# Messages -----------------------------------------------------------------------------------------------------------


class Watched:
    """The progress of one prompt, from its messages: the count of each node begins anew, so the whole is the share of nodes that are done."""

    def __init__(self, prompt_id: str, nodes: int) -> None:
        self.fraction = 0.0
        self.may_have_ended = False
        self._prompt_id = prompt_id
        self._nodes = nodes
        self._cached = 0
        self._done: dict[str, float] = {}

    def message(self, text: str) -> None:
        try:
            message = json.loads(text)
            kind, said = message["type"], message["data"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        if not isinstance(said, dict) or said.get("prompt_id") != self._prompt_id:
            return
        if kind == "execution_cached":
            self._cached = len(said.get("nodes") or [])
        elif kind == "progress_state":
            for id, node in (said.get("nodes") or {}).items():
                self._done[id] = 1.0 if node.get("state") == "finished" else _share(node)
        elif kind == "progress":
            self._done[str(said.get("node"))] = _share(said)
        elif kind == "executing" and said.get("node") is not None:
            self._done = {id: 1.0 for id in self._done} | {str(said["node"]): 0.0}  # of servers without progress_state
        elif kind == "executing" or kind in ("execution_success", "execution_interrupted"):
            self.may_have_ended = True  # not execution_error: one of the type ExecutionBlocked is not the end
        self.fraction = min(1.0, sum(self._done.values()) / max(1, self._nodes - self._cached))

    def preview(self, data: bytes) -> tuple[bytes, str] | None:
        """(image, suffix) of a binary message, where it is of this prompt."""
        event = int.from_bytes(data[:HEADER_BYTES], "big")
        second = int.from_bytes(data[HEADER_BYTES : 2 * HEADER_BYTES], "big")
        rest = data[2 * HEADER_BYTES :]
        if event == PREVIEW and second in SUFFIXES:
            return rest, SUFFIXES[second]
        if event == PREVIEW_WITH_METADATA and second < len(rest):
            try:
                about = json.loads(rest[:second])
            except ValueError:
                return None
            if isinstance(about, dict) and about.get("prompt_id") == self._prompt_id:
                return rest[second:], "png" if about.get("image_type") == "image/png" else "jpg"
        return None


def _share(node: Mapping[str, Any]) -> float:
    value, most = node.get("value"), node.get("max")
    numbers = isinstance(value, int | float) and isinstance(most, int | float) and most > 0
    return min(1.0, max(0.0, value / most)) if numbers else 0.0  # type: ignore[operator]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d+", version)[:2])


def _shown(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


def _some(names: Mapping[str, Any]) -> str:
    listed = list(names)
    return ", ".join(listed[:20]) + (f" and {len(listed) - 20} more" if len(listed) > 20 else "")


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
