"""`dihedral ask` on a real pseudo terminal: questions, confirmation, Ctrl-C; and without a terminal, a server or a reader."""

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dihedral.client import Client
from tests.front_door.running import COMMAND, environment
from tests.front_door.test_ask import uploads
from tests.front_door.test_cli import Shell, house, shell  # noqa: F401 - fixtures
from tests.support.polling import at_this_load

SECONDS = 60
REFUSED, UNREACHABLE = 3, 4


class Terminal:
    """A process whose three standard files are a terminal. `seen`: all that it has shown so far."""

    def __init__(self, process: "subprocess.Popen[bytes]", end: int) -> None:
        self.process, self.end, self.seen = process, end, ""

    def shows(self, text: str) -> None:
        until = time.monotonic() + at_this_load(SECONDS)
        while text not in self.seen and self._read():
            assert time.monotonic() < until, self.seen
        assert text in self.seen, self.seen

    def types(self, text: str) -> None:
        os.write(self.end, text.encode())

    def ended(self, *, interrupted: bool = False) -> int:
        """The exit code. `interrupted`: by SIGINT, again where nothing follows: one between prompt and wait is noticed with the next key or signal."""
        until = time.monotonic() + at_this_load(SECONDS)
        if interrupted:
            self.process.send_signal(signal.SIGINT)
        while True:
            assert time.monotonic() < until, self.seen
            if select.select([self.end], [], [], 5)[0]:
                if not self._read():
                    return self.process.wait(at_this_load(SECONDS))
            elif interrupted and self.process.poll() is None:
                self.process.send_signal(signal.SIGINT)

    def _read(self) -> bool:
        try:
            piece = os.read(self.end, 4096)
        except OSError:  # Linux answers EIO where the other side is closed
            return False
        self.seen += piece.decode(errors="replace").replace("\r\n", "\n")
        return bool(piece)


@contextmanager
def terminal(shell: Shell, *arguments: str) -> Iterator[Terminal]:  # noqa: F811
    ours, theirs = pty.openpty()
    command = [*COMMAND, *arguments]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=shell.directory, start_new_session=True,
        env=environment(**shell.environ) | {"TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)


def test_what_is_open_is_asked_and_the_job_runs_once_confirmed(shell: Shell) -> None:  # noqa: F811
    with terminal(shell, "ask", "Write a script") as screen:
        screen.shows("needs prompt")
        screen.types("the sea\n")
        screen.shows("run it? [y/N] ")
        screen.types("y\n")
        assert screen.ended() == 0
    job = shell.json("jobs")["jobs"][0]
    assert job["status"] == "completed"
    assert job["jobId"] in screen.seen
    (written,) = shell.json("show", job["jobId"])["graph"]["nodes"]
    assert written["params"] == {"prompt": "the sea"}


@pytest.mark.parametrize("typed", ["n\n", "\n"])
def test_what_is_not_confirmed_does_not_run(shell: Shell, typed: str) -> None:  # noqa: F811
    """Nor does its file remain."""
    (shell.directory / "note.txt").write_text("the bees are back")
    before = len(shell.json("jobs")["jobs"])
    with Client(shell.environ["DIHEDRAL_URL"]) as client:
        files = uploads(client)
        with terminal(shell, "ask", "Store the text of this file as copy.txt", "--file", "note.txt") as screen:
            screen.shows("run it? [y/N] ")
            assert len(uploads(client)) == len(files) + 1
            screen.types(typed)
            assert screen.ended() == 0
        assert uploads(client) == files
    assert len(shell.json("jobs")["jobs"]) == before


def test_a_file_that_answered_a_question_is_deleted_where_nothing_comes_of_it(shell: Shell) -> None:  # noqa: F811
    (shell.directory / "speech.wav").write_bytes(b"RIFF")
    with Client(shell.environ["DIHEDRAL_URL"]) as client:
        files = uploads(client)
        with terminal(shell, "ask", "make a talking head") as screen:
            screen.shows("The speech. Which?")
            screen.types("speech.wav\n")
            screen.shows("run it? [y/N] ")
            assert len(uploads(client)) == len(files) + 1
            screen.types("n\n")
            assert screen.ended() == 0
        assert uploads(client) == files


def test_no_answer_to_a_question_is_a_refusal(shell: Shell) -> None:  # noqa: F811
    with terminal(shell, "ask", "Write a script") as screen:
        screen.shows("needs prompt")
        screen.types("\x04")  # Ctrl-D
        assert screen.ended() == REFUSED
    assert "Traceback" not in screen.seen


@pytest.mark.parametrize(("goal", "asks"), [("Write a script", "> "), ("Write a script about bees", "run it? [y/N] ")])
def test_ctrl_c_ends_it_at_a_question_and_nothing_runs(shell: Shell, goal: str, asks: str) -> None:  # noqa: F811
    before = len(shell.json("jobs")["jobs"])
    with terminal(shell, "ask", goal) as screen:
        screen.shows(asks)
        assert screen.ended(interrupted=True) == 130
    assert "Traceback" not in screen.seen
    assert len(shell.json("jobs")["jobs"]) == before


def test_a_reader_that_has_gone_is_no_traceback(shell: Shell) -> None:  # noqa: F811
    ours, theirs = os.pipe()
    os.close(ours)
    command = [*COMMAND, "ask", "Write a script about bees"]
    done = subprocess.run(
        command,
        env=environment(**shell.environ),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        timeout=at_this_load(SECONDS),
    )
    os.close(theirs)
    assert b"Traceback" not in done.stderr, done.stderr


def test_without_a_server_it_says_so_and_ends_with_the_code_of_that(shell: Shell) -> None:  # noqa: F811
    command = [*COMMAND, "ask", "Write a script", "--url", "http://127.0.0.1:9"]
    done = subprocess.run(
        command,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=at_this_load(SECONDS),
    )
    assert done.returncode == UNREACHABLE, done.stderr
    assert "Traceback" not in done.stderr
    assert "127.0.0.1:9" in done.stderr
