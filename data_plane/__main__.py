"""`python -m dihedral.data_plane`: one worker, from settings, environment and flags."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dihedral.bridge import logs, settings
from dihedral.bridge.errors import DihedralError, ServerUnavailable, SettingsError
from dihedral.bridge.process_end import end_after
from dihedral.bridge.tasks import printed

USAGE, REFUSED, UNREACHABLE = 2, 3, 4


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        loaded = settings.load(options.config, os.environ, _overrides(options))
        settings.forget_foreign(os.environ)  # the slots, in which users' tasks run, inherit what is left
        logs.configure(loaded.logs.level, loaded.logs.format, "python", settings.secrets(loaded))
        from dihedral.data_plane.service import serve

        def run() -> int:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner, printed.routed():
                return runner.run(serve(loaded))

        return end_after(run)
    except SettingsError as error:
        return _say(error, USAGE)
    except ServerUnavailable as error:
        return _say(error, UNREACHABLE)
    except DihedralError as error:
        return _say(error, REFUSED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dihedral worker", description="Runs a worker of the data plane.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="dihedral.toml")
    parser.add_argument("--redis-url", metavar="URL")
    parser.add_argument("--pool", metavar="NAME", help="takes the deliveries of this pool")
    parser.add_argument("--slots", type=int, metavar="N", help="heavy nodes at once; 0: one per GPU, else at most 2")
    parser.add_argument(
        "--tasks", action="append", metavar="MODULE", help="a module with tasks of your own; repeatable"
    )
    parser.add_argument("--simulate-gpus", metavar="TEXT", help="2x24GiB: simulated GPUs in place of the machine's")
    parser.add_argument("--host", metavar="HOST", help="of health and metrics")
    parser.add_argument("--port", type=int, metavar="PORT", help="of health and metrics; 0: any free one")
    return parser


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    flags = {
        "redis.url": options.redis_url,
        "worker.pool": options.pool,
        "worker.slots": options.slots,
        "worker.tasks": options.tasks,
        "worker.simulate_gpus": options.simulate_gpus,
        "worker.host": options.host,
        "worker.port": options.port,
    }
    return {path: value for path, value in flags.items() if value is not None}


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:  # not on this platform
        return None
    return uvloop.new_event_loop


def _say(error: Exception, code: int) -> int:
    sys.stderr.write(f"dihedral worker: {error}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
