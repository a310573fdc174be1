"""`dihedral`: the command line. Everything but the parser is imported when a command needs it.

Exit codes: 0 ok, 1 job failed, 2 usage, 3 refused, 4 unreachable, 5 cancelled, 130 detached.

Large because every command is a short function and a parser here.
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dihedral.terminal import (
    DETACHED,
    OK,
    REFUSED,
    UNREACHABLE,
    USAGE,
    answer,
    client_for,
    cure,
    follow,
    local,
    output_of,
    say,
    url_for,
    url_hint,
    usage,
    whole_id,
)

MOST_SHOWN = 40
ID_SHOWN = 12
"""Characters of an id on a terminal: any unique beginning is accepted."""


Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] in (["control"], ["worker"]):
        # Their options belong to the parsers of the planes; argparse cannot hand on options that it does not declare.
        return control(given[1:]) if given[0] == "control" else worker(given[1:])
    _replace_what_no_terminal_shows()
    from dihedral.preset_commands import with_command

    parser = _parser()
    options, behind = parser.parse_known_args(with_command(given))
    if any(each.startswith("-") for each in behind) or (behind and not hasattr(options, "values")):
        parser.error(f"unrecognized arguments: {' '.join(behind)}")
    if behind:
        options.values += behind  # argparse reads KEY=VALUE before the first option only
    command: Command = options.command
    try:
        return command(options)
    except KeyboardInterrupt:
        return DETACHED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it flushes
        return OK
    except Exception as error:
        return _told(error)


def _replace_what_no_terminal_shows() -> None:
    """A stream that is not UTF-8 gets `?` for what it cannot encode; the exit code stays that of the job."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _told(error: Exception) -> int:
    """Prints every refusal as a line or two on stderr; only a bug is a trace."""
    from dihedral.bridge.errors import DihedralError, ServerUnavailable, SettingsError
    from dihedral.client import Refused, Unreachable

    match error:
        case Refused():
            say(f"dihedral: {error}")
            for detail in error.problem.get("errors", []):
                say(f"  {detail['pointer'] or '/'}: {detail['detail']} ({detail['code']})")
            return REFUSED
        case Unreachable() | ServerUnavailable():
            say(f"dihedral: {error}")
            return UNREACHABLE
        case SettingsError():
            say(f"dihedral: {error}")
            return USAGE
        case DihedralError():
            say(f"dihedral: {error}")
            return REFUSED
        case OSError() if error.filename is not None:
            say(f"dihedral: {error.filename}: {error.strerror}")
            return USAGE
    raise error


# Commands that start something -----------------------------------------------------------------------------------------


def up(options: argparse.Namespace) -> int:
    if not options.json:
        # The imports alone take longer than a person waits for a sign of life.
        print(f"Dihedral starts in {options.data_dir}: server, control plane, worker …", flush=True)
    from dihedral.up import Options, run

    return run(
        Options(
            data_dir=options.data_dir,
            host=options.host,
            port=options.port,
            workers=options.workers,
            slots=options.slots,
            simulate_gpus=options.simulate_gpus,
            redis_url=options.redis_url,
            tasks=options.tasks or [],
            pipelines=options.pipelines,
            config=options.config,
            insecure=options.insecure,
            reload=options.reload,
        ),
        as_json=options.json,
    )


def demo(options: argparse.Namespace) -> int:
    from dihedral.demo import run

    return run(options.data_dir, options.port, as_json=options.json)


def control(arguments: Sequence[str]) -> int:
    from dihedral.control_plane.__main__ import main as serve

    return serve(arguments)


def worker(arguments: Sequence[str]) -> int:
    from dihedral.data_plane.__main__ import main as serve

    return serve(arguments)


# Commands that query the control plane ----------------------------------------------------------------------------------


def submit(options: argparse.Namespace) -> int:
    if (options.file_name is None) == (options.pipeline is None):
        say("dihedral: submit takes either FILE (a graph or a submission) or --pipeline NAME")
        return USAGE
    from dihedral.job_commands import begin

    with client_for(options) as client:
        submission = _submission(client, options)
        sweep = submission.pop("sweep", {})
        return begin(client, submission, sweep, options, watches=options.watch)


def _submission(client: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of Client.submit; flags precede the values of the file."""
    from dihedral.job_commands import identity, pipeline_schema, read_params, swept

    flags = identity(options) | ({"start_at": options.start_at} if options.start_at is not None else {})
    if options.pipeline is not None:
        schema = pipeline_schema(client, options.pipeline)
        if schema is None:
            return flags | {"pipeline": options.pipeline}  # the server refuses it, with a suggestion
        params, files = read_params(options.param or [], options.file or [], schema, options.pipeline)
        params |= {name: {"local": path} for name, path in map(_pair, options.local or [])}
        sweep = swept(options.sweep or [], schema, options.pipeline)
        return flags | {
            "pipeline": options.pipeline,
            "params": params,
            "files": files,
            "sweep": sweep,
            "preset": options.preset,
        }
    from dihedral import workflows

    document = _read_submission(options.file_name)
    workflow = document.get("graph")
    if isinstance(workflow, dict) and workflows.is_workflow(workflow):
        values = {name: _parsed(value) for name, value in map(_pair, options.param or [])}
        files = {name: _reference(client.upload(path)) for name, path in map(_pair, options.file or [])}
        return flags | {"graph": workflows.as_graph(workflow, values.pop("server", ""), values, files)}
    if isinstance(workflow, dict) and workflows.is_of_the_editor(workflow):
        raise usage(f"{options.file_name}: {workflows.HOW_TO_EXPORT}")
    if options.param or options.file or options.local or options.sweep or options.preset:
        raise usage(
            "--param, --file, --local, --sweep and --preset fill in a pipeline or a ComfyUI workflow; give --pipeline NAME instead of a file"
        )
    unknown = sorted(document.keys() - SUBMISSION)
    if unknown:
        raise usage(f"{options.file_name}: a submission has no {unknown[0]!r}; it has {', '.join(SUBMISSION)}")
    return {SUBMISSION[name]: value for name, value in document.items()} | flags


SUBMISSION = {
    "graph": "graph", "pipeline": "pipeline", "task": "task", "params": "params", "startAt": "start_at", "priority": "priority",
    "metadata": "metadata", "name": "name", "tags": "tags", "rerunOf": "rerun_of", "preset": "preset", "sweep": "sweep",
    "webhook": "webhook",
}  # fmt: skip


def _reference(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {"bucket": meta["bucket"], "key": meta["key"]}


def _read_submission(name: str) -> dict[str, Any]:
    """A file holds a submission, or the graph alone."""
    document = _read_json(name)
    return document if SUBMISSION.keys() & document.keys() and "nodes" not in document else {"graph": document}


def plan(options: argparse.Namespace) -> int:
    document = _read_submission(options.file_name)
    with client_for(options) as client:
        graph = client.plan(document)
    lines = [f"{node['id']}: {node['task']} on {node['plane']}" for node in graph["nodes"]]
    answer(options, graph, "\n".join(lines))
    return OK


YES = ("y", "yes", "j", "ja")


def ask(options: argparse.Namespace) -> int:
    from dihedral.ask import is_terminal, next_attempt, plan_of, tree, uploads_of

    is_asking = is_terminal() and not options.json
    with client_for(options) as client:
        with uploads_of(client) as uploaded:
            request, plan = plan_of(
                client, options.goal, options.file or [], uploaded, is_asking=is_asking, evaluate=options.evaluate
            )
            answer(options, plan, "\n".join(tree(plan)))
            for question in plan["questions"]:
                say(f"open: {question['id']}: {question['text']}")
            if not plan["certain"]:
                return REFUSED
            if not options.run and is_asking and input("run it? [y/N] ").strip().lower() not in YES:
                return OK
            uploaded.clear()  # the job needs them, or the graph that was printed
        if not options.run and not is_asking:
            return OK
        job = client.submit(
            graph=plan["graph"], name=options.goal[:80].strip(), metadata={"plan": _kept(plan, request)}
        )
        print(job["jobId"], flush=True)
        if options.no_watch:
            return OK
        code = follow(client, job["jobId"], options)
        again = next_attempt(client.graph(job["jobId"])) if options.evaluate and code == OK else None
        if again is None:
            return code
        say(f"not all of it is as the goal says (dihedral show {job['jobId']}): one further attempt")
        print(again, flush=True)
        return follow(client, again, options)


def _kept(plan: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a job keeps of its plan, as POST /api/jobs with the goal does."""
    names = ("goal", "by", "model", "rounds", "confidence", "assumptions", "reasons")
    return {name: plan[name] for name in names} | {"answers": request["answers"]}


def watch(options: argparse.Namespace) -> int:
    with client_for(options) as client:
        return follow(client, options.job, options)


def jobs(options: argparse.Namespace) -> int:
    from dihedral.tables import listing

    with client_for(options) as client:
        filters = {"status": options.status, "pipeline": options.pipeline, "q": options.search, "tag": options.tag}
        found = client.jobs(**filters, limit=options.limit)
        while found["next"] and len(found["jobs"]) < options.limit:  # a page of a search may have fewer, or none
            more = client.jobs(**filters, limit=options.limit - len(found["jobs"]), cursor=found["next"])
            found = {"jobs": found["jobs"] + more["jobs"], "next": more["next"]}
    if options.quiet:
        answer(options, found, "\n".join(job["jobId"] for job in found["jobs"]))
        return OK
    rows = [_row(job) for job in found["jobs"]]
    header = ("JOB", "STATUS", "DONE", "LEFT", "RUNS", "CREATED", "NAME")
    lines = listing(header, rows, flexible=(6, 4, 3))
    if found["next"] and not options.json:
        say(f"more than {options.limit}; --limit N shows more")
    answer(options, found, "\n".join(lines) or "no jobs")
    return OK


def _row(job: dict[str, Any]) -> list[str]:
    from dihedral.render import left

    shortens = sys.stdout.isatty() and len(job["jobId"]) == 32
    tags = "".join(f" #{tag}" for tag in job["tags"])
    return [
        job["jobId"][:ID_SHOWN] if shortens else job["jobId"],
        job["status"],
        f"{job['progress']:>4.0%}",
        left(job).removeprefix("about ").removeprefix("starts ").removesuffix(" left"),
        job["pipeline"] or job["task"] or "-",
        local(job["created"]) if shortens else job["created"][:19],
        f"{job['name'] or ''}{tags}".strip(),
    ]


def show(options: argparse.Namespace) -> int:
    from dihedral.render import left, waits
    from dihedral.tables import cell, table

    with client_for(options) as client:
        job, graph = client.job(options.job), client.graph(options.job)
    lines = [f"{job['jobId']}  {job['status']}  {job['progress']:.0%}  attempt {job['attempt']}"]
    what = job["pipeline"] or job["task"]
    about = {"name": job["name"], "runs": what, "tags": ", ".join(job["tags"]), "repeats": job["rerunOf"]}
    lines += (
        table([[name, value] for name, value in about.items() if value] or [["", ""]]) if any(about.values()) else []
    )
    if job["params"]:
        rows = [
            [f"  {name}", cell(value), "" if name in job["given"] else "(default)"]
            for name, value in job["params"].items()
        ]
        lines += table(rows)
    if job["waitingFor"]:
        lines.append(f"waits: {waits(job)}")
    if rest := left(job):
        lines.append(rest)
    if job["error"]:
        lines.append(f"error: {job['error']['message']} ({job['error']['code']})")
        lines += [f"    {line}" for line in cure(job, url_hint(options))]
    for node in graph["nodes"]:
        rest = left({"status": node["status"], **(node.get("telemetry") or {})}) if node["status"] == "running" else ""
        lines.append(f"  {node['id']:24} {node['status']:10} {node['task']}{rest and f'   {rest}'}")
        if "error" in node:
            lines.append(f"    {node['error']['message']} ({node['error']['code']})")
            trace = node["error"]["details"].get("traceback")
            if isinstance(trace, str):
                lines += [f"    {line}" for line in trace.rstrip().splitlines()]
        elif node.get("output") is not None and len(graph["nodes"]) <= MOST_SHOWN:
            lines += output_of(node, "    ")
    lines += [f"  artifact {meta['bucket']}/{meta['key']}  {meta['size_bytes']} bytes" for meta in job["artifacts"]]
    answer(options, {"job": job, "graph": graph}, "\n".join(lines))
    return OK


def cancel(options: argparse.Namespace) -> int:
    with client_for(options) as client:
        job = client.cancel(whole_id(client, options.job))
    answer(options, job, f"{job['jobId']}  {job['status']}")
    return OK


def finish(options: argparse.Namespace) -> int:
    with client_for(options) as client:
        job = client.finish(whole_id(client, options.job), options.node)
    answer(options, job, f"{job['jobId']}  {options.node} is asked to end with its best result")
    return OK


def retry(options: argparse.Namespace) -> int:
    with client_for(options) as client:
        job = client.retry(whole_id(client, options.job), from_start=options.from_start)
    answer(options, job, f"{job['jobId']}  {job['status']}  attempt {job['attempt']}")
    return OK


def artifacts_get(options: argparse.Namespace) -> int:
    bucket, _, key = options.artifact.partition("/")
    if not key:
        say("dihedral: an artifact is named BUCKET/KEY")
        return USAGE
    with client_for(options) as client:
        path = client.download({"bucket": bucket, "key": key}, options.output or Path.cwd())
    answer(options, {"path": str(path)}, str(path))
    return OK


def artifacts_list(options: argparse.Namespace) -> int:
    with client_for(options) as client:
        found = client.artifacts(bucket=options.bucket, jobId=options.job)
    rows = [
        f"{meta['size_bytes']:>12}  {meta['created_at']}  {meta['bucket']}/{meta['key']}" for meta in found["artifacts"]
    ]
    answer(options, found, "\n".join(rows) or "no artifacts")
    return OK


def artifacts_prune(options: argparse.Namespace) -> int:
    """Works on the store and on Redis, where jobs name their artifacts, so it needs the settings of the control plane."""
    import asyncio

    from dihedral.api_keys import redis_of
    from dihedral.bridge import settings
    from dihedral.bridge.artifacts import open_store
    from dihedral.bridge.artifacts.prune import prune
    from dihedral.bridge.fabric.connection import connect
    from dihedral.bridge.fabric.jobs import Jobs
    from dihedral.up import noted_store

    seconds = _duration(options.older_than)
    noted = {} if options.data_dir is None else noted_store(options.data_dir)
    overrides = {"artifacts.directory": noted["directory"]} if noted.get("store") == "local" else {}
    loaded = settings.load(options.config, os.environ, overrides)
    if noted and noted["store"] != loaded.artifacts.store:
        raise usage(
            f"the `dihedral up` of {options.data_dir} keeps its artifacts in a store of kind {noted['store']} ({noted['endpoint'] or noted['directory']}), "
            f"these settings name one of kind {loaded.artifacts.store}; give its settings (--config or variables)"
        )
    if loaded.artifacts.store == "local" and not Path(loaded.artifacts.directory).is_dir():
        raise usage(
            f"there are no artifacts in {loaded.artifacts.directory}; where the store is S3, give its settings (--config or variables)"
        )

    async def go(url: str) -> list[Any]:
        store, client = open_store(loaded.artifacts), connect(url, timeout_seconds=30)
        try:
            return await prune(store, seconds, dry_run=options.dry_run, jobs=Jobs(client, loaded))
        finally:
            await store.close()
            await client.aclose()

    with redis_of(options) as url:
        found = asyncio.run(go(url))
    verb = "would delete" if options.dry_run else "deleted"
    total = sum(meta.size_bytes for meta in found)
    answer(
        options,
        {"artifacts": [f"{meta.bucket}/{meta.key}" for meta in found], "bytes": total, "dryRun": options.dry_run},
        "\n".join([*(f"{meta.bucket}/{meta.key}" for meta in found), f"{verb} {len(found)} artifacts, {total} bytes"]),
    )
    return OK


def dead_letters_list(options: argparse.Namespace) -> int:
    with client_for(options) as client:
        found = client.dead_letters(limit=options.limit, cursor=options.cursor)
    rows = [
        f"{letter['id']:24} {letter['created']}  {letter['reason']:16} {letter['jobId'] or '-'} {letter['nodeId']}"
        for letter in found["deadLetters"]
    ]
    if found["next"]:
        rows.append(f"more: dihedral dead-letters list --cursor {found['next']}{url_hint(options)}")
    answer(options, found, "\n".join(rows) or "no dead letters")
    return OK


def dead_letters_show(options: argparse.Namespace) -> int:
    with client_for(options) as client:
        letter = client.dead_letter(options.letter)
    answer(options, letter, "\n".join(f"{name:8} {value}" for name, value in letter.items()))
    return OK


def dead_letters_requeue(options: argparse.Namespace) -> int:
    with client_for(options) as client:
        job = client.requeue_dead_letter(options.letter)
    answer(options, job, f"{job['jobId']}  {job['status']}  attempt {job['attempt']}")
    return OK


def dead_letters_drop(options: argparse.Namespace) -> int:
    with client_for(options) as client:
        client.drop_dead_letter(options.letter)
    answer(options, {"dropped": options.letter}, f"dropped {options.letter}")
    return OK


def capabilities(options: argparse.Namespace) -> int:
    with client_for(options) as client:
        found = client.capabilities()
    if options.name is not None:
        found["capabilities"] = _only(found["capabilities"], options.name, "task")
    rows = []
    for each in found["capabilities"]:
        rows.append(f"{each['id']:22} {each['plane']:7} {each['description']}")
        rows += _params(each["io"]["input"]) if options.name is not None else []
    answer(options, found, "\n".join(rows))
    return OK


def pipelines(options: argparse.Namespace) -> int:
    with client_for(options) as client:
        found = client.pipelines()
    if options.name is not None:
        found["pipelines"] = _only(found["pipelines"], options.name, "pipeline")
    rows = []
    for each in found["pipelines"]:
        rows += [f"{each['id']:20} {each['description']}", *_params(each["params"])]
    answer(options, found, "\n".join(rows))
    return OK


def _only(found: list[dict[str, Any]], name: str, kind: str) -> list[dict[str, Any]]:
    from dihedral.typed_params import meant

    only = [each for each in found if each["id"] == name]
    if not only:
        raise usage(f"there is no {kind} {name!r}{meant(name, [each['id'] for each in found])}")
    return only


def _params(schema: dict[str, Any]) -> list[str]:
    """Returns a line for each param, with its type and default as one types them."""
    from dihedral.tables import table
    from dihedral.typed_params import described

    needed = schema.get("required", [])
    rows = [
        [f"    {name}", described(each) + (" (required)" if name in needed else ""), each.get("description", "")]
        for name, each in schema.get("properties", {}).items()
    ]
    return table(rows) if rows else []


# Commands for this machine ---------------------------------------------------------------------------------------------


def keys(options: argparse.Namespace) -> int:
    """Works on Redis itself, which is where the first key must come from."""
    from dihedral.api_keys import act

    document, text = act(options, _duration(options.expires) if getattr(options, "expires", None) else None)
    answer(options, document, text)
    return OK


def logs(options: argparse.Namespace) -> int:
    from dihedral.tail import tail

    return tail(options.data_dir / "logs", options.name, follow=options.follow, lines=options.lines)


def new_task(options: argparse.Namespace) -> int:
    from dihedral.new_task import write

    for path in write(options.name, Path.cwd(), light=options.light):
        print(path)
    return OK


def tools(options: argparse.Namespace) -> int:
    """Lists the tools of the settings file, then the presets, each with what it misses."""
    from dihedral.bridge import settings
    from dihedral.bridge.tasks.context import TaskError
    from dihedral.data_plane.engines import tools as known

    tables = settings.load(options.settings, os.environ, {}).tasks.get("run_tool", {}).get("tools", {})
    rows = []
    for name, table in [*tables.items(), *((name, {"preset": name}) for name in known.presets() if name not in tables)]:
        row = {"name": name, "preset": table.get("preset", ""), "named": name in tables, "missing": [], "label": ""}
        try:
            made = known.named({name: table}, name)
            row |= {"label": made.label, "missing": known.missing(made)}
        except TaskError as error:
            row["missing"] = [str(error)]
        rows.append(row)
    lines = [
        f"{row['name']:14} {'tool  ' if row['named'] else 'preset'}  "
        + ("ready" if not row["missing"] else f"lacks {'; '.join(row['missing'])}")
        for row in rows
    ]
    answer(options, {"tools": rows}, "\n".join(lines))
    return OK


def doctor(options: argparse.Namespace) -> int:
    from dihedral.doctor import examine

    found = examine(options.port)
    lines = [f"{'ok ' if each['ok'] else 'BAD'} {each['what']:10} {each['detail']}" for each in found]
    answer(options, {"checks": found}, "\n".join(lines))
    return OK if all(each["ok"] for each in found) else REFUSED


# Arguments ------------------------------------------------------------------------------------------------------------


def complete(options: argparse.Namespace) -> int:
    """Answers a shell's Tab; it is here because it looks at the parser."""
    from dihedral.completion import answer_shell

    return answer_shell(_parser(), options)


def mcp(options: argparse.Namespace) -> int:
    import asyncio

    from dihedral.bridge.settings import client_ca, client_key
    from dihedral.mcp import serve

    asyncio.run(serve(url_for(options), options.api_key or client_key(), options.ca or client_ca()))
    return OK


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise usage(f"{text!r} is not NAME=VALUE")
    return name, value


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _at_least_one(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)


def _read_json(name: str) -> dict[str, Any]:
    content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    try:
        document = json.loads(content)  # UTF-8, UTF-16 and UTF-32, with or without a byte order mark
    except UnicodeDecodeError as error:
        raise usage(f"{name}: is not UTF-8: {error.reason} at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise usage(f"{name}: is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise usage(f"{name}: is no graph and no submission")
    return document


def _duration(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    if not text[:-1].isdigit() or text[-1:] not in units:
        raise usage(f"{text!r} is no age; write 30d, 12h, 90m or 600s")
    return int(text[:-1]) * units[text[-1]]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="dihedral", description="GPU media pipelines as durable jobs.",
        epilog="Exit codes: 0 ok, 1 job failed, 2 usage, 3 refused, 4 unreachable, 5 cancelled, 130 detached.",
    )  # fmt: skip
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    from dihedral import place_commands, preset_commands
    from dihedral.job_commands import declare, how_to_submit

    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, command: Command, text: str, *, client: bool = False, within: Any = commands
    ) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = within.add_parser(name, help=text, description=text)
        made.set_defaults(command=command)
        made.add_argument("--json", action="store_true", help="print JSON")
        if client:
            made.add_argument("--url", help="the control plane (or DIHEDRAL_URL; default http://127.0.0.1:8000)")
            made.add_argument(
                "--api-key", metavar="KEY", help="better DIHEDRAL_API_KEY: every user sees a command line"
            )
            made.add_argument("--ca", metavar="FILE", help="certificates to trust, as PEM (or DIHEDRAL_CA)")
        return made

    one = add(
        "demo",
        demo,
        "run everything on example inputs: a language model's LoRA, then a film with a storyteller who speaks",
    )
    one.add_argument("--data-dir", type=Path, default=Path("dihedral-data"))
    one.add_argument("--port", type=int, default=0, help="default: any free one")
    one = add("up", up, "serve on this machine: server, control plane and workers")
    one.add_argument("--port", type=int, help="default 8000; 0: any free one")
    one.add_argument("--host", help="default 127.0.0.1")
    one.add_argument("--insecure", action="store_true", help="listen beyond loopback although there is no API key")
    one.add_argument("--workers", type=_at_least_one, default=1, metavar="N")
    one.add_argument("--slots", type=int, metavar="N", help="heavy nodes at once per worker; default: by the device")
    one.add_argument(
        "--simulate-gpus", metavar="TEXT", help="2x24GiB: simulated GPUs; behind it ,oom@N ,hang@N ,poison@N ,speed=X"
    )
    one.add_argument("--data-dir", type=Path, default=Path("dihedral-data"))
    one.add_argument("--redis-url", metavar="URL", help="use this server instead of the embedded one")
    one.add_argument("--tasks", action="append", metavar="MODULE", help="a module with tasks of your own; repeatable")
    one.add_argument("--pipelines", metavar="DIR", help="a folder of pipeline documents of your own")
    one.add_argument("--reload", action="store_true", help="load tasks and pipelines again when their files change")
    one.add_argument("--config", type=Path, metavar="FILE", help="dihedral.toml")
    commands.add_parser("control", help="run a control plane (for more than one machine)")
    commands.add_parser("worker", help="run a worker (also on a second machine)")
    one = add("submit", submit, "submit a job", client=True)
    one.add_argument(
        "file_name",
        nargs="?",
        metavar="FILE",
        help="a graph, a submission or a ComfyUI workflow (API format) as JSON; - is stdin",
    )
    one.add_argument("--pipeline", metavar="NAME")
    one.add_argument("--param", action="append", metavar="K=V", help="read by the schema of the param; repeatable")
    how_to_submit(one)
    one.add_argument("--preset", metavar="NAME", help="params that were kept under this name, below those given")
    one.add_argument("--start-at", metavar="TIME", help="RFC 3339 with an offset")
    one.add_argument("--watch", action="store_true", help="follow it to its end")
    one = add("ask", ask, "say what you want in words: a graph, why, what is open, and run it", client=True)
    one.add_argument("goal", metavar="GOAL")
    one.add_argument(
        "--file", action="append", metavar="PATH", help="a file that the goal is about, uploaded first; repeatable"
    )
    one.add_argument(
        "--evaluate",
        action="store_true",
        help="hold the results against the goal, and try once more where that may help",
    )
    one.add_argument("--run", action="store_true", help="run a plan that is certain without asking")
    one.add_argument("--no-watch", action="store_true", help="do not follow the job")
    add("plan", plan, "show what would run, or every problem", client=True).add_argument("file_name", metavar="FILE")
    one = add("watch", watch, "follow a job", client=True)
    one.add_argument("job", metavar="JOB")
    one.add_argument("--notify", action="store_true", help="ring the bell, and notify the desktop, when it has ended")
    one = add("jobs", jobs, "list jobs, newest first", client=True)
    one.add_argument("search", nargs="?", metavar="WORDS", help="in names, tags, pipelines, tasks and given params")
    one.add_argument("--tag", metavar="A,B", help="jobs that have all of these")
    one.add_argument("-q", "--quiet", action="store_true", help="print the ids alone")
    one.add_argument("--status")
    one.add_argument("--pipeline")
    one.add_argument("--limit", type=int, default=50)
    add("show", show, "a job, its nodes, errors and artifacts", client=True).add_argument("job", metavar="JOB")
    add("cancel", cancel, "cancel a job", client=True).add_argument("job", metavar="JOB")
    one = add("finish", finish, "ask a running node to end now with its best result", client=True)
    one.add_argument("job", metavar="JOB")
    one.add_argument("node", metavar="NODE")
    one = add("retry", retry, "run a failed or cancelled job again", client=True)
    one.add_argument("job", metavar="JOB")
    one.add_argument("--from-start", action="store_true", help="also what completed")
    declare(add)
    preset_commands.declare(add, commands)
    place_commands.declare(add)
    one = add("complete", complete, "what the last word may become; shells ask it", client=True)
    one.add_argument("words", nargs="*", metavar="WORD")
    add("mcp", mcp, "let an agent use the control plane: the Model Context Protocol on stdin and stdout", client=True)
    group = commands.add_parser("artifacts", help="get, list or prune artifacts").add_subparsers(
        required=True, metavar="COMMAND"
    )
    one = add("get", artifacts_get, "download an artifact", client=True, within=group)
    one.add_argument("artifact", metavar="BUCKET/KEY")
    one.add_argument("-o", "--output", type=Path, metavar="FILE")
    one = add("list", artifacts_list, "list artifacts, newest first", client=True, within=group)
    one.add_argument("--bucket")
    one.add_argument("--job")
    one = add("prune", artifacts_prune, "delete old artifacts from the store", within=group)
    one.add_argument("--older-than", default="30d", metavar="AGE")
    one.add_argument("--dry-run", action="store_true")
    one.add_argument("--data-dir", type=Path, help="of `dihedral up`; default: the store of the settings")
    one.add_argument("--config", type=Path, metavar="FILE")
    group = commands.add_parser("dead-letters", help="what was given up: list, show, requeue, drop").add_subparsers(
        required=True, metavar="COMMAND"
    )
    one = add("list", dead_letters_list, "list dead letters, newest first", client=True, within=group)
    one.add_argument("--limit", type=int, default=50)
    one.add_argument("--cursor", metavar="ID", help="go on behind this letter")
    one = add("show", dead_letters_show, "what a letter says", client=True, within=group)
    one.add_argument("letter", metavar="ID")
    one = add("requeue", dead_letters_requeue, "retry the job of a letter", client=True, within=group)
    one.add_argument("letter", metavar="ID")
    one = add("drop", dead_letters_drop, "drop a failed delivery", client=True, within=group)
    one.add_argument("letter", metavar="ID")
    group = commands.add_parser("keys", help="create, list or revoke API keys").add_subparsers(
        required=True, metavar="COMMAND"
    )
    made = [
        add("create", keys, "make an API key and print it, once", within=group),
        add("list", keys, "list the API keys", within=group),
        add("revoke", keys, "let an API key be refused from now on", within=group),
    ]
    for one in made:
        one.add_argument("--redis-url", metavar="URL", help="default: that of the settings, else of the data directory")
        one.add_argument("--data-dir", type=Path, default=Path("dihedral-data"), help="of `dihedral up`")
        one.add_argument("--config", type=Path, metavar="FILE")
    made[0].set_defaults(act="create")
    made[0].add_argument("--owner", required=True, metavar="NAME", help="who sees its jobs and artifacts")
    made[0].add_argument(
        "--scopes", default="submit,read,cancel", metavar="A,B", help="of submit, read, cancel, operate, admin"
    )
    made[0].add_argument("--expires", metavar="AGE", help="30d, 12h, 90m or 600s; default: never")
    made[0].add_argument("--jobs-per-minute", type=int, default=0, metavar="N", help="default: no limit")
    made[0].add_argument(
        "--max-alive", type=int, default=0, metavar="N", help="jobs that have not ended; default: no limit"
    )
    made[1].set_defaults(act="list")
    made[2].set_defaults(act="revoke")
    made[2].add_argument("id", metavar="ID")
    one = add("capabilities", capabilities, "list the tasks that can be run", client=True)
    one.add_argument("name", nargs="?", metavar="TASK", help="with its params")
    one = add("pipelines", pipelines, "list the pipelines and their params", client=True)
    one.add_argument("name", nargs="?", metavar="PIPELINE")
    one = add("logs", logs, "print the logs of dihedral up")
    one.add_argument("name", nargs="?", help="control, worker-1, server; default: all")
    one.add_argument("--data-dir", type=Path, default=Path("dihedral-data"))
    one.add_argument("-f", "--follow", action="store_true")
    one.add_argument("-n", "--lines", type=int, default=40)
    one = add("new-task", new_task, "write a working task and its test")
    one.add_argument("name", metavar="NAME")
    one.add_argument(
        "--light", action="store_true", help="async: runs in the worker itself, for tasks that mostly wait"
    )
    add("tools", tools, "tools of the settings file, presets, and what is missing").add_argument(
        "--settings", type=Path, metavar="FILE"
    )
    add("doctor", doctor, "what this machine has").add_argument("--port", type=int, default=8000)
    return parser


class _Parser(argparse.ArgumentParser):
    """Suggests a command, or a choice, for one that is mistyped."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            from dihedral.typed_params import meant

            kind = "command" if isinstance(action, argparse._SubParsersAction) else "choice"
            raise argparse.ArgumentError(None, f"there is no {kind} {value!r}{meant(str(value), list(action.choices))}")


class _Version(argparse.Action):
    def __call__(self, *_: Any) -> None:
        from dihedral.bridge.version import VERSION

        print(f"dihedral {VERSION}")
        raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
