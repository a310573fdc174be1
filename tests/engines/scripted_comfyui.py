"""A ComfyUI made of what was recorded from a real one (0.3.64), in an old and a new manner: it answers and forgets as that one does.

The new one takes canonical UUIDs only, and cancels by POST /api/jobs/ID/cancel. Workflows run as far as tests need: `Slow` waits for `go` before
each step, `Fail` raises, `Blocked` says ExecutionBlocked and goes on, `Text` gives text.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import uvicorn
from litestar import Litestar, Request, WebSocket, get, post
from litestar.datastructures import UploadFile
from litestar.exceptions import WebSocketDisconnect
from litestar.handlers import WebsocketRouteHandler
from litestar.response import Response

from tests.control_plane.served import Server as Uvicorn
from tests.support.polling import at_this_load

KNOWN = {
    "EmptyImage",
    "SaveImage",
    "PreviewImage",
    "Slow",
    "Fail",
    "Blocked",
    "Text",
    "LoadImage",
    "Checkpoint",
    "LoraLoader",
}
OUTPUTS = {"SaveImage", "PreviewImage", "Text", "Fail", "Blocked"}
JPEG = b"\xff\xd8\xff\xe0 a preview"
PNG = b"\x89PNG a picture"


async def happens(what: Callable[[], Any], seconds: float = 15) -> None:
    async with asyncio.timeout(at_this_load(seconds)):
        while not what():  # noqa: ASYNC110 - the condition is of another's making
            await asyncio.sleep(0.01)


class ScriptedComfyui:
    def __init__(self, *, new: bool = False, port: int = 0) -> None:
        self.new = new
        self.port = port
        self.version = "0.38.1" if new else "0.3.64"
        self.asked: list[str] = []
        self.posted: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.uploads: dict[str, bytes] = {}
        self.freed = 0
        self.go = asyncio.Semaphore(0)
        self.previews = 1
        self.deaf_nodes = False  # nodes that report no progress are interrupted only before the next
        self.answer_html = False
        self.sockets: dict[str, WebSocket[Any, Any, Any]] = {}
        self._forget()

    def _forget(self) -> None:
        self.pending: list[list[Any]] = []
        self.running: list[list[Any]] = []
        self.history: dict[str, Any] = {}
        self.cache: dict[str, Any] = {}
        self.interrupted = False
        self._runs: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        config = uvicorn.Config(
            self._app(), port=self.port, ws="websockets-sansio", log_config=None, timeout_graceful_shutdown=1
        )
        self._server = Uvicorn(config)
        self._serving = asyncio.create_task(self._server.serve())
        await happens(lambda: self._server.started)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    async def kill(self) -> None:
        """As kill -9: sockets, queue and history are gone."""
        if self._runs is not None:
            self._runs.cancel()
        await self.cut()
        self._server.should_exit = True
        await self._serving
        self._forget()

    async def cut(self) -> None:
        for socket in list(self.sockets.values()):
            with contextlib.suppress(Exception):
                await socket.close(1011)
        self.sockets.clear()

    # What it does ----------------------------------------------------------------------------------------------------

    async def _say(self, client_id: str, kind: str, data: dict[str, Any]) -> None:
        if (socket := self.sockets.get(client_id)) is not None:
            with contextlib.suppress(Exception):
                await socket.send_text(json.dumps({"type": kind, "data": data}))

    def _kick(self) -> None:
        if self._runs is None or self._runs.done():
            self._runs = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self.pending:
            item = self.pending.pop(0)
            self.running = [item]
            self.interrupted = False
            entry = await self._run(item)
            self.running = []
            self.history[item[1]] = entry
            await self._say(item[3]["client_id"], "executing", {"node": None, "prompt_id": item[1]})

    async def _run(self, item: list[Any]) -> dict[str, Any]:
        _, pid, prompt, extra, targets = item
        client = extra["client_id"]
        messages: list[Any] = []
        outputs: dict[str, Any] = {}

        async def say(kind: str, **data: Any) -> None:
            messages.append([kind, {"prompt_id": pid, "timestamp": time.time_ns() // 10**6, **data}])
            await self._say(client, kind, messages[-1][1])

        order = [id for id in prompt if any(id == t or _needs(prompt, t, id) for t in targets)]
        cached = [id for id in order if self.cache.get(id) == json.dumps(prompt[id])]
        await say("execution_start")
        await say("execution_cached", nodes=cached)
        state: dict[str, Any] = {}
        for id in order:
            kind, inputs = prompt[id]["class_type"], prompt[id]["inputs"]
            if self.interrupted:
                await say("execution_interrupted", node_id=id, node_type=kind, executed=[])
                return _entry(item, outputs, messages, "error", False)
            if id not in cached:
                state[id] = {"value": 0, "max": inputs.get("steps", 1), "state": "running"}
                await self._say(client, "progress_state", {"prompt_id": pid, "nodes": state})
                await self._say(client, "executing", {"node": id, "prompt_id": pid})
            if kind == "Slow" and id not in cached:
                for step in range(inputs["steps"]):
                    await self.go.acquire()
                    if self.interrupted and not self.deaf_nodes:
                        await say("execution_interrupted", node_id=id, node_type=kind, executed=[])
                        return _entry(item, outputs, messages, "error", False)
                    state[id]["value"] = step + 1
                    await self._say(client, "progress_state", {"prompt_id": pid, "nodes": state})
                    for _ in range(self.previews):
                        await self._preview(client, pid, id)
            if kind == "Blocked":
                await self._say(client, "execution_error", {"prompt_id": pid, "exception_type": "ExecutionBlocked"})
            if kind == "Fail":
                await say(
                    "execution_error", node_id=id, node_type=kind, exception_type=inputs.get("kind", "ValueError"),
                    exception_message="no such thing", traceback=["line 1\n"],
                )  # fmt: skip
                return _entry(item, outputs, messages, "error", False)
            if kind == "Text":
                outputs[id] = {"text": [inputs["text"]]}
            if kind in ("SaveImage", "PreviewImage"):
                prefix = str(inputs.get("filename_prefix", "ComfyUI_temp"))
                folder, _, name = prefix.rpartition("/")
                file = {"filename": f"{name}_00001_.png", "subfolder": folder}
                outputs[id] = {"images": [file | {"type": "output" if kind == "SaveImage" else "temp"}]}
            if id not in cached:
                state[id] = {"value": 1, "max": 1, "state": "finished"}
                self.cache[id] = json.dumps(prompt[id])
                await self._say(client, "progress_state", {"prompt_id": pid, "nodes": state})
        await say("execution_success")
        return _entry(item, outputs, messages, "success", True)

    async def _preview(self, client: str, pid: str, node: str) -> None:
        socket = self.sockets.get(client)
        if socket is None:
            return
        about = json.dumps({"node_id": node, "prompt_id": pid, "image_type": "image/jpeg"}).encode()
        head = (4).to_bytes(4, "big") + len(about).to_bytes(4, "big") + about
        data = head + JPEG if self.new else (1).to_bytes(4, "big") * 2 + JPEG
        with contextlib.suppress(Exception):
            await socket.send_bytes(data)

    def _problems(self, prompt: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for id, node in prompt.items():
            errors = []
            if node["inputs"].get("width", 1) < 0:
                errors.append(
                    {"type": "value_smaller_than_min", "message": "Value -5 smaller than min", "details": "width"}
                )
            if node["class_type"] == "Checkpoint":
                errors.append(
                    {"type": "value_not_in_list", "message": "Value not in list", "details": "ckpt_name: 'x' not in []"}
                )
            if errors:
                found[id] = {"class_type": node["class_type"], "errors": errors, "dependent_outputs": []}
        return found

    # What it answers -------------------------------------------------------------------------------------------------

    def _app(self) -> Litestar:
        def note(request: Request[Any, Any, Any]) -> Response[Any] | None:
            self.asked.append(f"{request.method} {request.url.path}")
            self.headers.append(dict(request.headers))
            return Response("<html>hello</html>", media_type="text/html") if self.answer_html else None

        @get("/system_stats")
        async def stats() -> Any:
            return {"system": {"comfyui_version": self.version}, "devices": []}

        @get("/queue")
        async def queue() -> Any:
            return {"queue_running": self.running, "queue_pending": self.pending}

        @get("/history/{pid:str}")
        async def history(request: Request[Any, Any, Any]) -> Any:
            pid = request.path_params["pid"]
            return {pid: self.history[pid]} if pid in self.history else {}

        @post("/prompt")
        async def prompt(request: Request[Any, Any, Any]) -> Response[Any]:
            body = await request.json()
            self.posted.append(body)
            pid = body["prompt_id"]
            if self.new and str(uuid.UUID(pid)) != pid:
                return Response({"error": {"type": "invalid_prompt_id"}}, status_code=400)
            graph = body["prompt"]
            for node in graph.values():
                if node["class_type"] not in KNOWN:
                    message = f"Cannot execute because node {node['class_type']} does not exist."
                    return Response(
                        {"error": {"type": "invalid_prompt", "message": message}, "node_errors": {}}, status_code=400
                    )
            problems = self._problems(graph)
            targets = body.get("partial_execution_targets") or [
                id for id in graph if graph[id]["class_type"] in OUTPUTS
            ]
            good = [t for t in targets if not any(bad == t or _needs(graph, t, bad) for bad in problems)]
            if not good:
                error = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"}
                return Response({"error": error, "node_errors": problems}, status_code=400)
            self.pending.append([len(self.posted), pid, graph, {"client_id": body["client_id"]}, good])
            self._kick()
            return Response({"prompt_id": pid, "number": 0, "node_errors": problems}, status_code=200)

        @post("/queue")
        async def delete(request: Request[Any, Any, Any]) -> Response[None]:
            gone = (await request.json())["delete"]
            self.pending = [item for item in self.pending if item[1] not in gone]
            return Response(None, status_code=200)

        @post("/interrupt")
        async def interrupt(request: Request[Any, Any, Any]) -> Response[None]:
            pid = (await request.json()).get("prompt_id")
            if pid is None or any(item[1] == pid for item in self.running):
                self._stop()
            return Response(None, status_code=200)

        @post("/api/jobs/{pid:str}/cancel")
        async def cancel(request: Request[Any, Any, Any]) -> Response[Any]:
            pid = request.path_params["pid"]
            if not self.new:
                return Response(None, status_code=405)
            before = len(self.pending)
            self.pending = [item for item in self.pending if item[1] != pid]
            hit = any(item[1] == pid for item in self.running)
            if hit:
                self._stop()
            return Response({"cancelled": hit or len(self.pending) < before}, status_code=200)

        @post("/upload/image")
        async def upload(request: Request[Any, Any, Any]) -> Response[Any]:
            data = await request.form()
            image = data["image"]
            assert isinstance(image, UploadFile)
            name = f"the {image.filename}"
            self.uploads[f"{data['subfolder']}/{name}"] = await image.read()
            return Response({"name": name, "subfolder": data["subfolder"], "type": "input"}, status_code=200)

        @get("/view")
        async def view(request: Request[Any, Any, Any]) -> Response[bytes]:
            filename, subfolder = request.query_params["filename"], request.query_params["subfolder"]
            if "gone" in filename:
                return Response(b"", status_code=404)
            return Response(PNG + f" {subfolder}/{filename}".encode(), media_type="image/png")

        @post("/free")
        async def free() -> Response[None]:
            self.freed += 1
            return Response(None, status_code=200)

        async def socket(socket: WebSocket[Any, Any, Any]) -> None:
            await socket.accept()
            client = socket.query_params["clientId"]
            self.sockets[client] = socket
            await self._say(client, "status", {"status": {"exec_info": {"queue_remaining": 0}}, "sid": client})
            with contextlib.suppress(WebSocketDisconnect):
                while True:
                    await socket.receive_text()

        handlers = [stats, queue, history, prompt, delete, interrupt, cancel, upload, view, free]
        return Litestar([*handlers, WebsocketRouteHandler("/ws")(socket)], before_request=note, openapi_config=None)

    def _stop(self) -> None:
        self.interrupted = True
        self.go.release()


def _needs(prompt: dict[str, Any], target: str, id: str) -> bool:
    links = [v[0] for v in prompt[target]["inputs"].values() if isinstance(v, list) and v and v[0] in prompt]
    return id in links or any(_needs(prompt, link, id) for link in links)


def _entry(item: list[Any], outputs: Any, messages: Any, status: str, completed: bool) -> dict[str, Any]:
    return {
        "prompt": item,
        "outputs": outputs,
        "status": {"status_str": status, "completed": completed, "messages": messages},
        "meta": {},
    }
