"""Parts of the console by themselves, in the browser that runs them: the layout of graphs, the lines of a JSON text, times and sizes."""

import ast
import base64
import io
import itertools
import json
import random
import shlex
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dihedral.job_commands import swept
from tests.console.browser import Tab
from tests.console.large import large_graph

LAID_OUT = """async ([nodes, edges, down]) => {
  const { layout } = await import("/console/layout.js");
  const made = layout(nodes, edges, down);
  return { ...made, at: Object.fromEntries(made.at), lines: made.lines.length };
}"""
WIDTH, HEIGHT = 208, 56


def laid_out(tab: Tab, nodes: list[str], edges: list[dict[str, str]], down: bool = False) -> Any:
    return tab.page.evaluate(LAID_OUT, [nodes, edges, down])


def check(found: Any, nodes: list[str], edges: list[dict[str, str]], down: bool = False) -> None:
    """Every node has its own place inside the whole, and every edge leads forward."""
    at = found["at"]
    assert at.keys() == set(nodes)
    assert found["lines"] == len(edges)
    along = "y" if down else "x"
    for edge in edges:
        assert at[edge["from"]][along] < at[edge["to"]][along]
    places = sorted(at.values(), key=lambda place: place["x"])
    for index, a in enumerate(places):
        assert -0.01 <= a["x"] <= found["width"] - WIDTH + 0.01
        assert -0.01 <= a["y"] <= found["height"] - HEIGHT + 0.01
        for b in places[index + 1 :]:
            if b["x"] >= a["x"] + WIDTH:
                break
            assert abs(a["y"] - b["y"]) >= HEIGHT - 0.01, "two nodes overlap"


def test_no_two_nodes_overlap_and_every_edge_leads_forward(tab: Tab) -> None:
    tab.page.goto("/console/workers")
    chance = random.Random(7)
    for round_ in range(30):
        nodes = [f"n{index}" for index in range(chance.randint(1, 60))]
        pairs = (
            {tuple(sorted(chance.sample(range(len(nodes)), 2))) for _ in range(chance.randint(0, 2 * len(nodes)))}
            if len(nodes) > 1
            else set()
        )
        edges = [{"from": nodes[a], "to": nodes[b]} for a, b in sorted(pairs)]
        chance.shuffle(nodes)
        down = bool(round_ % 2)
        check(laid_out(tab, nodes, edges, down), nodes, edges, down)
    graph = large_graph(1000, "x")["graph"]
    ids = [node["id"] for node in graph["nodes"]]
    check(laid_out(tab, ids, graph["edges"]), ids, graph["edges"])


def test_a_thousand_nodes_side_by_side_are_folded(tab: Tab) -> None:
    tab.page.goto("/console/workers")
    middle = [f"m{index}" for index in range(998)]
    edges = [edge for id in middle for edge in ({"from": "s", "to": id}, {"from": id, "to": "t"})]
    found = laid_out(tab, ["s", *middle, "t"], edges)
    check(found, ["s", *middle, "t"], edges)
    assert found["height"] < 30 * (HEIGHT + 20) * 1.2


LINES = """async (texts) => {
  const { linesOf } = await import("/console/pointers.js");
  return texts.map((text) => {
    let good = true;
    try { JSON.parse(text); } catch { good = false; }
    try { return { good, lines: Object.fromEntries(linesOf(text)) }; } catch (error) { return { good, wrong: error.line ?? "a bug" }; }
  });
}"""


def value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randint(0, 8 if depth < 4 else 5)
    leaves = [None, True, -1.5e3, chance.randint(-9, 9), "plain", 'q"\\u00e9\n~/']
    if kind < 6:
        return leaves[kind]
    if kind == 6:
        return [value(chance, depth + 1) for _ in range(chance.randint(0, 3))]
    return {
        chance.choice(["a", "b~c", "d/e", "", "\u202e"]): value(chance, depth + 1) for _ in range(chance.randint(0, 3))
    }


def expected(text: str) -> dict[str, int]:
    """By hand from what json.dumps(indent=1) writes: a member or item has a line of its own, in order."""
    lines: dict[str, int] = {}
    number = 1

    def walk(document: Any, pointer: str) -> None:
        nonlocal number
        lines[pointer] = number
        members = (
            document.items()
            if isinstance(document, dict)
            else enumerate(document)
            if isinstance(document, list)
            else ()
        )
        for name, each in members:
            number += 1
            walk(each, f"{pointer}/{str(name).replace('~', '~0').replace('/', '~1')}")
        if isinstance(document, dict | list) and document:
            number += 1

    walk(json.loads(text), "")
    return lines


def test_every_part_of_a_text_has_its_line_and_what_is_not_json_is_refused(tab: Tab) -> None:
    tab.page.goto("/console/workers")
    chance = random.Random(3)
    whole = [json.dumps(value(chance), indent=1) for _ in range(300)]
    for text, found in zip(whole, tab.page.evaluate(LINES, whole), strict=True):
        assert found.get("lines") == expected(text), text
    broken = []
    for text in whole:
        at = chance.randrange(len(text))
        broken.append(text[:at] + chance.choice(['"', ",", "}", "]", "x", "\n", "\\", "01", ""]) + text[at + 1 :])
    for text, found in zip(broken, tab.page.evaluate(LINES, broken), strict=True):
        assert ("lines" in found) == found["good"], text
        assert found.get("wrong", 1) in range(1, text.count("\n") + 2), text


FORMATS = """async () => {
  const { ago, size, span, took } = await import("/console/format.js");
  return [ago(1000, 1000), ago(0, 65000), ago(9000, 4000), took(45), took(61000), took(3.7e6), took(1e8), took(NaN), size(999), size(1234567), span(90061000)];
}"""


def test_times_and_sizes_read_well(tab: Tab) -> None:
    tab.page.goto("/console/workers")
    assert tab.page.evaluate(FORMATS) == [
        "just now", "1 min ago", "in 5 s", "45 ms", "1 min 1 s", "1 h 1 min", "1 d 3 h", "–", "999 B", "1.2 MB", "25 h",
    ]  # fmt: skip


PROVENANCE = """async (files) => {
  const { readProvenance } = await import("/console/provenance.js");
  return Promise.all(files.map((data) => readProvenance(new File([Uint8Array.from(atob(data), (char) => char.charCodeAt(0))], "file"))));
}"""


def test_a_file_says_which_request_made_it(tab: Tab) -> None:
    """In a picture's text chunk, in the metadata of tensors, and as the comment of a film or a recording."""
    tab.page.goto("/console/workers")
    said = {"dihedral": "0.2.0", "jobId": "j", "pipeline": "speak", "params": {"text": 'a } "quoted" ü 日'}}
    text = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()
    picture = io.BytesIO()
    notes = PngInfo()
    notes.add_itxt("dihedral", text.decode())
    Image.new("RGB", (4, 4)).save(picture, "PNG", pnginfo=notes)
    header = json.dumps({"__metadata__": {"dihedral": text.decode()}}).encode()
    tensors = len(header).to_bytes(8, "little") + header
    files = [
        picture.getvalue(),
        tensors,
        b"RIFF\0\0\0\0WAVELIST" + text + b"\0" * 99,
        b"\0\0\0 ftypisom" + text.replace(b"speak", b"look") + text + b"\0",
    ]
    wrong = [b"ftyp" + text.replace(b'"j"', b"[1]"), b"ftyp" + b'{"dihedral":' * 9000]
    found = tab.page.evaluate(
        PROVENANCE, [base64.b64encode(data).decode() for data in [*files, *wrong, b"", b"plain", text[:40]]]
    )
    assert found == [said] * 4 + [None] * 5


TEXTS = """async (body) => {
  const { commandLine, curl, python } = await import("/console/request_texts.js");
  const about = { origin: "http://127.0.0.1:8000", locked: false };
  return [curl(body, about), python(body, about), commandLine(body, about)];
}"""


@pytest.mark.parametrize("what", ["pipeline", "task"])
def test_the_same_request_has_its_sweep_in_each_text(tab: Tab, what: str) -> None:
    properties = {"rank": "integer", "isFast": "boolean", "look": "string", "prompt": "string"}
    sweep = {
        "rank": [4, 8.5],
        "isFast": [False, True],
        "look": ["warm", "dark-2"],
        "prompt": ["it's a, b", "8", "null"],
    }
    body = {what: "train", "params": {"steps": 2}, "sweep": sweep, "tags": ["x"]}
    tab.page.goto("/console/workers")
    curl, python, command = tab.page.evaluate(TEXTS, body)
    assert json.loads(shlex.split(curl)[-1]) == body
    call = next(node for node in ast.walk(ast.parse(python)) if isinstance(node, ast.Call) and node.args and "client.sweep" in ast.unparse(node.func))  # fmt: skip
    assert ast.literal_eval(call.args[0]) == sweep
    assert {each.arg: ast.literal_eval(each.value) for each in call.keywords} == {key: value for key, value in body.items() if key != "sweep"}  # fmt: skip
    words = shlex.split(command)
    assert words[:3] == (["dihedral", "submit", "--pipeline"] if what == "pipeline" else ["dihedral", "run", "train"])
    given = [after for word, after in itertools.pairwise(words) if word == "--sweep"]
    schema = {"properties": {name: {"type": kind} for name, kind in properties.items()}}
    assert swept(given, schema, "train") == sweep
    assert given[:3] == ["rank=4,8.5", "isFast=false,true", "look=warm,dark-2"]
    later = tab.page.evaluate(TEXTS, {**body, "startAt": "2027-01-01T00:00:00Z"})[2]
    assert ("--start-at" in later) == (what == "pipeline"), "`run` has no such option"
