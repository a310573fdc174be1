"""What must hold when the faults are over: of the log, the graph, the clients, the work that was done, and of what is left in Redis.

Every check answers with sentences; none means that all is well. The rules of the graph are written down once more here, so
that a mistake in the product's own resolution is no excuse for itself.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from dihedral.bridge.artifacts.store import ArtifactStore
from dihedral.bridge.errors import StoreError
from dihedral.bridge.fabric.keys import GROUP, partitions
from dihedral.bridge.fabric.lifecycle import JOB_ENDED, NODE_ENDED
from dihedral.bridge.fabric.scripts import parse_record, parse_state
from tests.chaos.clock import Clock
from tests.chaos.load import Entry
from tests.chaos.watching import Event
from tests.support.leaks import leaks

Disturbed = Callable[[int, float], bool]

SPARE_DESCRIPTORS = 12
MOST_CONNECTIONS = 250
"""To Redis and the store: a pool keeps as many as were in use at once, in a control plane by 200 clients that all ask again."""
CLOCKS_SECONDS = 0.05
"""Server and tasks read one clock; so much may lie between the reading and the writing of a line."""
HEARD_SECONDS = 2.0
"""So long a light node that may run twice may go on after a cancel: it begins before Redis is told, so the cancel ends it at once as one that never
ran, and its worker hears of it by a message or with the next renewal (docs/reliability.md, *Not promised*). A second is its due, the rest the busy machine's."""
UNTOLD = frozenset({"simulate", "stroll", "desk"})
"""Tasks whose nodes begin before Redis is told."""


@dataclass
class Mark:
    """A line that a task left; `moment`: monotonic; `worker`: the process it belonged to."""

    moment: float
    what: str
    node: str
    attempt: int
    nonce: str
    worker: int


def marks_of(path: Path) -> list[Mark]:
    if not path.exists():
        return []
    rows = [line.split(" ") for line in path.read_text().splitlines()]
    return [Mark(float(row[0]), row[1], row[2], int(row[3]), row[4], int(row[5])) for row in rows]


def moment(event: Event) -> float:
    """Monotonic; `dated` has put it there."""
    return float(event["moment"])


def dated(events: list[Event], clock: Clock, wall: float) -> list[Event]:
    """The same with the moment of each; `clock`: the server's, `wall`: the machine's wall clock minus its monotonic one."""
    return [
        {**event, "moment": clock.moment(datetime.fromisoformat(event["created"]).timestamp(), wall)}
        for event in events
    ]


# The log -----------------------------------------------------------------------------------------------------------------


def of_log(entry: Entry, document: Event, events: list[Event]) -> Iterator[str]:
    job = entry.job
    if document["status"] not in JOB_ENDED:
        yield f"{job}: has not ended, it is {document['status']}"
    if [event["seq"] for event in events] != list(range(1, len(events) + 1)):
        yield f"{job}: the log has seq {[event['seq'] for event in events]}"
    for number, attempt in enumerate(attempts(events), 1):
        yield from _of_attempt(job, number, attempt, last=number == document["attempt"])
    made, most = document["attempt"] - 1, entry.retries + entry.maybe_retries
    least = 0 if entry.forgotten else entry.retries
    if not least <= made <= most:
        yield f"{job}: was retried {made} times, clients did it {entry.retries} to {most} times"
    if document["status"] == "completed" and document["progress"] != 1:
        yield f"{job}: is completed with progress {document['progress']}"


def attempts(events: list[Event]) -> list[list[Event]]:
    """The log, cut where a retry begins."""
    cut: list[list[Event]] = [[]]
    for event in events:
        if event["type"] == "status" and event["attempt"] > len(cut):
            cut.append([])
        cut[-1].append(event)
    return cut


def _of_attempt(job: str, number: int, events: list[Event], *, last: bool) -> Iterator[str]:
    where = f"{job}, attempt {number}"
    ends = [event["status"] for event in events if event["type"] == "status" and event["status"] in JOB_ENDED]
    if len(ends) != 1:
        yield f"{where}: has the ends {ends}"
    elif events[-1]["type"] != "status":
        yield f"{where}: went on after its end: {events[-1]}"
    ended: dict[str, str] = {}
    running: set[str] = set()
    for event in events:
        if event["type"] != "node":
            continue
        node, status = event["nodeId"], event["status"]
        if node in ended:
            yield f"{where}: {node} is {status} after it was {ended[node]}"
        if status in NODE_ENDED:
            ended[node] = status
            if status in ("completed", "failed") and node not in running:
                yield f"{where}: {node} is {status} and never ran"
        if status == "running":
            running.add(node)


def reruns(events: list[Event]) -> int:
    """How many nodes went back to the streams with no failure of their own: their owner was lost, or drained."""
    return sum(1 for event in events if event["type"] == "node" and event["status"] == "ready" and not event["error"])


def preemptions(events: list[Event]) -> int:
    """How often a node made room for one of higher priority."""
    return sum(1 for event in events if event["type"] == "node" and (event["error"] or {}).get("code") == "preempted")


# The graph ---------------------------------------------------------------------------------------------------------------


def of_graph(entry: Entry, document: Event, graph: Event, errors: frozenset[str]) -> Iterator[str]:
    """`errors`: the codes that a node may fail with, given the faults of this round."""
    job = entry.job
    nodes = {node["id"]: node for node in graph["nodes"]}
    for id, node in nodes.items():
        if node["status"] not in NODE_ENDED:
            yield f"{job}: {id} is left {node['status']}"
        code = (node.get("error") or {}).get("code")
        if node["status"] == "failed" and code not in errors:
            yield f"{job}: {id} failed with {node['error']}"
    if document["status"] == "cancelled":
        if not entry.cancels:
            yield f"{job}: is cancelled, and nobody did it"
        return
    if entry.forgotten and entry.cancels:
        return  # the cancel was forgotten, but some of its nodes had heard it
    handled = {edge["from"] for edge in graph["edges"] if edge["kind"] == "on_failure"}
    broken = {id for id, node in nodes.items() if node["status"] == "failed" and id not in handled}
    if document["status"] != ("failed" if broken else "completed"):
        yield f"{job}: is {document['status']}, its unhandled failures are {sorted(broken)}"
    spoilt = dict.fromkeys(broken, True)  # nodes from which a break goes on
    for node in _in_order(graph):
        verdicts = {_verdict(edge, nodes, handled, spoilt) for edge in graph["edges"] if edge["to"] == node}
        status = nodes[node]["status"]
        if "broken" in verdicts:
            spoilt[node] = True
        runs = "broken" not in verdicts and ("satisfied" in verdicts or not verdicts)
        if runs != (status in ("completed", "failed")):
            yield f"{job}: {node} is {status}, its edges are {sorted(verdicts)}"


def _verdict(edge: Event, nodes: dict[str, Event], handled: set[str], spoilt: dict[str, bool]) -> str:
    source = edge["from"]
    if source in spoilt:
        return "broken"
    status = nodes[source]["status"]
    if status == "completed":
        return "not_taken" if edge["kind"] == "on_failure" else "satisfied"
    if status == "failed" and source in handled:
        return "satisfied" if edge["kind"] == "on_failure" else "not_taken"
    return "not_taken"


def _in_order(graph: Event) -> list[str]:
    order: list[str] = []
    left = {node["id"] for node in graph["nodes"]}
    while left:
        ready = {id for id in left if not any(edge["to"] == id and edge["from"] in left for edge in graph["edges"])}
        order += sorted(ready)
        left -= ready
    return order


# Owners ------------------------------------------------------------------------------------------------------------------


def of_claims(log: bytes) -> Iterator[str]:
    """No write of a superseded owner was accepted: the server's append-only file, where every claim and every output is in its order.

    An output carries the nonce of the claim that it was made under; when it is written, that must be the last claim of its entry. An entry that
    was held without a claim must be pending when its first output is written, and belongs to that nonce from then on: no second
    holder may write under it.
    """
    owners: dict[tuple[str, str], str] = {}
    pending: set[str] = set()
    known: dict[tuple[str, str], tuple[str, str]] = {}
    for command in _commands(log):
        word = command[0].upper()
        if word == "XCLAIM":
            pending.add(f"{command[5]}@{command[1]}")
        elif word == "XACK":
            pending.difference_update(f"{entry}@{command[1]}" for entry in command[3:])
        if word != "HSET" or not command[1].startswith("job:"):
            continue
        job, fields = command[1], dict(zip(command[2::2], command[3::2], strict=True))
        for name, value in fields.items():
            if name.startswith("c:"):
                owners[job, name[2:]] = value.partition(" ")[2].replace(".", "-")
        for name, value in fields.items():
            before, output = known.get((job, name), ("", "")), fields.get(f"o:{name[2:]}", "")
            # The record alone does not show a second end: both may be of the same millisecond.
            if name.startswith("n:") and (before[0] != value or output not in ("", before[1])):
                known[job, name] = value, output or before[1]
                record = parse_record(value)
                nonce = _nonce(output) if record.status == "completed" else None
                if nonce is None:
                    continue
                owner = owners.setdefault((job, record.entry), nonce if record.entry in pending else "")
                if nonce != owner:
                    told = f"is {owner}'s" if owner else "is pending for no consumer"
                    yield f"{job}: {name[2:]} was written under {nonce}, its entry {told}"


def _nonce(payload: str) -> str | None:
    output = json.loads(payload)["output"]
    return output.get("nonce") if isinstance(output, dict) else None


def _commands(log: bytes) -> Iterator[list[str]]:
    """Of an append-only file; a last one that is cut off is left out."""
    at = 0
    with suppress(ValueError):
        while at < len(log):
            end = log.index(b"\n", at)
            if log[at : at + 1] == b"*":
                words = []
                for _ in range(int(log[at + 1 : end])):
                    begun = log.index(b"\n", end + 1) + 1
                    size = int(log[end + 2 : begun])
                    words.append(log[begun : begun + size].decode(errors="replace"))
                    end = begun + size + 1
                yield words
            at = end + 1


# Artifacts ---------------------------------------------------------------------------------------------------------------


async def of_artifacts(job: str, document: Event, store: ArtifactStore) -> list[str]:
    """What the job names is there, whole."""
    found = []
    for meta in document["artifacts"]:
        try:
            chunks = [chunk async for chunk in store.open(meta["bucket"], meta["key"])]
        except StoreError as error:
            found.append(f"{job}: its artifact {meta['key']} cannot be read: {error}")
            continue
        content = b"".join(chunks)
        if (len(content), hashlib.sha256(content).hexdigest()) != (meta["size_bytes"], meta["sha256"]):
            found.append(
                f"{job}: its artifact {meta['key']} has {len(content)} of {meta['size_bytes']} bytes, or others"
            )
    return found


# The clients -------------------------------------------------------------------------------------------------------------


def of_watchers(entry: Entry, events: list[Event]) -> Iterator[str]:
    for watcher in entry.watchers:
        yield from watcher.broken
        if watcher.events != events:
            yield f"{entry.job}: a watcher ({watcher.kind}) saw {watcher.seq} of {len(events)} events, or others"


# The work ----------------------------------------------------------------------------------------------------------------


def of_work(entry: Entry, events: list[Event], marks: list[Mark], disturbed: Disturbed) -> Iterator[str]:
    """What the tasks themselves say; a process that was cut off or frozen cannot have known better for a while."""
    job = entry.job
    cut = attempts(events)
    starts = [0.0, *(moment(attempt[0]) for attempt in cut[1:]), float("inf")]
    for number, attempt in enumerate(cut):
        mine = [mark for mark in marks if starts[number] <= mark.moment < starts[number + 1]]
        known = [mark for mark in mine if not disturbed(mark.worker, mark.moment)]
        if not entry.forgotten:
            yield from _of_once(f"{job}, attempt {number + 1}", entry, mine)
        untold = {node["id"] for node in entry.graph["nodes"] if node["task"] in UNTOLD}
        ends = {
            event["nodeId"]: (moment(event), event["status"] == "cancelled" and event["nodeId"] in untold)
            for event in attempt if event["type"] == "node" and _is_end(event)
        }  # fmt: skip
        for mark in (
            known if not entry.forgotten else ()
        ):  # a start that the server forgot may come to its task after another's end
            ended, is_untold = ends.get(mark.node, (float("inf"), False))
            if (late := mark.moment - ended) > (HEARD_SECONDS if is_untold else CLOCKS_SECONDS):
                yield f"{job}, attempt {number + 1}: {mark.node} goes on ({mark}) {late:.2f} s after its end was recorded"
        yield from _of_pairs(f"{job}, attempt {number + 1}", known)


def _is_end(event: Event) -> bool:
    return event["status"] in NODE_ENDED


def _of_once(where: str, entry: Entry, marks: list[Mark]) -> Iterator[str]:
    once = {node["id"] for node in entry.graph["nodes"] if node["task"].endswith("_once")}
    for node in once:
        begun = [mark for mark in marks if mark.node == node and mark.what == "begin"]
        if len(begun) > 1:
            yield f"{where}: {node} must run at most once and began {len(begun)} times: {begun}"


def _of_pairs(where: str, marks: list[Mark]) -> Iterator[str]:
    """No two runs of one node at the same time."""
    spans: dict[tuple[str, str, int], list[float]] = {}
    for mark in marks:
        span = spans.setdefault((mark.node, mark.nonce, mark.attempt), [mark.moment, mark.moment])
        span[1] = mark.moment
    rows = sorted((node, begin, end, nonce) for (node, nonce, _), (begin, end) in spans.items())
    for (node, begin, end, nonce), (other, second, _, second_nonce) in pairwise(rows):
        if node == other and second < end - CLOCKS_SECONDS:
            yield f"{where}: {node} ran twice at once: {nonce} {begin:.2f}-{end:.2f} and {second_nonce} from {second:.2f}"


# Redis -------------------------------------------------------------------------------------------------------------------


async def of_redis(client: Any) -> list[str]:
    """What the queues and jobs still hold though every job has ended."""
    part = partitions(1)[0]
    found = await leaks(client)
    for key in (part.alive, part.delays, part.delay_entries):
        if await client.exists(key):
            found.append(f"{key} is not empty")
    async for raw in client.scan_iter("stream:process:*", _type="stream"):
        name = raw.decode()
        for group in await client.xinfo_groups(name):
            if group["name"].decode() == GROUP and (group["pending"] or group["lag"]):
                found.append(f"{name}: {group['pending']} pending, lag {group['lag']}")
        if (length := await client.xlen(name)) > 1:
            found.append(f"{name}: still has {length} entries")
    async for raw in client.scan_iter("job:*", _type="hash"):
        fields = {name.decode(): value.decode() for name, value in (await client.hgetall(raw)).items()}
        state = parse_state(fields["state"])
        if state["running"] != "0" or state["remaining"] != "0":
            found.append(f"{raw.decode()}: {state}")
        if left := [name for name in fields if name.startswith(("c:", "e:"))]:
            found.append(f"{raw.decode()}: keeps {left}")
    return found


async def alive(client: Any) -> list[str]:
    return sorted(raw.decode() for raw in await client.smembers(partitions(1)[0].alive))


async def unreclaimable(client: Any, jobs: list[str]) -> list[str]:
    """What Redis says of jobs that do not go on."""
    found = []
    for job in jobs[:5]:
        fields = await client.hgetall(f"job:{job}")
        found.append(f"{job}: {fields.get(b'state')}")
        found += [f"  {name.decode()} = {value[:200]!r}" for name, value in fields.items() if name[1:2] == b":"]
        found += [
            f"  {raw[-900:]!r}" for raw in (fields.get(b"log", b""), *await client.lrange(f"job:{job}:events", -6, -1))
        ]
    async for raw in client.scan_iter("stream:process:*", _type="stream"):
        name = raw.decode()
        found.append(f"{name}: {await client.xlen(name)} entries, groups {await client.xinfo_groups(name)}")
        found += [f"  {row}" for row in await client.xpending_range(name, GROUP, min="-", max="+", count=20)]
    found.append(f"delays: {await client.zrange(partitions(1)[0].delays, 0, 20, withscores=True)}")
    return found


# The logs of the processes -----------------------------------------------------------------------------------------------

_TROUBLE = re.compile(r'"level": "(?:error|critical)"|Traceback|never awaited|never retrieved')


def troubles(directory: Path) -> Iterator[str]:
    """Lines that no process should ever write, whatever happens to it."""
    for path in sorted(directory.glob("*.log")):
        for line in path.read_text(errors="replace").splitlines():
            if _TROUBLE.search(line):
                yield f"{path.name}: {line[:2000]}"


# What processes hold -----------------------------------------------------------------------------------------------------


def descriptors(pid: int) -> Counter[str]:
    """What it has open, by kind: `to 6379` and `from 8000` are TCP connections, with the other's or its own port."""
    sockets = _sockets(pid)
    found: Counter[str] = Counter()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            target = os.readlink(path)
            found[sockets.get(target) or ("file" if target.startswith("/") else target.partition(":")[0])] += 1
    return found


def _sockets(pid: int) -> dict[str, str]:
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    listening = {row[1] for row in rows if row[3] == "0A"}
    named = {}
    for row in rows:
        here, there = (int(address.rpartition(":")[2], 16) for address in row[1:3])
        side = "listens" if row[3] == "0A" else f"from {here}" if row[1] in listening else f"to {there}"
        named[f"socket:[{row[9]}]"] = side + (" (closed by the other)" if row[3] == "08" else "")
    return named


def of_descriptors(name: str, held: Counter[str], at_start: Iterable[Counter[str]]) -> Iterator[str]:
    """`at_start`: what processes of its kind held when they were ready."""
    allowed = max(map(_without_pool, at_start)) + SPARE_DESCRIPTORS
    if _without_pool(held) > allowed or held.total() > allowed + MOST_CONNECTIONS:
        yield f"{name} has {dict(held)} open, at their start they had {[dict(each) for each in at_start]}"


def _without_pool(held: Counter[str]) -> int:
    """`socket`: of no table, so it was reset; in a pool it waits for its next use, which will see that."""
    return sum(count for kind, count in held.items() if kind != "socket" and not kind.startswith("to "))


# Recovery ----------------------------------------------------------------------------------------------------------------

_PID = re.compile(r"-(\d+)-[0-9a-f]{8}$")


def pid_of(worker: str) -> int | None:
    """The process of a worker id."""
    found = _PID.search(worker)
    return int(found[1]) if found else None


def recoveries(events: list[Event], kills: list[tuple[float, int]]) -> Iterator[tuple[float, float, float]]:
    """(moment of the kill, the node runs again or has ended, its job has ended), for each node that ran in a killed worker."""
    for killed, pid in kills:
        running: dict[str, str] = {}
        rest = [event for event in events if moment(event) > killed]
        for event in events[: len(events) - len(rest)]:
            if event["type"] == "node":
                running.pop(event["nodeId"], None)
                if event["status"] == "running":
                    running[event["nodeId"]] = event["worker"]
        for node, worker in running.items():
            if pid_of(worker) != pid:
                continue
            again = next((moment(e) for e in rest if _tells(e, node)), None)
            done = next((moment(e) for e in rest if e["type"] == "status" and e["status"] in JOB_ENDED), None)
            if again is not None and done is not None:
                yield killed, again, done


def _tells(event: Event, node: str) -> bool:
    return event["type"] == "node" and event["nodeId"] == node and event["status"] != "ready"
