"""`dihedral demo`: a whole system for a minute.

A tiny language model learns to speak like a sailor; then a prompt becomes a film in which a storyteller speaks. Both jobs are in the console
of the next `dihedral up`, which has the same data directory.
"""

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dihedral import examples
from dihedral.client import AsyncClient
from dihedral.render import show
from dihedral.up import Options, stack

LORA = {"steps": 60, "sequenceLength": 96, "learningRate": 0.01, "checkpointEvery": 20}
NEXT = """
The film with the storyteller: {film}
Nothing was played: open it in a player or a browser.

What to do next:
  dihedral up{where}      the console, with these two jobs and a form for the next ones: http://127.0.0.1:8000/
  dihedral submit --pipeline talking_picture --param prompt="Your story" --watch      (while `up` runs)"""
PROMPT = "An evening by the sea, told by someone who has all the time in the world"


def run(data_dir: Path, port: int, *, as_json: bool) -> int:
    """Returns 0, or 1 when the job failed. Leaves no process behind; the data stays in `data_dir`."""

    def said(line: str) -> None:
        print(line, file=sys.stderr if as_json else sys.stdout, flush=True)

    async def go() -> int:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        said(f"starting server, control plane and worker in {data_dir} …")
        async with (
            stack(Options(data_dir=data_dir, port=port), say=said, stop=stop) as up,
            AsyncClient(up.url) as client,
        ):
            job = asyncio.ensure_future(_through(client, data_dir, said, as_json=as_json))
            stopped = asyncio.ensure_future(stop.wait())
            await asyncio.wait({job, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not job.done():
                job.cancel()
                return 130
            return job.result()

    return asyncio.run(go())


async def _through(client: AsyncClient, data_dir: Path, said: Callable[[str], None], *, as_json: bool) -> int:
    base = examples.base()
    wishes: list[tuple[str, str, dict[str, Any], dict[str, Path]]] = [
        ("train_lora", f"a model of {base['weights'].stat().st_size / 1e6:.1f} MB, {base['dataset'].name}", LORA, base),
        ("talking_picture", f"“{PROMPT}”", {"prompt": PROMPT}, {}),
    ]  # fmt: skip
    jobs = []
    for pipeline, what, params, files in wishes:
        said(f"submitting {pipeline}: {what}")
        job = await client.submit(pipeline=pipeline, params=params, files=files)
        shown = None if as_json else show(await client.graph(job["jobId"]))
        try:
            async for event in client.watch(job["jobId"]):
                if shown is not None:
                    shown.event(event)
        finally:
            if shown is not None:
                shown.close()
        job = await client.job(job["jobId"])
        if job["status"] != "completed":
            said(f"the job {job['status']}: {job['error']['message'] if job['error'] else ''}")
            return 1
        jobs.append(job)
    output = data_dir / "output"
    output.mkdir(exist_ok=True)
    paths = [(await client.download(meta, output)).resolve() for job in jobs for meta in job["artifacts"]]
    if as_json:
        print(json.dumps({"jobs": jobs, "paths": [str(path) for path in paths]}))
    else:
        for path in paths:
            print(f"  {path}  {path.stat().st_size} bytes")
        film = next(path for path in reversed(paths) if path.name.startswith("video"))
        print(NEXT.format(film=film, where="" if data_dir == Path("dihedral-data") else f" --data-dir {data_dir}"))
    return 0
