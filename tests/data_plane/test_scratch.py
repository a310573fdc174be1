"""Temporary files of a worker that was killed do not stay for ever."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from dihedral.data_plane.scratch import remove_left, scratch

WORKER = """
import sys, tempfile
from dihedral.data_plane.scratch import scratch
with scratch() as path:
    open(tempfile.mkdtemp() + "/model", "w").write("gigabytes")
    print(path, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_worker_left_is_removed_by_the_next_start_and_what_lives_is_not(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        for _ in range(2)
    ]
    paths = [Path(worker.stdout.readline().decode().strip()) for worker in workers if worker.stdout]
    workers[0].send_signal(signal.SIGKILL)
    workers[0].wait()
    assert paths[0].exists()
    remove_left(tmp_path)
    assert [path.exists() for path in paths] == [False, True]
    for worker in workers:
        worker.communicate()
    assert list(tmp_path.iterdir()) == []


def test_temporary_files_lie_in_the_directory_of_the_worker_as_long_as_it_runs() -> None:
    before = tempfile.gettempdir()
    with scratch() as path:
        assert Path(tempfile.mkdtemp()).parent == path
    assert tempfile.gettempdir() == before
    assert not path.exists()
