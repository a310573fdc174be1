"""Where this process may be led by an address that somebody else has written."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trustme

from dihedral.bridge.guarded_transport import GuardedTransport
from dihedral.bridge.outgoing import Forbidden, Guard, own_guard

PRIVATE = [
    "https://[fec0::1]/", "https://[64:ff9b:1::a00:1]/", "https://[::a00:1]/", "https://[::127.0.0.1]/", "https://[5f00::1]/", "https://[3fff::1]/",
    "http://127.0.0.1/", "http://127.0.0.1:6379/", "https://10.0.0.1/", "https://192.168.1.1/x", "https://169.254.169.254/latest",
    "https://[::1]/", "https://[fd00::1]/", "https://[fe80::1]/", "https://[::ffff:127.0.0.1]/", "https://[64:ff9b::7f00:1]/",
    "https://[2002:7f00:1::]/", "https://0.0.0.0/", "https://127.1/", "https://2130706433/", "https://0x7f000001/", "https://100.64.0.1/",
    "https://224.0.0.1/", "https://255.255.255.255/",
]  # fmt: skip
DECODE_ERRORS = [
    "http://hooks.example/", "https://user:pass@hooks.example/", "https://:443/", "https://[::1", "https://hooks.example:99999/",
    "ftp://hooks.example/", "file:///etc/passwd", "https:///x", "",
]  # fmt: skip
PUBLIC = ["https://hooks.example/", "https://8.8.8.8/x", "https://[2606:4700::1]:8443/", "https://[::ffff:8.8.8.8]/"]


@pytest.mark.parametrize("url", PRIVATE + DECODE_ERRORS)
def test_what_can_be_told_from_the_address_is_refused(url: Any) -> None:
    with pytest.raises(Forbidden):
        Guard([]).check_url(url)


@pytest.mark.parametrize("url", PUBLIC)
def test_what_is_public_may_be_asked(url: Any) -> None:
    Guard([]).check_url(url)


@pytest.mark.parametrize(
    ("allow", "url"),
    [("127.0.0.0/8", "http://127.0.0.1:80/"), ("hooks.internal", "http://hooks.internal/"), ("10.1.2.3", "https://10.1.2.3/"),
     ("fd00::/8", "https://[fd00::1]/"), ("localhost", "http://localhost:8000/")],
)  # fmt: skip
def test_what_is_allowed_may_be_asked_and_nothing_beside_it(allow: Any, url: Any) -> None:
    Guard([allow]).check_url(url)
    with pytest.raises(Forbidden):
        Guard([allow]).check_url("https://192.168.1.1/")


def test_the_operators_own_endpoint_is_allowed_where_it_names_an_address() -> None:
    own_guard("http://127.0.0.1:11434", []).check_url("http://127.0.0.1:11434")
    own_guard("http://localhost:11434", []).check_url("http://localhost:11434")
    with pytest.raises(Forbidden):
        own_guard("http://ollama:11434", []).check_url("http://ollama:11434")
    own_guard("http://ollama:11434", ["ollama"]).check_url("http://ollama:11434")


# The address that is connected to -----------------------------------------------------------------------------------------


@asynccontextmanager
async def listening(**options: Any) -> AsyncIterator[Any]:
    """(port, the heads of the requests that came)."""
    heads = []

    async def serve(reader: Any, writer: Any) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    try:
        yield server.sockets[0].getsockname()[1], heads
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture
def resolves(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets names lead where a test says, one answer after the other; the last one stays."""
    asked = []

    def to(*answers: Any) -> Any:
        left = list(answers)

        async def getaddrinfo(loop: Any, host: Any, port: Any, **_: Any) -> Any:
            asked.append(host)
            addresses = left.pop(0) if len(left) > 1 else left[0]
            return [(2, 1, 6, "", (address, port)) for address in addresses]

        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
        return asked

    return to


async def asked(url: Any, guard: Any, **options: Any) -> Any:
    async with httpx.AsyncClient(transport=GuardedTransport(guard, **options), timeout=5) as client:
        return (await client.get(url)).status_code


async def test_a_name_that_leads_to_a_private_address_is_not_connected_to(resolves: Any) -> None:
    async with listening() as (port, heads):
        resolves(["127.0.0.1"])
        with pytest.raises(Forbidden):
            await asked(f"http://rebind.example:{port}/", Guard([]))
        resolves(["8.8.8.8", "127.0.0.1"])
        with pytest.raises(Forbidden, match=r"127\.0\.0\.1"):
            await asked(f"http://rebind.example:{port}/", Guard([]))
        assert heads == []


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example", "-"])
async def test_a_name_that_cannot_be_is_a_connection_that_failed(host: Any) -> None:
    with pytest.raises((httpx.ConnectError, httpx.InvalidURL)):
        await asked(f"https://{host}/", Guard([]))


async def test_a_name_is_resolved_once_so_what_was_looked_at_is_what_is_connected_to(resolves: Any) -> None:
    """DNS rebinding: another answer for the second question. There is no second question."""
    async with listening() as (port, heads):
        names = resolves(["127.0.0.1"], ["127.0.0.2"])
        assert await asked(f"http://rebind.example:{port}/x", Guard(["127.0.0.1"])) == 204
        assert names == ["rebind.example"]
        assert f"Host: rebind.example:{port}" in heads[0]
        with pytest.raises(Forbidden):
            await asked(f"http://rebind.example:{port}/x", Guard(["127.0.0.1"]))


async def test_tls_is_held_against_the_name_and_not_against_the_address(resolves: Any) -> None:
    authority = trustme.CA()
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("hooks.example").configure_cert(served)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    resolves(["127.0.0.1"])
    async with listening(ssl=served) as (port, heads):
        guard = Guard(["127.0.0.1"])
        assert await asked(f"https://hooks.example:{port}/", guard, verify=trust) == 204
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await asked(f"https://other.example:{port}/", guard, verify=trust)
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await asked(f"https://hooks.example:{port}/", guard)
        assert len(heads) == 1


async def test_a_proxy_of_the_environment_is_not_used(resolves: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would resolve the name anew, somewhere else."""
    async with listening() as (port, heads):
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        resolves(["127.0.0.1"])
        with pytest.raises(Forbidden):
            await asked("http://rebind.example/", Guard([]))
        assert heads == []
