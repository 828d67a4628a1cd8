"""The OpenAPI 3.1 document, made from the table of operations and its models."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import orjson
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from loadtest.dispatcher import api_models
from loadtest.dispatcher.answers import JSON
from loadtest.dispatcher.api_models import Problems
from loadtest.dispatcher.api_routes import ANY_JSON, OPEN_PATHS, Operation

TEMPLATE = "#/components/schemas/{model}"
ALWAYS = (400, 422)
BEHIND_THE_DOOR = (401, 403, 421)
MEANINGS = {
    400: "The request cannot be read.",
    401: "The bearer token is missing or wrong.",
    403: "The request comes from a page of another site.",
    404: "There is no such thing.",
    409: "It contradicts what is there.",
    413: "The body is too large.",
    415: "The body is not declared to be JSON.",
    421: "The dispatcher is not called by this name.",
    422: "A value breaks a rule.",
    429: "Too many deliveries wait; Retry-After says when to try again.",
    503: "The store does not answer now.",
}


def document(operations: Iterable[Operation]) -> bytes:
    """The document as JSON."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "hooklab dispatcher",
                "version": version("hooklab"),
                "description": "Takes events in, and brings them to endpoints by their policies.",
            },
            "paths": paths,
            "components": {
                "schemas": _schemas(),
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
            "security": [{"token": []}],
        }
    )


def _operation(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [*_path_parameters(operation.path), *_query_parameters(operation)],
        "responses": _responses(operation),
    }
    if operation.body is not None:
        optional = (
            isinstance(operation.body, type)
            and issubclass(operation.body, BaseModel)
            and not any(field.is_required() for field in operation.body.model_fields.values())
        )
        found["requestBody"] = {
            "required": not optional,
            "content": {JSON: {"schema": _schema(operation.body)}},
        }
    if operation.path in OPEN_PATHS:
        found["security"] = []
    return found


def _responses(operation: Operation) -> dict[str, Any]:
    done: dict[str, Any] = {"description": "Done."}
    if operation.answer is not None:
        done["content"] = {operation.media: {"schema": _schema(operation.answer, "serialization")}}
    statuses = {503, *operation.refusals, *ALWAYS}
    if operation.path not in OPEN_PATHS:
        statuses.update(BEHIND_THE_DOOR)
    if operation.method != "GET":
        statuses.add(415)
    problem = {JSON: {"schema": _schema(Problems, "serialization")}}
    refused = {
        str(status): {"description": MEANINGS[status], "content": problem} for status in sorted(statuses)
    }
    return {str(operation.status): done, **refused}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _query_parameters(operation: Operation) -> list[dict[str, Any]]:
    if operation.query is None:
        return []
    schema = operation.query.model_json_schema(ref_template=TEMPLATE)
    required = schema.get("required", [])
    found = []
    for name, own in schema["properties"].items():
        told = {key: value for key, value in own.items() if key not in ("title", "description")}
        parameter = {"name": name, "in": "query", "required": name in required, "schema": told}
        if "description" in own:
            parameter["description"] = own["description"]
        found.append(parameter)
    return found


def _schema(of: Any, mode: JsonSchemaMode = "validation") -> dict[str, Any]:
    """The schema of a type; models in it are referred to."""
    if of is ANY_JSON:
        return {}
    schema = TypeAdapter(of).json_schema(mode=mode, ref_template=TEMPLATE)
    name = schema.get("title") if schema.get("type") == "object" else None
    schema.pop("$defs", None)
    return {"$ref": TEMPLATE.format(model=name)} if name else schema


def _schemas() -> dict[str, Any]:
    """All models, the requests' as they are read and the answers' as they are written."""
    models = [
        each
        for each in vars(api_models).values()
        if isinstance(each, type)
        and issubclass(each, BaseModel)
        and each.__module__ == api_models.__name__
        and not each.__name__.startswith("_")
    ]
    pairs: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (each, "serialization" if each.__name__.endswith(("Answer", "Problems")) else "validation")
        for each in models
    ]
    _, schema = models_json_schema(pairs, ref_template=TEMPLATE)
    definitions: dict[str, Any] = schema["$defs"]
    return definitions
