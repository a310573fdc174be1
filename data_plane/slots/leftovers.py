"""The state that a task leaves behind in the process of its slot: restored where that is certain, else a reason to replace the process.

Looked at after every run, also of a completed node, since the next one may belong to another owner. What has one value per process
(working directory, environment, umask, signal handlers, streams, …) is put back. Child processes are killed, daemons too: the process adopts
them (PR_SET_CHILD_SUBREAPER), and a process outside the group is still below it in /proc. A thread cannot be killed, and a closed descriptor
may have been opened again as something else: then the process is replaced, as it is where something cannot be put back.

Not seen: threads of C libraries (BLAS keeps its own, and they print nothing), what modules keep in their variables, and descriptors that stay open,
as long as these are few.

Rejected: a fresh process for each node (an import of CUDA libraries is seconds), and a process forked from a warm one (CUDA does not survive it).
"""

import asyncio
import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from dihedral.data_plane.process_groups import descendants

PR_SET_CHILD_SUBREAPER = 36
JOIN_SECONDS = 0.2  # for a thread that is about to end
CHILDREN_SECONDS = 2.0  # until what was killed is gone
MOST_DESCRIPTORS = 64  # opened since the start: a few are libraries', many are a leak
NAMES_SHOWN = 3
LIMITS = (
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_CORE,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_CPU,
    resource.RLIMIT_STACK,
)


class ProcessState:
    """The state of this process as a run should find it. Made in the main thread, before the first run."""

    def __init__(self, descriptors: Iterable[int], is_ours: Callable[[threading.Thread], bool]) -> None:
        """`descriptors`: that must stay what they are, beside 0, 1 and 2; `is_ours`: of a thread, whether the slot itself runs it."""
        if sys.platform.startswith("linux"):
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._is_ours = is_ours
        self._threads_before = frozenset(threading.enumerate())
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._identities = {each: _identity(each) for each in (0, 1, 2, *descriptors)}
        self._open = len(_open_descriptors())
        root = logging.getLogger()
        self._values: list[tuple[str, Any, Callable[[], Any], Callable[[Any], Any]]] = [
            (name, read(), read, write)
            for name, read, write in (
                ("working directory", os.getcwd, os.chdir),
                ("environment", lambda: dict(os.environ), _set_environment),
                ("umask", _umask, os.umask),
                ("signal handlers", _signal_handlers, _set_signal_handlers),
                ("blocked signals", lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()), _set_signal_mask),
                ("timers", _timers, _stop_timers),
                ("limits", _limits, _set_limits),
                ("priority", lambda: os.getpriority(os.PRIO_PROCESS, 0), _set_priority),
                ("module path", lambda: list(sys.path), lambda path: sys.path.__setitem__(slice(None), path)),
                ("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
                ("collector", gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
                ("socket time-out", socket.getdefaulttimeout, socket.setdefaulttimeout),
                ("trace function", sys.gettrace, sys.settrace),
                ("profile function", sys.getprofile, sys.setprofile),
                ("exception hook", lambda: sys.excepthook, lambda hook: setattr(sys, "excepthook", hook)),
                ("logging level", lambda: (root.level, logging.root.manager.disable), _set_logging_level),
                ("logging handlers", lambda: list(root.handlers), lambda all: setattr(root, "handlers", list(all))),
            )
        ]

    def put_back(self, kept: frozenset[Any] = frozenset()) -> list[str]:
        """Undoes what a run has changed; answers with what it could not, in words, and then the process must not run another.

        `kept`: threads and process ids of a model that stays for the next run.
        """
        left = [*self._put_values_back(), *self._put_streams_back()]
        left += [
            f"descriptor {number} is closed or another"
            for number, one in self._identities.items()
            if _identity(number) != one
        ]
        left += end_children(kept)
        left += self._threads(kept)
        opened = len(_open_descriptors()) - self._open
        if opened > MOST_DESCRIPTORS:
            left.append(f"{opened} descriptors were left open")
        return left

    def _put_values_back(self) -> list[str]:
        left = []
        for name, value, read, write in self._values:
            try:
                if _read(read) != value:
                    write(value)
                    if read() != value:
                        left.append(f"the {name} cannot be put back")
            except Exception as error:
                left.append(f"the {name} cannot be put back: {error}")
        return left

    def _put_streams_back(self) -> list[str]:
        """Flushes each stream first, into the place to which the task has redirected it."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # None, closed, or an object with half of a file's methods
                stream.flush()
        sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__ = self._streams  # type: ignore[misc, assignment]
        left = []
        for name, stream in (("stdout", self._streams[1]), ("stderr", self._streams[2])):
            try:
                stream.flush()
            except (OSError, ValueError) as error:
                left.append(f"{name} is of no use any more: {error}")
        return left

    def _threads(self, kept: frozenset[Any]) -> list[str]:
        found = []
        deadline = time.monotonic() + JOIN_SECONDS
        for thread in threading.enumerate():
            if (
                thread in kept
                or thread in self._threads_before
                or self._is_ours(thread)
                or type(thread).__module__.startswith("tqdm.")
            ):
                continue  # tqdm's monitor only looks at bars that run
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                found.append(thread.name)
        return [f"threads were left running: {_shown(found)}"] if found else []


def running() -> frozenset[Any]:
    """Threads of this process, and process ids below it."""
    return frozenset([*threading.enumerate(), *descendants(os.getpid())])


async def end_tasks() -> list[str]:
    """Cancels what a task of the event loop has left in it; answers with what does not end by that, in words."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    if rest:
        _, rest = await asyncio.wait(rest, timeout=JOIN_SECONDS)
    return [f"tasks of the event loop do not end: {_shown(task.get_name() for task in rest)}"] if rest else []


def end_children(kept: frozenset[Any] = frozenset()) -> list[str]:
    """Kills and reaps all that is below this process and not below a kept one."""
    deadline = time.monotonic() + CHILDREN_SECONDS
    while True:
        _reap(kept)
        spared = {pid for one in kept if isinstance(one, int) for pid in (one, *descendants(one))}
        rest = set(descendants(os.getpid())) - spared
        if not rest:
            return []
        if time.monotonic() > deadline:
            return [f"child processes do not end: {_shown(str(pid) for pid in sorted(rest))}"]
        for pid in rest:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def _reap(kept: frozenset[Any]) -> None:
    """Reaps children that have ended; the exit codes of kept ones belong to the code that started them."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in kept:
            return
        with suppress(ChildProcessError):
            os.waitpid(ended.si_pid, os.WNOHANG)


def _read(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except OSError:  # the working directory is gone
        return None


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        seen = os.fstat(descriptor)
    except OSError:
        return None
    return seen.st_dev, seen.st_ino


def _open_descriptors() -> list[str]:
    with suppress(OSError):
        return os.listdir("/dev/fd")
    return []


def _set_environment(wanted: dict[str, str]) -> None:
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


def _signal_handlers() -> dict[int, Any]:
    """Those of C libraries are None, and cannot be put back from here."""
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _set_signal_handlers(wanted: dict[int, Any]) -> None:
    for number, handler in wanted.items():
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _set_signal_mask(wanted: set[Any]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, wanted)


def _timers() -> list[bool]:
    """Returns which timers run: an alarm that is left would end the next run."""
    return [signal.getitimer(each)[0] > 0 for each in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)]


def _stop_timers(_: list[bool]) -> None:
    for each in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(each, 0)


def _limits() -> list[tuple[int, int]]:
    return [resource.getrlimit(each) for each in LIMITS]


def _set_limits(wanted: list[tuple[int, int]]) -> None:
    for each, limit in zip(LIMITS, wanted, strict=True):
        resource.setrlimit(each, limit)


def _set_priority(wanted: int) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, wanted)


def _set_logging_level(wanted: tuple[int, int]) -> None:
    logging.getLogger().setLevel(wanted[0])
    logging.disable(wanted[1])


def _shown(names: Iterable[str]) -> str:
    all_names = list(names)
    more = f" and {len(all_names) - NAMES_SHOWN} more" if len(all_names) > NAMES_SHOWN else ""
    return ", ".join(all_names[:NAMES_SHOWN]) + more
