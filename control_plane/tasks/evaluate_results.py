"""Holds the results of a job against what its goal asks for, and asks for one further attempt where a changed parameter may help.

The planner of goals adds this node where a goal is submitted with `evaluate` (planning/goals/evaluating.py). The further attempt is a job of its
own, with the id of this one and `-2` (or the next number that no other job has): so a run that is repeated after a crash starts no second one, and both attempts stay to be compared.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Annotated, Any, Final

from msgspec import Meta, field

from dihedral.bridge.tasks.registry import TaskContext, task
from dihedral.control_plane.tasks import Shape

MARGIN: Final = 1.03  # beyond the ratio by which a bound was missed: what takes 1 % less than planned still fits

Changes = dict[str, dict[str, int | float]]
Again = Callable[[str, str, Changes, str], Awaitable[str]]
again: ContextVar[Again] = ContextVar("again")
"""Submits the further attempt of (job, owner, changes, reason) and returns its id; raises NotSubmitted. The executor sets it around every run."""


class NotSubmitted(Exception):
    """The further attempt was refused; the text says why."""


class Repair(Shape):
    node: str
    param: str
    value: float
    factor: Annotated[float, Meta(gt=0)] | None = None
    minimum: float | None = None
    maximum: float | None = None
    whole: bool = False


class Rule(Shape):
    """A check of the manifest, with its values in their places. `value`, `least`, `most`: a number, or what is counted."""

    node: str
    id: str
    label: str
    value: Any = None
    least: Any = None
    most: Any = None
    tolerance: Annotated[float, Meta(ge=0, le=1)] = 0.0
    repair: Repair | None = None


class EvaluateParams(Shape):
    checks: Annotated[list[Rule], Meta(min_length=1, max_length=200, description="Rules, with their values")]
    attempt: Annotated[int, Meta(ge=1, le=2, description="2: no further attempt follows")] = 1


class Finding(Shape):
    """`passed` null: the result does not tell."""

    node: str
    id: str
    label: str
    passed: bool | None
    value: float | None
    least: float | None
    most: float | None


class Evaluation(Shape):
    passed: bool
    findings: list[Finding]
    next_attempt: Annotated[str | None, Meta(description="The job that tries again")] = None
    reason: str = ""
    changed: Changes = field(default_factory=dict)


@task(
    plane="node",
    label="Evaluate results",
    description="Holds results against rules; a changed parameter may be worth one further attempt, which is a job of its own.",
    timeout_seconds=60,
    side_effects=["submits a job"],
    examples=[{"checks": [{"node": "speak", "id": "duration", "label": "at most 5 s long", "value": 4.2, "most": 5}]}],
)
async def evaluate_results(params: EvaluateParams, ctx: TaskContext) -> Evaluation:
    findings = [_finding(rule) for rule in params.checks]
    made = Evaluation(passed=all(each.passed is not False for each in findings), findings=findings)
    for rule, finding in zip(params.checks, findings, strict=True):
        ctx.log(f"{'not ' if finding.passed is False else ''}{rule.label} ({rule.node}: {finding.value})")
    if made.passed or params.attempt > 1:
        return made
    for rule, finding in zip(params.checks, findings, strict=True):
        value = None if finding.passed is not False or rule.repair is None else _changed(rule.repair, finding)
        if rule.repair is not None and value is not None:
            made.changed = {rule.repair.node: {rule.repair.param: value}}
            made.reason = (
                f"not {rule.label}: {_shown(finding)}; {rule.repair.param} of {rule.repair.node} becomes {value:g}"
            )
            try:
                made.next_attempt = await again.get()(ctx.job_id, ctx.owner, made.changed, made.reason)
            except NotSubmitted as error:
                made.reason += f"; the further attempt was refused: {error}"
            ctx.log(made.reason)
            break
    return made


def _finding(rule: Rule) -> Finding:
    value, least, most = _measured(rule.value), _measured(rule.least), _measured(rule.most)
    passed: bool | None = None
    if value is not None and (least is not None or most is not None):
        low = least is None or value >= least - abs(least) * rule.tolerance
        high = most is None or value <= most + abs(most) * rule.tolerance
        passed = low and high
    return Finding(node=rule.node, id=rule.id, label=rule.label, passed=passed, value=value, least=least, most=most)


def _measured(value: Any) -> float | None:
    """Returns a number as it is, the length of a list, and the words of a text."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str):
        return float(sum(1 for word in value.split() if any(char.isalnum() for char in word)))
    return float(len(value)) if isinstance(value, list) else None


def _changed(repair: Repair, finding: Finding) -> int | float | None:
    """Returns the parameter's new value; None where it is at its limit already."""
    value, factor = finding.value, repair.factor
    if factor is None:
        too_much = finding.most is not None and value is not None and value > finding.most
        bound = finding.most if too_much else finding.least
        if not value or not bound:
            return None
        factor = value / bound * (MARGIN if too_much else 1 / MARGIN)
    found = repair.value * factor
    if repair.minimum is not None:
        found = max(found, repair.minimum)
    if repair.maximum is not None:
        found = min(found, repair.maximum)
    found = round(found) if repair.whole else round(found, 4)
    return None if found == repair.value else found


def _shown(finding: Finding) -> str:
    bounds = [f"at least {finding.least:g}"] if finding.least is not None else []
    bounds += [f"at most {finding.most:g}"] if finding.most is not None else []
    return f"{finding.value:g} in place of {', '.join(bounds)}"
