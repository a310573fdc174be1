"""Dead letters: entries and nodes that were given up, until a user requeues or drops them."""

import re

from dihedral.bridge.fabric.items import Limit
from dihedral.bridge.fabric.jobs import Jobs
from dihedral.bridge.fabric.keys import Partition
from dihedral.bridge.times import rfc3339
from dihedral.schemas.structs.worker import DeadLetter

_LETTER = re.compile(r"([0-9]{1,3})-([0-9]{1,20})-([0-9]{1,20})")


class DeadLetters:
    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._client = jobs.client
        self._partitions = jobs.scripts.partitions

    async def count(self) -> int:
        """The letters that no user has requeued or dropped yet."""
        return sum([int(await self._client.xlen(part.dead)) for part in self._partitions])

    async def page(self, before: str | None = None, limit: int = 500) -> list[DeadLetter]:
        """Lists letters older than the letter `before`, newest first. Raises ValueError where that cannot be a letter's id."""
        last = None if before is None else self._letter(before)
        found = []
        for part in self._partitions:
            top = "+" if last is None else last[1] if part.number < last[0].number else f"({last[1]}"
            for entry, fields in await self._client.xrevrange(part.dead, max=top, count=limit):
                found.append((_entry_order(entry), part.number, _dead_letter(part, entry, fields)))
        return [letter for *_, letter in sorted(found, key=lambda row: row[:2], reverse=True)[:limit]]

    async def get(self, letter_id: str) -> DeadLetter | None:
        try:
            part, entry = self._letter(letter_id)
        except ValueError:
            return None
        rows = await self._client.xrange(part.dead, min=entry, max=entry)
        return _dead_letter(part, *rows[0]) if rows else None

    async def requeue(self, letter: DeadLetter, limit: Limit = ()) -> str:
        """Retries the job, if its last attempt is the letter's, and drops all its letters; returns the word of Jobs.retry."""
        if not letter.job_id:
            return "unknown"
        word = await self._jobs.retry(letter.job_id, attempt=letter.attempt, limit=limit)
        if word == "ok":
            await self._drop_all_of(letter.job_id)
        return word

    async def drop(self, letter_id: str) -> str:
        """Drops a letter; returns ok | unknown."""
        try:
            part, entry = self._letter(letter_id)
        except ValueError:
            return "unknown"
        return "ok" if await self._client.xdel(part.dead, entry) else "unknown"

    async def _drop_all_of(self, job_id: str) -> None:
        """Finds the letters of a job, one for each failed node; the stream is bounded, so all of it is read."""
        part, start = self._jobs.scripts.partition(job_id), "-"
        while rows := await self._client.xrange(part.dead, min=start, count=1000):
            mine = [entry for entry, fields in rows if fields.get(b"job") == job_id.encode()]
            if mine:
                await self._client.xdel(part.dead, *mine)
            start = f"({rows[-1][0].decode()}"

    def _letter(self, letter_id: str) -> tuple[Partition, str]:
        """Splits a letter's id into partition and entry. Raises ValueError."""
        found = _LETTER.fullmatch(letter_id)
        if found is None:
            raise ValueError(letter_id)
        number, ms, nth = (int(digits) for digits in found.groups())
        if number >= len(self._partitions) or max(ms, nth) >= 2**64 or ms == nth == 0:  # no entry has such an id
            raise ValueError(letter_id)
        return self._partitions[number], f"{ms}-{nth}"


def _entry_order(entry: bytes) -> tuple[int, int]:
    ms, _, nth = entry.partition(b"-")
    return int(ms), int(nth)


def _dead_letter(part: Partition, entry: bytes, fields: dict[bytes, bytes]) -> DeadLetter:
    text = {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
    return DeadLetter(
        id=f"{part.number}-{entry.decode()}",
        job_id=text.get("job", ""),
        node_id=text.get("node", ""),
        attempt=int(text.get("attempt", "0")),
        reason=text.get("reason", ""),
        detail=text.get("detail", ""),
        created=rfc3339(int(text.get("created", "0"))),
    )
