"""What a test may leave in Redis: keys of the known families, each with the lifetime that it must have."""

from collections import Counter
from typing import Any

from dihedral.bridge.fabric import keys
from dihedral.bridge.fabric.lifecycle import JOB_ENDED, JOB_MOVES
from dihedral.bridge.fabric.scripts import parse_state

FAMILIES = (
    "job:",
    "jobs",
    "stream:",
    "delays",
    "counts",
    "worker:",
    "workers",
    "capabilities",
    "idempotency:",
    "plans:",
    "session:",
    "alive:",
    "rate:",
    "webhooks",
    keys.LAYOUT,
    keys.API_KEYS,
    keys.ARTIFACTS_NAMED,
    keys.DEFAULTS,
    keys.favourites(""),
    keys.presets(""),
)


async def leaks(client: Any) -> list[str]:
    """A sentence for each key that would pile up, or that nothing explains."""
    names = sorted(name.decode() for name in await client.keys("*"))
    found = [f"{name}: no such family" for name in names if not name.startswith(FAMILIES)]
    jobs = [name for name in names if name.startswith("job:") and not name.endswith(":events")]
    for name in names:
        if name.endswith(":events") and name.removesuffix(":events") not in jobs:
            found.append(f"{name}: a log without its job")
        if (
            name != keys.PAUSED
            and name.startswith(("worker:", "idempotency:", "session:", "rate:", "plans:"))
            and await client.ttl(name) < 0
        ):
            found.append(f"{name}: never expires")
    alive = {raw.decode() for name in names if name.startswith("jobs:alive") for raw in await client.smembers(name)}
    for name in jobs:
        found += await _of_job(client, name, alive)
    for name in names:
        if name.startswith("delays") and not name.startswith("delays:entries"):
            entries = name.replace("delays", "delays:entries", 1)
            if set(await client.zrange(name, 0, -1)) != set(await client.hkeys(entries)):
                found.append(f"{name}: differs from {entries}")
    return found + await _miscounted(client, jobs, [name for name in names if name.startswith("counts")])


async def _miscounted(client: Any, jobs: list[str], hashes: list[str]) -> list[str]:
    """What the scripts count of live jobs is how many there are; more may have ended than are still kept."""
    counted: Counter[str] = Counter()
    for name in hashes:
        counted.update({field.decode(): int(number) for field, number in (await client.hgetall(name)).items()})
    there: Counter[str] = Counter()
    for name in jobs:
        state, pipeline = await client.hmget(name, "state", "pipeline")
        status = parse_state(state.decode())["status"]
        there[f"{status} {(pipeline or b'graph').decode()}" if status in JOB_ENDED else status] += 1
    live = {name for name in counted if name in JOB_MOVES}
    wrong = {
        name
        for name in live | there.keys()
        if counted[name] != there[name] and (name in live or counted[name] < there[name])
    }
    return [f"counts: {counted[name]} jobs are {name!r}, there are {there[name]}" for name in sorted(wrong)]


async def _of_job(client: Any, name: str, alive: set[str]) -> list[str]:
    job_id = name.rpartition(":")[2]
    fields = {key.decode(): value.decode() for key, value in (await client.hgetall(name)).items()}
    fields |= parse_state(fields["state"])
    ended = fields["status"] in JOB_ENDED
    found = []
    for key in (name, f"{name}:events"):
        if await client.exists(key) and (await client.ttl(key) >= 0) != ended:
            found.append(f"{key}: {'never expires' if ended else 'expires'}, its job is {fields['status']}")
    if ended == (job_id in alive):
        found.append(f"{name}: is {fields['status']} and {'' if job_id in alive else 'not '}among the live jobs")
    claims = [field for field in fields if field.startswith(("c:", "e:"))]
    if ended and claims and int(fields["running"]) == 0:
        found.append(f"{name}: has ended, and keeps {claims}")
    return found
