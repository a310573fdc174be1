"""What the commands of the command line share: the client, answers as text or JSON, following a job to its end, and the exit codes.

Everything that takes time to import is imported when it is needed.
"""

import argparse
import json
import re
import subprocess
import sys
from typing import Any

OK, FAILED, USAGE, REFUSED, UNREACHABLE, CANCELLED, DETACHED = 0, 1, 2, 3, 4, 5, 130
MOST_OUTPUTS = 5
"""Outputs that are printed when a job has ended: those of its last nodes."""
NOTIFY_SECONDS = 5

ID = re.compile("[0-9a-f]{32}")
"""An id that the server has made; the beginning of one names the job."""


def client_for(options: argparse.Namespace) -> Any:
    from dihedral.bridge.settings import client_ca, client_key
    from dihedral.client import Client

    return Client(url_for(options), api_key=options.api_key or client_key(), ca=options.ca or client_ca())


def whole_id(client: Any, job: str) -> str:
    """Returns the id of a job that may be named by a shortened one: what changes a job needs it whole. A key that may not read has to give it so."""
    from dihedral.client import Refused

    try:
        return str(client.job(job)["jobId"])
    except Refused as refused:
        if refused.status != 403:
            raise
        return job


def url_for(options: argparse.Namespace) -> str:
    from dihedral.bridge.settings import server_url

    return options.url or server_url()


def url_hint(options: argparse.Namespace) -> str:
    return f" --url {options.url}" if options.url else ""


def answer(options: argparse.Namespace, document: Any, text: str) -> None:
    print(json.dumps(document, indent=2) if options.json else plain_text(text))


def say(line: str) -> None:
    print(plain_text(line), file=sys.stderr, flush=True)


def plain_text(text: str) -> str:
    """Keeps control sequences in the texts of users away from the terminal."""
    from dihedral.bridge.plain import plain

    return plain(text)


def local(stamp: str) -> str:
    """Returns an RFC 3339 time as one reads it here: of today the time alone."""
    from datetime import datetime

    then = datetime.fromisoformat(stamp).astimezone()
    is_today = then.date() == datetime.now().astimezone().date()
    return f"{then:%H:%M:%S}" if is_today else f"{then:%Y-%m-%d}"


def usage(text: str) -> Exception:
    from dihedral.bridge.errors import SettingsError

    return SettingsError(text)


def follow(client: Any, job_id: str, options: argparse.Namespace) -> int:
    from dihedral.render import show

    job_id = client.job(job_id)["jobId"]  # or a refusal, before anything is drawn
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
        say(f"\ndetached; the job goes on. Come back with: dihedral watch {job_id}{url_hint(options)}")
        return DETACHED
    finally:
        if shown is not None:
            shown.close()
    job = client.job(job_id)
    print_end(client, options, job)
    if getattr(options, "notify", False):
        notify(f"{job['name'] or job_id}: {job['status']}", (job["error"] or {}).get("message", "") or "Dihedral")
    return {"completed": OK, "cancelled": CANCELLED}.get(job["status"], FAILED)


def print_end(client: Any, options: argparse.Namespace, job: dict[str, Any]) -> None:
    """Prints the results of a job: what its last nodes return, its artifacts, its error; with --json the job document is the last line."""
    if options.json:
        print(json.dumps(job))
        return
    graph = client.graph(job["jobId"])
    inner = {edge["from"] for edge in graph["edges"]}
    last = [node for node in graph["nodes"] if node["id"] not in inner and node.get("output") is not None]
    for node in last[:MOST_OUTPUTS]:
        print(plain_text("\n".join([f"{node['id']} returned", *output_of(node, "  ")])))
    for meta in job["artifacts"]:
        print(plain_text(f"artifact {meta['bucket']}/{meta['key']}  {meta['size_bytes']} bytes"))
    if job["error"]:
        where = f"{job['error']['nodeId']}: " if job["error"]["nodeId"] else ""
        say(f"dihedral: {where}{job['error']['message']} ({job['error']['code']})")
        for line in cure(job, url_hint(options)):
            say(line)


def cure(job: dict[str, Any], url: str = "") -> list[str]:
    """Returns what can be done about a job's error, as a sentence and a command; nothing where the server does not say it."""
    remedy = job["error"].get("remedy")
    if remedy is None:
        return []
    named = job["jobId"][:8] if ID.fullmatch(job["jobId"]) else job["jobId"]
    if remedy["class"] != "change_inputs":
        return [remedy["advice"], f"then: dihedral retry {named}{url}"]
    if not (job["pipeline"] or job["task"]):
        return [remedy["advice"]]
    param = remedy.get("param")
    return [
        remedy["advice"],
        f"change {f'`{param}`' if param else 'a param'}: dihedral again {named} {param or 'KEY'}=…{url}",
    ]


def output_of(node: dict[str, Any], indent: str) -> list[str]:
    from dihedral.tables import output_lines

    return [indent + line for line in output_lines(node["output"])]


def notify(title: str, text: str) -> None:
    """Rings the terminal's bell and notifies the desktop where it can; what fails is ignored."""
    if sys.stderr.isatty():
        sys.stderr.write("\a")
        sys.stderr.flush()
    script = f"display notification {json.dumps(text)} with title {json.dumps(title)}"
    for command in (["notify-send", "--", title, text], ["osascript", "-e", script]):
        try:
            done = subprocess.run(command, capture_output=True, timeout=NOTIFY_SECONDS, check=False)
        except (OSError, subprocess.SubprocessError):
            continue
        if done.returncode == 0:
            return
