"""Task `run_comfyui`: a ComfyUI workflow as a durable job.

The prompt's id is made of job, node and attempt, so a run that is delivered a second time finds what the first has posted, and waits for that.

Large because the way of one prompt (find, post, watch, copy, take back) is one sequence.
"""

import asyncio
import itertools
import mimetypes
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, field

from dihedral.bridge.errors import StoreError
from dihedral.bridge.tasks.registry import TaskContext, TaskError, task
from dihedral.data_plane.engines import comfyui
from dihedral.data_plane.engines.comfyui import Away, ComfySettings, Seen, Server, ServerSettings, Watched, Workflow
from dihedral.schemas.strict import Strict
from dihedral.schemas.structs.artifact import ArtifactRef

NAMESPACE = uuid.UUID("6f2f6b0e-8f0c-5d0c-9a57-2f0f2a6d7c11")
POLL_SECONDS = 5.0  # between looks at queue and history while no message comes
AGAIN_SECONDS = 2.0  # between tries of a server that is away
WITHDRAW_SECONDS = 10.0
STOPPED_SECONDS = 3.0  # how long a cancel waits to see that the prompt has stopped
MOST_RUNS = 3  # of one prompt that restarts of ComfyUI lose
PREVIEW_SECONDS, PREVIEW_SHARE = 1.0, 0.01  # of the time gone: the event log is bounded
MOST_FILES = 1_000
LORA_INPUT = ".lora_name"  # of ComfyUI's LoraLoader and LoraLoaderModelOnly
BUCKETS = {"audio": "voices", "model": "loras"}
KINDS = {
    ".safetensors": "model",
    ".latent": "latent",
    ".glb": "3d",
    ".gltf": "3d",
    ".obj": "3d",
    ".ply": "3d",
    ".stl": "3d",
    ".flac": "audio",
    ".opus": "audio",
    ".webp": "image",
    ".mkv": "video",
    ".webm": "video",
}


class RunComfyui(Strict, kw_only=True, rename="camel"):
    workflow: Annotated[
        dict[str, Any],
        Meta(
            description="In ComfyUI's API format: Workflow → Export (API)", extra_json_schema={"x-kind": ["workflow"]}
        ),
    ]
    values: Annotated[
        dict[str, Any], Meta(description='Replaces inputs: {"3.seed": 7}', extra_json_schema={"x-pairs": True})
    ] = field(default_factory=dict)
    files: Annotated[dict[str, ArtifactRef], Meta(description='Uploads artifacts: {"10.image": {bucket, key}}')] = (
        field(default_factory=dict)
    )
    server: Annotated[
        str,
        Meta(
            max_length=128,
            description="A name of [comfyui.NAME]; empty: the only one",
            extra_json_schema={"x-after": ["server"]},
        ),
    ] = ""
    outputs: Annotated[list[str] | None, Meta(description="Runs only what these nodes need, and takes their files")] = (
        None
    )
    partial: Annotated[bool, Meta(description="Accepts that ComfyUI drops branches that are invalid")] = False


class ComfyFile(Strict, kw_only=True):
    """kind: image, video, audio, latent, 3d, model or file, by the suffix."""

    node: str
    kind: str
    artifact: ArtifactRef


class RunComfyuiOutput(Strict, kw_only=True, rename="camel"):
    """texts: by node. cached: nodes that ComfyUI did not have to run again."""

    files: list[ComfyFile]
    texts: dict[str, list[str]]
    cached: list[str]
    prompt_id: str
    version: str


@task(
    id="run_comfyui",
    label="Run a ComfyUI workflow",
    description="Runs a workflow on a ComfyUI server that the operator has named, and stores what its nodes have saved.",
    timeout_seconds=86_400,
    settings=ComfySettings,
    side_effects=("comfyui",),
    keywords=["comfyui", "comfy", "workflow", "stable diffusion workflow"],
    examples=[
        {
            "workflow": {
                "1": {
                    "class_type": "EmptyImage",
                    "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255},
                },
                "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "blue"}},
            },
            "values": {"1.width": 128},
        }
    ],
    groups={"Workflow": ("workflow", "values", "files"), "Running": ("server", "outputs", "partial")},
)
async def run_comfyui(params: RunComfyui, ctx: TaskContext) -> RunComfyuiOutput:
    """Raises: TaskError `ui_workflow`, `invalid_workflow`, `invalid_input`, `unknown_server`, `comfyui_away`, `comfyui_lost`,
    `workflow_branch_dropped`, `comfyui_node_failed`, `comfyui_interrupted`, `comfyui_deleted`, `out_of_memory`, and those of the server."""
    workflow = comfyui.checked(params.workflow)
    for id in params.outputs or []:
        if id not in workflow:
            raise TaskError(f"outputs names node {id!r}, which the workflow does not have", code="invalid_input")
    for key, value in params.values.items():
        comfyui.place_value(workflow, key, value)
    for key in params.files:
        comfyui.place_value(workflow, key, "")
    folder = f"dihedral/{ctx.job_id}/{ctx.node_id}"
    comfyui.place_outputs(workflow, folder)
    settings = chosen(ctx.settings(ComfySettings), params.server)
    prompt = Prompt(workflow, params, settings, folder, ctx)
    try:
        return await prompt.run()
    except asyncio.CancelledError:
        if ctx.cancelled or prompt.seconds >= ctx.timeout_seconds:  # otherwise another worker goes on with the prompt
            await unhurried(prompt.withdraw())
        raise
    except TaskError:
        await prompt.drop()
        raise
    finally:
        await unhurried(prompt.close())


def chosen(settings: ComfySettings, name: str) -> ServerSettings:
    """Raises: TaskError `unknown_server`."""
    servers = settings.servers
    known = ", ".join(sorted(servers)) or "none"
    if not name and len(servers) == 1:
        return next(iter(servers.values()))
    if name not in servers or not servers[name].urls:
        raise TaskError(
            f"there is no ComfyUI server {name!r}; the settings file names {known} (a table [comfyui.NAME] with url)",
            code="unknown_server",
        )
    return servers[name]


class Prompt:
    """One workflow on its way through one of the servers."""

    _turns = itertools.count()

    def __init__(
        self, workflow: Workflow, params: RunComfyui, settings: ServerSettings, folder: str, ctx: TaskContext
    ) -> None:
        self.id = str(uuid.uuid5(NAMESPACE, f"{ctx.job_id}\n{ctx.node_id}\n{ctx.attempt}"))
        self._workflow = workflow
        self._params = params
        self._settings = settings
        self._folder = folder
        self._ctx = ctx
        self._servers = [Server(url, settings) for url in settings.urls]
        self._server: Server | None = None
        self._posted = False
        self._began = time.monotonic()
        self._previewed = 0.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    async def run(self) -> RunComfyuiOutput:
        for _ in range(MOST_RUNS):
            server, seen = await self._find()
            if seen.state == "absent":
                seen = await self._begin(server)
            if seen.state != "ended":
                seen = await self._follow(server, seen.client_id, cut=seen.state == "absent")
            if seen.state == "ended":
                return await self._outcome(server, seen.entry)
            self._ctx.log("ComfyUI has lost the prompt, as it does when it restarts: it is posted again", "warning")
        raise TaskError(f"ComfyUI has lost the prompt {MOST_RUNS} times", code="comfyui_lost", retryable=True)

    # Posting --------------------------------------------------------------------------------------------------------

    async def _find(self) -> tuple[Server, Seen]:
        """The server that has this prompt already, else the one with the shortest queue; waits while all of them are away."""
        deadline = time.monotonic() + self._settings.wait_seconds
        told = ""
        while True:
            reasons, there = [], []
            turn = next(self._turns)
            for number in range(len(self._servers)):
                server = self._servers[(turn + number) % len(self._servers)]
                try:
                    await server.greet()
                    seen = await server.look(self.id)
                    if seen.state != "absent":
                        self._ctx.waits("")
                        self._server, self._posted = server, True
                        return server, seen
                    there.append((await server.queue_length(), number, server))
                except Away as error:
                    reasons.append(f"{server.url}: {error}")
            if there:
                self._ctx.waits("")
                self._server = min(there)[2]
                return self._server, Seen("absent", {}, "")
            reason = "; ".join(reasons)
            if time.monotonic() >= deadline:
                raise TaskError(f"no ComfyUI answers: {reason}", code="comfyui_away", retryable=True)
            if reason != told:
                told = reason
                self._ctx.log(f"waits for ComfyUI: {reason}", "warning")
                self._ctx.data("waiting", {"for": "comfyui", "reason": reason[:500]})
                self._ctx.waits(f"waits for ComfyUI: {reason[:500]}")
            await asyncio.sleep(min(AGAIN_SECONDS, max(0.0, deadline - time.monotonic())))

    async def _begin(self, server: Server) -> Seen:
        """Uploads and posts. A connection that breaks meanwhile leaves it to the next look, whether the prompt has arrived."""
        client_id = str(uuid.uuid4())
        try:
            for key, ref in self._params.files.items():
                file = await self._ctx.fetch_async(ref)
                name = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{key.replace('.', '_')}_{Path(ref.key).name}")[-120:]
                if key.endswith(LORA_INPUT):
                    value = await asyncio.to_thread(self._placed_lora, file, name)
                else:
                    value = await server.upload(file, name, self._folder)
                comfyui.place_value(self._workflow, key, value)
            self._posted = True
            errors = await server.post(self.id, client_id, self._workflow, self._params.outputs)
        except Away as error:
            self._ctx.log(f"ComfyUI went away while the prompt was posted: {error}", "warning")
            return Seen("absent", {}, client_id)
        if errors and not self._params.partial:
            problems = comfyui.node_problems(errors)
            raise TaskError(
                f"ComfyUI would leave out a branch of the workflow: {'; '.join(problems[: comfyui.SHOWN])}",
                code="workflow_branch_dropped",
                details={"problems": problems[:50]},
            )
        for problem in comfyui.node_problems(errors):
            self._ctx.log(f"left out: {problem}", "warning")
        return Seen("pending", {}, client_id)

    def _placed_lora(self, file: Path, name: str) -> str:
        """Copies a LoRA to where ComfyUI looks for it, since it takes none by upload, and returns the name that it has there."""
        if not self._settings.loras:
            raise TaskError(
                "ComfyUI reads LoRAs from its own folder only: name it, as this worker sees it, in [comfyui.NAME] loras",
                code="invalid_settings",
            )
        folder = Path(self._settings.loras).expanduser()
        to = folder / f"dihedral-{self._ctx.job_id}-{name}"
        part = to.with_suffix(f".{self._ctx.nonce}.part")  # without the suffix that ComfyUI lists
        try:
            shutil.copyfile(file, part)
            part.replace(to)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise TaskError(
                f"the LoRA cannot be put into {folder} ([comfyui.NAME] loras): {error.strerror}",
                code="invalid_settings",
            ) from error
        return to.name

    # Watching -------------------------------------------------------------------------------------------------------

    async def _follow(self, server: Server, client_id: str, *, cut: bool) -> Seen:
        """Waits until the prompt has ended or ComfyUI has lost it (absent). `cut`: the connection broke before.

        Raises:
            TaskError: `comfyui_deleted`, `comfyui_away`.
        """
        watched = Watched(self.id, len(self._workflow))
        deadline = time.monotonic() + self._settings.wait_seconds
        while True:
            try:
                async with server.messages(client_id or str(uuid.uuid4())) as socket:
                    while True:  # the state first: messages that were sent while no client listened are not sent again
                        seen = await server.look(self.id)
                        self._ctx.waits("")
                        if seen.state == "ended" or (seen.state == "absent" and cut):
                            return seen
                        if seen.state == "absent":
                            raise TaskError("the prompt was deleted from ComfyUI's queue", code="comfyui_deleted")
                        cut, deadline = False, time.monotonic() + self._settings.wait_seconds
                        await self._listen(socket, watched)
            except Away as error:
                if not cut:
                    self._ctx.log(f"the connection to ComfyUI is lost: {error}", "warning")
                    self._ctx.waits(f"waits for ComfyUI: {error}")
                cut = True
                if time.monotonic() >= deadline:
                    raise TaskError(f"ComfyUI is gone: {error}", code="comfyui_away", retryable=True) from error
                await asyncio.sleep(AGAIN_SECONDS)

    async def _listen(self, socket: Any, watched: Watched) -> None:
        """Listens until the prompt may have ended, or until no message of it arrived for a while."""
        watched.may_have_ended = False
        until = time.monotonic() + POLL_SECONDS
        while not watched.may_have_ended and (left := until - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    message = await socket.recv()
            except TimeoutError:
                return
            if isinstance(message, str):
                watched.message(message)
                self._ctx.progress(0.95 * watched.fraction)
            else:
                await self._preview(watched.preview(message))

    async def _preview(self, image: tuple[bytes, str] | None) -> None:
        """A KSampler sends one for every step: few of them are kept. One that cannot be stored is no reason to end the work."""
        if image is None or self.seconds - self._previewed < max(PREVIEW_SECONDS, PREVIEW_SHARE * self.seconds):
            return
        self._previewed = self.seconds
        data, suffix = image
        kind = "image/png" if suffix == "png" else "image/jpeg"
        try:
            kept = await self._ctx.keep_preview_async("videos", f"preview.{suffix}", data, kind)
        except StoreError as error:
            self._ctx.log(f"no preview: {error}", "warning")
        else:
            self._ctx.data("preview", {"bucket": kept.bucket, "key": kept.key})

    # Ending ---------------------------------------------------------------------------------------------------------

    async def _outcome(self, server: Server, entry: dict[str, Any]) -> RunComfyuiOutput:
        """Copies the files at once: the next run of the same workflow names the same ones."""
        self._posted = False
        comfyui.check_success(entry)
        wanted = self._params.outputs
        found = [each for each in comfyui.files_of(entry) if wanted is None or each[0] in wanted]
        if len(found) > MOST_FILES:
            raise TaskError(f"the workflow saved {len(found)} files; {MOST_FILES} are possible", code="too_many_files")
        files = []
        for number, (node, file) in enumerate(found):
            suffix = Path(file["filename"]).suffix.lower()[:12]
            kind = kind_of(suffix)
            to = self._ctx.workdir / f"out{number}{re.sub(r'[^a-z0-9.]', '', suffix)}"
            try:
                await server.download(file, to)
            except Away as error:
                raise TaskError(
                    f"ComfyUI went away while its files were copied: {error}", code="comfyui_away", retryable=True
                ) from error
            name = re.sub(r"[^A-Za-z0-9._-]", "_", f"{node}-{number}-{Path(file['filename']).name}")[-100:].lstrip(
                "._-"
            )
            content_type = mimetypes.guess_type(to.name)[0] or "application/octet-stream"
            meta = await self._ctx.store_async(BUCKETS.get(kind, "videos"), name, to, content_type)
            to.unlink()
            files.append(ComfyFile(node=node, kind=kind, artifact=ArtifactRef(bucket=meta.bucket, key=meta.key)))
        texts = {id: said for id, said in comfyui.texts_of(entry).items() if wanted is None or id in wanted}
        if not files and not texts:
            raise TaskError("the workflow ended without a file or a text", code="no_result")
        if self._settings.memory_mib:
            await self._free(server)
        self._ctx.progress(1.0)
        return RunComfyuiOutput(
            files=files,
            texts=texts,
            cached=comfyui.cached_of(entry),
            prompt_id=self.id,
            version=server.version,
        )

    async def _free(self, server: Server) -> None:
        try:
            if not await server.queue_length():
                await server.free_memory()
        except (Away, TaskError) as error:
            self._ctx.log(f"ComfyUI was not asked to free its memory: {error}", "warning")

    async def drop(self) -> None:
        """Takes back what this run has posted, after an error that ends it; what has ended or is lost is left alone."""
        if self._server is not None and self._posted:
            try:
                async with asyncio.timeout(WITHDRAW_SECONDS):
                    await self._server.withdraw(self.id)
            except (Away, TaskError, TimeoutError) as error:
                self._ctx.log(f"the prompt {self.id} may still run in ComfyUI: {error}", "warning")

    async def withdraw(self) -> None:
        """Ends the prompt after a cancel; logs what is known of the other machine, and no more."""
        if self._server is None or not self._posted:
            return
        try:
            async with asyncio.timeout(WITHDRAW_SECONDS):
                state = await self._server.withdraw(self.id)
                if state != "running":
                    self._ctx.log("the prompt was removed from ComfyUI's queue before it began")
                    return
                until = time.monotonic() + STOPPED_SECONDS
                while time.monotonic() < until:
                    if (await self._server.look(self.id)).state == "ended":
                        self._ctx.log("ComfyUI has stopped the prompt")
                        return
                    await asyncio.sleep(0.1)
                self._ctx.log(
                    "ComfyUI was asked to stop; it stops before its next node, and goes on until then", "warning"
                )
        except (Away, TaskError, TimeoutError) as error:
            reason = str(error) or "it does not answer"
            self._ctx.log(
                f"ComfyUI could not be asked to stop: {reason}; the prompt {self.id} may go on there", "warning"
            )

    async def close(self) -> None:
        for server in self._servers:
            await server.close()


def kind_of(suffix: str) -> str:
    if suffix in KINDS:
        return KINDS[suffix]
    kind = (mimetypes.guess_type(f"x{suffix}")[0] or "").partition("/")[0]
    return kind if kind in ("image", "video", "audio") else "file"


async def unhurried(work: Any) -> None:
    """Runs to its end although this task is cancelled once a second meanwhile; `work` has a separate time limit."""
    doing = asyncio.ensure_future(work)
    while not doing.done():
        try:
            await asyncio.shield(doing)
        except asyncio.CancelledError:
            if doing.cancelled():
                return
