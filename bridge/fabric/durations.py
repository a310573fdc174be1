"""How long runs have taken: noted by workers, read by control planes, which tell from it how long a job will still take.

The last durations of each kind of run (task, version, size) are kept with the device of each, and all of a task under a kind without
a size, for runs whose size is not known yet. A worker notes them in memory and writes them with its heartbeat, so that a run costs no call;
of a task that runs often it notes four a second. As memory footprints, they are lists that several workers append to, and a set that bounds their number.
"""

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

from dihedral.bridge.fabric import functions, keys
from dihedral.bridge.fabric.connection import Client
from dihedral.bridge.fabric.keys import NEEDS_DEVICE
from dihedral.bridge.graphs import Placement
from dihedral.schemas.structs.capability import Capability
from dihedral.schemas.structs.worker import WorkerInfo

KEPT = 50
KINDS = 1000
TTL_MS = 90 * 86_400_000
NOTED_SECONDS = 0.25
CPU = "cpu"
LONGEST_CHOICE = 32

Durations = list[tuple[float, str]]
"""Seconds and device of each run, the latest last."""


def kinds(capability: Capability, params: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the kind of a run, empty where a parameter that decides its size is not known yet, and the kind of all runs of its task."""
    whole = f"{capability.id} {capability.version}"
    named = capability.runtime.sized_by
    if not isinstance(named, list):
        return whole, whole
    properties = capability.io.input.get("properties", {})
    values = [params.get(name, properties.get(name, {}).get("default")) for name in named]
    if any(isinstance(value, dict) and "$from" in value for value in values):
        return "", whole
    product = math.prod(size for value in values if (size := _size(value)) is not None)
    size = round(2 * math.log2(product)) if product > 0 else 0
    rest = " ".join(str(value) for value in values if isinstance(value, str | bool) and _size(value) is None)
    return f"{whole} {size} {rest}".rstrip(), whole


def _size(value: Any) -> float | None:
    """Returns what a value contributes to the size of a run: a number itself, a text or list its length; a choice is no size."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, list) or (isinstance(value, str) and len(value) > LONGEST_CHOICE):
        return float(len(value))
    return None


def place(plane: str, route: Placement) -> str:
    """Returns the place and lane of a node as one text."""
    return f"{plane}/{route.pool}+{route.lane}" if route.lane else f"{plane}/{route.pool}"


def serves(worker: WorkerInfo, its_place: str) -> bool:
    """Returns whether a worker takes nodes of a place and lane."""
    name, _, lane = its_place.partition("+")
    return f"{worker.plane}/{worker.pool}" == name and (lane != NEEDS_DEVICE or bool(worker.devices))


def of_place(its_place: str) -> str:
    """Returns the kind of all runs in slots of a place and lane, which tell how soon a slot comes free; no task has a space in its name."""
    return f"all of {its_place}"


class DurationNotes:
    """The durations that one worker has noted and not written yet."""

    def __init__(self) -> None:
        self._notes: dict[str, list[str]] = {}
        self._noted: dict[str, float] = {}

    def note(
        self, capability: Capability, params: Mapping[str, Any], seconds: float, device: str, route: Placement
    ) -> None:
        """Notes a run that completed. Light runs may be thousands a second, so most of them are not looked at."""
        now = time.monotonic()
        if now - self._noted.get(capability.id, float("-inf")) < NOTED_SECONDS:
            return
        self._noted[capability.id] = now
        text = f"{seconds:.4g} {device}"
        of_all = () if route.light else (of_place(place(str(capability.plane), route)),)
        for kind in dict.fromkeys((*kinds(capability, params), *of_all)):
            if kind:
                self._notes.setdefault(kind, []).append(text)

    async def write(self, client: Client) -> None:
        """Writes them; what a failure loses is an estimate only."""
        notes, self._notes = self._notes, {}
        for kind, texts in notes.items():
            await functions.call(client, "append", keys.durations(kind), KEPT, TTL_MS, *texts[-KEPT:])
            await functions.call(client, "lasting", keys.DURATION_KINDS, TTL_MS, "ZADD", int(time.time() * 1000), kind)
        if notes:
            for old in await client.zrange(keys.DURATION_KINDS, 0, -KINDS - 1):
                await functions.call(client, "put", keys.durations(old.decode()), "LTRIM", 1, 0)
                await functions.call(client, "put", keys.DURATION_KINDS, "ZREM", old)


async def read(client: Client, wanted: Iterable[str]) -> dict[str, Durations]:
    """Returns the durations of these kinds."""
    names = list(wanted)
    if not names:
        return {}
    pipe = client.pipeline(transaction=False)
    for kind in names:
        pipe.lrange(keys.durations(kind), 0, -1)
    rows = await pipe.execute()
    return {kind: [_one(each) for each in row] for kind, row in zip(names, rows, strict=True)}


def _one(raw: bytes) -> tuple[float, str]:
    seconds, _, device = raw.decode().partition(" ")
    return float(seconds), device
