"""A client that a public generator makes of the OpenAPI document, used once."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.front_door.running import up

pytest.importorskip("openapi_python_client")


def test_a_generated_client_submits_a_job_and_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with up(tmp_path, "--slots", "1") as house:
        (tmp_path / "openapi.json").write_bytes(httpx.get(f"{house.url}/schema/openapi.json", timeout=120).content)
        program = "from openapi_python_client.cli import app; app()"
        words = ["generate", "--path", "openapi.json", "--output-path", "generated", "--meta", "none"]
        tools = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        made = subprocess.run(
            [sys.executable, "-c", program, *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            env=tools,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        monkeypatch.syspath_prepend(tmp_path)
        client = importlib.import_module("generated").Client(base_url=house.url)
        request = importlib.import_module("generated.models").JobRequest.from_dict(
            {"pipeline": "simulate", "params": {"steps": 1}, "name": "By a generated client"}
        )
        submit = importlib.import_module("generated.api.jobs.submit_job")
        read = importlib.import_module("generated.api.jobs.get_job")
        with client:
            answer = submit.sync_detailed(client=client, body=request)
            job = json.loads(answer.content)
            assert answer.status_code == 201, job
            assert read.sync(job["jobId"], client=client).name == "By a generated client"
