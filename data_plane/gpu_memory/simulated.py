"""Simulated GPUs: memory, speed and faults without arithmetic, so that scheduling can be tried on any machine.

`2x24GiB,oom@3,speed=0.5` are two devices of 24 GiB. `oom@N`, `hang@N` and `poison@N` happen at the N-th allocation on a device, counted over
all processes: no memory; no answer, whatever signal comes; a context that fails from then on, until its process is replaced. `speed` divides
the time of computing.

Who holds how much stands in one file a device, under a lock. What a dead process held is free, as on a GPU. So a worker reads these
devices as it reads real ones, and any process can hold memory that the worker did not give:

    python -m dihedral.data_plane.gpu_memory.simulated DIRECTORY INDEX SIZE
"""

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NoReturn

import msgspec

from dihedral.bridge.tasks.registry import MIB
from dihedral.data_plane.device import Device, Gpu
from dihedral.data_plane.gpu_memory.locked import locked
from dihedral.data_plane.gpu_memory.readings import Reading
from dihedral.data_plane.process_groups import runs

SIZES = {"MiB": MIB, "GiB": 1024 * MIB}
STEP_SECONDS = 0.01

Fault = Literal["oom", "hang", "poison"]


class SimulatedOutOfMemory(MemoryError):
    """Stands for CuPy's exception: a MemoryError."""


class SimulatedFault(RuntimeError):
    """The message begins as the driver's do."""


class Simulation(msgspec.Struct, frozen=True):
    """The parsed setting `worker.simulateGpus`. faults: (N, what happens at the N-th allocation)."""

    count: int
    memory_bytes: int
    faults: tuple[tuple[int, Fault], ...] = ()
    speed: float = 1.0

    @property
    def device(self) -> Device:
        """Returns the same description as `data_plane.device` does for real GPUs."""
        name = f"simulated GPU, {in_words(self.memory_bytes)}"
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        gpus = [Gpu(index=index, name=name, memory_mib=self.memory_bytes // MIB) for index in range(self.count)]
        return Device(name=name, array_module="numpy", reason="the GPUs are simulated", cpus=cpus, gpus=gpus)


def parse(text: str) -> Simulation:
    """Parses a text that the settings' schema has accepted."""
    head, *rest = text.split(",")
    count, _, size = head.partition("x")
    faults: list[tuple[int, Fault]] = []
    speed = 1.0
    for part in rest:
        if part.startswith("speed="):
            speed = max(0.001, float(part.removeprefix("speed=")))
        else:
            what, _, number = part.partition("@")
            faults.append((int(number), what))  # type: ignore[arg-type]
    return Simulation(int(count), size_bytes(size), tuple(faults), speed)


def size_bytes(text: str) -> int:
    """Parses `24GiB` or `512MiB`. Raises ValueError."""
    found = re.fullmatch(r"([0-9]+)(MiB|GiB)", text)
    if found is None:
        raise ValueError(f"{text!r} is no size like 24GiB or 512MiB")
    return int(found[1]) * SIZES[found[2]]


def in_words(size: int) -> str:
    return f"{size / SIZES['GiB']:g} GiB"


def open_gpus(simulation: Simulation, directory: Path) -> list["SimulatedGpu"]:
    """Opens the devices whose state lies in the directory, which is created if needed."""
    directory.mkdir(parents=True, exist_ok=True)
    return [SimulatedGpu(directory, index, simulation) for index in range(simulation.count)]


class _State(msgspec.Struct):
    """held: process id → bytes."""

    allocations: int = 0
    held: dict[str, int] = {}


class SimulatedGpu:
    """One device, as one process sees it. `peak_bytes`: the most that this process has held since `reset_peak`."""

    def __init__(self, directory: Path, index: int, simulation: Simulation) -> None:
        self.index = index
        self.memory_bytes = simulation.memory_bytes
        self.held_bytes = 0
        self.peak_bytes = 0
        self._file = directory / f"gpu{index}.json"
        self._faults = dict(simulation.faults)
        self._speed = simulation.speed
        self._poisoned = False
        self._dropped: list[int] = []  # sizes

    def allocate(self, size: int) -> "Allocation":
        """Raises SimulatedOutOfMemory; SimulatedFault where the context is poisoned, by this allocation or before."""
        self._check()
        self.give_memory_back()
        with self._state() as state:
            state.allocations += 1
            fault = self._faults.get(state.allocations)
            free = self.memory_bytes - sum(state.held.values())
            if fault is None and size <= free:
                self.held_bytes += size
                self.peak_bytes = max(self.peak_bytes, self.held_bytes)
                state.held[str(os.getpid())] = self.held_bytes
                return Allocation(self, size)
        if fault == "hang":
            _hang()
        self._poisoned = fault == "poison"
        self._check()
        raise SimulatedOutOfMemory(f"out of memory allocating {size:,} bytes ({free:,} are free)")

    def compute(self, seconds: float) -> None:
        """Takes its time at speed 1; returns to Python often enough for a signal. Raises SimulatedFault."""
        deadline = time.monotonic() + seconds / self._speed
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, STEP_SECONDS))
        self._check()

    def reading(self) -> Reading:
        with self._state() as state:
            holders = {int(pid): held for pid, held in state.held.items()}
            return Reading(total=self.memory_bytes, free=self.memory_bytes - sum(holders.values()), holders=holders)

    def reset_peak(self) -> None:
        self.peak_bytes = self.held_bytes

    def give_memory_back(self) -> None:
        """Returns unused memory to the device."""
        dropped, self._dropped = self._dropped, []
        if dropped:
            self._give_back(sum(dropped))

    def _give_back(self, size: int) -> None:
        with self._state() as state:
            self.held_bytes -= size
            state.held[str(os.getpid())] = self.held_bytes

    def _check(self) -> None:
        if self._poisoned:
            raise SimulatedFault("cudaErrorIllegalAddress: an illegal memory access was encountered (simulated)")

    @contextlib.contextmanager
    def _state(self) -> Iterator[_State]:
        """The state under the lock, without what the dead held; written back where it has changed."""
        with locked(self._file, wait=True) as file:
            state = msgspec.json.decode(file.text, type=_State) if file.text else _State()
            state.held = {pid: held for pid, held in state.held.items() if held and runs(int(pid))}
            yield state
            file.replace(msgspec.json.encode(state))


class Allocation:
    """Simulated memory, held until `free`, or until its device frees unused memory, or the end of the process."""

    def __init__(self, gpu: SimulatedGpu, size: int) -> None:
        self._gpu = gpu
        self._size = size

    def free(self) -> None:
        """Frees the memory; may be called twice."""
        size, self._size = self._size, 0
        if size:
            self._gpu._give_back(size)

    def __enter__(self) -> "Allocation":
        return self

    def __exit__(self, *_: object) -> None:
        self.free()

    def __del__(self) -> None:
        if self._size:
            self._gpu._dropped.append(
                self._size
            )  # no more than that: the collector may come while this process holds the lock


def _hang() -> NoReturn:
    """Blocks like a kernel that never ends: only SIGKILL ends it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    while True:
        time.sleep(3600)


def main() -> None:
    directory, index, size = sys.argv[1:4]
    wanted = size_bytes(size)
    held = SimulatedGpu(Path(directory), int(index), Simulation(1, sys.maxsize)).allocate(wanted)
    print(f"process {os.getpid()} holds {in_words(wanted)}", flush=True)
    with held:
        signal.pause()


if __name__ == "__main__":
    main()
