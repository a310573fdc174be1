"""The one further attempt that an evaluation asks for: the same graph with a changed parameter, as a job of its own."""

from typing import Any, Final

import msgspec

from dihedral.control_plane.access import ANONYMOUS, Principal
from dihedral.control_plane.api_keys import ApiKey
from dihedral.control_plane.job_queue import JobQueue
from dihedral.control_plane.planning.goals.building import as_submission
from dihedral.control_plane.planning.goals.evaluating import TASK
from dihedral.control_plane.planning.goals.planner import METADATA
from dihedral.control_plane.problems import ApiProblem
from dihedral.control_plane.tasks.evaluate_results import Changes, NotSubmitted

LONGEST_ID: Final = 128


class SecondAttempts:
    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    async def submit(self, job_id: str, owner: str, changes: Changes, reason: str) -> str:
        """Submits it for the job's owner. Returns its id; a repeated call returns the same and starts nothing.

        Raises NotSubmitted.
        """
        name = f"{job_id}-2"
        if len(name) > LONGEST_ID:
            raise NotSubmitted("its id would be too long")
        caller = (
            Principal(ApiKey(id="", owner=owner, scopes=["submit", "read"], sha256="", created=""))
            if owner
            else ANONYMOUS
        )
        document = msgspec.json.decode(await self._queue.submitted_graph(job_id, caller.visible_owner))
        graph = as_submission(document)
        for node in graph["nodes"]:
            changed: dict[str, Any] = dict(changes.get(node["id"], {}))
            if node["task"] == TASK:
                changed["attempt"] = 2
            node["params"] = {**node.get("params", {}), **changed}
        planned = document.get("metadata", {}).get(METADATA, {})
        told = {**planned, "attempt": 2, "of": job_id, "reason": reason, "changed": changes}
        body = {"graph": {**graph, "workflowId": name}, "rerunOf": job_id, "metadata": {METADATA: told}}
        if isinstance(goal := planned.get("goal"), str) and goal.strip():
            body["name"] = f"{' '.join(goal.split())[:160]} (second attempt)"
        try:
            await self._queue.submit(msgspec.json.encode(body), caller)
        except ApiProblem as problem:
            if problem.status != 409:
                raise NotSubmitted(problem.detail) from problem
        return name
