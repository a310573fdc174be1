"""A small world for the scripts: jobs made of batches, claims taken by named consumers, no graph logic."""

from typing import Any

from dihedral.bridge.fabric.items import JobRead, Submission
from dihedral.bridge.fabric.keys import GROUP
from dihedral.bridge.fabric.scripts import Claim, Depth, Reply, Report, Scripts, parse_record, parse_state
from dihedral.bridge.fabric.steps import End, EntrySpec, Step

STREAM = "stream:process:data"


def batch(
    nodes: list[str],
    *,
    nonce: str = "b",
    delay_ms: int = 0,
    heavy: bool = False,
    reason: str = "-",
    stream: str = STREAM,
    priority: str = "",
    declined: bool = False,
) -> EntrySpec:
    return EntrySpec(stream, "python/default", nodes, [], True, nonce, delay_ms, reason, heavy, priority, declined)


class World:
    def __init__(self, redis: Any, **options: Any) -> None:
        self.redis = redis
        self.scripts = Scripts(redis, **options)
        self.part = self.scripts.partition("job")
        self.takes = 0

    async def submit(self, job: str = "job", nodes: int = 1, batches: list[EntrySpec] | None = None, **kw: Any) -> str:
        fields = ["graph", '{"nodes":[]}', "routes", "{}", "priority", "normal"]
        item = Submission(job, kw.get("digest", "d"), nodes, batches if batches is not None else [batch(["a"])], kw.get("start_at", 0),
                kw.get("max_queued", 0), kw.get("limit", ()), kw.get("webhook", False), fields)  # fmt: skip
        return (await self.scripts.submit(self.part, [item]))[0][0]

    async def take(
        self, consumer: str = "w1", *, count: int = 64, light: int = 64, heavy: int = 64, handed: Any = ()
    ) -> list[Claim]:
        self.takes += 1
        return await self.scripts.take(
            self.part, consumer, f"n{self.takes}", count=count, light=light, heavy=heavy, streams=[STREAM] if not handed else [],
            handed=handed,
        )  # fmt: skip

    async def report(
        self,
        claim: Claim,
        steps: list[Step],
        *,
        reads: list[str] | None = None,
        ack: bool = False,
        consumer: str = "w1",
    ) -> Reply:
        item = Report(claim.job_id, claim.stream, claim.entry, f"{consumer} {claim.nonce}", steps, reads or [], ack)
        return (await self.scripts.report(self.part, [item]))[0]

    async def job(self, job: str = "job") -> dict[str, str]:
        rows = await self.redis.hgetall(self.part.job(job))
        fields = {name.decode(): value.decode() for name, value in rows.items()}
        return fields | parse_state(fields.pop("state"))

    async def events(self, job: str = "job") -> list[str]:
        """The texts of a job's log, as every reader gets them."""
        return (await self.scripts.read(self.part, [JobRead(job, 0, Depth.document)]))[0][1]

    async def stamp(self, entry: str) -> int:
        """Server time of its last delivery or renewal, as one look sees it."""
        pipe = self.redis.pipeline(transaction=True)
        pipe.time()
        pipe.xpending_range(STREAM, GROUP, entry, entry, 1)
        (seconds, micros), (row,) = await pipe.execute()
        return int(seconds * 1000 + micros // 1000 - row["time_since_delivered"])

    async def record(self, node: str, job: str = "job") -> Any:
        raw, left = await self.redis.hmget(self.part.job(job), f"n:{node}", f"o:{node}")
        return parse_record(f"{raw.decode()}\n{(left or b'').decode()}") if raw else None

    async def pending(self) -> list[str]:
        rows = await self.redis.xpending_range(STREAM, "workers", "-", "+", 100)
        return [row["message_id"].decode() for row in rows]


def ended(
    node: str,
    status: str = "completed",
    *,
    attempt: int = 1,
    share: int = 10**9,
    handled: bool = False,
    error: str = "",
) -> Step:
    payload = '{"output":{}}' if status == "completed" else ""
    return End(node, attempt, status, "", payload, share if status == "completed" else -1, handled, error, "")


ERROR = '{"code":"boom","message":"it broke","details":{}}'
