"""`dihedral keys`, `--api-key` and `--insecure` as their users meet them: real processes in a directory of their own."""

import json
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dihedral.client import AsyncClient, Client, Refused
from dihedral.server import socket_path
from tests.front_door.running import COMMAND, SECONDS, dihedral, environment, one_line, up
from tests.support.polling import becomes

SIMULATE = ("submit", "--pipeline", "simulate", "--watch")


def make(cwd: Path, *more: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(dihedral("keys", "create", "--json", *more, cwd=cwd).stdout)
    return document


def test_a_key_is_made_before_anything_runs_shown_once_listed_without_it_and_revoked(tmp_path: Path) -> None:
    made = make(tmp_path, "--owner", "alice", "--scopes", "read,submit", "--expires", "90d", "--max-alive", "3")
    assert made["key"].startswith(f"dhk_{made['id']}_")
    assert (made["owner"], made["scopes"], made["maxAlive"]) == ("alice", ["submit", "read"], 3)
    listed = dihedral("keys", "list", "--json", cwd=tmp_path).stdout
    secret = made["key"].removeprefix(f"dhk_{made['id']}_")  # which may have a _ itself
    assert secret not in listed
    (key,) = json.loads(listed)["keys"]
    assert (key["id"], key["owner"], key["revoked"]) == (made["id"], "alice", None)
    assert key["expires"] > key["created"]
    dihedral("keys", "revoke", made["id"], cwd=tmp_path)
    assert "revoked" in dihedral("keys", "list", cwd=tmp_path).stdout
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert made["id"].encode() in stored
    assert secret.encode() not in stored, "neither in the data nor in a log"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "--owner", "a b"), "is no owner"),
        (("create", "--owner", "a", "--scopes", "read,fly"), "fly is no scope"),
        (("create", "--owner", "a", "--scopes", ""), "is no scope"),
        (("create", "--owner", "a", "--max-alive", "-1"), "not negative"),
        (("revoke", "0123"), "there is no key '0123'"),
    ],
)
def test_what_cannot_be_done_is_one_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in one_line(dihedral("keys", *arguments, cwd=tmp_path, code=3).stderr)


def test_a_redis_that_is_not_there_is_one_line_without_its_password(tmp_path: Path) -> None:
    url = "redis://user:sesame@127.0.0.1:1/0"
    line = one_line(dihedral("keys", "list", "--redis-url", url, cwd=tmp_path, code=4).stderr)
    assert "cannot be reached" in line
    assert "sesame" not in line


def test_beyond_loopback_up_and_control_start_with_a_key_or_when_told_to_and_not_otherwise(tmp_path: Path) -> None:
    line = one_line(dihedral("up", "--host", "0.0.0.0", "--port", "0", cwd=tmp_path, code=3).stderr)
    assert "there is no API key" in line
    assert "--insecure" in line
    with up(tmp_path, "--host", "0.0.0.0", "--insecure", "--slots", "1") as running:
        dihedral("jobs", "--url", running.url, cwd=tmp_path)
        redis_url = f"unix://{socket_path(tmp_path / 'dihedral-data' / 'redis')}?db=0"
        line = one_line(
            dihedral(
                "control", "--host", "0.0.0.0", "--port", "0", "--redis-url", redis_url, cwd=tmp_path, code=3
            ).stderr
        )
        assert "there is no API key" in line
    make(tmp_path, "--owner", "alice")
    with up(tmp_path, "--host", "0.0.0.0", "--slots", "1") as running:
        line = one_line(dihedral("jobs", "--url", running.url, cwd=tmp_path, code=3).stderr)
        assert "an API key is needed" in line


def test_a_control_plane_that_cannot_ask_for_keys_starts_closed_and_says_why(tmp_path: Path) -> None:
    redis_url = f"unix://{tmp_path}/none.sock?db=0"
    command = [*COMMAND, "control", "--host", "0.0.0.0", "--port", "0", "--redis-url", redis_url]
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment()
    ) as process:
        try:
            assert process.stderr is not None
            said: list[str] = []
            while "serving on" not in (said or [""])[-1]:
                said.append(process.stderr.readline())
                assert said[-1], said
            assert any("not known whether there is an API key" in line for line in said), said
            port = int(said[-1].rstrip().rpartition(":")[2])
            line = one_line(dihedral("jobs", "--url", f"http://127.0.0.1:{port}", cwd=tmp_path, code=3).stderr)
            assert "an API key is needed" in line
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=SECONDS)


def test_a_client_with_a_key_works_and_one_without_is_told(tmp_path: Path) -> None:
    with up(tmp_path, "--slots", "1") as running:
        url = ("--url", running.url)
        dihedral(*SIMULATE, *url, cwd=tmp_path)
        made = make(tmp_path, "--owner", "alice")  # while it runs: from now on it is closed
        becomes(lambda: _is_closed(running.url))
        assert "an API key is needed" in one_line(dihedral("jobs", *url, cwd=tmp_path, code=3).stderr)
        said = dihedral(*SIMULATE, *url, "--api-key", made["key"], cwd=tmp_path).stdout
        assert "completed" in said
        said = dihedral(*SIMULATE, *url, cwd=tmp_path, DIHEDRAL_API_KEY=made["key"] + "\n").stdout
        assert "completed" in said
        listed = json.loads(dihedral("jobs", "--json", *url, cwd=tmp_path, DIHEDRAL_API_KEY=made["key"]).stdout)
        assert len(listed["jobs"]) == 2, "what was made while it was open is not hers"
        with Client(running.url, api_key=made["key"]) as client:
            (tmp_path / "a.txt").write_text("hers")
            meta = client.upload(tmp_path / "a.txt")
            assert client.download(meta, tmp_path / "back.txt").read_text() == "hers"
            job = client.submit(pipeline="simulate", params={"steps": 1})
            events: list[Any] = list(client.watch(job["jobId"]))
            assert events[-1]["status"] == "completed"
        with Client(running.url) as client:
            with pytest.raises(Refused) as refusal:
                list(client.watch(job["jobId"]))
            assert (refusal.value.status, refusal.value.code) == (401, "no_api_key")
        dihedral("keys", "revoke", made["id"], cwd=tmp_path)
        becomes(lambda: _code(running.url, made["key"]) == "bad_api_key")


def _code(url: str, key: str | None) -> str:
    try:
        with Client(url, api_key=key) as client:
            client.jobs()
    except Refused as error:
        return error.code
    return ""


def _is_closed(url: str) -> bool:
    return _code(url, None) == "no_api_key"


@pytest.mark.parametrize("key", ["dhk_é", "dhk_\nx: y"])
def test_a_key_that_no_header_can_carry_is_refused_before_anything_is_sent(key: str) -> None:
    with pytest.raises(Refused, match="no header can carry"):
        AsyncClient("http://127.0.0.1:1", api_key=key)


def test_a_server_that_is_busy_is_not_stopped_for_a_key(tmp_path: Path) -> None:
    """`keys` finds the server of the running `up` and leaves it running."""
    with up(tmp_path, "--slots", "1") as running:
        before = running.children()
        make(tmp_path, "--owner", "alice")
        assert running.children() == before
        with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2]))):
            pass
