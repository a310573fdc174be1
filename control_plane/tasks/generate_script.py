"""Writes the narration for a prompt: with a language model, or from a template where none is configured."""

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dihedral.bridge.tasks.registry import TaskContext, TaskError, task
from dihedral.control_plane.tasks import Shape
from dihedral.control_plane.tasks.llm import ask, llm
from dihedral.schemas.structs.capability import Check
from dihedral.schemas.structs.control_plane import LlmSettings

MAX_LINE = 300
MARKER = re.compile(r"^(?:[-*•]+|`{3}\w*|[0-9]+[.)])(?:\s+|$)")
"""The marks of a list or a fence before a line; "1984 was cold." begins with none."""


class ScriptParams(Shape):
    prompt: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=10_000,
            description="What the narration is about",
            extra_json_schema={"x-kind": ["topic"], "x-after": ["explain", "describe", "introduce"]},
        ),
    ]
    lines: Annotated[int, Meta(ge=1, le=50, description="How many lines")] = 4


class Script(Shape):
    title: str
    lines: Annotated[list[str], Meta(extra_json_schema={"x-kind": ["lines"]})]


class WrittenScript(Shape):
    script: Script
    source: Annotated[str, Meta(description="template, ollama or openai")]
    model: Annotated[str | None, Meta(description="None where the template wrote it")] = None


@task(
    checks=[
        Check(
            id="lines", label="as many lines as asked", value="/script/lines", least="params/lines", most="params/lines"
        )
    ],
    plane="node",
    label="Write a script",
    description="Writes the narration for a prompt with an LLM; without an endpoint a template does, and the output says so.",
    timeout_seconds=600,
    keywords=[
        "script",
        "write script",
        "narration",
        "write narration",
        "write lines",
        "compose narration",
        "story",
        "screenplay",
        "poem",
        "draft script",
    ],
    examples=[{"prompt": "A walk by the sea", "lines": 3}],
)
async def generate_script(params: ScriptParams, ctx: TaskContext) -> WrittenScript:
    settings = llm.get(LlmSettings())
    if not settings.endpoint:
        ctx.log("no LLM endpoint is set (llm.endpoint); the template writes the script")
        return WrittenScript(script=from_template(params.prompt, params.lines), source="template")
    prompt = (
        f"Write a narration of exactly {params.lines} short spoken lines about: {params.prompt}\n"
        'Answer with JSON only: {"title": "...", "lines": ["...", "..."]}'
    )
    text = await ask(settings, prompt)
    return WrittenScript(script=_parse(text, params), source=str(settings.kind), model=settings.model)


def from_template(prompt: str, lines: int) -> Script:
    """Writes lines from a template; the same prompt always gives the same lines."""
    subject = " ".join(prompt.split())[:120].rstrip(".!?") or "this picture"
    stock = [
        f"Look closely: {subject}.",
        "The light settles, and the colours begin to speak.",
        "Nothing hurries here; every detail has its moment.",
        "And so the picture tells its story.",
        "Stay a little longer, and it tells another.",
    ]
    return Script(title=subject[:60], lines=[stock[number % len(stock)] for number in range(lines)])


def _parse(text: str, params: ScriptParams) -> Script:
    """Parses the requested JSON, or plain lines, which small models write; never returns an empty script or bits of broken JSON."""
    title, lines = _written(text)
    kept = [MARKER.sub("", " ".join(line.split()))[:MAX_LINE] for line in lines if isinstance(line, str)]
    kept = [line for line in kept if line][: params.lines]
    if not kept:
        raise TaskError("the LLM wrote no line", code="llm_bad_answer", retryable=True)
    named = " ".join(title.split())[:120] if isinstance(title, str) else ""
    return Script(title=named or params.prompt[:60], lines=kept)


def _written(text: str) -> tuple[Any, list[Any]]:
    """Returns (title, lines) as far as they can be separated in a model's text; neither is checked to have its type."""
    try:
        found = msgspec.json.decode(text[text.index("{") : text.rindex("}") + 1])
        title, lines = found.get("title"), found["lines"]
    except (ValueError, KeyError, RecursionError):
        broken = '"lines"' in text or text.lstrip().startswith(("{", "["))
        return None, [] if broken else text.splitlines()
    if isinstance(lines, str):
        return title, lines.splitlines()
    return title, lines if isinstance(lines, list) else []
