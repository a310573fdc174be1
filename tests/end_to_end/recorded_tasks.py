"""The tasks of test_recorded_events.py, loaded by the worker's process with `--tasks recorded_tasks`."""

from contextlib import suppress

from msgspec import Struct

from dihedral import ArtifactRef, TaskContext, TaskError, task

LEVELS = ("debug", "info", "warning", "error")
TEXT = 'Zoë said "no"\n\\ \N{LINE SEPARATOR} \x00 \U0001f600'


class Nothing(Struct, forbid_unknown_fields=True):
    pass


class Fails(Struct, forbid_unknown_fields=True):
    """`attempts`: how many of them fail."""

    attempts: int


class Stored(Struct):
    file: ArtifactRef


@task(id="speaks", label="Speaks", description="Emits every kind of event and stores a file.", timeout_seconds=60)
def speaks(params: Nothing, ctx: TaskContext) -> Stored:
    for level in LEVELS:
        ctx.log(TEXT, level)
    print("a line of standard output")
    ctx.progress(0.25)
    ctx.data("point", {"text": TEXT, "x": 1e300, "y": -0.0, "none": None, "list": [], "deep": {"a": [{}, True]}})
    ctx.data("n" * 128, {})
    for name in ("", "n" * 129):
        with suppress(ValueError):
            ctx.data(name, {})  # refused, else the log would hold what its schema does not allow
    ctx.data("large", {"text": "x" * 1_000_000})
    ctx.progress(1.0)
    stored = ctx.store("inputs", "words.txt", TEXT.encode(), "text/plain")
    return Stored(ArtifactRef(bucket=stored.bucket, key=stored.key))


@task(id="fails", label="Fails", description="Fails some attempts.", timeout_seconds=60)
async def fails(params: Fails, ctx: TaskContext) -> Nothing:
    ctx.progress(0.5)
    if ctx.attempt <= params.attempts:
        raise TaskError(TEXT, code="asked_to_fail", retryable=True, details={"text": TEXT, "attempt": ctx.attempt})
    return Nothing()
