"""How the HTTP API answers, refuses, and reads what it is sent."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response

from sim.errors import Problem, ScenarioError, nearest, path_of, problem, shown, told

JSON = "application/json"
MOST_PROBLEMS = 20
"""Problems of one request that are told."""

Model = TypeVar("Model", bound=BaseModel)


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(
        self,
        status: int,
        error: str,
        problems: Iterable[Problem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.problems = tuple(problems)
        self.headers = headers

    def response(self) -> Response:
        """The answer that tells of it."""
        body: dict[str, Any] = {"error": self.error}
        if self.problems:
            body["problems"] = [_told(each) for each in self.problems[:MOST_PROBLEMS]]
            body["problem_count"] = len(self.problems)
        return answer(body, self.status, self.headers)


def _told(found: Problem) -> dict[str, Any]:
    value = None if found.value is None else shown(found.value)
    return {"field": found.path, "value": value, "rule": found.rule}


def answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value as JSON."""
    return Response(orjson.dumps(value), status, headers, JSON)


def nothing() -> Response:
    """Done, and nothing to tell."""
    return Response(status_code=204)


def missing(what: str, name: str) -> RefusedError:
    """What was asked for is not there."""
    return RefusedError(404, f"there is no {what} {shown(name)}")


def unusable(problems: Iterable[Problem]) -> RefusedError:
    """Values that break a rule."""
    problems = tuple(problems)
    return RefusedError(422, "; ".join(str(each) for each in problems[:3]), problems)


def refusal_of(error: ScenarioError) -> RefusedError:
    """A mistake that the scenario's own code found."""
    return unusable(error.problems)


def invalid(error: ValidationError, known: Iterable[str] = ()) -> RefusedError:
    """What a model found wrong, in the words of ``sim.errors``."""
    return unusable(_problem(each, known) for each in told(error.errors(include_url=False)))


def _problem(error: Any, known: Iterable[str]) -> Problem:
    if error["type"] == "extra_forbidden":
        field = str(error["loc"][-1])
        names = list(known)
        rule = f"is not a field here{nearest(field, names)}" + (
            f" (known: {', '.join(names)})" if names else ""
        )
        return Problem(path_of(str(part) for part in error["loc"]), error["input"], rule)
    return problem(error)


# --------------------------------------------------------------------------- bodies


THROWN_AWAY = 16
"""How many times its limit a declared body is still read: who writes on finds no answer on a closed connection."""


async def read_body(request: Request, most: int) -> bytes:
    """The body of a request, never more of it in memory than is allowed."""
    declared = request.headers.get("content-length", "0")
    too_large = RefusedError(413, f"the body is larger than {most:,} bytes; send less at once")
    if not declared.isdecimal() or int(declared) > most:
        if declared.isdecimal() and int(declared) <= THROWN_AWAY * most:
            async for _ in request.stream():
                pass
        raise too_large
    parts = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def parse(body: bytes) -> Any:
    """JSON as Python values, whole numbers of any size."""
    if not body:
        raise RefusedError(400, "the body is empty; it must be JSON")
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RefusedError(400, f"the body is no JSON: {error}") from None


def compact(value: Any, canonical: bool = False) -> bytes:
    """A value as JSON without spaces; ``canonical``: with sorted keys.

    Raises:
        RefusedError: it is nested too deeply.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if canonical else None)
    except TypeError:  # a whole number beyond 64 bits, or too deep
        pass
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=canonical)
    except (ValueError, RecursionError):
        raise RefusedError(422, "a value is nested too deeply, or a number has too many digits") from None
    return text.encode()


async def read_model(request: Request, model: type[Model], most: int) -> Model:
    """The body of a request as a model; an empty one as an empty mapping."""
    body = await read_body(request, most)
    return validated(parse(body) if body else {}, model)


def validated(value: object, model: type[Model]) -> Model:
    """A value as a model."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid(error, model.model_fields) from None


def read_query(request: Request, model: type[Model]) -> Model:
    """The query of a request as a model; a parameter may stand there once."""
    pairs = request.query_params.multi_items()
    names = [name for name, _ in pairs]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise unusable([Problem(name, None, "stands twice; give it once") for name in twice])
    return validated(dict(pairs), model)
