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


EMPTY = """
do $$ declare one name; begin
  for one in select nspname from pg_namespace where nspname !~ '^(pg_|information_schema$)' loop
    execute format('drop schema %I cascade', one);
  end loop;
  create schema public;
end $$
"""
_made_here: list[str] = []
_spare: list[str] = []
"""Names of databases that are empty again: to drop one, the server writes all to its disk, which is slow."""


@contextlib.contextmanager
def postgres_database() -> Iterator[str]:
    """The address of an empty database of one's own, which may be given to somebody else in the end."""
    name = _spare.pop() if _spare else _made()
    address = urlsplit(POSTGRES)._replace(path=f"/{name}").geturl()
    try:
        yield address
    finally:
        _empty(name, address)
        _spare.append(name)


def _made() -> str:
    """The name of a new database, which ``drop_databases`` drops."""
    name = f"hooklab_test_{secrets.token_hex(6)}"
    try:
        administer(f"create database {name} template template0 encoding 'UTF8'")
    except psycopg.OperationalError as error:
        lacking(
            f"no PostgreSQL at {POSTGRES}: start one (docker run -p 5432:5432 -e POSTGRES_HOST_AUTH_METHOD=trust "
            f"postgres), or set HOOKLAB_POSTGRES: {error}"
        )
    _made_here.append(name)
    return name


def drop_databases() -> None:
    """Drop all databases that this process has made."""
    while _made_here:
        administer(f"drop database if exists {_made_here.pop()} with (force)")
    _spare.clear()


def _empty(name: str, address: str) -> None:
    """End all connections to a database, and drop all that is in it."""
    administer(f"select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = '{name}'")
    administer(EMPTY, address)


def administer(command: str, address: str = POSTGRES) -> None:
    """Run commands on a connection of their own: many tests would hold too many open."""
    with contextlib.closing(psycopg.connect(address, autocommit=True, connect_timeout=3)) as connection:
        connection.execute(command)  # type: ignore[call-overload]
