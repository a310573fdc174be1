"""Commands on the places where jobs run: queues and workers."""

import argparse
from collections.abc import Callable, Collection
from typing import Any

from dihedral.terminal import OK, answer, client_for, local, usage, whole_id

Add = Callable[..., argparse.ArgumentParser]
PLANES = {"data": "python", "control": "node", "python": "python", "node": "node"}
TITLES = {"python": "data", "node": "control"}


def declare(add: Add) -> None:
    """Adds the parsers of these commands."""
    one = add("queues", queues, "what waits where; of one pool the jobs in their order", client=True)
    one.add_argument("pool", nargs="?", metavar="POOL", help="a pool of the data plane, or PLANE/POOL")
    add("workers", workers, "the workers, and what they run", client=True)
    one = add("pause", pause, "pause a pool: jobs wait there, what runs goes on", client=True)
    one.add_argument("pool", metavar="POOL")
    one = add("drain", drain, "let a worker take no more nodes; what it runs goes on", client=True)
    one.add_argument("worker", metavar="WORKER")
    one = add("resume", resume, "resume a paused pool or a drained worker", client=True)
    one.add_argument("what", metavar="POOL|WORKER")
    one = add("move", move, "move a waiting job to the front of its queue, or give it another priority", client=True)
    one.add_argument("job", metavar="JOB")
    one.add_argument("--priority", choices=["high", "normal", "low"])
    one = add("tag", tag, "add tags to a job, or remove them", client=True)
    one.add_argument("job", metavar="JOB")
    one.add_argument("tags", nargs="+", metavar="TAG")
    one.add_argument("--remove", action="store_true")
    one = add("rename", rename, "name a job", client=True)
    one.add_argument("job", metavar="JOB")
    one.add_argument("name", nargs="?", metavar="NAME", help="default: what follows from its prompt or file")


def place(text: str) -> tuple[str, str]:
    """Returns (plane, pool) of `default`, `data/default` or `python/default`."""
    plane, slash, pool = text.rpartition("/")
    if slash and plane not in PLANES:
        raise usage(f"there is no plane {plane!r}; there are: data, control")
    return PLANES[plane or "data"], pool


def queues(options: argparse.Namespace) -> int:
    from dihedral.tables import listing

    with client_for(options) as client:
        if options.pool is not None:
            return _waiting(client, options, *place(options.pool))
        found = client.queues()
    rows = [
        [
            f"{TITLES[each['plane']]}/{each['pool']}",
            str(each["depth"]),
            str(each["pending"]),
            "" if each["oldestSeconds"] is None else f"{each['oldestSeconds']:.0f} s",
            "paused" if each.get("paused") else "",
        ]
        for each in found["queues"]
    ]
    lines = listing(("POOL", "QUEUED", "IN FLIGHT", "OLDEST", ""), rows, flexible=(0,))
    answer(options, found, "\n".join(lines) or "no queues: no worker has come yet")
    return OK


def _waiting(client: Any, options: argparse.Namespace, plane: str, pool: str) -> int:
    from dihedral.tables import listing

    found = client.queue(plane, pool)
    rows = [
        [str(each["position"]), each["jobId"] or "(of another owner)", each["priority"], local(each["since"]), ", ".join(each["nodes"])]
        for each in found["waiting"]
    ]  # fmt: skip
    lines = listing(("", "JOB", "PRIORITY", "SINCE", "NODES"), rows, flexible=(4, 1))
    answer(options, found, "\n".join(lines) or "nothing waits there")
    return OK


def workers(options: argparse.Namespace) -> int:
    from dihedral.tables import listing

    with client_for(options) as client:
        found = client.workers()
    rows = []
    for each in found["workers"]:
        memory = each.get("memory") or []
        used, total = sum(one["usedBytes"] for one in memory), sum(one["totalBytes"] for one in memory)
        rows.append(
            [
                each["workerId"],
                f"{TITLES[each['plane']]}/{each['pool']}",
                f"{len(each['running'])}/{each['slots']}",
                f"{used / 2**30:.1f}/{total / 2**30:.0f} GiB" if total else "",
                each["device"],
                "draining" if each.get("draining") else "",
            ]
        )
    lines = listing(("WORKER", "POOL", "RUNS", "MEMORY", "DEVICE", ""), rows, flexible=(4, 1, 0))
    for each in found["workers"]:
        for run in each["running"]:
            lines.append(f"  {each['workerId']} runs {run['nodeId']} ({run['task']}) of {run['jobId']}")
    answer(options, found, "\n".join(lines) or "no worker is alive")
    return OK


# What changes them ----------------------------------------------------------------------------------------------------


def pause(options: argparse.Namespace) -> int:
    with client_for(options) as client:
        found = client.pause_queue(*place(options.pool))
    answer(options, found, f"{_title(found)} is paused; {found['depth']} queued   (dihedral resume {_title(found)})")
    return OK


def drain(options: argparse.Namespace) -> int:
    with client_for(options) as client:
        found = client.drain_worker(_worker_id(client, options.worker) or options.worker)
    runs = f"it ends {len(found['running'])} nodes" if found["running"] else "it can be stopped"
    answer(options, found, f"{found['workerId']} takes no more nodes; {runs}")
    return OK


def resume(options: argparse.Namespace) -> int:
    with client_for(options) as client:
        pools = {(each["plane"], each["pool"]) for each in client.queues()["queues"]}
        worker = resumed(options.what, _worker_id(client, options.what), pools)
        if worker is not None:
            answer(options, client.resume_worker(worker), f"{worker} takes nodes again")
        else:
            found = client.resume_queue(*place(options.what))
            answer(options, found, f"{_title(found)} is resumed")
    return OK


def move(options: argparse.Namespace) -> int:
    with client_for(options) as client:
        job_id = whole_id(client, options.job)
        job = client.change(job_id, priority=options.priority) if options.priority else client.move_to_front(job_id)
    answer(options, job, f"{job['jobId']}  {job['status']}  priority {job['priority']}{_where(job)}")
    return OK


def tag(options: argparse.Namespace) -> int:
    with client_for(options) as client:
        job = client.job(options.job)
        kept = [each for each in job["tags"] if each not in options.tags]
        job = client.change(
            job["jobId"],
            tags=kept
            if options.remove
            else [*job["tags"], *(each for each in options.tags if each not in job["tags"])],
        )
    answer(options, job, " ".join(f"#{each}" for each in job["tags"]) or "no tags")
    return OK


def rename(options: argparse.Namespace) -> int:
    with client_for(options) as client:
        job = client.change(whole_id(client, options.job), name=options.name)
    answer(options, job, job["name"] or "no name")
    return OK


def resumed(text: str, worker: str | None, pools: Collection[tuple[str, str]]) -> str | None:
    """Returns the worker that a text means. None: it is a pool; a pool of just this name goes before a worker whose id only begins so."""
    return worker if worker is None or worker == text or place(text) not in pools else None


def _title(queue: dict[str, Any]) -> str:
    return f"{TITLES[queue['plane']]}/{queue['pool']}"


def _where(job: dict[str, Any]) -> str:
    position = (job["waitingFor"] or {}).get("position")
    return f", number {position} in its queue" if position else ""


def _worker_id(client: Any, text: str) -> str | None:
    """Returns the id of the one worker whose id begins so; None where there is none, or several."""
    found = [each["workerId"] for each in client.workers()["workers"] if each["workerId"].startswith(text)]
    return text if text in found else found[0] if len(found) == 1 else None
