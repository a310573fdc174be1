"""The one further attempt that an evaluation asks for: the same graph with another parameter or task, as a job of its own."""

from typing import Any, Final

import msgspec

from dihedral.bridge.fabric import keys
from dihedral.bridge.fabric.scripts import Depth
from dihedral.control_plane import identity
from dihedral.control_plane.access import ANONYMOUS, Principal
from dihedral.control_plane.api_keys import ApiKey
from dihedral.control_plane.job_queue import JobQueue
from dihedral.control_plane.planning.goals.building import as_submission
from dihedral.control_plane.planning.goals.evaluating import TASK
from dihedral.control_plane.planning.goals.planner import METADATA
from dihedral.control_plane.problems import ApiProblem
from dihedral.control_plane.tasks.evaluate_results import Changes, NotSubmitted, Swaps

LONGEST_ID: Final = 128
NUMBERS: Final = range(2, 10)
"""The endings that its id may have: another job may have the first of them."""


class SecondAttempts:
    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    async def submit(self, job_id: str, owner: str, changes: Changes, swaps: Swaps, reason: str) -> str:
        """Submits it for the job's owner. Returns its id; a repeated call returns the same and starts nothing.

        Raises NotSubmitted.
        """
        caller = (
            Principal(ApiKey(id="", owner=owner, scopes=["submit", "read"], sha256="", created=""))
            if owner
            else ANONYMOUS
        )
        body = await self._body(job_id, caller, changes, swaps, reason)
        for number in NUMBERS:
            name = f"{job_id}-{number}"
            if len(name) > LONGEST_ID:
                raise NotSubmitted("its id would be too long")
            body["graph"]["workflowId"] = name
            try:
                await self._queue.submit(msgspec.json.encode(body), caller)
                return name
            except ApiProblem as problem:
                if problem.code != "job_exists":
                    raise NotSubmitted(problem.detail) from problem
            there = await self._queue.jobs.read(name)
            if there is not None and there.owner == owner and identity.decode(there.about).rerun_of == job_id:
                return name
        raise NotSubmitted(f"other jobs have its id: {job_id}-{NUMBERS[0]} to {name}")

    async def _body(
        self, job_id: str, caller: Principal, changes: Changes, swaps: Swaps, reason: str
    ) -> dict[str, Any]:
        """Makes the request: what was asked for the first attempt, with the changes."""
        queue = self._queue
        view = await queue.view(job_id, depth=Depth.graph, visible_owner=caller.visible_owner)
        document = msgspec.json.decode(view.graph or "{}")
        graph = as_submission(document)
        for node in graph["nodes"]:
            changed: dict[str, Any] = dict(changes.get(node["id"], {}))
            node["task"] = swaps.get(node["id"], node["task"])
            if node["task"] == TASK:  # whatever it was before: no attempt follows the second
                changed["attempt"] = 2
            node["params"] = {**node.get("params", {}), **changed}
        planned = document.get("metadata", {}).get(METADATA, {})
        told = {**planned, "attempt": 2, "of": job_id, "reason": reason, "changed": changes, "swapped": swaps}
        body = {
            "graph": graph,
            "rerunOf": job_id,
            "metadata": {**msgspec.json.decode(view.metadata), METADATA: told},
            "priority": view.priority,
            "tags": identity.decode(view.about).tags,
        }
        webhook = await queue.jobs.client.get(keys.webhook(job_id, queue.jobs.scripts.partition(job_id)))
        if webhook is not None:
            body["webhook"] = msgspec.json.decode(webhook)
        if isinstance(goal := planned.get("goal"), str) and goal.strip():
            body["name"] = f"{' '.join(goal.split())[:160]} (second attempt)"
        return body
