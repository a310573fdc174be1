"""Any file and any environment: settings that fit, or one SettingsError with its source, and never a secret in it."""

import json
import math
from typing import Any, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dihedral.bridge import settings
from dihedral.bridge.errors import SettingsError
from dihedral.schemas.structs.settings import Settings
from tests.fuzzing.conftest import examples

STRUCTS = {name: kind for name, kind in get_type_hints(Settings).items() if name != "tasks"}
"""All sections but [tasks], whose keys are the tasks' own."""
SECTIONS = {name: [field.encode_name for field in msgspec.structs.fields(kind)] for name, kind in STRUCTS.items()}
VARIABLES = [
    f"DIHEDRAL_{name}__{field.name}".upper() for name, kind in STRUCTS.items() for field in msgspec.structs.fields(kind)
]
SECRET = "hunter2"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | TEXT | st.just(SECRET), lambda inner: st.lists(inner, max_size=3), max_leaves=4
)  # fmt: skip
KEYS = st.sampled_from(sorted(SECTIONS)).flatmap(
    lambda section: st.tuples(st.just(section), st.sampled_from(SECTIONS[section]))
)


def toml(value: object) -> str:
    """TOML's numbers and texts are nearly JSON's."""
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return str(value)
    return json.dumps(value, ensure_ascii=True).replace("\\u007f", "\\\\u007f")


def loads_or_says(path: Any, environ: Any, flags: Any = None) -> None:
    try:
        made = settings.load(path, environ, flags or {})
    except SettingsError as error:
        said = str(error)
        assert ": " in said, said
        return
    values = [value for fields in msgspec.to_builtins(made).values() for value in fields.values()]
    assert all(math.isfinite(value) for value in values if isinstance(value, float))
    assert isinstance(made, Settings)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tmp_path_factory.mktemp("settings") / "dihedral.toml"


@examples(300)
@given(key=KEYS, value=VALUES)
def test_any_value_of_any_setting_in_a_file(file: Any, key: Any, value: Any) -> None:
    section, name = key
    file.write_text(f"[{section}]\n{name} = {toml(value)}\n")
    loads_or_says(file, {})


@examples(150)
@given(content=st.binary(max_size=60) | TEXT.map(str.encode) | st.just(b"[redis]\nurl = 'x'\n\xff"))
def test_any_bytes_as_a_file(file: Any, content: Any) -> None:
    file.write_bytes(content)
    loads_or_says(file, {})


NAMES = st.sampled_from(VARIABLES) | TEXT.map(lambda text: f"DIHEDRAL_{text}") | TEXT


@examples(300)
@given(
    environ=st.dictionaries(
        NAMES, TEXT | st.sampled_from(["1e400", "nan", "-1", "9" * 5000, "true", ",", SECRET, "١"]), max_size=3
    )
)
def test_any_environment(file: Any, environ: Any) -> None:
    file.write_bytes(b"")
    loads_or_says(file, environ)


@examples(100)
@given(name=st.sampled_from(sorted(settings.SECRETS)), value=st.lists(st.just(SECRET), min_size=1, max_size=2))
def test_a_secret_that_does_not_fit_is_never_told(file: Any, name: Any, value: Any) -> None:
    for section, names in SECTIONS.items():
        if name in names:
            file.write_text(f"[{section}]\n{name} = {toml(value)}\n")
            with pytest.raises(SettingsError) as caught:
                settings.load(file, {}, {})
            assert SECRET not in str(caught.value)
