"""Commands in processes of their own that need not import first: a server that has imported the command line forks one for each.

What differs from a start by a shell is the start alone; the tests that are about it, and those of signals and terminals, start the command
themselves (`running.COMMAND`). `python -P warm.py` listens on the socket at descriptor 0.
"""

import atexit
import contextlib
import fcntl
import functools
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

COLD = ("PYTHON", "LANG", "LC_")
"""What the interpreter reads at its start."""


def run(arguments: tuple[str, ...], cwd: Path, environ: dict[str, str], seconds: float) -> tuple[int, str, str]:
    """Runs `dihedral` with these arguments; (exit code, stdout, stderr)."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull, "rb") as nothing:
        try:
            code = begin(arguments, cwd, environ, (nothing.fileno(), out.fileno(), err.fileno()))(seconds)
        except TimeoutError as error:
            err.seek(0)
            raise TimeoutError(
                f"{arguments} ran for more than {seconds} s and was ended: {err.read().decode()}"
            ) from error
        for each in (out, err):
            each.seek(0)
        return code, out.read().decode(), err.read().decode()


def begin(
    arguments: tuple[str, ...], cwd: Path, environ: dict[str, str], streams: tuple[int, int, int]
) -> Callable[[float], int]:
    """Starts `dihedral` on these descriptors, a terminal as that of a session of its own; what is returned waits for its exit code."""
    request = json.dumps({"arguments": arguments, "cwd": str(cwd), "environ": environ}).encode()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(_address())
    socket.send_fds(connection, [request], streams)

    def ended(seconds: float) -> int:
        with connection:
            connection.settimeout(seconds)
            pid = connection.recv(16)
            try:
                return int(connection.recv(16) or b"-1")
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
                raise

    return ended


@functools.cache
def _address() -> str:
    """That of the server of this test process, which ends when its parent has gone."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind("")  # Linux chooses a name that no file has
    listening.listen(16)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DIHEDRAL_")}
    server = subprocess.Popen([sys.executable, "-P", __file__], stdin=listening.fileno(), env=environ)
    atexit.register(server.kill)
    address: str = listening.getsockname()
    listening.close()
    return address


def _serve() -> None:
    from dihedral import cli, client, job_commands, render, tables  # noqa: F401 - imported for the commands
    from dihedral.bridge import settings  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    parent = os.getppid()
    with socket.socket(fileno=os.dup(0)) as listening:
        listening.settimeout(2)
        while os.getppid() == parent:
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            with connection:
                request, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
                if os.fork() == 0:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    connection.send(b"%d" % os.getpid())
                    connection.send(b"%d" % _become(json.loads(request), descriptors))
                    os._exit(0)
                for each in descriptors:
                    os.close(each)


def _become(request: dict[str, Any], descriptors: list[int]) -> int:
    """Runs the command in this process, which has nothing of the server's but its modules."""
    from dihedral import cli

    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    if os.isatty(0):
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    sys.stdin = io.TextIOWrapper(io.FileIO(0), "utf-8")
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, "w"), "utf-8", write_through=True) for number in (1, 2)
    )
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environ"])
    sys.argv = ["dihedral", *request["arguments"]]
    try:
        code = cli.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    return code


if __name__ == "__main__":
    _serve()
