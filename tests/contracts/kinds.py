"""What a field may hold and what it may not, as values: the words in which shapes.py says the contract a second time."""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Kind:
    """`good[0]` is the typical value. `bad` must be refused wherever the kind stands."""

    good: tuple[Any, ...]
    bad: tuple[Any, ...]
    optional: bool = False


def optional(kind: Kind) -> Kind:
    return replace(kind, optional=True)


def nullable(kind: Kind) -> Kind:
    return Kind((*kind.good, None), tuple(value for value in kind.bad if value is not None))


def text(shortest: int = 0, longest: int | None = None) -> Kind:
    good = ["é" * max(shortest, 1), "x" * shortest]
    bad: list[Any] = [5, True, [], {}, None]
    if shortest:
        bad.append("x" * (shortest - 1))
    if longest is not None:
        good.append("😀" * longest)
        bad.append("x" * (longest + 1))
    return Kind(tuple(good), tuple(bad))


def identifier(longest: int = 128) -> Kind:
    bad: tuple[Any, ...] = (
        "",
        "-a",
        ".a",
        "_a",
        "a b",
        "a/b",
        "a\n",
        "é",
        "a\u0663",
        "a" * (longest + 1),
        5,
        None,
        ["a"],
        {},
    )
    return Kind(("a", "A9._-z", "0", "a" * longest), bad)


def whole(low: int, high: int | None = None) -> Kind:
    good = [low, low + 1]
    bad: list[Any] = [low - 1, low + 0.5, str(low), True, None, [], {}]
    if high is not None:
        good.append(high)
        bad.append(high + 1)
    return Kind(tuple(good), tuple(bad))


def number(low: float | None = None, high: float | None = None, above: float | None = None) -> Kind:
    """`above`: the limit itself is refused."""
    start = low if low is not None else (above or 0) + 0.25
    good, bad = [start, start + 0.5, 1], ["1", True, None, [], {}]
    if low is not None:
        bad.append(low - 0.001)
    if above is not None:
        bad += [above, above - 1]
    if high is not None:
        good.append(high)
        bad.append(high + 0.001)
    return Kind(tuple(good), tuple(bad))


def choice(*members: str) -> Kind:
    return Kind(members, ("", members[0].upper(), members[0] + " ", 0, True, None, [members[0]], {}))


def exactly(value: str) -> Kind:
    return Kind((value,), ("", value + "x", 0, True, None, [value]))


def many(kind: Kind, at_least: int = 0, at_most: int | None = None) -> Kind:
    one = kind.good[0]
    good, bad = [[one] * max(at_least, 1), [one] * at_least], [{}, "x", 5, None]
    bad += [[value] for value in kind.bad]
    if at_least:
        bad.append([one] * (at_least - 1))
    if at_most is not None:
        bad.append([one] * (at_most + 1))
    return Kind(tuple(good), tuple(bad))


def named(kind: Kind) -> Kind:
    """A map from any name."""
    return Kind(({"a/b ~": kind.good[0]}, {}), ([], "x", 5, None, *({"a": value} for value in kind.bad)))


FLAG = Kind((True, False), (0, 1, "true", None, [], {}))
ANYTHING = Kind(({"deep": [1, None, {"": "x"}]}, None, 0, "x", []), ())
OBJECT = Kind(({"any": [1, None, {"": "x"}]}, {}), ([], "x", 5, True, None))
ID = identifier()
POOL = identifier(64)
SHARE = number(low=0, high=1)
UNSEEN = ("a\nb", "a\n", "\x00", "a\x1b[0m", "a\x9f", "a\u2028", "a\u202eb", "a\u2069", " ", "\u3000")
TITLE = Kind(
    ("Dusk, second try", "日本語 の声", "المساء", "👩\u200d🎤", "a", "é" * 200, " padded "),
    ("", "a" * 201, *UNSEEN, 5, True, None, [], {}),
)
TAG = Kind(("final", "vidéo 2", "run:7", "a" * 50), ("", "a" * 51, "a,b", *UNSEEN, 5, True, None, [], {}))
STAMP = Kind(
    ("2026-11-24T04:05:06.789Z", "0000-00-00T00:00:00.000Z"),
    (
        "",
        "2026-11-24T04:05:06Z",
        "2026-11-24T04:05:06.789+00:00",
        "2026-11-24 04:05:06.789Z",
        "2026-11-24T04:05:06.789Z\n",
        " 2026-11-24T04:05:06.789Z",
        "2026-11-24T04:05:06,789Z",
        "\u0662026-11-24T04:05:06.789Z",
        0,
        None,
        [],
    ),
)
MOMENT = Kind(
    ("2026-11-24T04:05:06Z", "2026-11-24T04:05:06.5+01:00"),
    ("2026-11-24T04:05:06", "2026-11-24", "2026-13-24T04:05:06Z", "soon", "", 0, None, [], {}),
)
BUCKET = Kind(
    ("loras", "a.b-9", "a" * 63), ("", "ab", "a" * 64, "Loras", "-ab", "ab-", "a_b", "abc\n", 5, None, [], {})
)
LOCAL = Kind(
    ("sdxl/base", "a", "_a b/c.safetensors", "模型/x", "/".join(["ab"] * 300), "a" * 255),
    (
        "",
        "/a",
        "a/",
        "a//b",
        "..",
        "../a",
        "a/../b",
        ".a",
        "a/.b",
        "a\\b",
        "a\0",
        "a\nb",
        "a\n",
        "/".join(["ab"] * 301),
        5,
        None,
        [],
        {},
    ),
)
NETWORK = Kind(
    ("10.0.0.0/8", "192.0.2.1", "::1", "fd00::/8"),
    ("", "example.com", "10.0.0.0/8/", "10.0.0.0/1000", "::1\n", 1, None),
)
ROOT_PATH = Kind(
    ("", "/dihedral", "/a/b", "/apiary", "/x.y~z", "/wsx/api"),
    (
        "/",
        "dihedral",
        "/dihedral/",
        "/a//b",
        "/a b",
        "/a\n",
        "/ws",
        "/api/x",
        "/console",
        "/..",
        "/a/..",
        "/a?b",
        "/%61",
        5,
        None,
        [],
        {},
    ),
)
ORIGIN = Kind(
    ("https://console.example", "http://[::1]:8000", "http://a"),
    (
        "",
        "*",
        "null",
        "console.example",
        "ftp://a",
        "https://a/b",
        "https://",
        "https://a b",
        "https://a\n",
        5,
        None,
        [],
        {},
    ),
)
ADDRESS = Kind(
    ("https://hooks.example/a?b=c", "http://a", "https://" + "a" * 2000),
    (
        "",
        "a",
        "ftp://a",
        "https://",
        "https://a b",
        "https://a\n",
        "https://é",
        "https://" + "a" * 2001,
        5,
        None,
        [],
        {},
    ),
)
SECRET = Kind(
    ("whsec_" + "aB3+" * 8, "whsec_" + "aB3/" * 22, "whsec_" + "aB3+" * 8 + "aa==", "whsec_" + "aB3+" * 8 + "aaa="),
    (
        "", "aB3+" * 8, "whsec_", "whsec_" + "aB3+" * 7, "whsec_" + "aB3+" * 23, "whsec_" + "aB3-" * 8, "whsec_" + "aB3+" * 8 + "a",
        "whsec_" + "aB3+" * 8 + "\n", 5, None, [], {},
    ),
)  # fmt: skip
SHA256 = Kind(("0123456789abcdef" * 4,), ("", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n", 5, None, [], {}))
