"""Whatever fits the OpenAPI document, or just does not, is answered as the document says, and never with a 500."""

import tempfile
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import given
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from dihedral.schemas import documents
from tests.fuzzing.conftest import examples
from tests.support.stack import Stack, simulate

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance, response_headers_conformance,
    negative_data_rejection, unsupported_method,
]  # fmt: skip
BODIES = {
    ("/api/jobs", "post"): "request.JobRequest",
    ("/api/plans", "post"): "request.JobRequest",
    ("/api/jobs/{job_id}/retry", "post"): "request.RetryRequest",
    ("/api/train", "post"): "request.TrainRequest",
}


@pytest.fixture(scope="module")
def house() -> Iterator[Any]:
    with tempfile.TemporaryDirectory(prefix="dih-") as folder:
        made = Stack(Path(folder))
        made.worker("--slots", "1")
        yield made
        made.close()


def referring(value: Any, stem: str) -> Any:
    """A source schema whose references lead into the components of an OpenAPI document."""
    if isinstance(value, list):
        return [referring(each, stem) for each in value]
    if not isinstance(value, dict):
        return value
    made = {name: referring(each, stem) for name, each in value.items()}
    if isinstance(reference := value.get("$ref"), str):
        file, _, name = reference.partition("#/$defs/")
        other = file.rpartition("/")[2].removesuffix(".schema.json") or stem
        made["$ref"] = f"#/components/schemas/{other}.{name}"
    return made


def whole(document: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document with the bodies' schemas in it, which it only names."""
    for stem, source in documents.sources().items():
        for name, definition in source["$defs"].items():
            document["components"]["schemas"][f"{stem}.{name}"] = referring(definition, stem)
    for (path, method), name in BODIES.items():
        content = document["paths"][path][method]["requestBody"]["content"]["application/json"]
        content["schema"] = {"$ref": f"#/components/schemas/{name}"}
    return document


def known(house: Stack) -> dict[str, Any]:
    """Ids of things that there are, for half of the paths."""
    good = house.post("/api/jobs", simulate({"id": "a", "steps": 1}))["jobId"]
    bad = house.post("/api/jobs", simulate({"id": "a", "failAt": 0}))["jobId"]
    long = house.post("/api/jobs", simulate({"id": "a", "steps": 100_000, "stepSeconds": 0.01}))["jobId"]
    house.ended(good)
    house.ended(bad)
    meta = house.http.post("/api/artifacts", files={"file": ("a.txt", b"text")}).json()
    return {"job_id": cycle([good, None, bad, None, long, None]), "key": cycle([meta["key"], None]),
            "bucket": cycle([meta["bucket"], None]), "name": cycle(["graph.json", None])}  # fmt: skip


def test_every_operation_answers_as_it_says(house: Any) -> None:
    document = whole(house.get("/schema"))
    found: Iterator[Any] = schemathesis.openapi.from_dict(document).get_all_operations()
    operations = [each.ok() for each in found]
    assert len(operations) >= 30
    for operation in operations:
        ids = known(house) if "{" in operation.path else {}
        ask(house, operation, GenerationMode.POSITIVE, ids)
        in_a_batch = operation.path == "/api/jobs/batch"  # which answers for each of its jobs, so 200
        any_bytes = "octet-stream" in str([each.media_type for each in operation.body])
        # else there is nothing that could not fit
        if (len(operation.query) or len(operation.body)) and not (in_a_batch or any_bytes):
            ask(house, operation, GenerationMode.NEGATIVE, ids)
    assert house.control.poll() is None
    assert [worker.poll() for worker in house.workers] == [None]
    job = house.post("/api/jobs", simulate({"id": "a"}))["jobId"]
    assert house.ended(job)["status"] == "completed"


def ask(house: Stack, operation: Any, mode: Any, ids: dict[str, Any]) -> None:
    @examples(4)
    @given(case=operation.as_strategy(generation_mode=mode))
    def asks(case: Any) -> None:
        for name in case.path_parameters.keys() & ids.keys():
            case.path_parameters[name] = next(ids[name]) or case.path_parameters[name]
        case.call_and_validate(base_url=house.url, timeout=120, checks=CHECKS)

    asks()
