"""Calls task functions.

Both ways to run a task live here, because what they enforce is the same: params and output have the declared types, the
output has a size limit, every exception becomes one typed error. `run_light` runs an async task in the event loop it is called
in; `run_plain` runs a plain function and blocks, for the main thread of a slot.

A stop (cancel or time-out) of an async task is an asyncio cancellation, repeated every second while the task swallows it;
nothing stronger exists inside a process, so a task that must be stoppable by force belongs into a slot.
"""

import asyncio
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from dihedral.bridge.artifacts.store import ArtifactStore
from dihedral.bridge.awaiting import UntilItWaits
from dihedral.bridge.errors import StoreError
from dihedral.bridge.tasks.context import ModelCache, TaskCancelled, TaskContext, TaskError, printable
from dihedral.bridge.tasks.device_faults import device_fault
from dihedral.bridge.tasks.printed import PRINTED, Printed
from dihedral.bridge.tasks.registry import Registry, Task
from dihedral.bridge.tasks.runs import Cancelled, Completed, Emit, EndedOutcome, Failed, NodeRun, RunControl
from dihedral.schemas.structs.artifact import ArtifactMeta
from dihedral.schemas.structs.capability import Capability
from dihedral.schemas.structs.graph import NodeError

OUTPUT_BYTES = 1024 * 1024  # the default of jobs.nodeOutputBytes
MESSAGE_CHARS = 2_000
TRACEBACK_CHARS = 8_000  # the innermost frames explain most, so the end is kept
DETAILS_BYTES = 16 * 1024
REPEAT_CANCEL_SECONDS = 1.0


async def run_light(
    registry: Registry,
    run: NodeRun,
    store: ArtifactStore | Callable[[], ArtifactStore] | None,
    emit: Emit,
    control: RunControl,
    *,
    output_bytes: int = OUTPUT_BYTES,
    directory: Path | None = None,
    loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
    kept: ModelCache | None = None,
) -> EndedOutcome:
    """Runs an async task here; `store` may be a callable that opens it on first use, `loop` is the loop to which the store belongs (None = this one)."""
    task = registry.get(run.task)
    if task is None:
        return failed("unknown_task", f"this worker has no task {run.task!r}")
    try:
        params = task.params(run.params)
    except msgspec.ValidationError as error:
        return failed("invalid_params", str(error))
    if control.cancelled:
        return Cancelled(began=False)
    opened = store if store is None or callable(store) else lambda: store
    context = TaskContext(
        run,
        emit,
        lambda: control.cancelled,
        opened,
        capabilities=partial(capabilities, registry),
        directory=directory,
        loop=loop,
        kept=kept,
        warm_key=task.warm_key(run.params) if kept is not None else "",
        finishing=lambda: "finish" in control.requests,
        settings=task.settings,
        model_roots=task.model_roots,
    )
    stop = _Stop(run.timeout_seconds, control)
    printed = Printed(emit)
    outside = PRINTED.set(printed)
    try:
        return finished(task, await UntilItWaits(task.function(params, context), stop.begin), context, output_bytes)
    except asyncio.CancelledError:
        if stop.from_outside:
            raise
        return stop.outcome(task) or _cancelled_itself(context)
    except TaskCancelled:
        return stop.outcome(task) or _cancelled_itself(context)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        # SystemExit and KeyboardInterrupt from a task would end the worker and every other node in it.
        return stop.outcome(task) or failure(error, task, context.artifacts)
    finally:
        PRINTED.reset(outside)
        printed.close()
        if stop.begun:
            await stop.close()
        if context.has_files:
            await asyncio.to_thread(context.close)


class _Stop:
    """Cancels the task that began it, when its time is over or the job is cancelled, and repeats that while the task goes on.

    It begins when the run waits for the first time: before that nothing could cancel it.
    """

    begun = False
    _task: "asyncio.Task[Any] | None" = None
    _before = 0
    _said = 0
    _reason = ""
    _timer: asyncio.TimerHandle | None = None
    _repeat: asyncio.TimerHandle | None = None

    def __init__(self, timeout_seconds: float, control: RunControl) -> None:
        self._timeout_seconds = timeout_seconds
        self._control = control

    def begin(self) -> None:
        self.begun = True
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._before = self._task.cancelling() if self._task else 0
        if self._timeout_seconds < 10 * 365 * 86400:
            self._timer = self._loop.call_later(self._timeout_seconds, self._stop, "timeout")
        self._control.on_cancel(self._on_cancel)

    def _on_cancel(self) -> None:
        self._stop("cancelled")

    def _stop(self, reason: str) -> None:
        if not self._reason:
            self._reason = reason
            self._say()

    def _say(self) -> None:
        if self._task is not None:
            self._said += 1
            self._task.cancel()
            self._repeat = self._loop.call_later(REPEAT_CANCEL_SECONDS, self._say)

    @property
    def from_outside(self) -> bool:
        """Returns whether another caller cancelled the event-loop task too; then the cancellation must continue."""
        return self._task is not None and self._task.cancelling() - self._before > self._said

    def outcome(self, task: Task) -> EndedOutcome | None:
        if self._reason == "timeout":
            return timed_out(task, self._timeout_seconds)
        return Cancelled() if self._reason else None

    async def close(self) -> None:
        """Withdraws its cancels. `uncancel` alone would leave a cancel that the task has not received yet."""
        self._control.remove(self._on_cancel)
        for handle in (self._timer, self._repeat):
            if handle is not None:
                handle.cancel()
        if self._said and self._task is not None:
            outside = self.from_outside
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                if outside:
                    raise
            finally:
                for _ in range(self._said):
                    self._task.uncancel()


def run_plain(
    registry: Registry,
    run: NodeRun,
    store: Callable[[], ArtifactStore] | None,
    emit: Emit,
    cancelled: Callable[[], bool],
    *,
    output_bytes: int = OUTPUT_BYTES,
    directory: Path | None = None,
    loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
    kept: ModelCache | None = None,
    finishing: Callable[[], bool] = bool,
) -> EndedOutcome:
    """Runs a plain function in this thread; the parent of the process watches its time."""
    task = registry.get(run.task)
    if task is None:
        return failed("unknown_task", f"this worker has no task {run.task!r}")
    try:
        params = task.params(run.params)
    except msgspec.ValidationError as error:
        return failed("invalid_params", str(error))
    context = TaskContext(
        run,
        emit,
        cancelled,
        store,
        capabilities=partial(capabilities, registry),
        directory=directory,
        loop=loop,
        kept=kept,
        warm_key=task.warm_key(run.params) if kept is not None else "",
        finishing=finishing,
        settings=task.settings,
        model_roots=task.model_roots,
    )
    try:
        return finished(task, task.function(params, context), context, output_bytes)
    except TaskCancelled:
        return Cancelled() if cancelled() else _cancelled_itself(context)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        return failure(error, task, context.artifacts)
    finally:
        context.close()


def capabilities(registry: Registry) -> list[Capability]:
    return [task.manifest for task in registry.values()]


# Outcomes -----------------------------------------------------------------------------------------------------------


def finished(task: Task, result: Any, context: TaskContext, output_bytes: int) -> Completed | Failed:
    """Returns a completed outcome, or a failed one where the result does not have the declared type (`invalid_output`) or is too large."""
    try:
        output = task.output(result)
    except (
        msgspec.ValidationError,
        msgspec.EncodeError,
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:
        return failed("invalid_output", f"{task.capability.id} returned what it did not declare: {error}")
    if len(output) > output_bytes:
        message = f"the output has {len(output)} bytes, jobs.nodeOutputBytes allows {output_bytes}; store an artifact"
        return failed("output_too_large", message, {"sizeBytes": len(output), "limitBytes": output_bytes})
    return Completed(output=output, artifacts=context.artifacts)


def failure(error: BaseException, task: Task, artifacts: list[ArtifactMeta]) -> Failed:
    """Turns a task's exception into one typed error with class and traceback.

    A device out of memory is `out_of_memory`; a broken one `device_poisoned`, which another process may survive, where the task may run again.
    """
    details: dict[str, Any] = {"class": type(error).__qualname__}
    text = "".join(traceback.format_exception(error))
    retryable = isinstance(error, task.retry_on)
    code = "task_failed"
    message = str(error) or type(error).__qualname__
    fault = device_fault(error)
    if isinstance(error, TaskError):
        code = error.code
        retryable = retryable or error.retryable
        details |= _bounded(error.details)
    elif isinstance(error, StoreError):
        code = error.code
        retryable = retryable or code == "artifact_store_unavailable"
    else:
        message = f"{type(error).__qualname__}: {error}"
        if fault is not None:
            code = fault
            retryable = retryable or (fault == "device_poisoned" and task.capability.contracts.idempotent)
    details["traceback"] = printable(text[-TRACEBACK_CHARS:])
    outcome = failed(code, message, details, retryable=retryable, artifacts=artifacts)
    return msgspec.structs.replace(outcome, poisoned=True) if fault == "device_poisoned" else outcome


def timed_out(task: Task, timeout_seconds: float) -> Failed:
    """Returns the time-out error; it is retryable where the task's `retry_on` includes TimeoutError."""
    retryable = issubclass(TimeoutError, task.retry_on)
    message = f"{task.capability.id} did not end within {timeout_seconds:g} s"
    return failed("timeout", message, {"timeoutSeconds": timeout_seconds}, retryable=retryable)


def failed(
    code: str,
    message: str,
    details: dict[str, Any] | None = None,
    *,
    retryable: bool = False,
    artifacts: list[ArtifactMeta] | None = None,
) -> Failed:
    error = NodeError(code=code, message=printable(message[:MESSAGE_CHARS]), details=details or {})
    return Failed(error=error, retryable=retryable, artifacts=artifacts or [])


def _cancelled_itself(context: TaskContext) -> Failed:
    message = "the task ended as cancelled without a request to cancel it"
    return failed("cancelled_itself", message, artifacts=context.artifacts)


def _bounded(details: dict[str, Any]) -> dict[str, Any]:
    try:
        text = msgspec.json.encode(details)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return {"detailsLeftOut": f"not JSON: {error}"}
    if len(text) > DETAILS_BYTES:
        return {"detailsLeftOut": f"{len(text)} bytes, the limit is {DETAILS_BYTES}"}
    decoded: dict[str, Any] = msgspec.json.decode(text)
    return decoded
