"""Every key, stream, channel and group name in Redis, and the partition of a job.

A job and all that moves with it live in one partition, so that one script can move them together, also on a cluster:
with P > 1 partitions every such key carries the partition in braces, `{n}`, and with P = 1 no tag at all. Beside a
stream stand `:delivered`, `:kept` (the group's last-delivered entry) and `:careful` (take.lua), `:moved` (change.lua), which only the scripts know. The Lua
scripts build the same names from the tag they are given (`lua/_call.lua`); `tests/bridge/test_keys.py` compares both.
"""

from zlib import crc32

from dihedral.bridge.pools import PRIORITIES

GROUP = "workers"
LAYOUT = "dihedral:layout"
LAYOUT_VERSION = 4
"""The version of the layout; it grows when jobs are stored in a different way. A server that holds older jobs is refused, not misread."""
READABLE_LAYOUTS = frozenset({3})
"""The older versions whose jobs this one reads and continues. 3 kept a node's result inside its record; 4 keeps it in a separate field."""
CANCEL_CHANNEL = "cancel"
"""Messages to all workers: `JOB` was cancelled, `JOB NODE` is to end early, `/paused` to read PAUSED again, `/priority JOB PRIORITY`."""
PROTOCOL = 1
"""Written into every entry and heartbeat, and grows when an older plane would misread what a newer one writes; no plane decides by it."""


PREFERS_DEVICE, NEEDS_DEVICE = "gpu", "device"
"""The lanes of nodes of kind gpu: for workers with a device, and while none of the pool lives for others too; for workers with a device only.
No pool has a `+` in its name."""


def lanes(plane: str) -> tuple[str, ...]:
    return ("",) if plane == "node" else ("", PREFERS_DEVICE, NEEDS_DEVICE)


def lane_of(stream: str) -> str:
    """The lane of a stream's name."""
    return stream.partition("+")[2].partition(":")[0]


class Partition:
    """The names that belong to one partition.

    `tag` is empty when there is only one, else `{n}`.
    """

    __slots__ = (
        "alive", "counts", "dead", "delay_entries", "delays", "index", "number", "suffix", "tag", "webhook_tries", "webhooks",
    )  # fmt: skip

    def __init__(self, number: int, count: int) -> None:
        self.number = number
        self.tag = "" if count == 1 else f"{{{number}}}"
        self.suffix = "" if count == 1 else f":{self.tag}"
        self.index = f"jobs{self.suffix}"
        self.alive = f"jobs:alive{self.suffix}"
        self.delays = f"delays{self.suffix}"
        self.delay_entries = f"delays:entries{self.suffix}"
        self.dead = f"stream:dead{self.suffix}"
        self.counts = f"counts{self.suffix}"
        self.webhooks = f"webhooks{self.suffix}"
        """Jobs whose end must be announced, by the time at which they are due."""
        self.webhook_tries = f"webhooks:tries{self.suffix}"

    def job(self, job_id: str) -> str:
        return f"job:{self.tag}:{job_id}" if self.tag else f"job:{job_id}"

    def alive_of(self, name: str) -> str:
        """The jobs that count for the limit of this name."""
        return f"alive:{name}{self.suffix}"

    def rate_of(self, name: str) -> str:
        """The time up to which the limit of jobs per minute of this name is used."""
        return f"rate:{name}{self.suffix}"

    def events(self, job_id: str) -> str:
        return f"{self.job(job_id)}:events"

    def stream(self, plane: str, pool: str, priority: str = "normal", lane: str = "") -> str:
        name = "stream:process:control" if plane == "node" else "stream:process:data"
        if pool != "default":
            name += f":{pool}"
        if lane:
            name += f"+{lane}"
        if priority != "normal":
            name += f":{priority}"
        return name + self.suffix

    def streams(self, plane: str, pool: str, lane: str = "") -> list[str]:
        """The three streams of one lane of a place, the most urgent first."""
        return [self.stream(plane, pool, priority, lane) for priority in PRIORITIES]

    def every_stream(self, plane: str, pool: str) -> list[str]:
        """The streams of all lanes of a place."""
        return [stream for lane in lanes(plane) for stream in self.streams(plane, pool, lane)]

    def devices(self, pool: str) -> str:
        """The live workers of a pool that have a device, by their last heartbeat; beside the streams, so that take.lua can read it."""
        return f"{self.stream('python', pool, lane=PREFERS_DEVICE)}:devices"


def partitions(count: int) -> list[Partition]:
    return [Partition(number, count) for number in range(count)]


def partition_number(job_id: str, count: int) -> int:
    return crc32(job_id.encode()) % count if count > 1 else 0


def status_channel(job_id: str) -> str:
    return f"status:{job_id}"


def progress_channel(job_id: str) -> str:
    return f"progress:{job_id}"


def data_channel(job_id: str) -> str:
    return f"data:{job_id}"


def worker(worker_id: str) -> str:
    return f"worker:{worker_id}"


def memory_peaks(kind: str) -> str:
    """A name that cannot be a worker's id, since every worker's id has dashes before any colon."""
    return f"worker:memory:{kind}"


def durations(kind: str) -> str:
    """The key of the last durations of a kind of run; no worker's id, as above."""
    return f"worker:seconds:{kind}"


def usage(worker_id: str) -> str:
    """The key of a worker's use of slots and memory over the last hour."""
    return f"worker:usage:{worker_id}"


def voices(worker_id: str) -> str:
    """The voices of a live worker, by task."""
    return f"worker:voices:{worker_id}"


DURATION_KINDS = "worker:seconds"
MEMORY_KINDS = "worker:memory:kinds"  # not the key of a kind: kinds contain spaces
OLD_MEMORY_PEAKS = "worker:memory"  # the key of earlier versions, which could lose a peak
PLACES = "worker:places"
"""Every place that a worker has served, by the time at which one last did; no worker's id, as above."""
PAUSED = "worker:paused"
"""The places whose workers take no nodes, as plane/pool, and the ids of drained workers; each with the time since when. No worker's id, as above."""
WORKERS = "workers"
CAPABILITIES = "capabilities"
API_KEYS = "dihedral:keys"
DEFAULTS = "dihedral:defaults"
"""The defaults with which the params of jobs ran, by their digest; one for each version of a pipeline's or task's defaults."""
API_KEYS_VERSION = "dihedral:keys:version"
ARTIFACT_STORE = "worker:artifacts"
"""Where the planes that run keep artifacts; no worker's id, as above."""
ARTIFACTS_NAMED = "dihedral:artifacts:named"
"""The artifacts that submissions name, by time; submissions of the last seconds may be under way."""
ARTIFACTS_GOING = "dihedral:artifacts:going"
"""The artifacts that a prune is deleting."""


def idempotency(owner: str, key: str) -> str:
    return f"idempotency:{owner}:{key}"


def favourites(owner: str) -> str:
    """The artifacts that an owner marked, each with the time at which it was created."""
    return f"dihedral:favourites:{owner}"


def presets(owner: str) -> str:
    """The named params that an owner keeps."""
    return f"dihedral:presets:{owner}"


def webhook(job_id: str, part: Partition) -> str:
    """The key of a job's webhook with its secret: outside the job, because workers read the job."""
    return f"webhooks:job:{job_id}{part.suffix}"


def plans(key_id: str, minute: int) -> str:
    """The counter of the goals that an API key has had planned in a minute; it expires by itself."""
    return f"plans:{key_id}:{minute}"


def session(digest: str) -> str:
    """The key of a browser's session; `digest` is the digest of its cookie."""
    return f"session:{digest}"


def sessions_of(key_id: str) -> str:
    """The sessions that an API key has begun, by time."""
    return f"session:of:{key_id}"
