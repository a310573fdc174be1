"""`dihedral demo`: a whole system for a minute.

A prompt, a picture and a recording become a picture LoRA, a voice and a video; a tiny language model learns to speak like a sailor.
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
PROMPT = "An evening by the sea, told by someone who has all the time in the world"


def run(data_dir: Path, port: int, *, as_json: bool) -> int:
    """0, or 1 when the job failed. Leaves no process behind; the data stays in `data_dir`."""

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
    made = await asyncio.to_thread(examples.make, data_dir / "inputs")
    base = examples.base()
    wishes: list[tuple[str, str, dict[str, Any], dict[str, Path]]] = [
        ("talking_picture", f"{made['picture'].name}, {made['recording'].name}, “{PROMPT}”", {"prompt": PROMPT},
         {"picture": made["picture"], "voice": made["recording"]}),
        ("train_lora", f"a model of {base['weights'].stat().st_size / 1e6:.1f} MB, {base['dataset'].name}", LORA, base),
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
    for path in [] if as_json else paths:
        print(f"  {path}  {path.stat().st_size} bytes")
    return 0
