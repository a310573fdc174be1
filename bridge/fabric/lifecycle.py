"""The states of a job, of a node and of a delivery, as tables; every change goes through one of them.

Why tables: the same machine is needed by Lua (to commit), by Python and by the docs (to draw). The table is the source:
`lua_prelude` hands those of jobs and nodes to the scripts, which spell no status of their own and refuse every move that is not
listed here. A delivery is known to its worker alone; `check_delivery` refuses there.

A node that is absent from the job's records is *pending*. It becomes *ready* when an entry on a stream names it, and
*running* when a worker's start was committed. A running node returns to *ready* when its worker drains, when its owner
was lost, or when a retryable failure leaves attempts; it never becomes pending again except by a retry of the whole job,
which deletes its record.

A job is *queued* until its first node starts. *cancelling* is the time between a cancel and the report of the last owner
that its process is gone; nothing starts in it.

A delivery is *held* from its claim on. It is *releasing* when its worker drains and its nodes go back, *ending* once the ack is on its
way or was answered, *lost* when another worker has its entry; a lost one commits nothing any more. A report that the
server refused as too large acknowledged nothing, so its delivery is held again.
"""

from typing import Final

from dihedral.bridge.errors import IllegalTransition

NODE_MOVES: Final[dict[str, frozenset[str]]] = {
    "pending": frozenset({"ready", "running", "skipped", "cancelled"}),
    "ready": frozenset({"ready", "running", "skipped", "failed", "cancelled"}),
    "running": frozenset({"running", "ready", "completed", "failed", "cancelled"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "skipped": frozenset(),
    "cancelled": frozenset(),
}

JOB_MOVES: Final[dict[str, frozenset[str]]] = {
    "scheduled": frozenset({"queued", "cancelled"}),
    "queued": frozenset({"running", "completed", "failed", "cancelled"}),
    "running": frozenset({"cancelling", "completed", "failed", "cancelled"}),
    "cancelling": frozenset({"cancelled"}),
    "completed": frozenset(),
    "failed": frozenset({"queued"}),
    "cancelled": frozenset({"queued"}),
}

DELIVERY_MOVES: Final[dict[str, frozenset[str]]] = {
    "held": frozenset({"releasing", "ending", "lost"}),
    "releasing": frozenset({"releasing", "ending", "lost"}),
    "ending": frozenset({"held", "ending", "lost"}),
    "lost": frozenset({"lost"}),
}

JOB_ENDED: Final = frozenset({"completed", "failed", "cancelled"})
NODE_ENDED: Final = frozenset({"completed", "failed", "skipped", "cancelled"})
JOB_STARTS_NODES: Final = frozenset({"queued", "running"})


def check_delivery(old: str, new: str) -> None:
    """Raises IllegalTransition unless a delivery may go from `old` to `new`."""
    if new not in DELIVERY_MOVES[old]:
        raise IllegalTransition(f"a delivery cannot go from {old!r} to {new!r}")


def lua_prelude() -> str:
    """Returns the tables as Lua source: NODE_MOVES, JOB_MOVES, JOB_ENDED, NODE_ENDED, JOB_STARTS and S, the spelling of each."""
    words = sorted({*NODE_MOVES, *JOB_MOVES})
    lines = ["local S = {" + ",".join(f"{word}='{word}'" for word in words) + "}"]
    for name, table in (("NODE_MOVES", NODE_MOVES), ("JOB_MOVES", JOB_MOVES)):
        rows = (f"{old}={_lua_set(moves)}" for old, moves in table.items())
        lines.append(f"local {name} = {{{','.join(rows)}}}")
    for name, words_of in (("JOB_ENDED", JOB_ENDED), ("NODE_ENDED", NODE_ENDED), ("JOB_STARTS", JOB_STARTS_NODES)):
        lines.append(f"local {name} = {_lua_set(words_of)}")
    return "\n".join(lines) + "\n"


def _lua_set(words: frozenset[str]) -> str:
    return "{" + ",".join(f"{word}=true" for word in sorted(words)) + "}"
