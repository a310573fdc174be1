"""The Lua as one library of functions: its text, its names, and how a function is called.

The library and its functions carry a hash of the text, so processes of several versions work side by side on one server, and a name
always means the same text. It is loaded where a server reports an unknown function: into that server, which
in a cluster is the key's master. Only a user with that permission loads it; a worker's user may not (a function runs with the rights of its caller,
so a client that replaces one acts as the control plane), and waits until the control plane, which calls in every partition each second, has.
"""

import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
import redis.asyncio.cluster
import redis.cluster
from redis.exceptions import NoPermissionError, ResponseError

from dihedral.bridge.fabric.connection import UNKNOWN_FUNCTION, Client
from dihedral.bridge.fabric.lifecycle import lua_prelude

_FOLDER = files("dihedral.bridge.fabric") / "lua"

SHARED = ("_call", "_jobs", "_nodes", "_entries", "_claims", "_transitions")
"""The shared files that every transition uses, in the order of their definition."""
NAMES = sorted(file.name[:-4] for file in _FOLDER.iterdir() if file.name[0] not in "_.")
"""The files of the transitions."""


class Library(msgspec.Struct, frozen=True):
    version: str
    text: str

    def function(self, name: str) -> str:
        return f"{name}_{self.version}"


def make(body: str) -> Library:
    version = hashlib.sha256(body.encode()).hexdigest()[:12]
    return Library(version, f"#!lua name=dihedral_{version}\nlocal VERSION = '{version}'\n{body}")


@cache
def library() -> Library:
    return make(body())


def body() -> str:
    """Joins the tables of lifecycle.py, the shared code, then each file in its own block: a Lua chunk may have 200 locals."""
    shared = [(_FOLDER / f"{name}.lua").read_text() for name in SHARED]
    blocks = [f"do\n{(_FOLDER / f'{name}.lua').read_text()}end\n" for name in ("_plain", *NAMES)]
    return lua_prelude() + "".join([*shared, *blocks])


async def call(client: Client, name: str, key: str, *arguments: Any) -> Any:
    """Calls a function. Raises a transient redis.ResponseError where no process has loaded the library and this user may not load it."""
    known = library()
    command = ("FCALL", known.function(name), 1, key, *arguments)
    try:
        return await client.execute_command(*command)
    except ResponseError as error:
        if UNKNOWN_FUNCTION not in str(error):
            raise
    try:
        await client.execute_command("FUNCTION LOAD", "REPLACE", known.text, **_there(client, key))
    except NoPermissionError as error:
        raise _left_to_others(known) from error
    return await client.execute_command(*command)


def call_blocking(client: Any, name: str, key: str, *arguments: Any) -> Any:
    """Does what `call` does, with a client of dihedral.bridge.fabric.connection.connect_blocking."""
    known = library()
    command = ("FCALL", known.function(name), 1, key, *arguments)
    try:
        return client.execute_command(*command)
    except ResponseError as error:
        if UNKNOWN_FUNCTION not in str(error):
            raise
    try:
        client.execute_command("FUNCTION LOAD", "REPLACE", known.text, **_there(client, key))
    except NoPermissionError as error:
        raise _left_to_others(known) from error
    return client.execute_command(*command)


def _there(client: Any, key: str) -> dict[str, Any]:
    """Loads the library into the one node that answered: in a cluster redis-py loads into all masters, and fails if any one fails."""
    clusters = (redis.asyncio.cluster.RedisCluster, redis.cluster.RedisCluster)
    return {"target_nodes": client.get_node_from_key(key)} if isinstance(client, clusters) else {}


def _left_to_others(known: Library) -> ResponseError:
    return ResponseError(
        f"{UNKNOWN_FUNCTION}: a control plane of this version is to load dihedral_{known.version}; this user may not"
    )
