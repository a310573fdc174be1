"""The end of a plane's process: without the interpreter's finalization, which may wait for ever.

A daemon thread that needs the interpreter's lock after finalization has begun ends there, and every lock that it holds stays locked. Seen, in
two runs of four with drains on a busy machine: redis-py imports a module whenever a connection pool is collected, and the drained process waited for
the lock of all imports until it was killed; most likely the thread that imports LangGraph (bridge/worker/branches.py) had held it. To join such
threads would make a drain as slow as the slowest of them; the process has nothing left to finalize, so it ends.
"""

import atexit
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from dihedral.bridge.errors import DihedralError

FAILED = 1


def end_after(serve: Callable[[], int]) -> NoReturn:
    """Ends this process with the exit code that `serve` returns, once functions of `atexit` have run and all output is written.

    An exception that is no refusal (DihedralError) is printed as usual and ends the process too: a plane that crashed must not stay, or no supervisor
    would start another.
    """
    try:
        code = serve()
    except DihedralError:
        raise
    except Exception:
        sys.excepthook(*sys.exc_info())
        code = FAILED
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
