"""File, then environment, then flags; and one sentence for everything that is not a setting."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from dihedral.bridge import settings
from dihedral.bridge.errors import SettingsError
from dihedral.schemas.structs.settings import Settings

FIELDS = [
    (section.name, field)
    for section in msgspec.structs.fields(Settings)
    if section.name != "tasks"
    for field in msgspec.structs.fields(section.type)
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(text: str, name: str = "dihedral.toml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def test_without_anything_the_defaults_hold() -> None:
    assert settings.load(None, {}, {}) == Settings()


def test_a_variable_overrules_the_file_and_a_flag_overrules_both() -> None:
    written("[control]\nport = 1001\nhost = 'file'\n[jobs]\nleaseMs = 1003\n")
    variables = {"DIHEDRAL_CONTROL__PORT": "1002", "DIHEDRAL_CONTROL__BODY_LIMIT_BYTES": "2048"}
    loaded = settings.load(None, variables, {"control.port": 1004})
    assert (loaded.control.port, loaded.control.host) == (1004, "file")
    assert (loaded.control.body_limit_bytes, loaded.jobs.lease_ms) == (2048, 1003)
    assert settings.load(None, variables, {}).control.port == 1002


def test_a_named_file_is_read_instead_of_the_one_here() -> None:
    written("[control]\nport = 1001\n")
    other = written("[control]\nport = 1002\n", "other.toml")
    assert settings.load(other, {}, {}).control.port == 1002


@pytest.mark.parametrize(("section", "field"), FIELDS, ids=[f"{section}.{field.name}" for section, field in FIELDS])
def test_every_setting_has_a_variable(section: str, field: Any) -> None:
    default = getattr(getattr(Settings(), section), field.name)
    made = settings.environment({f"{section}.{field.name}": default}, {})
    loaded = settings.load(None, made, {})
    assert settings.given(None, made) == {f"{section}.{field.name}"}
    assert loaded == Settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("true", True),
        ("1", True),
        ("no", False),
        ("maybe", "DIHEDRAL_ARTIFACTS__SECURE: artifacts.secure: Expected `bool`, got `str` (it is 'maybe')"),
    ],
)
def test_a_switch_in_a_variable(text: str, said: bool | str) -> None:
    environ = {"DIHEDRAL_ARTIFACTS__SECURE": text}
    if isinstance(said, bool):
        assert settings.load(None, environ, {}).artifacts.secure is said
    else:
        with pytest.raises(SettingsError) as caught:
            settings.load(None, environ, {})
        assert str(caught.value) == said


def test_a_list_in_a_variable_is_separated_by_commas() -> None:
    assert settings.load(None, {"DIHEDRAL_WORKER__TASKS": "one,two"}, {}).worker.tasks == ["one", "two"]


@pytest.mark.parametrize(
    ("file", "environ", "flags", "said"),
    [
        ("[jbos]\nleaseMs = 1\n", {}, {}, "dihedral.toml: jbos: there is no such section"),
        ("[jobs]\nlease = 1\n", {}, {}, "dihedral.toml: jobs.lease: there is no such setting"),
        ("[jobs]\nlease_ms = 1000\n", {}, {}, "dihedral.toml: jobs.lease_ms: there is no such setting"),
        ("[jobs]\nleaseMs = 1\n", {}, {}, "dihedral.toml: jobs.leaseMs: Expected `int` >= 100 (it is 1)"),
        ("[jobs]\nleaseMs = '5000'\n", {}, {}, "dihedral.toml: jobs.leaseMs: Expected `int`, got `str` (it is '5000')"),
        ("[jobs]\ndrainSeconds = nan\n", {}, {}, "dihedral.toml: jobs.drainSeconds: Expected `float` >= 0.0 (it is nan)"),
        ("", {"DIHEDRAL_JOBS__DRAIN_SECONDS": "1e400"}, {}, "DIHEDRAL_JOBS__DRAIN_SECONDS: jobs.drainSeconds: Expected a finite number (it is inf)"),
        ("jobs = 1\n", {}, {}, "dihedral.toml: jobs: is no section; settings are in sections such as [redis]"),
        ("[jobs\n", {}, {}, "dihedral.toml: is not TOML: "),
        ("", {"DIHEDRAL_JOBS__LEASE": "1"}, {}, "DIHEDRAL_JOBS__LEASE: jobs.lease: there is no such setting"),
        ("", {"DIHEDRAL_JBOS__LEASE_MS": "1"}, {}, "DIHEDRAL_JBOS__LEASE_MS: jbos: there is no such section"),
        ("", {"DIHEDRAL_LEASE": "1"}, {}, "DIHEDRAL_LEASE: is no setting; variables are named DIHEDRAL_SECTION__KEY"),
        ("", {"DIHEDRAL_JOBS__LEASE_MS": "soon"}, {}, "DIHEDRAL_JOBS__LEASE_MS: jobs.leaseMs: Expected `int`, got `str` (it is 'soon')"),
        ("", {"DIHEDRAL_LOGS__LEVEL": "loud"}, {}, "DIHEDRAL_LOGS__LEVEL: logs.level: Invalid enum value 'loud' (it is 'loud')"),
        ("", {}, {"control.port": 70000}, "--port: control.port: Expected `int` <= 65535 (it is 70000)"),
    ],
)  # fmt: skip
def test_what_is_no_setting_is_named_with_its_source(
    file: str, environ: dict[str, str], flags: dict[str, Any], said: str
) -> None:
    if file:
        written(file)
    with pytest.raises(SettingsError) as caught:
        settings.load(None, environ, flags)
    assert str(caught.value).startswith(said)
    assert said.endswith(": ") or str(caught.value) == said


@pytest.mark.parametrize(
    "url", ["redis://h", "rediss://u:p@h:1/2", "unix:///run/redis.sock?db=0", "redis+cluster://u:p@[::1]:1,h:2", "rediss+cluster://h"]
)  # fmt: skip
def test_an_address_of_a_server_or_a_cluster(url: str) -> None:
    assert settings.load(None, {"DIHEDRAL_REDIS__URL": url}, {}).redis.url == url


@pytest.mark.parametrize(
    "url", ["h", "redis:", "redis://", "redis://h:port", "redis://h:1,h:2", "unix://", "redis+cluster://", "redis+cluster://h:1,h:x",
            "http://hunter2@h", "redis://[::1", "redis://h:99999"],
)  # fmt: skip
def test_what_is_no_address_is_one_line_and_not_shown(url: str) -> None:
    with pytest.raises(
        SettingsError, match=r"^--redis-url: redis\.url: Expected an address that begins with one of redis://"
    ) as caught:
        settings.load(None, {}, {"redis.url": url})
    assert "hunter2" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(SettingsError, match=r"^absent\.toml: cannot be read: No such file or directory$"):
        settings.load(Path("absent.toml"), {}, {})


@pytest.mark.parametrize("key", ["secretKey", "accessKey"])
def test_a_secret_is_never_shown(key: str) -> None:
    written(f"[artifacts]\n{key} = ['hunter2']\n")
    with pytest.raises(SettingsError) as caught:
        settings.load(None, {}, {})
    assert f"artifacts.{key}" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_variables_of_clients_and_tests_are_no_settings() -> None:
    assert settings.load(None, {"DIHEDRAL_URL": "http://elsewhere", "DIHEDRAL_REQUIRE": "redis"}, {}) == Settings()
    assert settings.server_url({"DIHEDRAL_URL": "http://elsewhere"}) == "http://elsewhere"
    assert settings.server_url({}) == "http://127.0.0.1:8000"


def test_what_file_and_environment_decide_is_known_by_name() -> None:
    written("[jobs]\nttlSeconds = 60\n")
    assert settings.given(None, {"DIHEDRAL_REDIS__URL": "redis://r"}) == {"jobs.ttl_seconds", "redis.url"}


def test_a_tasks_own_table_is_read_and_what_is_secret_by_its_name_is_kept_out_of_logs() -> None:
    written(
        '[tasks.speak]\nvoices = ["a"]\napiKey = "tasks-secret"\n[tasks.speak.server]\naccessTokens = ["deep-secret"]\n'
    )
    loaded = settings.load(None, {}, {})
    assert loaded.tasks["speak"]["voices"] == ["a"]
    assert settings.secrets(loaded) == {"tasks-secret", "deep-secret"}
    assert settings.given(None, {}) == {"tasks.speak"}


@pytest.mark.parametrize(
    ("text", "environ", "said"),
    [
        (
            "[tasks]\nspeak = 5\n",
            {},
            "dihedral.toml: tasks.speak: is no table; settings of a task are in a table such as [tasks.speak]",
        ),
        (
            "",
            {"DIHEDRAL_TASKS__SPEAK": "1"},
            "DIHEDRAL_TASKS__SPEAK: tasks: settings of tasks are read from the file alone",
        ),
    ],
)
def test_what_is_no_table_of_a_task_refuses_the_start(text: str, environ: dict[str, str], said: str) -> None:
    written(text)
    with pytest.raises(SettingsError) as caught:
        settings.load(None, environ, {})
    assert str(caught.value) == said


def test_servers_and_tools_have_tables_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "dihedral.toml"
    file.write_text(
        '[comfyui.main]\nurl = "http://localhost:8188"\nheaders = {Authorization = "Bearer abc"}\n[tools.mine]\nargv = ["x"]\n'
    )
    loaded = settings.load(file, {}, {})
    assert loaded.tasks["run_comfyui"]["servers"]["main"]["url"] == "http://localhost:8188"
    assert loaded.tasks["run_tool"]["tools"] == {"mine": {"argv": ["x"]}}
    assert "Bearer abc" in settings.secrets(loaded)


def test_what_only_the_control_plane_needs_is_taken_out_of_a_workers_environment() -> None:
    environ = {
        "DIHEDRAL_CONTROL__KEYS": "alice admin dhk_x",
        "DIHEDRAL_CONTROL__KEYS_FILE": "/run/secrets/api_keys",
        "DIHEDRAL_LLM__API_KEY": "x",
        "DIHEDRAL_API_KEY": "x",
        "DIHEDRAL_REDIS__URL": "redis://a",
        "PATH": "/bin",
    }
    settings.forget_foreign(environ)
    assert set(environ) == {"DIHEDRAL_REDIS__URL", "PATH"}
