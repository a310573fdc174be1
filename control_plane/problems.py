"""Errors as clients see them: RFC 9457 problem details, every problem of a request at once.

Codes are stable words for programs; `detail` is a sentence for people. No internals of the server are revealed.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, InternalServerException
from redis.exceptions import OutOfMemoryError

from dihedral.bridge.artifacts.store import ArtifactNotFound, ArtifactStoreUnavailable, BadKey, StoreFull, TooLarge
from dihedral.bridge.fabric.scripts import is_transient
from dihedral.control_plane.planning.plan import Problem as PlanProblem
from dihedral.control_plane.root import address
from dihedral.schemas.structs.problem import Problem, ProblemDetail

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 100
BUSY_SECONDS = "2"


class ApiProblem(Exception):
    """The refusal of a request."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Sequence[ProblemDetail] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = list(errors)[:MAX_ERRORS]
        self.headers = dict(headers or {})

    def add(self, errors: Sequence[ProblemDetail]) -> None:
        """Adds further problems of the same request."""
        self.errors = [*self.errors, *(each for each in errors if each not in self.errors)][:MAX_ERRORS]

    def document(self, instance: str) -> Problem:
        return Problem(
            type=f"urn:dihedral:problem:{self.code}",
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            instance=instance,
            code=self.code,
            errors=self.errors,
        )


def refused(detail: str, problems: Sequence[PlanProblem], prefix: str = "") -> ApiProblem:
    """Returns 422 with the problems of a plan; `prefix` is put before each pointer."""
    return ApiProblem(422, "invalid_request", detail, details(problems, prefix))


def details(problems: Sequence[PlanProblem], prefix: str = "") -> list[ProblemDetail]:
    return [ProblemDetail(pointer=prefix + p.pointer, code=p.code, detail=p.detail) for p in problems]


def unknown_job(job_id: str, *, changes: bool = False) -> ApiProblem:
    """Returns 404. `changes`: the request would change the job, and so needs its whole id."""
    hint = "; what changes a job needs its whole id" if changes else ""
    return ApiProblem(404, "unknown_job", f"there is no job {job_id[:200]!r}{hint}")


def out_of_memory() -> ApiProblem:
    return ApiProblem(503, "out_of_memory", "the job store is at its memory limit", headers=_later())


def answer(request: Request[Any, Any, Any], problem: ApiProblem) -> Response[bytes]:
    # Not request.url: that is made of Host too, which may be nonsense.
    return Response(
        msgspec.json.encode(problem.document(address(request.scope, request.scope["path"]))),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=problem.headers,
    )


async def refuse(
    scope: Any, problem: ApiProblem, send: Callable[[Any], Awaitable[None]], kind: str = "http.response"
) -> None:
    """Sends a problem where no handler can; `kind`: the beginning of the messages' types."""
    body = msgspec.json.encode(problem.document(address(scope, scope["path"])))
    named = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), **problem.headers}
    headers = [(name.lower().encode(), value.encode()) for name, value in named.items()]
    await send({"type": f"{kind}.start", "status": problem.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body, "more_body": False})


def as_problem(error: Exception) -> ApiProblem:
    """Returns the problem that a client receives for an exception."""
    match error:
        case ApiProblem():
            return error
        case ArtifactNotFound():
            return ApiProblem(404, "unknown_artifact", str(error))
        case BadKey():
            return ApiProblem(422, "bad_artifact_key", str(error))
        case TooLarge():
            return ApiProblem(413, "too_large", str(error))
        case StoreFull():
            return ApiProblem(507, "store_full", "the artifact store has no room for it")
        case ArtifactStoreUnavailable():
            return ApiProblem(503, "store_unavailable", "the artifact store cannot be used now", headers=_later())
        case OutOfMemoryError():
            return out_of_memory()
        case InternalServerException() if "disconnected" in error.detail:
            return ApiProblem(400, "incomplete_body", "the connection ended before the body did")
        case HTTPException():
            return _of_http(error)
    if is_transient(error):
        return ApiProblem(503, "redis_unavailable", "the job store cannot be reached now", headers=_later())
    log.error("a request failed", exc_info=error)
    return ApiProblem(500, "internal_error", "something went wrong here; the log says what")


def handle(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    return answer(request, as_problem(error))


def _later() -> dict[str, str]:
    return {"Retry-After": BUSY_SECONDS}


STOPPING = ApiProblem(503, "stopping", "this control plane is stopping; ask again", headers=_later())


def _of_http(error: HTTPException) -> ApiProblem:
    phrase = HTTPStatus(error.status_code).phrase
    code = phrase.lower().replace(" ", "_").replace("-", "_")
    extra = error.extra if isinstance(error.extra, list) else []
    errors = [
        ProblemDetail(pointer=f"/{item.get('key', '')}", code="invalid_parameter", detail=str(item.get("message", "")))
        for item in extra
        if isinstance(item, dict)
    ]
    headers = {name: value for name, value in (error.headers or {}).items() if name.lower() in ("allow", "retry-after")}
    status = 422 if error.status_code == 400 and errors else error.status_code
    detail = str(error.detail) if status < 500 else phrase
    return ApiProblem(status, "invalid_parameter" if errors else code, detail, errors, headers)
