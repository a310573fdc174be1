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

OK, FAILED, USAGE, REFUSED, UNREACHABLE, CANCELLED, DETACHED = 0, 1, 2, 3, 4, 5, 130

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] in (["control"], ["worker"]):
        # Their options belong to the parsers of the planes; argparse cannot hand on options that it does not declare.
        return control(given[1:]) if given[0] == "control" else worker(given[1:])
    _replace_what_no_terminal_shows()
    options = _parser().parse_args(given)
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
            _say(f"dihedral: {error}")
            for detail in error.problem.get("errors", []):
                _say(f"  {detail['pointer'] or '/'}: {detail['detail']} ({detail['code']})")
            return REFUSED
        case Unreachable() | ServerUnavailable():
            _say(f"dihedral: {error}")
            return UNREACHABLE
        case SettingsError():
            _say(f"dihedral: {error}")
            return USAGE
        case DihedralError():
            _say(f"dihedral: {error}")
            return REFUSED
        case OSError() if error.filename is not None:
            _say(f"dihedral: {error.filename}: {error.strerror}")
            return USAGE
    raise error


def _say(line: str) -> None:
    print(_plain(line), file=sys.stderr, flush=True)


def _plain(text: str) -> str:
    """Keeps control sequences in the texts of users away from the terminal."""
    from dihedral.bridge.plain import plain

    return plain(text)


# Commands that start something -----------------------------------------------------------------------------------------


def up(options: argparse.Namespace) -> int:
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
        _say("dihedral: submit takes either FILE (a graph or a submission) or --pipeline NAME")
        return USAGE
    with _client(options) as client:
        wish = _submission(client, options)
        job = client.submit(**wish)
        if not options.watch:
            _print(options, job, f"{job['jobId']}  {job['status']}   (dihedral watch {job['jobId']})")
            return OK
        if not options.json and not sys.stdout.isatty():
            print(job["jobId"], flush=True)  # the reader of the pipe has the id, however the watch ends
        return _watch(client, job["jobId"], options)


def _submission(client: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of Client.submit; flags precede the values of the file."""
    flags = {"priority": options.priority, "start_at": options.start_at}
    flags = {name: value for name, value in flags.items() if value is not None}
    if options.pipeline is not None:
        kinds = _kinds(client, options.pipeline)
        pairs = [_pair(text) for text in options.param or []]
        params = {name: value if kinds.get(name) == {"string"} else _parsed(value) for name, value in pairs}
        for name, path in map(_pair, options.local or []):
            params[name] = {"local": path}
        return flags | {"pipeline": options.pipeline, "params": params, "files": _files(options.file or [], kinds)}
    from dihedral import workflows

    document = _read_submission(options.file_name)
    workflow = document.get("graph")
    if isinstance(workflow, dict) and workflows.is_workflow(workflow):
        values = {name: _parsed(value) for name, value in map(_pair, options.param or [])}
        files = {name: _reference(client.upload(path)) for name, path in map(_pair, options.file or [])}
        return flags | {"graph": workflows.as_graph(workflow, values.pop("server", ""), values, files)}
    if isinstance(workflow, dict) and workflows.is_of_the_editor(workflow):
        raise _usage(f"{options.file_name}: {workflows.HOW_TO_EXPORT}")
    if options.param or options.file or options.local:
        raise _usage(
            "--param, --file and --local fill in a pipeline or a ComfyUI workflow; give --pipeline NAME instead of a file"
        )
    unknown = sorted(document.keys() - SUBMISSION)
    if unknown:
        raise _usage(f"{options.file_name}: a submission has no {unknown[0]!r}; it has {', '.join(SUBMISSION)}")
    return {SUBMISSION[name]: value for name, value in document.items()} | flags


SUBMISSION = {
    "graph": "graph", "pipeline": "pipeline", "params": "params", "startAt": "start_at", "priority": "priority",
    "metadata": "metadata",
}  # fmt: skip


def _reference(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {"bucket": meta["bucket"], "key": meta["key"]}


def _read_submission(name: str) -> dict[str, Any]:
    """A file holds a submission, or the graph alone."""
    document = _read_json(name)
    return document if "graph" in document or "pipeline" in document else {"graph": document}


def _kinds(client: Any, pipeline: str) -> dict[str, set[str]]:
    """Returns JSON types by param: `--param prompt=1984` is no number where the param is a text, and one file is a list where it is a list."""
    for each in client.pipelines()["pipelines"]:
        if each["id"] == pipeline:
            properties = each["params"].get("properties", {})
            return {
                name: {str(one["type"]) for one in [schema, *schema.get("anyOf", [])] if "type" in one}
                for name, schema in properties.items()
            }
    return {}


def _files(texts: list[str], kinds: dict[str, set[str]]) -> dict[str, str | list[str]]:
    """Paths by param. A param that is given several times, or that is a list, gets a list."""
    given: dict[str, list[str]] = {}
    for name, path in map(_pair, texts):
        given.setdefault(name, []).append(path)
    for name, paths in given.items():
        if len(paths) > 1 and "array" not in kinds.get(name, {"array"}):
            raise _usage(f"{name} is one file, and {len(paths)} were given")
    return {
        name: paths if "array" in kinds.get(name, set()) or len(paths) > 1 else paths[0]
        for name, paths in given.items()
    }


def plan(options: argparse.Namespace) -> int:
    document = _read_submission(options.file_name)
    with _client(options) as client:
        graph = client.plan(document)
    lines = [f"{node['id']}: {node['task']} on {node['plane']}" for node in graph["nodes"]]
    _print(options, graph, "\n".join(lines))
    return OK


def ask(options: argparse.Namespace) -> int:
    from dihedral.ask import is_terminal, plan_of, tree

    is_asking = is_terminal() and not options.json
    with _client(options) as client:
        request, plan = plan_of(client, options.goal, options.file or [], is_asking=is_asking)
        _print(options, plan, "\n".join(tree(plan)))
        for question in plan["questions"]:
            _say(f"open: {question['id']}: {question['text']}")
        if not plan["certain"]:
            return REFUSED
        if not options.run and not (is_asking and input("run it? [y/N] ").strip().lower() in ("y", "yes", "j", "ja")):
            return OK
        job = client.submit(
            graph=plan["graph"], name=options.goal[:80].strip(), metadata={"plan": _kept(plan, request)}
        )
        print(job["jobId"], flush=True)
        return OK if options.no_watch else _watch(client, job["jobId"], options)


def _kept(plan: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a job keeps of its plan, as POST /api/jobs with the goal does."""
    names = ("goal", "by", "model", "rounds", "confidence", "assumptions", "reasons")
    return {name: plan[name] for name in names} | {"answers": request["answers"]}


def watch(options: argparse.Namespace) -> int:
    with _client(options) as client:
        return _watch(client, options.job, options)


def _watch(client: Any, job_id: str, options: argparse.Namespace) -> int:
    from dihedral.render import show

    client.job(job_id)  # or a refusal, before anything is drawn
    shown = None if options.json else show(client.graph(job_id))
    try:
        for event in client.watch(job_id):
            if shown is None:
                print(json.dumps(event), flush=True)
            else:
                shown.event(event)
    except KeyboardInterrupt:
        if shown is not None:
            shown.close()
        _say(f"\ndetached; the job goes on. Come back with: dihedral watch {job_id}{_url_hint(options)}")
        return DETACHED
    finally:
        if shown is not None:
            shown.close()
    job = client.job(job_id)
    _told_end(options, job)
    return {"completed": OK, "cancelled": CANCELLED}.get(job["status"], FAILED)


def _told_end(options: argparse.Namespace, job: dict[str, Any]) -> None:
    """Prints the results of a job; with --json the job document is the last line."""
    if options.json:
        print(json.dumps(job))
        return
    for meta in job["artifacts"]:
        print(_plain(f"artifact {meta['bucket']}/{meta['key']}  {meta['size_bytes']} bytes"))
    if job["error"]:
        where = f"{job['error']['nodeId']}: " if job["error"]["nodeId"] else ""
        _say(f"dihedral: {where}{job['error']['message']} ({job['error']['code']})")


def jobs(options: argparse.Namespace) -> int:
    with _client(options) as client:
        found = client.jobs(status=options.status, pipeline=options.pipeline, limit=options.limit)
    rows = [
        f"{job['jobId']:36} {job['status']:10} {job['progress']:>4.0%}  {job['pipeline'] or '-':18} {job['created']}"
        for job in found["jobs"]
    ]
    _print(options, found, "\n".join(rows) or "no jobs")
    return OK


def show(options: argparse.Namespace) -> int:
    from dihedral.render import waits

    with _client(options) as client:
        job, graph = client.job(options.job), client.graph(options.job)
    lines = [f"{job['jobId']}  {job['status']}  {job['progress']:.0%}  attempt {job['attempt']}"]
    if job["waitingFor"]:
        lines.append(f"waits: {waits(job)}")
    if job["error"]:
        lines.append(f"error: {job['error']['message']} ({job['error']['code']})")
    for node in graph["nodes"]:
        lines.append(f"  {node['id']:24} {node['status']:10} {node['task']}")
        if "error" in node:
            lines.append(f"    {node['error']['message']} ({node['error']['code']})")
    lines += [f"  artifact {meta['bucket']}/{meta['key']}  {meta['size_bytes']} bytes" for meta in job["artifacts"]]
    _print(options, {"job": job, "graph": graph}, "\n".join(lines))
    return OK


def cancel(options: argparse.Namespace) -> int:
    with _client(options) as client:
        job = client.cancel(options.job)
    _print(options, job, f"{job['jobId']}  {job['status']}")
    return OK


def finish(options: argparse.Namespace) -> int:
    with _client(options) as client:
        job = client.finish(options.job, options.node)
    _print(options, job, f"{job['jobId']}  {options.node} is asked to end with its best result")
    return OK


def retry(options: argparse.Namespace) -> int:
    with _client(options) as client:
        job = client.retry(options.job, from_start=options.from_start)
    _print(options, job, f"{job['jobId']}  {job['status']}  attempt {job['attempt']}")
    return OK


def artifacts_get(options: argparse.Namespace) -> int:
    bucket, _, key = options.artifact.partition("/")
    if not key:
        _say("dihedral: an artifact is named BUCKET/KEY")
        return USAGE
    with _client(options) as client:
        path = client.download({"bucket": bucket, "key": key}, options.output or Path.cwd())
    _print(options, {"path": str(path)}, str(path))
    return OK


def artifacts_list(options: argparse.Namespace) -> int:
    with _client(options) as client:
        found = client.artifacts(bucket=options.bucket, jobId=options.job)
    rows = [
        f"{meta['size_bytes']:>12}  {meta['created_at']}  {meta['bucket']}/{meta['key']}" for meta in found["artifacts"]
    ]
    _print(options, found, "\n".join(rows) or "no artifacts")
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
        raise _usage(
            f"the `dihedral up` of {options.data_dir} keeps its artifacts in a store of kind {noted['store']} ({noted['endpoint'] or noted['directory']}), "
            f"these settings name one of kind {loaded.artifacts.store}; give its settings (--config or variables)"
        )
    if loaded.artifacts.store == "local" and not Path(loaded.artifacts.directory).is_dir():
        raise _usage(
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
    _print(
        options,
        {"artifacts": [f"{meta.bucket}/{meta.key}" for meta in found], "bytes": total, "dryRun": options.dry_run},
        "\n".join([*(f"{meta.bucket}/{meta.key}" for meta in found), f"{verb} {len(found)} artifacts, {total} bytes"]),
    )
    return OK


def dead_letters_list(options: argparse.Namespace) -> int:
    with _client(options) as client:
        found = client.dead_letters(limit=options.limit, cursor=options.cursor)
    rows = [
        f"{letter['id']:24} {letter['created']}  {letter['reason']:16} {letter['jobId'] or '-'} {letter['nodeId']}"
        for letter in found["deadLetters"]
    ]
    if found["next"]:
        rows.append(f"more: dihedral dead-letters list --cursor {found['next']}{_url_hint(options)}")
    _print(options, found, "\n".join(rows) or "no dead letters")
    return OK


def dead_letters_show(options: argparse.Namespace) -> int:
    with _client(options) as client:
        letter = client.dead_letter(options.letter)
    _print(options, letter, "\n".join(f"{name:8} {value}" for name, value in letter.items()))
    return OK


def dead_letters_requeue(options: argparse.Namespace) -> int:
    with _client(options) as client:
        job = client.requeue_dead_letter(options.letter)
    _print(options, job, f"{job['jobId']}  {job['status']}  attempt {job['attempt']}")
    return OK


def dead_letters_drop(options: argparse.Namespace) -> int:
    with _client(options) as client:
        client.drop_dead_letter(options.letter)
    _print(options, {"dropped": options.letter}, f"dropped {options.letter}")
    return OK


def capabilities(options: argparse.Namespace) -> int:
    with _client(options) as client:
        found = client.capabilities()
    rows = [f"{each['id']:22} {each['plane']:7} {each['description']}" for each in found["capabilities"]]
    _print(options, found, "\n".join(rows))
    return OK


def pipelines(options: argparse.Namespace) -> int:
    with _client(options) as client:
        found = client.pipelines()
    rows = []
    for each in found["pipelines"]:
        rows.append(f"{each['id']:20} {each['description']}")
        for name, schema in each["params"].get("properties", {}).items():
            need = "required" if name in each["params"].get("required", []) else f"default {schema.get('default')!r}"
            rows.append(f"    --param {name}=…  {schema.get('description', '')} ({need})")
    _print(options, found, "\n".join(rows))
    return OK


# Commands for this machine ---------------------------------------------------------------------------------------------


def keys(options: argparse.Namespace) -> int:
    """Works on Redis itself, which is where the first key must come from."""
    from dihedral.api_keys import act

    document, text = act(options, _duration(options.expires) if getattr(options, "expires", None) else None)
    _print(options, document, text)
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
    _print(options, {"tools": rows}, "\n".join(lines))
    return OK


def doctor(options: argparse.Namespace) -> int:
    from dihedral.doctor import examine

    found = examine(options.port)
    lines = [f"{'ok ' if each['ok'] else 'BAD'} {each['what']:10} {each['detail']}" for each in found]
    _print(options, {"checks": found}, "\n".join(lines))
    return OK if all(each["ok"] for each in found) else REFUSED


# Arguments ------------------------------------------------------------------------------------------------------------


def mcp(options: argparse.Namespace) -> int:
    import asyncio

    from dihedral.bridge.settings import client_ca, client_key
    from dihedral.mcp import serve

    asyncio.run(serve(_url(options), options.api_key or client_key(), options.ca or client_ca()))
    return OK


def _client(options: argparse.Namespace) -> Any:
    from dihedral.bridge.settings import client_ca, client_key
    from dihedral.client import Client

    return Client(_url(options), api_key=options.api_key or client_key(), ca=options.ca or client_ca())


def _url(options: argparse.Namespace) -> str:
    from dihedral.bridge.settings import server_url

    return options.url or server_url()


def _url_hint(options: argparse.Namespace) -> str:
    return f" --url {options.url}" if options.url else ""


def _print(options: argparse.Namespace, document: Any, text: str) -> None:
    print(json.dumps(document, indent=2) if options.json else _plain(text))


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise _usage(f"{text!r} is not NAME=VALUE")
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


def _usage(text: str) -> Exception:
    from dihedral.bridge.errors import SettingsError

    return SettingsError(text)


def _read_json(name: str) -> dict[str, Any]:
    content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    try:
        document = json.loads(content)  # UTF-8, UTF-16 and UTF-32, with or without a byte order mark
    except UnicodeDecodeError as error:
        raise _usage(f"{name}: is not UTF-8: {error.reason} at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise _usage(f"{name}: is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise _usage(f"{name}: is no graph and no submission")
    return document


def _duration(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    if not text[:-1].isdigit() or text[-1:] not in units:
        raise _usage(f"{text!r} is no age; write 30d, 12h, 90m or 600s")
    return int(text[:-1]) * units[text[-1]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dihedral", description="GPU media pipelines as durable jobs.",
        epilog="Exit codes: 0 ok, 1 job failed, 2 usage, 3 refused, 4 unreachable, 5 cancelled, 130 detached.",
    )  # fmt: skip
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
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
    one.add_argument("--param", action="append", metavar="K=V", help="JSON where it parses, else text; repeatable")
    one.add_argument(
        "--file",
        action="append",
        metavar="K=PATH",
        help="a param that is a file, uploaded first; repeatable, also for one list",
    )
    one.add_argument(
        "--local",
        action="append",
        metavar="K=PATH",
        help="a param that is a model of the workers, by its path below models.roots; repeatable",
    )
    one.add_argument("--priority", choices=["high", "normal", "low"])
    one.add_argument("--start-at", metavar="TIME", help="RFC 3339 with an offset")
    one.add_argument("--watch", action="store_true", help="follow it to its end")
    one = add("ask", ask, "say what you want in words: a graph, why, what is open, and run it", client=True)
    one.add_argument("goal", metavar="GOAL")
    one.add_argument(
        "--file", action="append", metavar="PATH", help="a file that the goal is about, uploaded first; repeatable"
    )
    one.add_argument("--run", action="store_true", help="run a plan that is certain without asking")
    one.add_argument("--no-watch", action="store_true", help="do not follow the job")
    add("plan", plan, "show what would run, or every problem", client=True).add_argument("file_name", metavar="FILE")
    add("watch", watch, "follow a job", client=True).add_argument("job", metavar="JOB")
    one = add("jobs", jobs, "list jobs, newest first", client=True)
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
    made[0].add_argument("--scopes", default="submit,read,cancel", metavar="A,B", help="of submit, read, cancel, admin")
    made[0].add_argument("--expires", metavar="AGE", help="30d, 12h, 90m or 600s; default: never")
    made[0].add_argument("--jobs-per-minute", type=int, default=0, metavar="N", help="default: no limit")
    made[0].add_argument(
        "--max-alive", type=int, default=0, metavar="N", help="jobs that have not ended; default: no limit"
    )
    made[1].set_defaults(act="list")
    made[2].set_defaults(act="revoke")
    made[2].add_argument("id", metavar="ID")
    add("capabilities", capabilities, "list the tasks that can be run", client=True)
    add("pipelines", pipelines, "list the pipelines and their params", client=True)
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


class _Version(argparse.Action):
    def __call__(self, *_: Any) -> None:
        from dihedral.bridge.version import VERSION

        print(f"dihedral {VERSION}")
        raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
