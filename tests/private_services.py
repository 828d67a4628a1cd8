"""Servers that are a test's own: they may be stopped, killed and started again, and leave nothing behind.

Each has its folder below the system's temporary files and ports of its own, and ends by the ids of its processes.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aio_pika
import psycopg
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from tests.services import lacking

START_S = 60.0
"""A server is up, or down, within this."""


def free_port() -> int:
    """A port on the loopback that nobody listens on."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def newest(pattern: str) -> Path | None:
    """The last of the folders that match a pattern below the root; its version decides."""
    found = Path("/").glob(pattern)
    return max(found, key=lambda path: [int(word) for word in re.findall(r"\d+", str(path))], default=None)


class PrivateServer(abc.ABC):
    """One server process that is started, stopped and killed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix=f"hooklab-{name}-"))
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def spawn(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a process whose output goes into the server's log."""
        with (self.folder / "output").open("ab") as output:
            return subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options
            )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        end = time.monotonic() + START_S
        self.process = self.serve()
        while not self.answers():
            if self.process.poll() is not None:  # what its predecessor held may not be free yet
                self.process = self.serve()
            assert time.monotonic() < end, f"{self.name} does not start: {self.said()}"
            time.sleep(0.1)

    def said(self) -> str:
        """The end of its log."""
        return (self.folder / "output").read_text(errors="replace")[-2000:]

    @abc.abstractmethod
    def serve(self) -> subprocess.Popen[bytes]:
        """Start its process."""

    @abc.abstractmethod
    def answers(self) -> bool:
        """Whether it does its work."""

    def stop(self, number: int) -> None:
        """Ask it to end, and wait until it has; after ``START_S`` it is killed."""
        if self.process is None:
            return
        below = descendants(self.process.pid)
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(START_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None
        wait_until_gone(below)

    def kill(self) -> None:
        """Kill -9 it and all that it had started, as a machine that loses its power does."""
        assert self.process is not None
        below = descendants(self.process.pid)
        self.process.kill()
        self.process.wait(START_S)
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process = None
        wait_until_gone(below)


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and that these have."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [one for child in map(int, children) for one in (child, *descendants(child))]


def wait_until_gone(pids: Sequence[int]) -> None:
    """Wait until processes have ended; what their parent has not asked after (a zombie) has."""
    end = time.monotonic() + START_S
    while any(lives(pid) for pid in pids):
        assert time.monotonic() < end, f"of {pids} some do not end"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    """Whether a process runs."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


# --------------------------------------------------------------------------- PostgreSQL


class PrivatePostgres(PrivateServer):
    """A PostgreSQL cluster; it refuses to run as root, and then runs as the user that the package has made."""

    def __init__(self, programs: Path) -> None:
        super().__init__("postgres")
        self.programs = programs
        self.user: dict[str, Any] = {}
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            self.user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        self.data = self.folder / "data"
        self.address = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def prepare(self) -> None:
        """Make the cluster."""
        words = f"-D {self.data} -U postgres -A trust -E UTF8 --locale=C --no-sync"
        made = self.spawn([str(self.programs / "initdb"), *words.split()], **self.user)
        assert made.wait(START_S) == 0, self.said()

    def serve(self) -> subprocess.Popen[bytes]:
        """Start the postmaster, with flushes to disk as in earnest."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "shared_buffers": "16MB",
            "max_connections": 40,
            "fsync": "on",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return self.spawn([str(self.programs / "postgres"), "-D", str(self.data), *options], **self.user)

    def answers(self) -> bool:
        """Whether a query can be made."""
        try:
            self.run("select 1")
        except psycopg.OperationalError:
            return False
        return True

    def run(self, command: str) -> None:
        """Run one statement on a connection of its own."""
        with contextlib.closing(
            psycopg.connect(self.address, autocommit=True, connect_timeout=3, application_name="test")
        ) as connection:
            connection.execute(command)  # type: ignore[call-overload]

    def database(self, port: int | None = None) -> str:
        """The address of a new, empty database, by another port if one is given."""
        name = f"test_{secrets.token_hex(6)}"
        self.run(f"create database {name}")
        return f"postgresql://postgres@127.0.0.1:{port or self.port}/{name}"

    def restart(self) -> None:
        """Stop fast, which ends all connections, and start again."""
        self.stop(signal.SIGINT)
        self.start()

    def cut(self) -> None:
        """End all connections of the dispatcher."""
        self.run("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'hooklab'")

    def close(self) -> None:
        """End it and remove its files; one that was killed gets to clear up what it shares in memory."""
        if self.process is None and (self.data / "postmaster.pid").exists():
            self.start()
        self.stop(signal.SIGINT)
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def private_postgres() -> Iterator[PrivatePostgres]:
    """A running PostgreSQL of one's own."""
    programs = newest("usr/lib/postgresql/*/bin")
    if programs is None:
        lacking("no server programs in /usr/lib/postgresql/*/bin: apt install postgresql")
    made = PrivatePostgres(programs)
    try:
        made.prepare()
        made.start()
        yield made
    finally:
        made.close()


# --------------------------------------------------------------------------- RabbitMQ


class PrivateRabbit(PrivateServer):
    """A RabbitMQ node with a cookie, data and a port mapper (epmd) of its own."""

    def __init__(self, scripts: Path) -> None:
        super().__init__("rabbitmq")
        self.scripts = scripts
        self.mapper_port = free_port()
        self.address = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        home = self.folder / "home"
        home.mkdir()
        cookie = home / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        (self.folder / "plugins").write_text("[].")
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.local = 127.0.0.1:{self.port}\nlog.file.level = warning\n"
        )
        self.environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(home),
            "ERL_EPMD_PORT": str(self.mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"{self.folder.name}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "none.config"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}",
            "RUNNING_UNDER_SYSTEMD": "true",  # the script then becomes the server, instead of waiting for it
        }
        self.mapper: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Start its port mapper."""
        self.mapper = self.spawn(
            ["epmd", "-port", str(self.mapper_port), "-address", "127.0.0.1"], env=self.environment
        )

    def serve(self) -> subprocess.Popen[bytes]:
        """Start the node."""
        return self.spawn([str(self.scripts / "rabbitmq-server")], env=self.environment)

    def answers(self) -> bool:
        """Whether a client is let in."""

        async def connect() -> None:
            await (await aio_pika.connect(self.address, timeout=3)).close()

        try:
            asyncio.run(connect())
        except (*CONNECTION_EXCEPTIONS, TimeoutError):
            return False
        return True

    def restart(self) -> None:
        """Stop in good order, and start again."""
        self.stop(signal.SIGTERM)
        self.start()

    def close(self) -> None:
        """End it and its port mapper, and remove its files; nobody waits for it to put these in order."""
        if self.process is not None:
            self.kill()
        if self.mapper is not None:
            self.mapper.kill()
            self.mapper.wait(START_S)
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def private_rabbit() -> Iterator[PrivateRabbit]:
    """A running RabbitMQ of one's own."""
    scripts = newest("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin")
    if scripts is None or shutil.which("epmd") is None:
        lacking("no server programs in /usr/lib/rabbitmq/lib: apt install rabbitmq-server")
    made = PrivateRabbit(scripts)
    try:
        made.prepare()
        made.start()
        yield made
    finally:
        made.close()


# --------------------------------------------------------------------------- between a client and its server


class Proxy:
    """Passes connections on to a port of the loopback, until it is told to drop them."""

    def __init__(self, to: int, words: tuple[bytes, ...]) -> None:
        self.to = to
        self.words = words
        self.to_lose = 0
        self.writers: set[asyncio.StreamWriter] = set()
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(asyncio.start_server(self._pass_on, "127.0.0.1", 0))
        self.port: int = self.server.sockets[0].getsockname()[1]
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            self._drop(writer)
            return
        self.writers.add(far_writer)
        with contextlib.suppress(asyncio.CancelledError):  # at the end of the test
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer, answers=True))
        self._drop(writer)
        self._drop(far_writer)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool = False
    ) -> None:
        said = b""
        with contextlib.suppress(OSError):
            while some := await reader.read(65536):
                said += some
                if answers and self.words and self.words[-1] in said:
                    if self.to_lose and all(word in said for word in self.words):
                        self.to_lose -= 1
                        break
                    said = b""
                writer.write(some)
                await writer.drain()
        self._drop(writer)

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()
        self.writers.discard(writer)

    async def _drop_all(self) -> None:
        for writer in list(self.writers):
            self._drop(writer)

    def cut(self) -> None:
        """Break all connections at once; new ones are passed on again."""
        asyncio.run_coroutine_threadsafe(self._drop_all(), self.loop).result(START_S)

    def lose(self, count: int) -> None:
        """Lose the last of the words, and their connection, the next times that the server says them."""
        self.to_lose = count

    def wait_until_lost(self) -> None:
        """Wait until what was to be lost is."""
        end = time.monotonic() + START_S
        while self.to_lose:
            assert time.monotonic() < end, "the server has not said it"
            time.sleep(0.01)

    async def _end(self) -> None:
        self.server.close()
        await self._drop_all()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        """End it."""
        asyncio.run_coroutine_threadsafe(self._end(), self.loop).result(START_S)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@contextlib.contextmanager
def proxy(to: int, *words: bytes) -> Iterator[Proxy]:
    """A proxy for the time of a test; ``words`` are what the server says before something is to be lost."""
    made = Proxy(to, words)
    try:
        yield made
    finally:
        made.close()
