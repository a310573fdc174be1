"""`dihedral mcp`: the Model Context Protocol on standard input and output, for agents that start their tools as processes.

Each line is a message; it is handed to `/mcp` of a control plane and the answer is a line again. Several may be under way at once, since one that
waits for a job must not keep back the next.
"""

import asyncio
import json
import sys
from typing import Any

from dihedral.client import AsyncClient, ClientError

REFUSED, PARSE = -32000, -32700  # codes of JSON-RPC: for a server's errors, and for what is no JSON


async def serve(url: str, api_key: str | None, ca: str | None = None) -> None:
    """Serves until standard input ends; what is under way then is still answered."""
    headers: dict[str, str] = {}
    async with AsyncClient(url, api_key=api_key, ca=ca) as client, asyncio.TaskGroup() as group:
        while line := await asyncio.to_thread(sys.stdin.buffer.readline):
            if line.strip():
                group.create_task(_answer(line, client, headers))


async def _answer(line: bytes, client: AsyncClient, headers: dict[str, str]) -> None:
    """`headers`: those of later messages; the protocol is known with the answer to the first."""
    try:
        message = json.loads(line)
    except ValueError as error:
        _write({"jsonrpc": "2.0", "id": None, "error": {"code": PARSE, "message": f"this is not JSON: {error}"}})
        return
    try:
        answer = await client.mcp(message, _write, headers)
        if message.get("method") == "initialize" and "result" in answer:
            headers["MCP-Protocol-Version"] = answer["result"]["protocolVersion"]
    except ClientError as error:
        about = message.get("id") if isinstance(message, dict) else None
        answer = {"jsonrpc": "2.0", "id": about, "error": {"code": REFUSED, "message": str(error)}}
        if about is None:
            return  # a notification has no answer, not even this one
    if answer:
        _write(answer)


def _write(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
