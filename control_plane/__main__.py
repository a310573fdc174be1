"""`python -m dihedral.control_plane`: REST, WebSocket, scheduler and executor in one process."""

import argparse
import asyncio
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dihedral.bridge import hosts, logs, settings
from dihedral.bridge.errors import DihedralError, SettingsError
from dihedral.bridge.fabric import keys
from dihedral.bridge.process_end import end_after
from dihedral.bridge.tasks import printed
from dihedral.schemas.structs.settings import Settings

USAGE, REFUSED = 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    flags = {
        "redis.url": options.redis_url,
        "control.host": options.host,
        "control.port": options.port,
        "pipelines.dir": options.pipelines,
        "worker.tasks": options.tasks,
        "control.insecure": options.insecure or None,
    }
    try:
        loaded = settings.load(
            options.config, os.environ, {path: value for path, value in flags.items() if value is not None}
        )
        refuse_open_to_all(loaded)
        asyncio.run(refuse_other_store(loaded))
        logs.configure(loaded.logs.level, loaded.logs.format, "node", settings.secrets(loaded))
        listening = hosts.listen(loaded.control.host, loaded.control.port)
        from dihedral.control_plane.app import create_app

        app = create_app(loaded)
    except SettingsError as error:
        return _say(error, USAGE)
    except (DihedralError, OSError) as error:
        return _say(error, REFUSED)
    import logging

    import uvicorn

    from dihedral.control_plane import connections

    # It calls a refusal with a reason an unfinished handshake, and a client without a key could fill the log with that.
    unfinished = "without completing handshake"
    logging.getLogger("uvicorn.error").addFilter(lambda record: unfinished not in str(record.msg))

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                host, port = listening.getsockname()[:2]
                sys.stderr.write(f"dihedral control: serving on http://{f'[{host}]' if ':' in host else host}:{port}\n")

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """Closes the hub's clients first: uvicorn closes sockets without a reason (1012) and waits for event streams in vain."""
            await app.state.hub.close()
            await super().shutdown(sockets)

    _raise_descriptors()
    config = connections.config(app, loaded, timeout_graceful_shutdown=5)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # the default scans the live heap far too often: p99 36 → 8.5 ms
    # uvicorn shuts down in order and then raises the signal again; a stop that was asked for is no failure.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)

    def run() -> int:
        with listening, printed.routed():
            Server(config).run(sockets=[listening])
        return 0

    return end_after(run)


MOST_DESCRIPTORS = 65_536


def _raise_descriptors() -> None:
    """Raises the soft limit of descriptors: it is usually 1,024, which is too low for the connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class OpenToAll(DihedralError):
    """The control plane would be open to every client that can reach this machine."""


def refuse_open_to_all(loaded: Settings) -> None:
    """Allows addresses beyond loopback only with a key, or with `--insecure`. While Redis is away that is unknown: the control plane then starts, and every request needs a key.

    Raises:
        OpenToAll
        KeyRefused: control.keys is none.
    """
    import redis

    from dihedral.bridge.fabric.connection import CONNECTION_ERRORS, connect_blocking
    from dihedral.control_plane.api_keys import given

    if given(loaded.control.keys) or loaded.control.insecure or hosts.is_loopback(loaded.control.host):
        return
    try:
        client = connect_blocking(loaded.redis.url, timeout_seconds=5)
        try:
            has_keys = client.exists(keys.API_KEYS)
        finally:
            client.close()
    except (*CONNECTION_ERRORS, redis.RedisError) as error:
        sys.stderr.write(
            f"dihedral control: Redis could not be asked ({error}), so it is not known whether there is an API key: every request needs one\n"
        )
        return
    if not has_keys:
        raise OpenToAll(
            f"{loaded.control.host} can be reached from elsewhere and there is no API key: make one (dihedral keys create --owner NAME), "
            "listen on 127.0.0.1, or say --insecure"
        )


async def refuse_other_store(loaded: Settings) -> None:
    """Raises OtherStore. While Redis is away that is unknown; the log tells it later."""
    from dihedral.bridge.artifacts import agreement
    from dihedral.bridge.fabric.connection import connect

    with suppress(*agreement.AWAY):
        async with connect(loaded.redis.url, timeout_seconds=5) as client:
            await agreement.agree(client, loaded.artifacts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dihedral control", description="Runs a control plane.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="dihedral.toml")
    parser.add_argument("--redis-url", metavar="URL")
    parser.add_argument("--host", metavar="HOST")
    parser.add_argument("--port", type=int, metavar="PORT")
    parser.add_argument("--insecure", action="store_true", help="listen beyond loopback although there is no API key")
    parser.add_argument("--pipelines", metavar="DIR", help="a folder of pipeline documents of your own")
    parser.add_argument(
        "--tasks", action="append", metavar="MODULE", help="a module with tasks of your own; repeatable"
    )
    return parser


def _say(error: Exception, code: int) -> int:
    sys.stderr.write(f"dihedral control: {error}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
