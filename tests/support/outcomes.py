"""An outcome laid flat, for assertions: every kind of outcome with the same fields."""

from collections.abc import Awaitable
from typing import NamedTuple

from dihedral.bridge.tasks.runs import Cancelled, Completed, Declined, Failed, Outcome, Preempted
from dihedral.schemas.structs.artifact import ArtifactMeta
from dihedral.schemas.structs.graph import NodeError


class Seen(NamedTuple):
    """`status`: the kind of the outcome; `output` and `error`: None where its kind has none; `reason`: of a declined run, else empty."""

    status: str
    output: bytes | None
    error: NodeError | None
    retryable: bool
    poisoned: bool
    artifacts: list[ArtifactMeta]
    began: bool
    reason: str


def seen(outcome: Outcome) -> Seen:
    failed = outcome if isinstance(outcome, Failed) else None
    return Seen(
        status=type(outcome).__name__.lower(),
        output=outcome.output if isinstance(outcome, Completed) else None,
        error=failed.error if failed else None,
        retryable=failed is not None and failed.retryable,
        poisoned=failed is not None and failed.poisoned,
        artifacts=outcome.artifacts if not isinstance(outcome, Declined | Preempted) else [],
        began=not isinstance(outcome, Declined) and not (isinstance(outcome, Cancelled) and not outcome.began),
        reason=outcome.reason if isinstance(outcome, Declined) else "",
    )


async def ended(run: Awaitable[Outcome]) -> Seen:
    """Waits for a run, and lays its outcome flat."""
    return seen(await run)
