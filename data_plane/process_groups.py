"""Process groups: functions that signal a group, and that find out when nothing of it runs any more.

A node counts as cancelled when its whole group is gone, its grandchildren included. A zombie that no parent reaps (in a container
whose first process is not an init) runs nothing, so it does not count; without /proc it does.
"""

import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
WARN_SECONDS = 10


def signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


async def kill_group(group: int) -> None:
    """Returns when nothing of the group runs; a process in uninterruptible sleep makes it wait, which it logs."""
    delay, waited = 0.002, 0.0
    while members(group):
        signal_group(group, signal.SIGKILL)
        await asyncio.sleep(delay)
        waited += delay
        delay = min(delay * 2, 0.1)
        if WARN_SECONDS <= waited < WARN_SECONDS + delay:
            log.warning("process group %d does not die of SIGKILL; still waiting", group)


def members(group: int) -> list[int]:
    """Returns process ids of a group that still run; the group's id alone where the processes cannot be listed."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return []
    except PermissionError:
        return [group]
    if not sys.platform.startswith("linux"):
        return [group]
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError, IndexError):
                # pid (name, which may hold anything) state parent group …
                state, _, its_group = Path("/proc", entry, "stat").read_bytes().rpartition(b")")[2].split()[:3]
                if int(its_group) == group and state not in (b"Z", b"X"):
                    found.append(int(entry))
    return found


def descendants(pid: int, most: int | None = None) -> list[int]:
    """Returns process ids below one, in other groups and sessions too, at most so many; zombies count. Empty where /proc does not list them."""
    found = _children(pid)
    for child in found:  # grows while it is read
        if most is not None and len(found) >= most:
            break
        found += _children(child)
    return found[:most]


def ancestor(pid: int, among: Collection[int]) -> int | None:
    """Returns which of these processes it descends from; None where it does from none, or the system does not tell."""
    with suppress(OSError, IndexError, ValueError):
        while pid > 1:
            pid = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
            if pid in among:
                return pid
    return None


def _children(pid: int) -> list[int]:
    found = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):
                found += [int(child) for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split()]
    return found


def runs(pid: int) -> bool:
    """Returns True when a process exists and is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    if not sys.platform.startswith("linux"):
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def began(pid: int) -> int:
    """Returns when a process began, in ticks since the machine did: together with its id it names no other process. 0 where the system does not report it."""
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    return 0


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Asks Linux to send this process a signal when its parent dies, also while C code holds the interpreter lock; does nothing elsewhere.

    May be called between fork and exec.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it died before the call above
