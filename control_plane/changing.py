"""Changes jobs after their submission: name, tags, priority, and the place in the queue."""

import msgspec

from dihedral.bridge.fabric import moving
from dihedral.bridge.fabric.items import Change
from dihedral.bridge.fabric.jobs import JobView, decode_graph
from dihedral.bridge.fabric.scripts import Depth
from dihedral.control_plane import identity
from dihedral.control_plane.identity import About
from dihedral.control_plane.job_queue import JobQueue
from dihedral.control_plane.planning.plan import Problem
from dihedral.control_plane.problems import ApiProblem, refused, unknown_job
from dihedral.schemas.structs.job import Job
from dihedral.schemas.structs.request import JobChange

TRIES = 5
UNSET = msgspec.UNSET


async def change(queue: JobQueue, view: JobView, wanted: JobChange, visible_owner: str | None) -> Job:
    """Changes a job that the caller may see. Raises ApiProblem: 409 for the priority of a job that has ended, 422 where nothing is to be changed."""
    if wanted == JobChange():
        raise ApiProblem(422, "nothing_to_change", "give at least one of name, tags and priority")
    if wanted.priority is not UNSET and view.ended:
        raise _ended()
    if wanted.name is not UNSET or wanted.tags is not UNSET:
        await _rename(queue, view.job_id, wanted)
    if wanted.priority is not UNSET:
        word = await moving.set_priority(queue.jobs, view.job_id, str(wanted.priority))
        if word == "often":
            detail = "the priority of this job was changed as often as it can be; operators can move it to the front"
            raise ApiProblem(409, "changed_too_often", detail)
        _check(word, view.job_id)
    return await queue.document_of(view.job_id, visible_owner)


async def to_front(queue: JobQueue, job_id: str, visible_owner: str | None) -> Job:
    """Moves what waits of a job before all others of its places. Raises ApiProblem: 404, 409 where nothing of it waits in a queue."""
    view = await queue.exact(job_id, visible_owner)
    word = await moving.move_to_front(queue.jobs, view.job_id)
    if word == "idle":
        raise ApiProblem(409, "not_waiting", "nothing of this job waits in a queue now")
    if word == "far":
        detail = (
            f"it is one of the most urgent already, and more than {moving.MOST_AHEAD} of those wait: none was moved"
        )
        raise ApiProblem(409, "too_many_ahead", detail)
    _check(word, view.job_id)
    return await queue.document_of(view.job_id, visible_owner)


def _check(word: str, job_id: str) -> None:
    if word == "ended":
        raise _ended()
    if word == "unknown":
        raise unknown_job(job_id)


def _ended() -> ApiProblem:
    return ApiProblem(409, "job_ended", "the job has ended, so it waits for nothing")


async def _rename(queue: JobQueue, job_id: str, wanted: JobChange) -> None:
    part = queue.jobs.scripts.partition(job_id)
    for _ in range(TRIES):
        view = await queue.jobs.read(job_id, depth=Depth.graph)
        if view is None:
            raise unknown_job(job_id)
        about = identity.decode(view.about)
        after = identity.encode(_renamed(about, wanted, view)).decode()
        if identity.decode(after).cut and not about.cut:  # its params would be lost
            detail = f"with it, name, tags and params would have more than {identity.MAX_BYTES} bytes"
            raise refused(detail, [Problem("/name" if wanted.tags is UNSET else "/tags", "too_large", detail)])
        word = (await queue.jobs.scripts.change(part, [Change(job_id, before=view.about, after=after)]))[0]
        if word != "conflict":
            return _check(word, job_id)
    raise ApiProblem(409, "changed_meanwhile", "others change this job at the same time; ask again")


def _renamed(about: About, wanted: JobChange, view: JobView) -> About:
    tags = list(dict.fromkeys(wanted.tags)) if isinstance(wanted.tags, list) else about.tags
    if wanted.name is UNSET:
        return msgspec.structs.replace(about, tags=tags)
    name = wanted.name if isinstance(wanted.name, str) else ""
    derived = about.derived
    if not (name or derived or about.given):
        graph = decode_graph(view.graph or "{}")
        derived = identity.titled(graph.metadata) or identity.named_by_nodes(graph)
    return msgspec.structs.replace(about, name=name, derived=derived, tags=tags)
