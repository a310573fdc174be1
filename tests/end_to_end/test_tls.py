"""TLS to Redis and to the artifact store, by an authority that is made here and trusted nowhere else."""

import asyncio
import contextlib
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import redis
import trustme

from dihedral.bridge.artifacts.s3 import S3Store
from dihedral.bridge.artifacts.store import ArtifactStoreUnavailable
from dihedral.bridge.errors import SettingsError
from dihedral.bridge.fabric.connection import connect, connect_blocking
from dihedral.schemas.structs.settings import ArtifactsSettings, StoreKind
from tests.artifacts import seaweed
from tests.support.polling import becomes
from tests.support.ports import free_port
from tests.support.servers import skip
from tests.support.stack import Stack, simulate


class Authority:
    """An authority, and certificates of it as files."""

    def __init__(self, directory: Path) -> None:
        self._made = trustme.CA()
        self._directory = directory
        self.file = directory / "ca.pem"
        self._made.cert_pem.write_to_path(self.file)

    def certificate(self, name: str) -> tuple[Path, Path]:
        """(certificate, key) for a host."""
        made = self._made.issue_cert(name)
        chain, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        chain.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        made.private_key_pem.write_to_path(key)
        return chain, key

    def context(self, name: str) -> ssl.SSLContext:
        """That of a server with this name."""
        made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._made.issue_cert(name).configure_cert(made)
        return made


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


# Redis ------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def redis_with_tls(
    directory: Path, authority: Authority, name: str = "localhost"
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server that speaks nothing but TLS and wants a certificate of its clients; (it, its port)."""
    binary = shutil.which("redis-server")
    if binary is None:
        skip("redis", "there is no redis-server on this machine, and the embedded one speaks no TLS")
    port = free_port()
    chain, key = authority.certificate(name)
    options = {
        "--port": "0", "--tls-port": str(port), "--bind": "127.0.0.1", "--dir": str(directory), "--save": "",
        "--tls-cert-file": str(chain), "--tls-key-file": str(key), "--tls-ca-cert-file": str(authority.file),
    }  # fmt: skip
    with (directory / "redis.log").open("w") as log:
        process = subprocess.Popen(
            [binary, *(word for pair in options.items() for word in pair)], stdout=log, stderr=log
        )
    try:
        becomes(lambda: "Ready to accept" in (directory / "redis.log").read_text() or process.poll() is not None)
        assert process.poll() is None, (directory / "redis.log").read_text()
        yield process, port
    finally:
        process.kill()
        process.wait()


def address(authority: Authority, port: int, *, trusted: bool = True, known: bool = True) -> str:
    chain, key = authority.certificate("client")
    options = [f"ssl_ca_certs={authority.file}"] if trusted else []
    options += [f"ssl_certfile={chain}", f"ssl_keyfile={key}"] if known else []
    return f"rediss://localhost:{port}/0?{'&'.join(options)}"


class WithTls(Stack):
    def __init__(self, directory: Path, url: str, server: "subprocess.Popen[bytes]") -> None:
        self.directory, self.port, self.redis_url, self.server = directory, free_port(), url, server
        self.url = f"http://127.0.0.1:{self.port}"
        self.environ = {**os.environ, "DIHEDRAL_ARTIFACTS__DIRECTORY": str(directory / "artifacts")}
        self.workers = []
        self.control = self.start("control_plane", "--port", str(self.port))
        self.http = httpx.Client(base_url=self.url, timeout=120)
        becomes(self._ready)


def test_both_planes_work_over_tls_alone(tmp_path: Path, authority: Authority) -> None:
    with redis_with_tls(tmp_path, authority) as (server, port):
        house = WithTls(tmp_path, address(authority, port), server)
        try:
            house.worker()
            job = house.post("/api/jobs", simulate({"id": "a", "steps": 3}, {"id": "b"}, edges=[("a", "b")]))["jobId"]
            assert house.ended(job)["status"] == "completed"
            with house.http.stream("GET", f"/api/jobs/{job}/events", headers={"accept": "text/event-stream"}) as answer:
                assert "completed" in answer.read().decode()
        finally:
            house.close()


async def test_a_redis_that_cannot_show_who_it_is_is_not_spoken_to(tmp_path: Path, authority: Authority) -> None:
    with redis_with_tls(tmp_path, authority) as (_, port):
        client = connect(address(authority, port))
        assert await client.ping()
        await client.aclose()
        for refused in (address(authority, port, trusted=False), address(authority, port, known=False)):
            client = connect(refused)
            with pytest.raises(redis.ConnectionError):
                await client.ping()
            await client.aclose()
            with pytest.raises(redis.ConnectionError):
                connect_blocking(refused, timeout_seconds=5).ping()
    with redis_with_tls(tmp_path, authority, "another.example") as (_, port):
        client = connect(address(authority, port))
        with pytest.raises(redis.ConnectionError, match="certificate"):
            await client.ping()
        await client.aclose()
        with pytest.raises(redis.ConnectionError, match="certificate"):
            connect_blocking(address(authority, port), timeout_seconds=5).ping()


# The store --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def front(target: str, context: ssl.SSLContext) -> AsyncIterator[int]:
    """Speaks TLS and hands on to a server that does not, as a proxy does; its port."""
    host, port = target.removeprefix("http://").split(":")

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(host, int(port))
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.fixture
def store(request: pytest.FixtureRequest) -> seaweed.Seaweed:
    return seaweed.of_session(request.config)


async def test_artifacts_travel_over_tls_to_a_store_that_shows_who_it_is(
    store: seaweed.Seaweed, tmp_path: Path, authority: Authority
) -> None:
    async with front(store.endpoint, authority.context("localhost")) as port:
        where = {"endpoint": f"https://localhost:{port}"}
        trusting = S3Store(store.settings(**where, ca_file=str(authority.file)))
        try:
            await trusting.check()
            meta = await trusting.put("inputs", "tls/a.txt", b"over TLS", "text/plain")
            assert await trusting.meta("inputs", "tls/a.txt") == meta
            assert b"".join([chunk async for chunk in trusting.open("inputs", "tls/a.txt")]) == b"over TLS"
            link = await trusting.link("inputs", "tls/a.txt")
            assert link is not None
            assert link.startswith(f"https://localhost:{port}/inputs/tls/a.txt?")
            trust = ssl.create_default_context(cafile=str(authority.file))
            async with httpx.AsyncClient(verify=trust, timeout=120) as client:
                assert (await client.get(link)).text == "over TLS"
            await trusting.delete("inputs", "tls/a.txt")
        finally:
            await trusting.close()
        for refused in ({}, {"ca_file": str(Authority(_folder(tmp_path)).file)}):
            other = S3Store(store.settings(**where, **refused))
            try:
                with pytest.raises(ArtifactStoreUnavailable):
                    await other.check()
            finally:
                await other.close()


def _folder(directory: Path) -> Path:
    made = directory / "another"
    made.mkdir()
    return made


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_file_of_authorities_that_cannot_be_read_stops_the_start(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    settings = ArtifactsSettings(
        store=StoreKind.s3, endpoint="https://localhost:1", access_key="a", secret_key="b", ca_file=str(path)
    )
    with pytest.raises(SettingsError, match=r"artifacts\.caFile"):
        S3Store(settings)
