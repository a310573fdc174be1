"""What OpenAPI cannot see where a handler reads its raw body: the shape of the body, and of the problems."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIType

from dihedral.schemas.structs.problem import Problem

ANYWHERE = (400, 422, 503)
"""A body that breaks off, a parameter that cannot be obeyed, a job store that is away."""


def body(stem: str, name: str, description: str) -> type[Operation]:
    """An operation whose JSON body is `name` of the source schema `stem`, published at /schemas/{stem}.json."""

    @dataclass  # else the inherited __init__ knows of no __post_init__
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
    """Problem responses for `statuses` and for what any request may meet, and documents for `_201=Job` and the like."""
    found = {
        status: ResponseSpec(
            data_container=Problem, media_type="application/problem+json", description="Problem details"
        )
        for status in {*ANYWHERE, *statuses}
    }
    for name, struct in documents.items():
        found[int(name[1:])] = ResponseSpec(data_container=struct, description=struct.__name__, generate_examples=False)
    return found
