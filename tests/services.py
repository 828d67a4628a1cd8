"""Servers that some tests need: where they are, and a database that is a test's own."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import NoReturn
from urllib.parse import urlsplit

import psycopg
import pytest

POSTGRES = os.environ.get("HOOKLAB_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")
AMQP = os.environ.get("HOOKLAB_AMQP", "amqp://guest:guest@127.0.0.1:5672/")
REQUIRED = "HOOKLAB_REQUIRE_SERVICES"


def lacking(what: str) -> NoReturn:
    """Skip a test whose server is not there, or fail where all servers must be."""
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{what} ({REQUIRED}=1 requires it)")
    pytest.skip(what)


@contextlib.contextmanager
def postgres_database() -> Iterator[str]:
    """The address of a database of one's own, dropped at the end."""
    name = f"hooklab_test_{secrets.token_hex(6)}"
    try:
        administer(f"create database {name} template template0 encoding 'UTF8'")
    except psycopg.OperationalError as error:
        lacking(
            f"no PostgreSQL at {POSTGRES}: start one (docker run -p 5432:5432 -e POSTGRES_HOST_AUTH_METHOD=trust "
            f"postgres), or set HOOKLAB_POSTGRES: {error}"
        )
    try:
        yield urlsplit(POSTGRES)._replace(path=f"/{name}").geturl()
    finally:
        administer(f"drop database {name} with (force)")


def administer(command: str) -> None:
    """Run one command on a connection of its own: many tests would hold too many open."""
    with contextlib.closing(psycopg.connect(POSTGRES, autocommit=True, connect_timeout=3)) as connection:
        connection.execute(command)  # type: ignore[call-overload]
