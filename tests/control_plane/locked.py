"""A served application with keys: who asks is named, and each request says which status it wants."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import connect as ws_connect

from dihedral.bridge.fabric.connection import Client, connect
from dihedral.control_plane import api_keys
from tests.control_plane.served import Served, checked, made_settings, serve, submission
from tests.support.polling import at_this_load
from tests.support.servers import start_server


class Locked:
    """A served application with keys; `of(name)` the headers of a key's holder."""

    def __init__(self, served: Served, client: Client) -> None:
        self.served = served
        self.client = client
        self.http = served.http
        self.tokens: dict[str, str] = {}
        self.ids: dict[str, str] = {}

    async def key(self, name: str, scopes: str = "submit,read,cancel", **more: Any) -> str:
        key, token = await api_keys.create(self.client, more.pop("owner", name), scopes.split(","), **more)
        self.tokens[name], self.ids[name] = token, key.id
        return token

    def of(self, name: str | None) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[name]}"} if name else {}

    async def ask(self, name: str | None, method: str, path: str, status: int = 200, **more: Any) -> Any:
        headers = {**self.of(name), **more.pop("headers", {})}
        answer = await self.http.request(method, path, headers=headers, **more)
        assert answer.status_code == status, (answer.status_code, answer.text)
        return checked(answer) if answer.content and "json" in answer.headers.get("content-type", "") else answer

    async def submit(self, name: str | None, *nodes: dict[str, Any], **more: Any) -> str:
        return (await self.ask(name, "POST", "/api/jobs", 201, json=submission(*nodes, **more)))["jobId"]

    async def ended(self, name: str | None, job: str) -> Any:
        async def found() -> Any:
            document = await self.ask(name, "GET", f"/api/jobs/{job}")
            return document if document["status"] in ("completed", "failed", "cancelled") else None

        return await self.served.becomes(found)

    async def upload(
        self, name: str | None, content: bytes = b"of hers", file: str = "a.txt", kind: str = "text/plain"
    ) -> Any:
        return await self.ask(name, "POST", "/api/artifacts", 201, files={"file": (file, content, kind)})

    def socket(self, name: str | None = None, **headers: str) -> ws_connect:
        headers = {**self.of(name), **{key.replace("_", "-"): value for key, value in headers.items()}}
        return ws_connect(
            f"ws://127.0.0.1:{self.served.port}/ws",
            additional_headers=headers,
            proxy=None,
            open_timeout=at_this_load(30),
        )

    async def refused(self, name: str | None = None, **headers: str) -> Any:
        """The problem with which a WebSocket is refused."""
        with pytest.raises(websockets.InvalidStatus) as error:
            async with self.socket(name, **headers):
                pass
        return json.loads(error.value.response.body)


@asynccontextmanager
async def locked_house(directory: Path, first_key: bool = True, **control: Any) -> AsyncIterator[Locked]:
    process, url = start_server(directory)
    client = connect(url)
    made = made_settings(url, directory)
    for name, value in control.items():
        section = made.websocket if hasattr(made.websocket, name) else made.control
        setattr(section, name, value)
    try:
        if first_key:
            await api_keys.create(client, "first", ["read"])
        async with serve(made) as served:
            await served.planes.start("python", light=64)
            yield Locked(served, client)
    finally:
        await client.aclose()
        process.kill()
        process.wait()
