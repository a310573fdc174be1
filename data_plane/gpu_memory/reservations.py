"""The reservations that the workers of one machine have made on the same devices, so that two workers never reserve the same memory.

Each device has one file, under a lock. A worker decides under the locks of all its devices: it reads what the others have reserved, decides, and
writes its own reservations. Every worker measures what is in use; so a reservation counts with what its process has not taken yet. It
stands in the file with its whole need and its process, not with what is left of it: every reader subtracts what that process held in the
reader's look, as the ledger does for its own reservations. Then file and reading need not be of the same moment, and nothing is written while memory is
taken. An ended reservation stays, with the moment of its end, for as long as a worker may decide on a look that began before (SILENT_SECONDS).

Reservations of dead workers are dropped: each entry names its process and the time when that began. Workers that do not see each other's files (another
user, a container with another directory for temporary files or another space of process ids) do not see each other's reservations.
"""

import logging
import os
import stat
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec

from dihedral.data_plane.gpu_memory.ledger import Ledger, Reservation
from dihedral.data_plane.gpu_memory.locked import Locked, locked
from dihedral.data_plane.process_groups import began, runs

log = logging.getLogger(__name__)


class _Line(msgspec.Struct, frozen=True, array_like=True):
    """ended: `time.monotonic`, which is the same clock for all processes of a machine; None while it may take more."""

    pid: int
    need: int
    ended: float | None


class _Worker(msgspec.Struct, frozen=True):
    pid: int
    began: int
    reservations: list[_Line]


class _State(msgspec.Struct):
    """worker, a random name of this start → its reservations."""

    workers: dict[str, _Worker] = {}


class SharedReservations:
    def __init__(self, files: Sequence[Path], pid: int) -> None:
        """files: of each device, in the order of `Device.gpus`. pid: the worker's process."""
        self._files = list(files)
        self._name = uuid.uuid4().hex
        self._pid, self._began = pid, began(pid)
        self._trouble = ""

    @contextmanager
    def deciding(self, ledger: Ledger) -> Iterator[bool]:
        """Yields True when the ledger may reserve within the block; False while another worker decides. The ledger then knows the reservations of the others.

        Where the files cannot be used, this worker counts for itself.
        """
        with ExitStack() as locks:
            may, files = True, self._locked(locks)
            if files is None:
                may, files = False, {}
            states = {path: self._others(file) for path, file in files.items()}
            ledger.others = [
                [
                    Reservation(device, line.pid, line.need, order=0, ended=line.ended)
                    for other in states[path].workers.values()
                    for line in other.reservations
                ]
                if path in states
                else []
                for device, path in enumerate(self._files)
            ]
            yield may
            try:
                for device, path in enumerate(self._files):
                    if path in files:
                        mine = [_Line(each.pid, each.need, each.ended) for each in ledger.all_of(device)]
                        self._write(files[path], states[path], mine)
            except OSError as error:  # a full disk
                self._say(error)

    def join(self) -> set[int]:
        """Lets the others see this worker; the processes of those that it sees.

        Raises: OSError: the files cannot be used.
        """
        seen = set()
        for path in self._files:
            with _waited_for(path) as file:
                state = self._others(file)
                seen |= {other.pid for other in state.workers.values()}
                self._write(file, state, [])
        return seen

    def leave(self) -> None:
        """Removes this worker's entry, after everything of it has ended. The entry of a worker that does not come to this is dropped when its process is gone."""
        with suppress(OSError):
            for path in self._files:
                with locked(path, wait=False) as file:
                    file.replace(msgspec.json.encode(self._others(file)))

    def _locked(self, locks: ExitStack) -> dict[Path, Locked] | None:
        """Locks the files, in one order for all workers. None: another worker holds one of the locks at this moment; empty: the files cannot be used."""
        try:
            files = {path: locks.enter_context(locked(path, wait=False)) for path in sorted(set(self._files))}
        except BlockingIOError:
            locks.close()
            return None
        except OSError as error:
            locks.close()
            self._say(error)
            return {}
        self._trouble = ""
        return files

    def _others(self, file: Locked) -> _State:
        """Returns the entries of workers that live."""
        try:
            state = msgspec.json.decode(file.text, type=_State) if file.text else _State()
        except msgspec.DecodeError as error:
            log.warning("reservations of other workers cannot be read: %s", error)
            return _State()
        return _State(
            {
                name: each
                for name, each in state.workers.items()
                if name != self._name and runs(each.pid) and began(each.pid) == each.began
            }
        )

    def _write(self, file: Locked, others: _State, mine: list[_Line]) -> None:
        workers = others.workers | {self._name: _Worker(self._pid, self._began, mine)}
        file.replace(msgspec.json.encode(_State(workers), order="deterministic"))

    def _say(self, error: OSError) -> None:
        """Logs the error once, until the files can be used again."""
        if not self._trouble:
            log.warning("reservations are not shared with other workers of this machine: %s", error)
        self._trouble = str(error)


@contextmanager
def _waited_for(path: Path) -> Iterator[Locked]:
    """Locks the file, and logs a warning when that takes time: a frozen worker may hold the lock."""
    with ExitStack() as lock:
        try:
            file = lock.enter_context(locked(path, wait=False))
        except BlockingIOError:
            log.warning("another worker keeps the promises in %s locked; waiting for it", path)
            file = lock.enter_context(locked(path, wait=True))
        yield file


def directory_of_user() -> Path:
    """Returns a directory that belongs to this user alone, and creates it if needed. Raises: OSError: it cannot be created, or belongs to another user."""
    found = Path(tempfile.gettempdir(), f"dihedral-promises-{os.getuid()}")
    found.mkdir(mode=0o700, exist_ok=True)
    about = found.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
        raise PermissionError(f"{found} is not this user's directory")
    return found
