"""Commands on the places where jobs run: queues and workers."""

import argparse
from collections.abc import Callable
from typing import Any

from dihedral.terminal import OK, answer, client_for, local, usage

Add = Callable[..., argparse.ArgumentParser]
PLANES = {"data": "python", "control": "node", "python": "python", "node": "node"}
TITLES = {"python": "data", "node": "control"}


def declare(add: Add) -> None:
    """Adds the parsers of these commands."""
    one = add("queues", queues, "what waits where; of one pool the jobs in their order", client=True)
    one.add_argument("pool", nargs="?", metavar="POOL", help="a pool of the data plane, or PLANE/POOL")
    add("workers", workers, "the workers, and what they run", client=True)


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
