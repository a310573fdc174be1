"""The least that a submission over HTTP can be: `python -m tests.benchmarks.bare URL PORT`. Decodes, XADDs the bytes, answers."""

import gc
import sys
import uuid
from typing import Any

import msgspec
import uvicorn
from litestar import Litestar, Request, Response, post
from litestar.datastructures import State

from dihedral.bridge.fabric.connection import connect
from dihedral.schemas.structs.request import JobRequest

decode = msgspec.json.Decoder(JobRequest).decode


@post("/api/jobs")
async def submit(request: Request[Any, Any, State]) -> Response[bytes]:
    body = await request.body()
    decode(body)
    job_id = uuid.uuid4().hex
    await request.app.state.redis.xadd("jobs", {"job": job_id, "body": body})
    return Response(b'{"jobId":"' + job_id.encode() + b'"}', media_type="application/json", status_code=201)


def main(url: str, port: str) -> None:
    app = Litestar([submit], openapi_config=None, logging_config=None, state=State({"redis": connect(url)}))
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # as the control plane does
    uvicorn.run(app, port=int(port), log_config=None, access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
