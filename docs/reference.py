"""`python docs/reference.py [--check]`: writes what the source already states: settings.md, http.md, the drawings of architecture.md.

A setting without a description ends it with 2, a stale page with 1.
"""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from codegen.documents import ROOTS, type_of
from dihedral.bridge import settings
from dihedral.bridge.fabric.lifecycle import JOB_ENDED, JOB_MOVES, NODE_ENDED, NODE_MOVES
from dihedral.control_plane.access import SAFE
from dihedral.control_plane.app import create_app
from dihedral.schemas.documents import sources

FOLDER = Path(__file__).parent
NOTE = "<!-- Written by `python docs/reference.py`; edit the schemas or the routes instead. -->\n"
Schema = dict[str, Any]


def main() -> int:
    lacking = list(without_description())
    if lacking:
        print("settings without a description in schemas/settings/:", *lacking, file=sys.stderr)
        return 2
    architecture = FOLDER / "architecture.md"
    pages = {
        FOLDER / "settings.md": settings_page(),
        FOLDER / "http.md": http_page(),
        architecture: with_diagrams(architecture.read_text()),
    }
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text() != text]
    if "--check" not in sys.argv:
        for path in stale:
            path.write_text(pages[path])
        return 0
    if stale:
        print("stale, run python docs/reference.py:", *(path.name for path in stale), file=sys.stderr)
    return 1 if stale else 0


# Settings -------------------------------------------------------------------------------------------------------------


def sections() -> Iterator[tuple[str, Schema, dict[str, Schema]]]:
    """(name, what the section is, its settings)."""
    for name, about in definition("Settings")["properties"].items():
        if "$ref" in about:
            yield name, about, definition(about["$ref"].rsplit("/", 1)[-1])["properties"]


def without_description() -> Iterator[str]:
    for section, about, fields in sections():
        if not about.get("description"):
            yield section
        yield from (f"{section}.{name}" for name, field in fields.items() if not field.get("description"))


def settings_page() -> str:
    lines = [
        "# Settings", "", NOTE,
        "A setting comes from `dihedral.toml` in the working directory (or `--config FILE`), then from its variable, then from a flag; the last",
        "one decides. A variable with `_FILE` behind its name names a file that has the value. Lists are separated by commas in a variable. An",
        "unknown name or a value out of range stops the start, with where it stands and why. `dihedral up` has defaults of its own for one",
        "machine (jobs are kept a week, a stop waits 3 s).", "",
        "```toml", "[jobs]", "leaseMs = 3000       # or DIHEDRAL_JOBS__LEASE_MS=3000", "```", "",
    ]  # fmt: skip
    for section, about, fields in sections():
        lines += [
            f"## [{section}]",
            "",
            about["description"],
            "",
            "| setting | default | values | |",
            "|---|---|---|---|",
        ]
        for name, field in fields.items():
            lines.append(
                f"| `{name}`<br>`{variable(section, name)}` | {default(field)} | {values(field)} | {cell(field['description'])} |"
            )
        lines.append("")
    lines += ["## [tasks.ID]", "", definition("Settings")["properties"]["tasks"]["description"], ""]
    return "\n".join(lines)


def variable(section: str, name: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.replace("MiB", "Mib")).upper()
    return f"{settings.PREFIX}{section.upper()}__{words}"


def default(field: Schema) -> str:
    value = field["default"]
    if value in ("", []):
        return "(empty)"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def values(field: Schema) -> str:
    if "$ref" in field:
        return ", ".join(f"`{word}`" for word in definition(field["$ref"].rsplit("/", 1)[-1])["enum"])
    kind = {"boolean": "true, false", "array": "list"}.get(field["type"], field["type"])
    lowest = field.get("minimum", field.get("exclusiveMinimum"))
    if lowest is None:
        return kind
    bound = f"above {lowest}" if "exclusiveMinimum" in field else f"from {lowest}"
    return f"{kind}, {bound}" + (f" to {field['maximum']}" if "maximum" in field else "")


# HTTP -----------------------------------------------------------------------------------------------------------------


def http_page() -> str:
    app = create_app(settings.load(None, {}, {}))
    document = app.openapi_schema.to_schema()
    scopes = {
        (method, re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)): handler.opt.get("scope")
        for route in app.routes
        for method, handler in handlers(route).items()
    }
    lines = [
        "# HTTP", "", NOTE,
        "Every address of the control plane. The OpenAPI document is at `/schema/openapi.json`, the JSON Schemas of the documents below are at",
        "`/schemas/{name}.json`. Live updates are in [watch_a_job.md](watch_a_job.md), who may do what is in [security.md](security.md). Refusals",
        "are problem documents (`application/problem+json`, RFC 9457) with a stable `code`; any request may meet 400, 422 and 503, and with API",
        "keys 401, 403 and 429.", "",
        "| | | scope | parameters | answers |", "|---|---|---|---|---|",
    ]  # fmt: skip
    bodies = []
    for path, operations in sorted(document["paths"].items()):
        for method, operation in operations.items():
            if method.upper() not in ("GET", "POST", "DELETE"):
                continue
            parameters = [each["name"] for each in operation.get("parameters", []) if each["in"] != "path"]
            known = (method.upper(), path)
            scope = scopes.get(known) or ("read" if method.upper() in SAFE else "admin")
            if re.fullmatch(r"/health.*|/schemas.*", path):
                scope = "none"
            lines.append(
                f"| `{method.upper()} {path}` | {cell(operation['summary'])} | {scope} | "
                f"{', '.join(f'`{name}`' for name in parameters)} | {answers(operation)} |"
            )
            for content in operation.get("requestBody", {}).get("content", {}).values():
                if content["schema"].get("title"):
                    bodies.append(
                        (f"`{method.upper()} {path}`", content["schema"]["title"], content["schema"]["description"])
                    )
    lines += ["", "## Bodies", "", "| | document | |", "|---|---|---|"]
    lines += [f"| {where} | {title} | {cell(text.split(' Its schema')[0])} |" for where, title, text in bodies]
    lines += ["", "## Documents", "", "A field in *italics* may be absent.", ""]
    for name in documented():
        schema = definition(name)
        lines += [f"### {name}", ""]
        if schema.get("description"):
            lines += [schema["description"], ""]
        if "properties" not in schema:
            lines += [f"`{type_of(schema)}`", ""]
            continue
        lines += ["| field | type | |", "|---|---|---|"]
        for field, about in schema["properties"].items():
            shown = f"`{field}`" if field in schema.get("required", []) else f"*`{field}`*"
            lines.append(f"| {shown} | `{cell(type_of(about))}` | {cell(about.get('description', ''))} |")
        lines.append("")
    return "\n".join(lines)


def handlers(route: Any) -> Mapping[str, Any]:
    """Method → handler of a route; none of a WebSocket."""
    found = getattr(route, "route_handler_map", {})
    return {
        str(getattr(method, "value", method)): each[0] if isinstance(each, tuple) else each
        for method, each in found.items()
    }


def answers(operation: Schema) -> str:
    """Documents of the good answers, and the refusals beside those that any request may meet."""
    good, bad = [], []
    for status, response in sorted(operation["responses"].items()):
        if status >= "400":
            bad += [] if status in ("400", "422", "503") else [status]
            continue
        schemas = [content.get("schema") or {} for content in (response.get("content") or {}).values()]
        names = [each["$ref"].rsplit("/", 1)[-1] for each in schemas if "$ref" in each]
        good.append(" ".join([status, *names]))
    return "; ".join(filter(None, [", ".join(good), ", ".join(bad)]))


def documented() -> list[str]:
    """The documents that clients read and write, each behind those that name it."""
    found: list[str] = []
    waiting = list(ROOTS)
    while waiting:
        name = waiting.pop(0)
        if name not in found:
            found.append(name)
            waiting += re.findall(r"#/\$defs/(\w+)", str(definition(name)))
    return found


# Drawings of architecture.md ------------------------------------------------------------------------------------------

PACKAGES = ("dihedral", "control_plane", "data_plane", "bridge", "schemas")


def with_diagrams(text: str) -> str:
    """The page with its drawings made again, between the marks that stand in it."""
    drawings = {
        "rooms: drawn from the imports": rooms(),
        "job states: drawn from bridge/fabric/lifecycle.py": diagram(JOB_MOVES, JOB_ENDED, ("scheduled", "queued")),
        "node states: drawn from bridge/fabric/lifecycle.py": diagram(NODE_MOVES, NODE_ENDED, ("pending",)),
    }
    for mark, lines in drawings.items():
        begin, end = f"<!-- {mark} -->", f"<!-- end of {mark.partition(':')[0]} -->"
        assert begin in text, f"architecture.md has no {begin}"
        before, _, rest = text.partition(begin)
        text = "\n".join([f"{before}{begin}", "```mermaid", *lines, "```", f"{end}{rest.partition(end)[2]}"])
    return text


def rooms() -> Iterator[str]:
    """Packages as boxes, the rooms within them, and who imports whom within a package; between packages the arrows of the packages."""
    arrows = sorted({arrow for folder in PACKAGES for path in modules(folder) for arrow in imported(path)})
    yield "flowchart TD"
    for package in PACKAGES:
        inner = sorted({room for arrow in arrows for room in arrow if room.startswith(f"{package}/")})
        if not inner:
            yield f"    {package}"
            continue
        yield f"    subgraph {package}"
        yield from (f"        {room.replace('/', '_')}[{room.partition('/')[2]}]" for room in inner)
        yield "    end"
    between = sorted({(a.partition("/")[0], b.partition("/")[0]) for a, b in arrows})
    yield from (f"    {a} --> {b}" for a, b in between if a != b)
    for a, b in arrows:
        if a.partition("/")[0] == b.partition("/")[0] and "/" in a and "/" in b:
            yield f"    {a.replace('/', '_')} --> {b.replace('/', '_')}"


def modules(folder: str) -> Iterator[Path]:
    for path in sorted((FOLDER.parent / folder).rglob("*.py")):
        parts = path.relative_to(FOLDER.parent).parts
        if parts[:2] not in {("dihedral", package) for package in PACKAGES} and "structs" not in parts:
            yield path


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """(room of this module, room that it imports from), where they differ; what is imported for types alone does not count."""
    own = room(path.relative_to(FOLDER.parent).parts[:-1])
    tree = ast.parse(path.read_text())
    for block in ast.walk(tree):
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING"):
            block.body = []
    for node in ast.walk(tree):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [f"{node.module}.{each.name}" for each in node.names] if isinstance(node, ast.ImportFrom) else []
        names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            parts = name.split(".")
            if parts[0] == "dihedral" and len(parts) > 1:
                there = room(tuple(parts[1:] if parts[1] in PACKAGES else parts))
                if there != own:
                    yield own, there


def room(parts: tuple[str, ...]) -> str:
    """`bridge/fabric` where there is such a folder, else the package."""
    inner = len(parts) > 1 and parts[0] != "schemas" and (FOLDER.parent / parts[0] / parts[1] / "__init__.py").exists()
    return "/".join(parts[:2]) if inner else parts[0]


def diagram(moves: Mapping[str, frozenset[str]], ended: frozenset[str], first: tuple[str, ...]) -> Iterator[str]:
    yield "stateDiagram-v2"
    for state in first:
        yield f"    [*] --> {state}"
    for old, following in moves.items():
        for new in [state for state in moves if state in following]:
            yield f"    {old} --> {new}"
    for state in [state for state in moves if state in ended]:
        yield f"    {state} --> [*]"


def definition(name: str) -> Schema:
    found: Schema = next(each["$defs"][name] for each in sources().values() if name in each.get("$defs", {}))
    return found


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
