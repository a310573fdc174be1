"""Slot: one child process, which runs one heavy node at a time, from its start to the end of its group.

A slot is a separate session and process group, controlled over a socket pair with the messages of messages.py; its standard output and
error are pipes and become log events. It dies when that socket closes, when the kernel sees the parent die, and after one
lease without a beat: what a frozen worker started must not go on when another worker takes its node over. Beats have a pipe and
a separate thread, so that a busy event loop is not taken for a frozen worker.

A node's crash ends that node alone: the outcome names the signal or exit code, and a new process takes the slot. A stop (cancel or time-out)
escalates: a message (the task looks at `ctx.cancelled`), after the grace period SIGTERM (raises TaskCancelled in the task), half a second
later SIGKILL to the group. The outcome is reported only when the group is gone, unless the task ended by the
message alone; then the warm process is used again.

Rejected: multiprocessing (its children share descriptors with each other, and a grandchild keeps its queues open), and forking from a
warm template (CUDA does not survive a fork).

Large because one process is started, run, stopped and replaced by one class, which alone holds its state.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec

from dihedral.bridge.artifacts.counted import note_transfer
from dihedral.bridge.errors import DihedralError
from dihedral.bridge.tasks.calling import failed, timed_out
from dihedral.bridge.tasks.registry import Task
from dihedral.bridge.tasks.runs import Cancelled, Completed, Emit, Failed, NodeRun, Outcome, Request, RunControl
from dihedral.data_plane.process_groups import descendants, kill_group, members, signal_group
from dihedral.data_plane.slots.messages import (
    FRAME_BYTES,
    Data,
    Finish,
    Forget,
    FromChild,
    FromParent,
    Hello,
    Line,
    Pause,
    Progress,
    Ready,
    Start,
    Stop,
    frame,
)
from dihedral.data_plane.slots.output import Budget, OutputCapture

START_SECONDS = 120  # importing CUDA libraries from a cold disk
UNWIND_SECONDS = 0.5  # for `finally` blocks, when a task has not looked for the whole grace period
MEMORY_BACK_SECONDS = 2.0  # until the memory of a cancelled node, or of a model, must be free again


class SlotStartFailed(DihedralError):
    """A slot process ended before it was ready; the text contains what it printed."""


class Beats:
    """The thread that sends every slot the beats of this worker, as long as it is not frozen."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._pipes: set[int] = set()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="slot beats", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def add(self, pipe: int) -> None:
        os.set_blocking(pipe, False)
        with self._lock:
            self._pipes.add(pipe)

    def remove(self, pipe: int) -> None:
        """Closes it too."""
        with self._lock:
            self._pipes.discard(pipe)
            os.close(pipe)

    def _beat(self) -> None:
        while not self._over.wait(self._interval_seconds):
            with self._lock:
                for pipe in self._pipes:
                    with suppress(BlockingIOError, BrokenPipeError):
                        os.write(pipe, b".")


class Slot:
    """One child process, from its start to the end of its group."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, beat: int,
        beats: Beats, out: OutputCapture, err: OutputCapture,
    ) -> None:  # fmt: skip
        self.spent = False
        self.warm_key = ""  # of the model that it keeps
        self.peak = 0  # of the last run, bytes of device memory
        self.held = 0  # between runs, as the process reports
        self.ran_smaller = False
        self.output: Budget | None = None  # of the last run
        self._forgets_until = 0.0
        self._process = process
        self._reader = reader
        self._writer = writer
        self._beat = beat
        self._beats = beats
        self._out = out
        self._err = err
        self._number = 0
        self._emit: Emit | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._garbage = ""
        self._exit = asyncio.ensure_future(process.wait())
        self._reading = asyncio.ensure_future(self._reads())
        self._ended: asyncio.Future[None] | None = None

    @classmethod
    async def start(cls, hello: Hello, beats: Beats) -> "Slot":
        """Raises: SlotStartFailed: it ended, or was not ready in time."""
        opening = asyncio.ensure_future(cls._open(beats))
        try:
            slot = await asyncio.shield(opening)
        except asyncio.CancelledError:  # a process half started would have no owner
            await (await opening).end()
            raise
        try:
            await slot._greet(hello)
        except BaseException:
            await slot.end()
            raise
        return slot

    @classmethod
    async def _open(cls, beats: Beats) -> "Slot":
        with ExitStack() as theirs, ExitStack() as ours:
            here, there = socket.socketpair()
            ours.callback(here.close)
            theirs.callback(there.close)
            ends = [os.pipe() for _ in range(3)]
            (beat_in, beat), (out_in, out), (err_in, err) = ends
            for descriptor in (beat_in, out, err):
                theirs.callback(os.close, descriptor)
            for descriptor in (beat, out_in, err_in):
                ours.callback(os.close, descriptor)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "dihedral.data_plane.slots.child",
                str(there.fileno()), str(beat_in), str(os.getpid()),
                stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=err, pass_fds=(there.fileno(), beat_in),
                start_new_session=True,
            )  # fmt: skip
            theirs.close()  # so that the end of the child is the end of the pipes
            here.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=here)
            ours.pop_all()
        beats.add(beat)
        return cls(
            process, reader, writer, beat, beats, OutputCapture(out_in, "stdout"), OutputCapture(err_in, "stderr")
        )

    async def _greet(self, hello: Hello) -> None:
        self._writer.write(frame(hello))
        await _first(self._ready, self._exit, timeout=START_SECONDS)
        if not self._ready.done():
            self._err.detach()
            why = self._err.tail.splitlines()[-1:] or [f"not ready after {START_SECONDS} s"]
            raise SlotStartFailed(why[0])

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def used(self) -> bool:
        """True when a node has begun in it."""
        return self._number > 0

    @property
    def alive(self) -> bool:
        return not (self.spent or self._exit.done() or self._garbage)

    async def run(
        self, task: Task, run: NodeRun, emit: Emit, control: RunControl, grace_seconds: float, directory: Path
    ) -> Outcome:
        """Runs one node; when `spent` is set afterwards, this process cannot run another. Its group is gone then."""
        loop = asyncio.get_running_loop()
        self._number += 1
        self._done = loop.create_future()
        self._emit = emit
        budget = Budget(loop.time())
        self._out.attach(emit, budget)
        self._err.attach(emit, budget)
        stopped: asyncio.Future[str] = loop.create_future()

        def stop(reason: str) -> None:
            if not stopped.done():
                stopped.set_result(reason)

        def cancelled() -> None:
            stop("cancelled")

        def requested(what: Request) -> None:
            self._send(Finish(number=number) if what == "finish" else Pause(number=number))

        number = self._number
        control.on_cancel(cancelled)
        timer = loop.call_later(run.timeout_seconds, stop, "timeout")
        try:
            self._send(Start(number=number, run=msgspec.json.encode(run), directory=str(directory)))
            control.on_request(requested)
            await _first(self._done, self._exit, stopped)
            if not (self._done.done() or self._exit.done()):
                await self._stop(grace_seconds)
            await self._settle()
        except BaseException:
            await self.end()
            raise
        finally:
            control.remove(cancelled)
            control.remove(requested)
            timer.cancel()
            self._emit = None
            self._out.detach()
            self._err.detach()
            budget.tell_last(emit)
            self.output = budget
        return self._outcome(task, run, stopped.result() if stopped.done() else "")

    async def _stop(self, grace_seconds: float) -> None:
        """Sends the message, SIGTERM, SIGKILL; returns when the task or the process has ended."""
        self._send(Stop(number=self._number))
        if await self._ends_within(grace_seconds):
            return
        self.spent = True
        signal_group(self._process.pid, signal.SIGTERM)
        if await self._ends_within(UNWIND_SECONDS):
            return
        await self.end()

    async def _ends_within(self, seconds: float) -> bool:
        await _first(self._done, self._exit, timeout=seconds)
        return self._done.done() or self._exit.done()

    async def _settle(self) -> None:
        """Reads the last output after the task's or the process's end, and kills what may still run of it."""
        if self._exit.done():
            await asyncio.wait({self._reading})  # a Done may lie in the socket
        outcome = self._done.result() if self._done.done() else None
        if not isinstance(outcome, Completed) and members(self._process.pid) != [self._process.pid]:
            self.spent = True  # a failed or cancelled task left processes behind
        if isinstance(outcome, Failed) and outcome.poisoned:
            self.spent = True
        if not self.alive:
            await self.end()

    def _outcome(self, task: Task, run: NodeRun, stopped: str) -> Outcome:
        outcome = self._done.result() if self._done.done() else None
        if stopped == "timeout":
            return timed_out(task, run.timeout_seconds)
        if stopped == "cancelled" and not isinstance(outcome, Completed):
            return Cancelled(artifacts=outcome.artifacts if isinstance(outcome, Failed | Cancelled) else [])
        if outcome is None:
            outcome = self._crashed(task)
        if isinstance(outcome, Failed) and self._err.tail:
            outcome.error.details["stderr"] = self._err.tail
        return outcome

    def _crashed(self, task: Task) -> Failed:
        """Another attempt may fare better (memory, a driver), but only if a half-done first one does no harm."""
        code = self._process.returncode
        details: dict[str, Any] = {}
        if self._garbage:
            what = f"sent what is no message: {self._garbage}"
        elif code is not None and code < 0:
            name = _signal_name(-code)
            details["signal"] = name
            what = f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        else:
            details["exitCode"] = code
            what = f"ended by itself with exit code {code}"
        message = f"the process of {task.capability.id} {what}"
        return failed("slot_crashed", message, details, retryable=task.capability.contracts.idempotent)

    def forget_model(self) -> None:
        """Frees, between runs, the memory of the model that it keeps."""
        if self.warm_key:
            self.warm_key, self.held = "", 0
            self._forgets_until = time.monotonic() + MEMORY_BACK_SECONDS
            self._send(Forget())

    @property
    def forgetting(self) -> bool:
        """True while memory that it was requested to free may still be on its way back."""
        return time.monotonic() < self._forgets_until

    async def end(self) -> None:
        """Kills the group and waits until it is gone; may be called twice."""
        if self._ended is None:
            self._ended = asyncio.ensure_future(self._end())
        await asyncio.shield(self._ended)

    async def _end(self) -> None:
        self.spent = True
        daemons = descendants(self._process.pid)  # also those that have left the group
        signal_group(self._process.pid, signal.SIGKILL)
        for pid in daemons:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.wait({self._exit})
        await kill_group(self._process.pid)
        await asyncio.wait({self._reading})
        self._writer.close()
        self._out.detach()
        self._err.detach()
        self._out.close()
        self._err.close()
        self._beats.remove(self._beat)

    def _send(self, message: FromParent) -> None:
        if not self._writer.is_closing():
            self._writer.write(frame(message))

    async def _reads(self) -> None:
        decoder = msgspec.msgpack.Decoder(FromChild)
        try:
            while True:
                size = int.from_bytes(await self._reader.readexactly(4), "big")
                if size > FRAME_BYTES:
                    raise msgspec.DecodeError(f"a message of {size} bytes")
                self._hear(decoder.decode(await self._reader.readexactly(size)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the process has ended or is about to: a slot without its socket is of no use
        except msgspec.DecodeError as error:
            self._garbage = str(error)
        signal_group(self._process.pid, signal.SIGKILL)

    def _hear(self, message: FromChild) -> None:
        if isinstance(message, Ready):
            if not self._ready.done():
                self._ready.set_result(None)
        elif message.number != self._number or self._emit is None:
            return  # a thread that outlived its task
        elif isinstance(message, Progress):
            self._emit.progress(message.fraction)
        elif isinstance(message, Data):
            self._emit.data(message.name, message.payload)
        elif isinstance(message, Line):
            self._emit.log(message.level, message.message)
        elif not self._done.done():
            for transfer in message.transfers:
                note_transfer(transfer)
            self.peak, self.warm_key, self.held = message.peak, message.warm_key, message.held
            self.ran_smaller = message.smaller
            self.spent = self.spent or message.replace
            self._done.set_result(message.outcome)


async def _first(*futures: asyncio.Future[Any], timeout: float | None = None) -> None:  # noqa: ASYNC109
    await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
