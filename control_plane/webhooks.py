"""Webhooks: a subscriber is notified when a job has ended, at least once, even if this process crashes.

The pending webhook is written together with the job (submit.lua) and removed once it is delivered: so no event between the end of a
job and the delivery loses it, and a webhook that a process has taken and not settled when it dies is due again a minute later.
The price is that a subscriber may be notified twice: `webhook-id` is the same then (job and attempt).

The message is signed as Standard Webhooks has it, so their libraries check it: HMAC-SHA256 by the secret over `id.timestamp.body`.
What does not answer 2xx is tried again with growing pauses, `outgoing.webhookAttempts` times; 410 ends it at once.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping

import httpx
import msgspec
import redis

from dihedral.bridge import metrics
from dihedral.bridge.fabric import keys
from dihedral.bridge.fabric.connection import CONNECTION_ERRORS
from dihedral.bridge.fabric.jobs import Jobs, JobView
from dihedral.bridge.fabric.keys import Partition
from dihedral.bridge.guarded_transport import GuardedTransport
from dihedral.bridge.outgoing import Forbidden, Guard
from dihedral.bridge.times import now_rfc3339
from dihedral.bridge.version import VERSION
from dihedral.schemas.structs.job import Job
from dihedral.schemas.structs.request import Webhook
from dihedral.schemas.structs.settings import Settings

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
TURN_MS = 60_000
"""Seconds for which a taken webhook belongs to its process; a whole delivery takes less (webhookTimeoutSeconds is at most that)."""
AT_ONCE = 16
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 6 * 3600.0

_decode = msgspec.json.Decoder(Webhook).decode


class Webhooks:
    """Sends the webhooks. `document` makes the job document that is sent."""

    def __init__(
        self,
        settings: Settings,
        jobs: Jobs,
        document: Callable[[JobView], Awaitable[Job]],
        *,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
        turn_ms: int = TURN_MS,
    ) -> None:
        self._settings = settings.outgoing
        self._jobs = jobs
        self._document = document
        self._guard = Guard(settings.outgoing.allow)
        self._first_pause = first_pause_seconds
        self._turn_ms = turn_ms
        self._ttl_ms = int(settings.jobs.ttl_seconds * 1000)

    async def run(self) -> None:
        """Runs until cancelled; waits while the server is unreachable."""
        async with httpx.AsyncClient(
            transport=GuardedTransport(self._guard), timeout=self._settings.webhook_timeout_seconds
        ) as client:
            while True:
                try:
                    for part in self._jobs.scripts.partitions:
                        await self._round(client, part)
                except (*CONNECTION_ERRORS, redis.RedisError) as error:
                    log.warning("webhooks wait for Redis: %s", error)
                await asyncio.sleep(LOOK_SECONDS)

    async def _round(self, client: httpx.AsyncClient, part: Partition) -> None:
        (taken,) = await self._jobs.scripts.call("webhooks", part, [("take", AT_ONCE, self._turn_ms)])
        await asyncio.gather(
            *(self._tell(client, part, job.decode(), int(tries), claim.decode()) for job, tries, claim in taken)
        )

    async def _tell(self, client: httpx.AsyncClient, part: Partition, job_id: str, tries: int, claim: str) -> None:
        view = await self._jobs.read(job_id)
        raw = None if view is None else await self._jobs.client.get(keys.webhook(job_id, part))
        if view is None or not raw:  # the job has expired or was deleted, so there is nothing to send
            await self._settle(part, "done", job_id, claim)
            return
        if not view.ended:  # the job was retried meanwhile
            await self._settle(part, "again", job_id, claim, 0)
            return
        said = await self._send(client, view, _decode(raw))
        if said is None:
            await self._settle(part, "done", job_id, claim, self._ttl_ms)
            metrics.webhooks_total.labels("told").inc()
        elif said == "gone" or tries + 1 >= self._settings.webhook_attempts:
            await self._settle(part, "done", job_id, claim, self._ttl_ms)
            metrics.webhooks_total.labels("given_up").inc()
            log.warning("a webhook is given up: %s", said, extra={"job": job_id})
        else:
            pause = min(LONGEST_PAUSE_SECONDS, self._first_pause * 3.0**tries) * random.uniform(0.8, 1.2)
            await self._settle(part, "again", job_id, claim, int(pause * 1000))
            metrics.webhooks_total.labels("failed").inc()

    async def _settle(self, part: Partition, word: str, job_id: str, claim: str, delay_ms: int = 0) -> None:
        await self._jobs.scripts.call("webhooks", part, [(word, job_id, claim, delay_ms)])

    async def _send(self, client: httpx.AsyncClient, view: JobView, webhook: Webhook) -> str | None:
        """Sends one webhook; returns None where it was accepted, else the reason; never the address, which may contain a secret."""
        event = {"type": "job.ended", "timestamp": now_rfc3339(), "data": await self._document(view)}
        body = msgspec.json.encode(event)
        headers = signed(webhook.secret, f"{view.job_id}.{view.attempt}", int(time.time()), body)
        try:
            async with (
                asyncio.timeout(self._settings.webhook_timeout_seconds),
                client.stream("POST", webhook.url, content=body, headers=headers) as response,
            ):
                if response.is_success:
                    return None
                return "gone" if response.status_code == 410 else f"it answered {response.status_code}"
        except Forbidden:
            return "it leads to an address that may not be asked"
        except Exception as error:  # an error of one subscriber's address must not stop the others
            return type(error).__name__


def signed(secret: str, id: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """Returns the headers of a message. `secret`: whsec_ and base64."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signature = hmac.digest(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256)
    return {
        "content-type": "application/json",
        "user-agent": f"dihedral/{VERSION}",
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }
