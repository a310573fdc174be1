"""`dihedral doctor`: what this machine has, and what is missing."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dihedral.bridge.version import VERSION

SCRIPTS = {
    "Cyrillic": "\u0434", "Greek": "\u03bb", "Arabic": "\u0645", "Hebrew": "\u05e9", "Devanagari": "\u0928", "Thai": "\u0e2a",
    "Chinese and Japanese": "\u6f22\u3042", "Korean": "\ud55c", "Tamil": "\u0ba4",
}  # fmt: skip


def examine(port: int) -> list[dict[str, Any]]:
    checks: dict[str, Callable[[], str]] = {
        "version": lambda: f"dihedral {VERSION}, Python {sys.version.split()[0]}",
        "server": _server,
        "device": _device,
        "store": _store,
        "captions": _captions,
        "port": lambda: _port(port),
        "settings": _settings,
    }
    found = []
    for what, check in checks.items():
        try:
            found.append({"what": what, "ok": True, "detail": check()})
        except Exception as error:
            found.append({"what": what, "ok": False, "detail": str(error)})
    return found


def _server() -> str:
    from dihedral.server import EmbeddedServer, find_server

    with tempfile.TemporaryDirectory(prefix="dihedral-") as folder:
        server = EmbeddedServer(Path(folder) / "redis", Path(folder) / "log")
        server.start()
        server.stop()
    said = subprocess.run([find_server(), "--version"], capture_output=True, text=True, check=False).stdout.strip()
    return f"starts and stops: {said}"


def _device() -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "dihedral.data_plane.device"], capture_output=True, text=True, check=False
    )
    said = json.loads(done.stdout)
    return ", ".join(f"{name} {value}" for name, value in said.items() if value not in ([], "", None))


def _store() -> str:
    import asyncio

    from dihedral.bridge import settings
    from dihedral.bridge.artifacts import open_store

    loaded = settings.load(None, os.environ, {})
    if str(loaded.artifacts.store) == "local":
        return f"local directory, {loaded.artifacts.directory} (dihedral up: in its data directory)"

    async def check() -> None:
        store = open_store(loaded.artifacts)
        try:
            await store.check()
        finally:
            await store.close()

    asyncio.run(check())
    return f"S3 at {loaded.artifacts.endpoint} answers"


def _captions() -> str:
    """Returns which scripts of the world the fonts of this machine have, by one letter of each."""
    from PIL import features

    from dihedral.data_plane.media.captions import face_of

    lacking = [name for name, letters in SCRIPTS.items() if face_of([letters], (720, 1280)).missing([letters])]
    problems = []
    if lacking:
        problems.append(f"no font here has {', '.join(lacking)}: such letters are left out (install Noto fonts)")
    if not features.check("raqm") or not features.check("fribidi"):
        problems.append("without libfribidi Arabic and Hebrew are written letter by letter, from left to right")
    return "; ".join(problems) or "every script that is looked for can be drawn"


def _port(port: int) -> str:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise RuntimeError(f"port {port} is taken ({error.strerror}); dihedral up --port N") from error
    return f"{port} is free"


def _settings() -> str:
    from dihedral.bridge import settings

    settings.load(None, os.environ, {})
    return "dihedral.toml is read" if Path(settings.FILE).exists() else "no dihedral.toml here; defaults"
