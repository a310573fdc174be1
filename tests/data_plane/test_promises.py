"""Several workers on one device: together they promise no more than there is, whoever looks, decides, ends or dies when."""

import os
import random
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from dihedral.data_plane.gpu_memory.ledger import GIB, Ledger, Reservation
from dihedral.data_plane.gpu_memory.locked import locked
from dihedral.data_plane.gpu_memory.readings import SILENT_SECONDS, Reading
from dihedral.data_plane.gpu_memory.reservations import SharedReservations, directory_of_user

TOTAL = 4
WORKERS = 2


def process() -> subprocess.Popen[bytes]:
    """One that lives until it is killed, or this one ends."""
    return subprocess.Popen(["cat"], stdin=subprocess.PIPE)


def kill(one: subprocess.Popen[bytes]) -> None:
    one.kill()
    one.communicate()


class Worker:
    """As `SlotScheduler` does: what it decides on is a look that may have begun long before."""

    def __init__(self, file: Path, pid: int, reading: Reading, now: float = 0.0) -> None:
        self.shared = SharedReservations([file], pid)
        self.ledger = Ledger(0, [reading])
        self.begun = now
        self.ledger.poll([reading], now)

    def poll(self, reading: Reading, begun: float) -> None:
        self.begun = begun
        self.ledger.poll([reading], begun)

    def reservation(self, pid: int, need: int) -> Reservation | None:
        with self.shared.deciding(self.ledger) as may:
            return self.ledger.reservation(0, pid, need, pid) if may else None

    def decide(self) -> None:
        with self.shared.deciding(self.ledger):
            pass


EMPTY = Reading(total=24 * GIB, free=24 * GIB, holders={})


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    made = process()
    yield made
    kill(made)


@pytest.fixture
def pair(tmp_path: Path, other: subprocess.Popen[bytes]) -> tuple[Worker, Worker]:
    """Two workers of one device that both saw empty; the second is the process `other`."""
    return Worker(tmp_path / "gpu", os.getpid(), EMPTY), Worker(tmp_path / "gpu", other.pid, EMPTY)


def held(**holders: int) -> Reading:
    found = {int(pid.removeprefix("pid")): size for pid, size in holders.items()}
    return Reading(total=24 * GIB, free=24 * GIB - sum(found.values()), holders=found)


def test_what_one_has_promised_another_does_not_give_away(pair: tuple[Worker, Worker]) -> None:
    one, two = pair
    assert one.reservation(11, 14 * GIB) is not None
    assert two.reservation(21, 14 * GIB) is None
    assert two.ledger.why(0, 21, 14 * GIB) == "needs 14.0 GiB, 10.0 free, 14.0 promised to running nodes"
    assert two.reservation(21, 10 * GIB) is not None
    assert one.reservation(12, 1) is None


def test_a_promise_counts_with_what_its_process_has_not_taken(pair: tuple[Worker, Worker]) -> None:
    """The file is as it was; the second worker's own look says what has become of the promise."""
    one, two = pair
    assert one.reservation(11, 14 * GIB) is not None
    two.poll(held(pid11=9 * GIB), begun=1.0)
    assert two.reservation(21, 11 * GIB) is None
    assert two.reservation(21, 10 * GIB) is not None


def test_an_ended_promise_counts_for_whoever_looked_before_its_end(pair: tuple[Worker, Worker]) -> None:
    one, two = pair
    first = one.reservation(11, 14 * GIB)
    assert first is not None
    two.poll(EMPTY, begun=1.0)
    one.ledger.release(first, now=2.0)
    one.poll(held(pid11=14 * GIB), begun=3.9)  # its process keeps what it took: a model
    one.decide()
    assert two.reservation(21, 14 * GIB) is None
    two.poll(held(pid11=14 * GIB), begun=4.0)  # so far it may have decided on its first look
    assert two.reservation(21, 14 * GIB) is None
    two.poll(EMPTY, begun=5.0)
    assert two.reservation(21, 24 * GIB) is not None


def test_what_the_dead_have_promised_is_dropped(pair: tuple[Worker, Worker], other: subprocess.Popen[bytes]) -> None:
    one, two = pair
    assert two.reservation(21, 14 * GIB) is not None
    assert one.reservation(11, 14 * GIB) is None
    kill(other)
    assert one.reservation(11, 14 * GIB) is not None


def test_a_process_that_got_the_id_of_a_dead_one_has_promised_nothing(pair: tuple[Worker, Worker]) -> None:
    one, two = pair
    two.shared._began -= 1
    assert two.reservation(21, 14 * GIB) is not None
    assert one.reservation(11, 14 * GIB) is not None


def test_who_leaves_takes_his_promises_with_him(pair: tuple[Worker, Worker]) -> None:
    one, two = pair
    assert two.reservation(21, 14 * GIB) is not None
    two.shared.leave()
    assert one.reservation(11, 24 * GIB) is not None


def test_nobody_waits_for_a_worker_that_decides(pair: tuple[Worker, Worker], tmp_path: Path) -> None:
    one, _ = pair
    with locked(tmp_path / "gpu", wait=False), one.shared.deciding(one.ledger) as may:
        assert not may
    with one.shared.deciding(one.ledger) as may:
        assert may


def test_one_that_runs_alone_on_a_device_is_not_alone_beside_another_workers_node(pair: tuple[Worker, Worker]) -> None:
    """Alone, a node begins with nine tenths of its need: not where another worker has promised the rest."""
    one, two = pair
    assert one.reservation(11, 2 * GIB) is not None
    with two.shared.deciding(two.ledger):
        assert two.ledger.reservation(0, 21, 24 * GIB, 1, alone=True) is None
        assert not two.ledger.leaves_room(0, 1 * GIB, 22 * GIB, 0, ours=[21])


def test_those_that_share_files_see_each_other(pair: tuple[Worker, Worker], other: subprocess.Popen[bytes]) -> None:
    one, two = pair
    assert one.shared.join() == set()
    assert two.shared.join() == {os.getpid()}
    assert one.shared.join() == {other.pid}


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"workers":{"a":{"pid":"x"}}}', b"\x00" * 50])
def test_a_file_that_cannot_be_read_is_written_anew(pair: tuple[Worker, Worker], tmp_path: Path, text: bytes) -> None:
    one, two = pair
    (tmp_path / "gpu").write_bytes(text)
    assert one.reservation(11, 14 * GIB) is not None
    assert two.reservation(21, 14 * GIB) is None


def test_without_its_files_a_worker_counts_for_itself_and_says_so_once(
    tmp_path: Path, other: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "there"
    directory.mkdir()
    one, two = (Worker(directory / "gpu", pid, EMPTY) for pid in (os.getpid(), other.pid))
    assert two.reservation(21, 14 * GIB) is not None
    assert one.reservation(11, 14 * GIB) is None
    (directory / "gpu").unlink()
    directory.rmdir()
    first = one.reservation(11, 14 * GIB)
    assert first is not None
    assert one.reservation(12, 11 * GIB) is None
    assert [record.message for record in caplog.records if "not shared" in record.message] == [
        f"reservations are not shared with other workers of this machine: [Errno 2] No such file or directory: '{directory}/gpu'"
    ]
    directory.mkdir()
    two.decide()
    assert two.reservation(22, 1 * GIB) is not None
    one.decide()
    assert one.ledger.others[0] != []


def test_the_directory_is_this_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = directory_of_user()
    assert found.stat().st_mode & 0o777 == 0o700
    assert directory_of_user() == found
    found.rmdir()
    (tmp_path / "elsewhere").mkdir()
    found.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        directory_of_user()


STEPS = {"poll": 4, "hear": 5, "admit": 6, "take": 6, "give": 6, "end": 4, "decide": 2, "die": 0.1, "wait": 0.3}
"""Of the walk, with their weights."""


class Machine:
    """One device of 4 units and two workers, which look, get their answers late, decide, and die; their nodes take, give, keep and end.

    The workers are real processes, and the file is a real one. Nobody decides on a look older than SILENT_SECONDS.
    """

    def __init__(self, seed: int, file: Path) -> None:
        self.random = random.Random(seed)
        self.file = file
        self.held: dict[int, int] = {}
        self.pids = 0
        self.now = 0.0
        self.processes = [process() for _ in range(WORKERS)]
        self.workers = [Worker(self.file, each.pid, self.reading()) for each in self.processes]
        self.answers: list[tuple[Worker, Reading, float]] = []
        self.open: dict[int, tuple[Worker, Reservation]] = {}  # by the node's process
        self.admitted = 0

    def close(self) -> None:
        for each in self.processes:
            kill(each)

    def step(self) -> str:
        (name,) = self.random.choices(list(STEPS), list(STEPS.values()))
        return f"{name} {getattr(self, name)() or ''}"

    def reading(self) -> Reading:
        holders = {pid: size for pid, size in self.held.items() if size}
        return Reading(total=TOTAL, free=TOTAL - sum(holders.values()), holders=holders)

    def free(self) -> int:
        """What nobody holds and nobody was promised."""
        promised = sum(max(0, each.need - self.held.get(pid, 0)) for pid, (_, each) in self.open.items())
        return TOTAL - sum(self.held.values()) - promised

    def tick(self) -> float:
        self.now += 0.01
        return self.now

    def wait(self) -> None:
        self.now += self.random.uniform(0.1, 1.5 * SILENT_SECONDS)

    def poll(self) -> None:
        self.answers.append((self.random.choice(self.workers), self.reading(), self.tick()))

    def hear(self) -> None:
        if self.answers:
            worker, reading, begun = self.answers.pop(self.random.randrange(len(self.answers)))
            if begun > worker.begun:  # looks of one worker follow one another
                worker.poll(reading, begun)

    def admit(self) -> str | None:
        """A node in a new process. settled: all have looked and decided, as they do when a node has ended."""
        worker, need, settled = (
            self.random.choice(self.workers),
            self.random.randint(1, TOTAL),
            self.random.random() < 0.3,
        )
        for each in self.workers if settled else []:
            each.poll(self.reading(), self.tick())
            each.decide()
        if self.tick() - worker.begun > SILENT_SECONDS:
            return None
        self.pids += 1
        reservation = worker.reservation(self.pids, need)
        if reservation is None:
            assert not settled or need > self.free(), "what fits is given"
            return None
        self.admitted += 1
        self.open[self.pids] = worker, reservation
        return f"{need} to {self.pids} by worker {self.workers.index(worker)}, settled: {settled}"

    def take(self) -> str | None:
        if not self.open:
            return None
        pid, (_, reservation) = self.random.choice(list(self.open.items()))
        size = self.random.randint(0, reservation.need - self.held.get(pid, 0))
        assert size <= TOTAL - sum(self.held.values()), "an admitted node finds what it was promised"
        self.held[pid] = self.held.get(pid, 0) + size
        return f"{size} by {pid}"

    def give(self) -> str | None:
        """Also an idle process that kept a model."""
        holders = [pid for pid, size in self.held.items() if size]
        if not holders:
            return None
        pid = self.random.choice(holders)
        self.held[pid] = self.random.choice([0, self.random.randint(0, self.held[pid])])
        return f"all but {self.held[pid]} by {pid}"

    def end(self) -> str | None:
        if not self.open:
            return None
        pid = self.random.choice(list(self.open))
        worker, reservation = self.open.pop(pid)
        worker.ledger.release(reservation, self.tick())
        if crashes := self.random.random() < 0.3:
            self.held.pop(pid, None)
        return f"{pid}, crashed: {crashes}"

    def decide(self) -> None:
        self.random.choice(self.workers).decide()

    def die(self) -> None:
        """With its slots; another worker takes its place."""
        number = self.random.randrange(WORKERS)
        kill(self.processes[number])
        for pid in [pid for pid, (worker, _) in self.open.items() if worker is self.workers[number]]:
            del self.open[pid]
            self.held.pop(pid, None)
        self.processes[number] = process()
        self.workers[number] = Worker(self.file, self.processes[number].pid, self.reading(), self.tick())


@pytest.mark.parametrize("seed", range(2))
def test_several_workers_never_promise_more_than_there_is(tmp_path: Path, seed: int) -> None:
    """A random walk: Hypothesis hardly ever comes to the six right steps that a mistake needs. What even this does not come to is tested above."""
    machine, steps = Machine(seed, tmp_path / "gpu"), deque[str](maxlen=15)
    try:
        for _ in range(20_000):
            steps.append(machine.step())
            assert machine.free() >= 0, "\n".join(steps)
    finally:
        machine.close()
    assert machine.admitted > 1000
