"""Logs: one JSON object a line with job, node, attempt and worker, and no secret in any."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dihedral.bridge import logs, settings
from dihedral.bridge.errors import SettingsError
from tests.support.polling import becomes
from tests.support.stack import Stack, simulate


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[Any]:
    root = logging.getLogger()
    handlers, level, factory = root.handlers[:], root.level, logging.getLogRecordFactory()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.setLogRecordFactory(factory)
    logging.captureWarnings(False)


def test_a_line_is_json_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json", "python")
    logs.bind(worker="w-1")
    logging.getLogger("it").warning("took %s", "over", extra={"job": "j", "node": "n", "attempt": 2})
    line = json.loads(capsys.readouterr().err)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning", "plane": "python", "logger": "it", "message": "took over", "job": "j", "node": "n", "attempt": 2,
        "worker": "w-1",
    }  # fmt: skip


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_never_leave(capsys: pytest.CaptureFixture[str], form: Any) -> None:
    variables = {
        "DIHEDRAL_REDIS__URL": "redis://:hunter2@host:6379/0",
        "DIHEDRAL_ARTIFACTS__SECRET_KEY": 'quo"ted\\key',
        "DIHEDRAL_LLM__API_KEY": "sk-very-secret",
    }
    logs.configure("info", form, "node", settings.secrets(settings.load(None, variables, {})))
    log = logging.getLogger("it")
    try:
        raise ValueError("redis://:hunter2@host:6379/0 said no")
    except ValueError:
        log.exception('quo"ted\\key', extra={"authorization": "Bearer sk-very-secret"})
    text = capsys.readouterr().err
    for secret in ("hunter2", 'quo"ted\\key', 'quo\\"ted', "sk-very-secret"):
        assert secret not in text
    assert text.count("***") >= 3
    assert "host:6379" in text


def test_without_secrets_nothing_is_blackened(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json", "node", settings.secrets(settings.load(None, {}, {})))
    logging.getLogger("it").info("as it is")
    assert json.loads(capsys.readouterr().err)["message"] == "as it is"


def test_a_variable_may_name_a_file_that_has_the_value(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    loaded = settings.load(None, {"DIHEDRAL_ARTIFACTS__SECRET_KEY_FILE": str(tmp_path / "key")}, {})
    assert loaded.artifacts.secret_key == "s3cret"
    with pytest.raises(SettingsError, match="SECRET_KEY_FILE: /nowhere"):
        settings.load(None, {"DIHEDRAL_ARTIFACTS__SECRET_KEY_FILE": "/nowhere"}, {})
    with pytest.raises(SettingsError, match="there is no such setting"):
        settings.load(None, {"DIHEDRAL_ARTIFACTS__NOTHING_FILE": str(tmp_path / "key")}, {})


def test_a_worker_says_which_node_of_which_job_failed(tmp_path: Path) -> None:
    house = Stack(tmp_path, DIHEDRAL_LOGS__FORMAT="json")
    try:
        worker = house.worker()
        job = house.post("/api/jobs", simulate({"id": "a", "failAt": 0}))["jobId"]
        house.ended(job)

        def said() -> Any:
            lines = [
                json.loads(line) for path in tmp_path.glob("data_plane-*.log") for line in path.read_text().splitlines()
            ]
            return [line for line in lines if line.get("job") == job]

        (line,) = becomes(said)
        assert (line["node"], line["attempt"], line["plane"]) == ("a", 1, "python")
        assert line["message"] == "a node failed: simulated_failure"
        assert str(worker.pid) in line["worker"]
    finally:
        house.close()


def test_of_the_keys_in_the_settings_only_the_keys_are_secret() -> None:
    given = settings.load(None, {"DIHEDRAL_CONTROL__KEYS": "admin admin dhk_1\n\nprometheus read dhk_2"}, {})
    assert settings.secrets(given) == {"dhk_1", "dhk_2"}
