"""Commands on jobs beside those of cli.py: run a task or pipeline, again, download, open, events, delete, upload, completion.

Large because every command is a short function, and its options stand beside it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dihedral.terminal import (
    CANCELLED,
    DETACHED,
    FAILED,
    OK,
    REFUSED,
    answer,
    client_for,
    follow,
    notify,
    plain_text,
    say,
    url_for,
    usage,
    whole_id,
)
from dihedral.typed_params import (
    is_artifact,
    is_list_of_artifacts,
    local_file,
    meant,
    pair,
    property_of,
    value_of,
)

Add = Callable[..., argparse.ArgumentParser]
MADE = frozenset({".png", ".wav", ".mp4", ".mov", ".m4a", ".safetensors"})
"""The endings of files that say what made them."""


def declare(add: Add) -> None:
    """Adds the parsers of these commands."""
    one = add("run", run, "run a task or a pipeline and show what comes of it", client=True)
    one.add_argument("what", metavar="TARGET", help="a task, also of your own, or a pipeline")
    one.add_argument(
        "values", nargs="*", metavar="KEY=VALUE", help="params, read by their schema; a file where one is asked for"
    )
    how_to_submit(one)
    one.add_argument("--detach", action="store_true", help="return as soon as it is queued")
    one.add_argument("--preset", metavar="NAME", help="params that were kept under this name, below those given")
    one = add("again", again, "run a job again, or what made a file, with changes", client=True)
    one.add_argument("job", metavar="JOB", help="a job, or a file that one has made: PNG, WAV, MP4, safetensors")
    one.add_argument("values", nargs="*", metavar="KEY=VALUE", help="changes; KEY= alone: back to the default")
    how_to_submit(one)
    one.add_argument("--detach", action="store_true", help="return as soon as it is queued")
    one.add_argument("--yes", action="store_true", help="run what a file says without being asked")
    one = add("download", download, "download what a job stored", client=True)
    one.add_argument("job", metavar="JOB")
    one.add_argument("-o", "--output", type=Path, default=Path(), metavar="DIR")
    one = add("open", open_job, "open a job in the browser", client=True)
    one.add_argument("job", metavar="JOB")
    one = add("delete", delete, "delete ended jobs", client=True)
    one.add_argument("jobs", nargs="+", metavar="JOB")
    one.add_argument("--artifacts", action="store_true", help="also what they stored")
    one = add("events", events, "print the events of a job", client=True)
    one.add_argument("job", metavar="JOB")
    one.add_argument("-f", "--follow", action="store_true", help="until it ends")
    one.add_argument("--after", type=int, default=0, metavar="SEQ")
    one.add_argument("--logs", action="store_true", help="only what its tasks log")
    one = add("completion", completion, "print the completion script of a shell")
    one.add_argument("shell", choices=["bash", "zsh", "fish"], metavar="SHELL", help="bash, zsh or fish")
    one = add("upload", upload, "upload files and print their places", client=True)
    one.add_argument("paths", nargs="+", type=Path, metavar="FILE")
    one.add_argument("--bucket", default="inputs")


def how_to_submit(one: argparse.ArgumentParser) -> None:
    """The options of `submit`, `run` and `again`."""
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
    one.add_argument(
        "--sweep",
        action="append",
        metavar="K=V,V",
        help="a job for each of these values; repeatable, for each combination",
    )
    one.add_argument("--name", help="what the job is called")
    one.add_argument("--tag", action="append", metavar="TAG", help="repeatable")
    one.add_argument("--priority", choices=["high", "normal", "low"])
    one.add_argument("-q", "--quiet", action="store_true", help="print the id alone")
    one.add_argument("-o", "--output", type=Path, metavar="DIR", help="wait, then download what it stored")
    one.add_argument("--notify", action="store_true", help="ring the bell, and notify the desktop, when it has ended")


# Run ------------------------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    with client_for(options) as client:
        kind, schema = named(client, options.what, preset=options.preset)
        params, files = read_params(options.values, options.file or [], schema, options.what)
        params |= {name: {"local": path} for name, path in map(pair, options.local or [])}
        submission = {
            kind: options.what,
            "params": params,
            "files": files,
            "preset": options.preset,
            **identity(options),
        }
        sweep = swept(options.sweep or [], schema, options.what)
        return begin(client, submission, sweep, options, watches=not options.detach)


def again(options: argparse.Namespace) -> int:
    with client_for(options) as client:
        path = _file_of(options.job)
        made: Mapping[str, Any] = client.job(options.job) if path is None else client.provenance(path)
        what = made.get("pipeline") or made.get("task") or "a graph"
        schema: Mapping[str, Any] = {}
        if made.get("pipeline"):
            schema = pipeline_schema(client, what) or {}
        elif made.get("task"):
            schema = named(client, what)[1]
        taken = {text[:-1]: None for text in options.values if text.endswith("=")}
        for name in taken:
            property_of(name, schema, what)
        values = [text for text in options.values if not text.endswith("=")]
        params, files = read_params(values, options.file or [], schema, what)
        changes = {**params, **taken, **{name: {"local": path} for name, path in map(pair, options.local or [])}}
        if path is None:
            repeated = {"rerun_of": made["jobId"], "params": changes or None}
        else:
            repeated = _of_file(made, path, changes, files)
            for line in (
                f"{path.name}: {what}",
                *_shown(repeated),
                *(f"  {name} = {each}" for name, each in files.items()),
            ):
                say(line.replace("\n", "\\n"))
            if not _is_wanted(path, options):
                return OK
        submission = {**repeated, "files": files, **identity(options)}
        sweep = swept(options.sweep or [], schema, what)
        return begin(client, submission, sweep, options, watches=not options.detach)


def _file_of(text: str) -> Path | None:
    """Returns the file that `again` is given; None for a job, whose id has no slash and no such ending. Raises SettingsError where there is no such file."""
    path = Path(text)
    if path.suffix.lower() in MADE or "/" in text:
        if not path.is_file():
            raise usage(f"there is no file {text}")
        return path
    return None


def _of_file(
    made: Mapping[str, Any], path: Path, changes: Mapping[str, Any], files: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the submission of what made a file. Raises SettingsError where the file does not have all of it."""
    named = {name: made[name] for name in ("pipeline", "task") if name in made}
    left_out = made.get("leftOut", ())
    if not named and "graph" in made:
        if changes:
            raise usage(f"{path}: a graph made it, which has no params to be changed: {' '.join(changes)}")
        if hidden := [each for each in left_out if each.startswith("/graph")]:
            raise usage(
                f"{path}: may be secrets, so the file does not have them, nor all of the graph: {' '.join(hidden)}"
            )
        return {"graph": made["graph"]}
    if not named or "params" not in made:
        job = f"; job {made['jobId']} made it" if "jobId" in made else ""
        raise usage(f"{path}: what made it was too much to stand in the file{job}")
    hidden = [each[8:].partition("/")[0] for each in left_out if each.startswith("/params/")]
    missing = [name for name in dict.fromkeys(hidden) if name not in changes and name not in files]
    if missing:
        raise usage(
            f"{path}: may be a secret, so the file does not have it: give {' '.join(f'{name}=…' for name in missing)}"
        )
    params = {**made["params"], **changes}
    return {**named, "params": {name: value for name, value in params.items() if value is not None}}


def _shown(repeated: Mapping[str, Any]) -> Iterator[str]:
    """Yields lines with everything that would run: anyone may have written the file."""
    graph = repeated.get("graph", {})
    for node in graph.get("nodes", ()):
        yield f"  {node['id']}: {node['task']}"
        more = {name: each for name, each in node.items() if name not in ("id", "task", "plane", "params")}
        for name, each in {**node.get("params", {}), **more}.items():
            yield f"    {name} = {json.dumps(each, ensure_ascii=False)}"
    above = {name: each for name, each in graph.items() if name not in ("schema", "nodes", "edges")}
    for name, each in {**(repeated.get("params") or {}), **above}.items():
        yield f"  {name} = {json.dumps(each, ensure_ascii=False)}"


def _is_wanted(path: Path, options: argparse.Namespace) -> bool:
    """Asks. Raises SettingsError where nobody can be asked."""
    if options.yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise usage(f"{path}: anyone may have written what it says: look at it, then run it with --yes")
    print("run it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes", "j", "ja")


def named(client: Any, name: str, *, preset: str | None = None) -> tuple[str, Mapping[str, Any]]:
    """Returns ("task" or "pipeline", the schema of its params); where both have the name, the one with this preset, else the task.

    Raises SettingsError with a suggestion.
    """
    schemas = schemas_of(client, name)
    if preset is not None and len(schemas) > 1:
        having = kinds_with(client, name, preset)
        schemas = {kind: schemas[kind] for kind in having or schemas}
    return next(iter(schemas.items()))


def schemas_of(client: Any, name: str) -> dict[str, Mapping[str, Any]]:
    """Returns the schema of the params by kind, `task` before `pipeline`: one name may be that of both. Raises SettingsError with a suggestion where there is none."""
    tasks = {each["id"]: each["io"]["input"] for each in client.capabilities()["capabilities"]}
    pipelines = {each["id"]: each["params"] for each in client.pipelines()["pipelines"]}
    found = {kind: known[name] for kind, known in (("task", tasks), ("pipeline", pipelines)) if name in known}
    if not found:
        raise usage(f"there is no task and no pipeline {name!r}{meant(name, sorted({*tasks, *pipelines}))}")
    return found


def kinds_with(client: Any, name: str, preset: str) -> list[str]:
    """Returns which of `task` and `pipeline` of this name have a preset of that name."""
    found = [each for each in client.presets()["presets"] if each["name"] == preset]
    return [kind for kind in ("task", "pipeline") if any(each[kind] == name for each in found)]


def pipeline_schema(client: Any, name: str) -> Mapping[str, Any] | None:
    """Returns the schema of a pipeline's params; None where there is no such pipeline."""
    return next((each["params"] for each in client.pipelines()["pipelines"] if each["id"] == name), None)


def read_params(
    values: list[str], paths: list[str], schema: Mapping[str, Any], what: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (params, files by param). Raises SettingsError."""
    params: dict[str, Any] = {}
    files: dict[str, Any] = {}
    for name, path in map(pair, paths):
        if is_list_of_artifacts(property_of(name, schema, what)):
            files.setdefault(name, []).append(path)
        elif name in files:
            raise usage(f"{name} is one file, and several were given")
        else:
            files[name] = path
    for name, text in map(pair, values):
        each = property_of(name, schema, what)
        if local_file(text, each) is not None:
            files[name] = text
        elif is_artifact(each) and "/" not in text:
            raise usage(f"{name}={text}: there is no such file; a stored one is named BUCKET/KEY")
        else:
            params[name] = value_of(name, text, each)
    return params, files


def swept(texts: list[str], schema: Mapping[str, Any], what: str) -> dict[str, list[Any]]:
    """Returns the values of the params that a sweep varies: `rank=4,8,16`, or a JSON list. Raises SettingsError."""
    found: dict[str, list[Any]] = {}
    for name, text in map(pair, texts):
        each = property_of(name, schema, what)
        try:
            values = (
                json.loads(text) if text.startswith("[") else [value_of(name, one, each) for one in text.split(",")]
            )
        except ValueError as error:
            raise usage(f"--sweep {name}: is not a JSON list: {error}") from error
        found[name] = values
    return found


def begin(
    client: Any, submission: dict[str, Any], sweep: dict[str, list[Any]], options: argparse.Namespace, *, watches: bool
) -> int:
    """Submits one job, or one for each combination of a sweep, and does what the options ask for. Returns the exit code."""
    if not sweep:
        return after_submission(client, client.submit(**submission), options, watches=watches)
    from dihedral.tables import cell, table

    found = client.sweep(sweep, **submission)
    ids = [job["jobId"] for job in found["jobs"] if "jobId" in job]
    if options.quiet:
        print("\n".join(ids), flush=True)
    elif not options.json:
        rows = [
            [
                job.get("jobId") or "refused",
                *(f"{name}={cell(value)}" for name, value in values.items()),
                job.get("detail", ""),
            ]
            for job, values in zip(found["jobs"], found["combinations"], strict=True)
        ]
        print(plain_text("\n".join([*table(rows), f"dihedral jobs --tag {found['tag']}"])), flush=True)
    codes = [OK if len(ids) == len(found["jobs"]) else REFUSED]
    for job_id in ids if watches or options.output or options.notify else []:
        codes.append(wait_for(client, job_id))
        if codes[-1] == DETACHED:
            break
        if not (options.quiet or options.json):
            print(f"{job_id}  {client.job(job_id)['status']}", flush=True)
        if options.output is not None:
            client.download_all(job_id, options.output / job_id)
    if options.json:
        print(json.dumps(found, indent=2))
    if options.notify:
        notify(f"{len(ids)} jobs have ended", found["tag"])
    return next((code for code in reversed(codes) if code != OK), OK)


def identity(options: argparse.Namespace) -> dict[str, Any]:
    named = {"name": options.name, "tags": options.tag, "priority": options.priority}
    return {name: value for name, value in named.items() if value is not None}


def after_submission(client: Any, job: dict[str, Any], options: argparse.Namespace, *, watches: bool) -> int:
    """Prints the id, watches the job where that is asked for, downloads what it stored, and notifies. Returns the exit code."""
    job_id = job["jobId"]
    if options.quiet:
        print(job_id, flush=True)
    if not (watches or options.output or options.notify):
        if not options.quiet:
            answer(options, job, f"{job_id}  {job['status']}   (dihedral watch {job_id})")
        return OK
    if options.quiet:
        code = wait_for(client, job_id)
    else:
        if not options.json and not sys.stdout.isatty():
            print(job_id, flush=True)  # the reader of the pipe has the id, however the watch ends
        code = follow(client, job_id, options)
    if options.output is not None and code != DETACHED:
        for path in client.download_all(job_id, options.output):
            if not (options.quiet or options.json):
                print(plain_text(str(path)))
    return code


def wait_for(client: Any, job_id: str) -> int:
    try:
        job = client.wait(job_id)
    except KeyboardInterrupt:
        return DETACHED
    return {"completed": OK, "cancelled": CANCELLED}.get(job["status"], FAILED)


# One job --------------------------------------------------------------------------------------------------------------


def download(options: argparse.Namespace) -> int:
    with client_for(options) as client:
        paths = client.download_all(options.job, options.output)
    answer(options, {"paths": [str(path) for path in paths]}, "\n".join(map(str, paths)) or "it stored nothing")
    return OK


def open_job(options: argparse.Namespace) -> int:
    import webbrowser

    with client_for(options) as client:
        job = client.job(options.job)
    address = f"{url_for(options).rstrip('/')}/console/jobs/{job['jobId']}"
    answer(options, {"url": address}, address)
    webbrowser.open(address)
    return OK


def delete(options: argparse.Namespace) -> int:
    gone = []
    with client_for(options) as client:
        for job in options.jobs:
            job_id = whole_id(client, job)
            client.delete(job_id, artifacts=options.artifacts)
            gone.append(job_id)
            if not options.json:
                print(f"deleted {job_id}", flush=True)
    if options.json:
        print(json.dumps({"deleted": gone}))
    return OK


def events(options: argparse.Namespace) -> int:
    from dihedral.bridge.plain import plain_line
    from dihedral.render import describe

    def tell(event: Mapping[str, Any]) -> None:
        if event["type"] == "progress" or (options.logs and event["type"] != "log"):
            return
        if options.json:
            print(json.dumps(event), flush=True)
            return
        if event["type"] == "data":
            text: str | None = f"  {event['nodeId']} | {event['name']} {json.dumps(event['data'], ensure_ascii=False)}"
        else:
            text = describe(event)
        if text:
            print(f"{event['created'][11:23]} {plain_line(text)}", flush=True)

    with client_for(options) as client:
        job_id = client.job(options.job)["jobId"]
        if not options.follow:
            for event in client.events(job_id, options.after)["events"]:
                tell(event)
            return OK
        try:
            for event in client.watch(job_id, options.after):
                tell(event)
        except KeyboardInterrupt:
            return DETACHED
    return OK


def completion(options: argparse.Namespace) -> int:
    from dihedral.completion import SCRIPTS

    print(SCRIPTS[options.shell], end="")
    return OK


def upload(options: argparse.Namespace) -> int:
    stored = []
    with client_for(options) as client:
        for path in options.paths:
            meta = client.upload(path, options.bucket)
            stored.append(meta)
            if not options.json:
                print(plain_text(f"{meta['bucket']}/{meta['key']}"), flush=True)
    if options.json:
        print(json.dumps({"artifacts": stored}, indent=2))
    return OK
