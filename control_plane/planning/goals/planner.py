"""The planner of goals: what it is asked over REST and MCP, and what it may look at: the live manifest, the pipelines, the caller's own files.

A plan stores nothing. Where a goal is submitted as a job, the graph of a certain plan runs under the job's metadata `plan`, which keeps the
goal, who planned it, and the drafts; a plan with open questions is refused with them (422 `needs_answer`).
"""

import asyncio
import mimetypes
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from dihedral.bridge.artifacts.owned import OwnedStore
from dihedral.bridge.artifacts.store import ArtifactNotFound, ArtifactStore, BadKey
from dihedral.bridge.fabric import functions, keys
from dihedral.bridge.fabric.connection import Client
from dihedral.bridge.tasks.registry import declared_mib
from dihedral.control_plane.access import ANONYMOUS, Principal
from dihedral.control_plane.estimates import Estimates
from dihedral.control_plane.identity import MAX_DERIVED
from dihedral.control_plane.planning import plan as planning
from dihedral.control_plane.planning.goals import answering, building
from dihedral.control_plane.planning.goals.evaluating import with_checks
from dihedral.control_plane.planning.goals.files import File, file_kinds
from dihedral.control_plane.planning.goals.modelling import repaired
from dihedral.control_plane.planning.goals.offers import Catalogue, catalogue
from dihedral.control_plane.planning.goals.stages import Asked, Matched, Repair, planned
from dihedral.control_plane.planning.goals.stages import prepare as prepare_graph
from dihedral.control_plane.problems import ApiProblem, refused
from dihedral.control_plane.tasks.llm import prepare as prepare_model
from dihedral.schemas.structs.artifact import ArtifactMeta, ArtifactRef
from dihedral.schemas.structs.capability import Capability
from dihedral.schemas.structs.pipeline import Pipeline
from dihedral.schemas.structs.plan import GoalPlan, PlanEstimate, PlannedBy, Question
from dihedral.schemas.structs.problem import ProblemDetail
from dihedral.schemas.structs.request import JobRequest, PlanDevice
from dihedral.schemas.structs.settings import Settings
from dihedral.schemas.structs.submission import GraphSubmission

if TYPE_CHECKING:
    from dihedral.control_plane.job_queue import Planned

TEXT_BYTES: Final = 48_000  # of a text file that may become a parameter
DOCUMENT_BYTES: Final = 262_144  # of a JSON file that may become one
LOOKS_AT_ONCE: Final = 8
CERTAIN: Final = 0.45
WRITER: Final = "generate_script"
METADATA: Final = "plan"
"""The member of a job's metadata that says how its goal was planned."""

Object = dict[str, Any]


class Manifest(Protocol):
    """The part of the job queue that the planner reads."""

    pipelines: dict[str, Pipeline]
    estimates: Estimates

    async def capabilities(self) -> dict[str, Capability]: ...

    async def submitted_graph(self, job_id: str, visible_owner: str | None) -> str: ...

    async def plan(
        self, request: JobRequest, job_id: str | None = None, principal: Principal = ANONYMOUS
    ) -> "Planned": ...


class Planner:
    def __init__(self, manifest: Manifest, store: ArtifactStore, settings: Settings, client: Client) -> None:
        self._manifest = manifest
        self._store = store
        self._settings = settings
        self._client = client
        self._asking = asyncio.Semaphore(settings.planner.at_once)
        self._compiled: tuple[Mapping[str, Capability], Catalogue, dict[str, Capability]] | None = None

    async def prepare(self) -> None:
        """Loads what the first plan needs (LangGraph: 0.7 s, the model's transport: 70 ms) before somebody waits for it, where a model is set."""
        if self._settings.llm.endpoint:
            await asyncio.to_thread(prepare_model)
            await asyncio.to_thread(prepare_graph)

    async def plan(self, request: JobRequest, principal: Principal) -> GoalPlan:
        """Plans a goal. Raises ApiProblem: 422 where the request has no goal or more than that, 429 beyond the key's limit."""
        return (await self._planned(request, principal))[0]

    async def _planned(self, request: JobRequest, principal: Principal) -> tuple[GoalPlan, Matched]:
        _check(request)
        await self._check_rate(principal)
        goal = str(request.goal)
        known, capabilities = await self._catalogue(request.device == PlanDevice.cpu)
        files = await self._files([] if isinstance(request.files, msgspec.UnsetType) else request.files, principal)
        answers = {} if isinstance(request.answers, msgspec.UnsetType) else request.answers
        base = await self._base(request, principal)
        asked = Asked(goal, tuple(files), known, capabilities, answers, base, request.evaluate is True)
        found = await planned(asked, self._repair())
        if found.graph is not None and request.evaluate is True:
            is_judged = bool(self._settings.llm.endpoint and self._settings.planner.rounds)
            found.graph = with_checks(found.graph, goal, capabilities, is_judged=is_judged)
        return await self._told(request, found, known, files, capabilities, principal), found

    async def decided(self, request: JobRequest, principal: Principal) -> JobRequest:
        """Returns the submission that a goal stands for. Raises ApiProblem: 422 `needs_answer` with the questions where it is not certain."""
        told, found = await self._planned(request, principal)
        if not told.certain or isinstance(told.graph, msgspec.UnsetType):
            errors = [
                ProblemDetail(pointer=f"/answers/{_escaped(each.id)}", code="needs_answer", detail=each.text)
                for each in told.questions
            ]
            raise ApiProblem(
                422, "needs_answer", "the goal leaves open what to do: answer in `answers`, or submit a graph", errors
            )
        metadata = dict(request.metadata) if isinstance(request.metadata, dict) else {}
        metadata[METADATA] = provenance(told, found.drafts)
        name = request.name if isinstance(request.name, str) else _name(told.goal)
        return msgspec.structs.replace(
            request, goal=msgspec.UNSET, files=msgspec.UNSET, answers=msgspec.UNSET, change=msgspec.UNSET, device=msgspec.UNSET,
            evaluate=msgspec.UNSET, deadline=msgspec.UNSET, budget_seconds=msgspec.UNSET, graph=told.graph, metadata=metadata, name=name or msgspec.UNSET,
        )  # fmt: skip

    def _repair(self) -> Repair | None:
        """Returns the step that asks the model; None where there is none."""
        llm, limits = self._settings.llm, self._settings.planner
        if not llm.endpoint or not limits.rounds:
            return None

        async def repair(asked: Asked, first: Matched) -> Matched:
            if is_certain(first) or not asked.goal.strip():
                return first
            async with self._asking:
                return await repaired(asked, first, llm, limits, self._settings.outgoing.allow)

        return repair

    async def _told(
        self,
        request: JobRequest,
        found: Matched,
        known: Catalogue,
        files: Sequence[File],
        capabilities: Mapping[str, Capability],
        principal: Principal,
    ) -> GoalPlan:
        graph = msgspec.UNSET if found.graph is None else msgspec.convert(found.graph, GraphSubmission)
        estimate: PlanEstimate | msgspec.UnsetType = msgspec.UNSET
        if not isinstance(graph, msgspec.UnsetType):
            estimate = _estimate(graph, capabilities, await self._seconds(graph, principal))
        if found.graph is not None and not self._settings.llm.endpoint:
            found.assumptions += _written_without_a_model(found.graph)
        _hold_limits(request, found, estimate)
        return GoalPlan(
            goal=str(request.goal),
            graph=graph,
            reasons=found.reasons,
            assumptions=found.assumptions,
            unmet=found.unmet,
            questions=found.questions,
            suggestions=answering.suggestions(known, files) if files else [],
            confidence=found.confidence,
            certain=is_certain(found),
            estimate=estimate,
            rounds=found.rounds,
            by=PlannedBy.model if found.by_model else PlannedBy.matcher,
            model=self._settings.llm.model if found.by_model else None,
        )

    async def _seconds(self, graph: GraphSubmission, principal: Principal) -> float | None:
        """Returns how long most such jobs took, of those that start at once; None where a task has not run often enough."""
        try:
            job = await self._manifest.plan(JobRequest(graph=graph), principal=principal)
        except ApiProblem:
            return None  # the answer's questions say why it would be refused
        found = await self._manifest.estimates.of_plan(job.graph, job.routes)
        return None if found is None else found.high

    async def _base(self, request: JobRequest, principal: Principal) -> Object | None:
        """Returns the graph that the goal changes, as a submission. Raises ApiProblem: 403 without the scope that its job needs, 404 where that is not there for this caller."""
        if isinstance(request.change, msgspec.UnsetType):
            return None
        if isinstance(request.change, str):
            principal.check_scope("read", "change")
            text = await self._manifest.submitted_graph(request.change, principal.visible_owner)
            return await asyncio.to_thread(lambda: building.as_submission(msgspec.json.decode(text)))
        return building.as_submission(msgspec.to_builtins(request.change))

    # What it may look at -----------------------------------------------------------------------------------------------

    async def _catalogue(self, without_gpu: bool) -> tuple[Catalogue, dict[str, Capability]]:
        """Returns the offers, compiled once for a manifest."""
        capabilities = await self._manifest.capabilities()
        if self._compiled is None or self._compiled[0] is not capabilities:
            tools = _tools(self._settings.tasks)
            made = await asyncio.to_thread(catalogue, capabilities, self._manifest.pipelines, tools)
            self._compiled = capabilities, made, dict(capabilities)
        known = self._compiled[1]
        if without_gpu:
            light = {task: each for task, each in capabilities.items() if each.runtime.kind != "gpu"}
            known = await asyncio.to_thread(catalogue, light, self._manifest.pipelines)
        return known, self._compiled[2]

    async def _files(self, refs: Sequence[ArtifactRef], principal: Principal) -> list[File]:
        """Types the files by what the store knows of them; what it does not have, or does not show to this caller, by its name."""
        store = OwnedStore(self._store, principal.visible_owner, principal.name)
        turns = asyncio.Semaphore(LOOKS_AT_ONCE)

        async def look(index: int, ref: ArtifactRef) -> File:
            async with turns:
                return await _typed(store, index, ref)

        return list(await asyncio.gather(*(look(index, ref) for index, ref in enumerate(refs))))

    async def _check_rate(self, principal: Principal) -> None:
        """Counts the goals of a key by the minute. Raises 429."""
        limit = self._settings.planner.per_minute
        if not limit:
            return
        now = time.time()
        name = keys.plans(principal.key.id if principal.key else "", int(now // 60))
        count = await functions.call(self._client, "lasting", name, 120_000, "INCRBY", 1)
        if count > limit:
            detail = f"this key has {limit} goals planned in a minute (planner.perMinute)"
            raise ApiProblem(429, "plans_limited", detail, headers={"Retry-After": str(60 - int(now % 60))})


async def _typed(store: OwnedStore, index: int, ref: ArtifactRef) -> File:
    document = {"bucket": ref.bucket, "key": ref.key}
    name = ref.key.rpartition("/")[2] or ref.key
    try:
        meta = await store.meta(ref.bucket, ref.key)
    except (ArtifactNotFound, BadKey):
        guessed = mimetypes.guess_type(name)[0] or ""
        return File(document, name, file_kinds(name, guessed, ref.bucket), False, index)
    shown = name if isinstance(meta.name, msgspec.UnsetType) else meta.name
    kind = (
        meta.content_type if meta.content_type != "application/octet-stream" else mimetypes.guess_type(shown)[0] or ""
    )
    kinds = file_kinds(shown, kind, ref.bucket)
    text = await _text(store, meta) if "text" in kinds and meta.size_bytes <= TEXT_BYTES else None
    content = await _document(store, meta) if "workflow" in kinds and meta.size_bytes <= DOCUMENT_BYTES else None
    return File(document, shown, kinds, True, index, text=text, document=content)


async def _text(store: OwnedStore, meta: ArtifactMeta) -> str | None:
    content = b"".join([chunk async for chunk in store.open(meta.bucket, meta.key, 0, meta.size_bytes)])
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


async def _document(store: OwnedStore, meta: ArtifactMeta) -> Any:
    text = await _text(store, meta)
    try:
        found = None if text is None else msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return None if planning.too_deep(found) else found


def _tools(tasks: Mapping[str, Any]) -> dict[str, str]:
    """Returns the operator's command lines, by their names: their labels."""
    named = tasks.get("run_tool", {}).get("tools", {})
    if not isinstance(named, dict):
        return {}
    return {
        name: str(each.get("label") or each.get("preset") or name)
        for name, each in named.items()
        if isinstance(each, dict)
    }


def _check(request: JobRequest) -> None:
    given = [
        name
        for name in ("graph", "pipeline", "task", "params", "rerun_of")
        if not isinstance(getattr(request, name), msgspec.UnsetType)
    ]
    if isinstance(request.goal, msgspec.UnsetType) or given:
        found = [planning.Problem("", "graph_or_pipeline", "exactly one of graph, pipeline, task and goal is needed")]
        raise refused("a submission has either a graph, a pipeline or a goal", found)


def _estimate(graph: GraphSubmission, capabilities: Mapping[str, Capability], seconds: float | None) -> PlanEstimate:
    used = [(capabilities[node.task], node.params if isinstance(node.params, dict) else {}) for node in graph.nodes]
    return PlanEstimate(
        nodes=len(used),
        gpu_nodes=sum(1 for each, _ in used if each.runtime.kind == "gpu"),
        memory_mib=max((declared_mib(each, params) for each, params in used), default=0),
        seconds=seconds,
    )


def _written_without_a_model(graph: Object) -> list[str]:
    """Returns what the caller has to know of a script that a template will write."""
    if not any(node["task"] == WRITER for node in graph["nodes"]):
        return []
    return ["no language model is set (llm.endpoint): a template writes the script and knows nothing of its subject"]


def is_certain(found: Matched) -> bool:
    return found.graph is not None and not found.questions and found.confidence >= CERTAIN


def _hold_limits(request: JobRequest, found: Matched, estimate: PlanEstimate | msgspec.UnsetType) -> None:
    """Compares what is known of the duration with the caller's limits; what is not known is said."""
    limits = []
    if isinstance(request.budget_seconds, float | int):
        limits.append(("budgetSeconds", float(request.budget_seconds)))
    if isinstance(request.deadline, datetime):
        limits.append(("deadline", request.deadline.timestamp() - time.time()))
    for name, seconds in limits:
        if isinstance(estimate, msgspec.UnsetType):
            continue
        if estimate.seconds is None and seconds > 0:
            found.assumptions.append(f"whether it keeps {name} is not known: not every task here has run yet")
        elif estimate.seconds is None or estimate.seconds > seconds:
            known = "" if estimate.seconds is None else f" of {estimate.seconds:.0f} s"
            found.unmet.append(f"{name}: the estimate{known} is beyond it")
            found.questions.append(
                Question(id=name, text=f"It will not be ready within {name}. Go on all the same?", choices=[])
            )


def provenance(told: GoalPlan, drafts: list[Object]) -> Object:
    """Returns what is kept with a job of how it was planned."""
    return {
        "goal": told.goal,
        "by": str(told.by),
        "model": told.model,
        "rounds": told.rounds,
        "confidence": told.confidence,
        "assumptions": told.assumptions,
        "drafts": drafts,
        "reasons": [msgspec.to_builtins(each) for each in told.reasons],
    }


def _name(goal: str) -> str:
    """Returns the goal as a job's name; empty where it has no letter."""
    return "".join(each for each in " ".join(goal.split()) if each.isprintable())[:MAX_DERIVED].strip()


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
