"""A Redis Cluster on loopback: three masters, each with a replica, killed and started again as a test likes."""

import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from tests.support.polling import becomes
from tests.support.ports import free_port
from tests.support.servers import start_server

SLOTS = 16384
NOT_YET = (redis.RedisError, OSError)
NODE_TIMEOUT_MS = 1500
"""How long a master is silent before its replica may be promoted; the default is 15 s."""


class Server:
    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.port = free_port()
        self._options = [
            "--port", str(self.port), "--bind", "127.0.0.1", "--cluster-port", str(free_port()), "--cluster-enabled", "yes",
            "--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--cluster-require-full-coverage", "no", "--appendonly", "yes",
            "--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0", *options,
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(port=self.port, socket_timeout=5)

    def start(self) -> None:
        self.directory.mkdir(exist_ok=True)
        self.process, _ = start_server(self.directory, *self._options)

    def kill(self) -> None:
        """As the kernel does it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def cluster(self, word: str, *arguments: Any) -> Any:
        return self.client.execute_command(f"CLUSTER {word}", *arguments)

    @property
    def id(self) -> str:
        name = self.cluster("MYID")
        return name.decode() if isinstance(name, bytes) else str(name)

    @property
    def is_master(self) -> bool:
        return bool(self.client.info("replication")["role"] == "master")


class Cluster:
    """`masters` and `replicas` as they began; `url` names all six."""

    def __init__(self, directory: Path | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="dih-")
        root = directory or Path(self._folder.name)
        self.servers = [Server(root / str(number)) for number in range(6)]
        self.masters, self.replicas = self.servers[:3], self.servers[3:]
        try:
            for server in self.servers:
                server.start()
            self._join()
        except BaseException:
            self.close()
            raise
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def _join(self) -> None:
        for number, server in enumerate(self.masters):
            server.cluster("ADDSLOTSRANGE", number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1)
        first, *others = self.servers
        first.cluster("SET-CONFIG-EPOCH", 1)
        for number, server in enumerate(others):
            server.cluster("SET-CONFIG-EPOCH", number + 2)
            server.cluster("MEET", "127.0.0.1", first.port, int(first._options[5]))
        for server in self.servers:
            becomes(lambda server=server: len(server.cluster("NODES")) == 6, despite=NOT_YET)  # type: ignore[misc]
        for master, replica in zip(self.masters, self.replicas, strict=True):
            name = master.id
            becomes(lambda replica=replica, name=name: name in str(replica.cluster("NODES")), despite=NOT_YET)  # type: ignore[misc]
            replica.cluster("REPLICATE", name)
        becomes(self.is_whole, despite=NOT_YET)

    def is_whole(self) -> bool:
        """Every slot is served, and each replica follows its master."""
        for server in self.servers:
            if server.process is None or server.process.poll() is not None:
                continue
            if server.cluster("INFO").get("cluster_state") != "ok":
                return False
            info = server.client.info("replication")
            if info["role"] == "slave" and info["master_link_status"] != "up":
                return False
        return True

    def fail_over(self, number: int) -> float:
        """Kills a master and waits until its replica has been promoted; how many seconds that took."""
        begun = time.monotonic()
        self.masters[number].kill()
        becomes(lambda: self.replicas[number].is_master, despite=NOT_YET)
        return time.monotonic() - begun

    def client(self) -> redis.cluster.RedisCluster:
        return redis.cluster.RedisCluster(host="127.0.0.1", port=self.servers[-1].port)

    def close(self) -> None:
        for server in self.servers:
            server.client.close()
            if server.process is not None and server.process.poll() is None:
                server.kill()
        self._folder.cleanup()
