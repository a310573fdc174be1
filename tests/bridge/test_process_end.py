"""The end of a plane's process, whatever its threads hold."""

import subprocess
import sys

import pytest

from tests.support.polling import at_this_load

PROGRAM = """
import _imp, atexit, threading, time
from dihedral.bridge.process_end import end_after

held = threading.Event()

def hold():
    _imp.acquire_lock()
    held.set()
    time.sleep(600)

class Late:
    def __del__(self):
        import json.tool  # finalization would wait here

late = Late()
late.itself = late
del late

def serve():
    threading.Thread(target=hold, daemon=True).start()
    held.wait()
    print("served")
    {ending}

atexit.register(print, "at exit")
end_after(serve)
"""


@pytest.mark.parametrize(("ending", "code"), [("return 7", 7), ("raise OSError('it broke')", 1)])
def test_a_process_ends_though_a_thread_holds_the_lock_of_all_imports(ending: str, code: int) -> None:
    program = [sys.executable, "-P", "-c", PROGRAM.format(ending=ending)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=at_this_load(10), check=False)
    assert (done.returncode, done.stdout.splitlines()) == (code, ["served", "at exit"])
    assert ("OSError: it broke" in done.stderr) == (code == 1)
