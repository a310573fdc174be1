"""Documents for OpenAPI what it cannot see where a handler reads its raw body: the shape of the body, and of the problems."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIType

from dihedral.schemas.structs.problem import Problem

ANYWHERE = (400, 422, 503)
"""The statuses of any request: an incomplete body, a parameter that cannot be applied, a job store that is away."""


def body(stem: str, name: str, description: str) -> type[Operation]:
    """Describes an operation whose JSON body is `name` of the source schema `stem`, published at /schemas/{stem}.json."""

    @dataclass  # otherwise the inherited __init__ does not call __post_init__
    class WithBody(Operation):
        def __post_init__(self) -> None:
            schema = Schema(
                title=name,
                description=f"{description} Its schema: /schemas/{stem}.json#/$defs/{name}",
                type=OpenAPIType.OBJECT,
            )
            self.request_body = RequestBody(
                content={"application/json": OpenAPIMediaType(schema=schema)}, required=True
            )

    return WithBody


def answers(*statuses: int, **documents: Any) -> Mapping[int, ResponseSpec]:
    """Returns problem responses for `statuses` and for those of any request, and documents for arguments such as `_201=Job`."""
    found = {
        status: ResponseSpec(
            data_container=Problem, media_type="application/problem+json", description="Problem details"
        )
        for status in {*ANYWHERE, *statuses}
    }
    for name, struct in documents.items():
        found[int(name[1:])] = ResponseSpec(data_container=struct, description=struct.__name__, generate_examples=False)
    return found
