"""Sweeps: one submission with several values of some params makes a job of each combination.

All combinations are planned before anything is stored, so a wrong value is a problem of the whole sweep, at `/sweep/PARAM/INDEX`. The jobs
are submitted together; one that the limits refuse meanwhile stands as a problem in its place. The ids of the jobs follow from the
id of the sweep, so a repeat with the same Idempotency-Key finds them, and completes a sweep that was cut off.
"""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import msgspec

from dihedral.bridge.fabric import keys
from dihedral.bridge.fabric.jobs import NewJob
from dihedral.control_plane import identity
from dihedral.control_plane.access import Principal
from dihedral.control_plane.job_queue import BLOCK, BLOCK_BYTES, JobQueue, Planned, digest_of
from dihedral.control_plane.planning import plan as planning
from dihedral.control_plane.planning.schema_check import pointer
from dihedral.control_plane.problems import ApiProblem, refused
from dihedral.schemas.structs.graph import Estimate
from dihedral.schemas.structs.job import Job, SweepJobs, SweepPlan
from dihedral.schemas.structs.problem import ProblemDetail
from dihedral.schemas.structs.request import JobRequest
from dihedral.schemas.structs.settings import Settings

MAX_VALUE = 30
UNSET = msgspec.UNSET

Combination = dict[str, Any]


def is_sweep(request: JobRequest) -> bool:
    return isinstance(request.sweep, dict)


async def plan(queue: JobQueue, request: JobRequest, body: bytes, principal: Principal) -> SweepPlan:
    """Plans a sweep. Raises ApiProblem with the problems of every combination."""
    combinations, planned = await _planned(queue, request, len(body), principal, "plan")
    estimates = [await queue.estimates.of_plan(each.graph, each.routes) for each in planned]
    known = [each for each in estimates if each is not None]
    whole = Estimate(low=sum(each.low for each in known), high=sum(each.high for each in known))
    return SweepPlan(
        jobs=len(planned),
        combinations=combinations,
        graph=planned[0].graph,
        estimate=whole if len(known) == len(planned) else UNSET,
    )


async def submit(
    queue: JobQueue, request: JobRequest, body: bytes, principal: Principal, key: str | None, instance: str
) -> tuple[SweepJobs, bool]:
    """Submits the jobs of a sweep; returns them and whether they are new. `instance`: the address of the request, for problems. Raises ApiProblem."""
    owner, digest = principal.name, digest_of(body, principal.name)
    kept = await queue.lookup(owner, key, digest)
    sweep = secrets.token_hex(8) if kept is None else kept.job_id
    if kept is not None and kept.created:
        combinations = _combinations(request, len(body), queue.settings)
        jobs = [await _repeated(queue, job_id(sweep, index), owner) for index in range(len(combinations))]
        return _answer(sweep, combinations, jobs, instance), False
    count = len(_combinations(request, len(body), queue.settings))
    left, word = await queue.jobs.allowance(queue.limit_of(principal))
    if kept is None and word and left < count:
        problem = queue.not_accepted(word, "")
        problem.detail = f"{problem.detail}: this sweep makes {count} jobs, and {left} more are accepted now"
        raise problem
    combinations, planned = await _planned(queue, request, len(body), principal, sweep)
    if key is not None and kept is None:
        kept = await queue.reserve(owner, key, digest, sweep)
        sweep = sweep if kept is None else kept.job_id
    answers: list[Job | ApiProblem | None] = [None] * len(planned)
    new: list[tuple[int, NewJob, Planned]] = []
    size = 0
    for index, each in enumerate(planned):
        each.graph.workflow_id = job_id(sweep, index)
        each.request.tags = [*(each.request.tags if isinstance(each.request.tags, list) else []), tag_of(sweep)]
        new.append((index, await queue.new(each, each.request, f"{digest}{index}", principal), each))
        size += len(body)
        if len(new) == BLOCK or size >= BLOCK_BYTES or index == len(planned) - 1:
            await queue.submit_block(new, answers, principal)
            new, size = [], 0
    for index, answer in enumerate(answers):
        if isinstance(answer, ApiProblem) and answer.code == "job_exists" and key is not None:
            answers[index] = await _repeated(queue, job_id(sweep, index), owner)  # an attempt before this one made it
    jobs = [answer for answer in answers if answer is not None]
    name = None if key is None else keys.idempotency(owner, key)
    if not any(isinstance(answer, Job) for answer in jobs):
        if name is not None:
            await queue.jobs.client.delete(name)
        raise next(answer for answer in jobs if isinstance(answer, ApiProblem))
    if name is not None:
        await queue.jobs.client.set(name, f"{sweep} {digest} created", xx=True, keepttl=True)
    return _answer(sweep, combinations, jobs, instance), True


def job_id(sweep: str, index: int) -> str:
    """Computes the id of a job of a sweep; ids of one sweep do not begin alike, so that each can be shortened."""
    return hashlib.blake2b(f"{sweep} {index}".encode(), digest_size=16).hexdigest()


def tag_of(sweep: str) -> str:
    return f"sweep-{sweep}"


async def _repeated(queue: JobQueue, id: str, owner: str) -> Job | ApiProblem:
    try:
        return await queue.repeated(id, owner)
    except ApiProblem as problem:
        return problem


def _answer(sweep: str, combinations: list[Combination], jobs: Sequence[Job | ApiProblem], instance: str) -> SweepJobs:
    shown = [
        msgspec.to_builtins(each.document(f"{instance}#/jobs/{index}") if isinstance(each, ApiProblem) else each)
        for index, each in enumerate(jobs)
    ]
    return SweepJobs(sweep=sweep, tag=tag_of(sweep), combinations=combinations, jobs=shown)


def _combinations(request: JobRequest, size: int, settings: Settings) -> list[Combination]:
    """Returns every combination, the values of the last param changing fastest. `size`: the bytes of the body, which each job may store. Raises ApiProblem."""
    most, most_bytes = settings.control.sweep_jobs, settings.control.batch_limit_bytes
    sweep = request.sweep if isinstance(request.sweep, dict) else {}
    count = 1
    for values in sweep.values():
        count *= len(values)
    if count > most:
        detail = f"{count} combinations; at most {most} are allowed (control.sweepJobs)"
        raise refused("the sweep is too large", [planning.Problem("/sweep", "too_many_jobs", detail)])
    if count * size > most_bytes:
        detail = (
            f"{count} combinations of {size} bytes; together at most {most_bytes} are allowed (control.batchLimitBytes)"
        )
        raise refused("the sweep is too large", [planning.Problem("/sweep", "too_large", detail)])
    return [dict(zip(sweep, values, strict=True)) for values in product(*sweep.values())]


async def _planned(
    queue: JobQueue, request: JobRequest, size: int, principal: Principal, sweep: str
) -> tuple[list[Combination], list[Planned]]:
    """Plans each combination, with ids that follow from `sweep`. Raises ApiProblem with the problems of all."""
    combinations = _combinations(request, size, queue.settings)
    base = request if isinstance(request.goal, str) else (await queue.completed(request, principal))[0]
    if isinstance(base.goal, str) or not isinstance(base.graph, msgspec.UnsetType):
        detail = "only params of a pipeline or a task can be swept"
        raise refused(detail, [planning.Problem("/sweep", "nothing_to_sweep", detail)])
    await _refuse_unknown(queue, base)
    params = base.params if isinstance(base.params, dict) else {}
    planned: list[Planned] = []
    found: dict[tuple[str, str], ProblemDetail] = {}
    for index, combination in enumerate(combinations):
        one = msgspec.structs.replace(
            base, sweep=UNSET, params={**params, **combination}, name=_name(base, params, combination)
        )
        try:
            each = await queue.plan(one, job_id(sweep, index), principal)
            await queue.refuse_missing(each, principal)
            planned.append(each)
        except ApiProblem as problem:
            if problem.status != 422:
                raise
            for error in problem.errors:
                at = _pointer(error.pointer, index, request.sweep)
                found.setdefault((at, error.code), ProblemDetail(pointer=at, code=error.code, detail=error.detail))
            if len(found) >= planning.MAX_PROBLEMS:
                break
        await queue.breathe()
    if found:
        detail = "the sweep cannot run as a whole, so none of its jobs was made"
        raise ApiProblem(422, "invalid_request", detail, list(found.values()))
    return combinations, planned


async def _refuse_unknown(queue: JobQueue, base: JobRequest) -> None:
    """Raises ApiProblem for params that the pipeline or task does not have."""
    schema: Mapping[str, Any] = {}
    if isinstance(base.pipeline, str) and base.pipeline in queue.pipelines:
        schema = queue.pipelines[base.pipeline].params
    elif isinstance(base.task, str) and (capability := (await queue.capabilities()).get(base.task)):
        schema = capability.io.input
    known = schema.get("properties", {})
    if schema.get("additionalProperties") is not False or not isinstance(base.sweep, dict):
        return
    found = [
        planning.Problem(f"/sweep{pointer((name,))}", "unknown_param", f"there is no param {name!r}{planning.meant(name, known)}")
        for name in base.sweep
        if name not in known
    ]  # fmt: skip
    if found:
        raise refused("the sweep names params that are not there", found)


def _pointer(where: str, index: int, sweep: Any) -> str:
    """Translates a pointer into the params of the combination `index` to one into the sweep, where the param is swept."""
    for name in reversed(sweep):
        index, nth = divmod(index, len(sweep[name]))
        at = f"/params{pointer((name,))}"
        if where == at or where.startswith(f"{at}/"):
            return f"/sweep{pointer((name, nth))}{where.removeprefix(at)}"
    return where


def _name(base: JobRequest, params: Mapping[str, Any], combination: Combination) -> str:
    """Names a job of a sweep by its name, prompt, pipeline or task, and by its values."""
    if isinstance(base.name, str):
        title = base.name
    else:
        title = identity.named_by({name: value for name, value in params.items() if name not in combination})
    title = title or str(base.pipeline if isinstance(base.pipeline, str) else base.task)
    values = ", ".join(f"{name} {_shown(value)}" for name, value in combination.items())
    ending = f" · {values}"[: identity.MAX_NAME - 20]
    return title[: identity.MAX_NAME - len(ending)].rstrip() + ending.rstrip()


def _shown(value: Any) -> str:
    if isinstance(value, dict) and isinstance(value.get("key"), str):
        value = identity.file_name(value["key"])
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    line = "".join(char if char.isprintable() else " " for char in text[: 2 * MAX_VALUE])
    return line if len(line) <= MAX_VALUE else line[: MAX_VALUE - 1] + "…"
