"""The load generator sends at its times, keeps the order of keys, and tells what it could not send."""

from __future__ import annotations

import socket
import struct

import gevent
import gevent.socket
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest import clock, posted
from loadtest.example_open_loop import USERS, Setting, measure
from loadtest.generator import NO_ANSWER, ClosedLoop, HttpClient, OpenLoop, Sent
from loadtest.offered import EVENTS_PATH, POST, Post
from sim.policy import SECOND

MS = SECOND // 1000


class Slow:
    """A client whose every request takes as long; it notes what is under way together."""

    def __init__(self, takes_s: float) -> None:
        self.takes_s = takes_s
        self.order: list[Post] = []
        self.keys: set[str] = set()
        self.most = 0

    def send(self, post: Post) -> tuple[int, str]:
        """Take as long; 202."""
        assert post.key not in self.keys, "two requests of a key are under way together"
        self.keys.add(post.key)
        self.most = max(self.most, len(self.keys))
        self.order.append(post)
        gevent.sleep(self.takes_s)
        self.keys.remove(post.key)
        return 202, ""


def post(at_ms: float, key: str, number: int) -> Post:
    """A request."""
    return Post(round(at_ms * MS), POST, EVENTS_PATH, key, (f"shop:{number}",), b"{}")


def run(posts: list[Post], client: Slow, capacity: int = 1000) -> list[Sent]:
    """What became of the requests in an open loop."""
    sent: list[Sent] = []
    OpenLoop(client, iter(posts), clock.now(), sent.append, capacity).run()
    return sent


@given(st.lists(st.tuples(st.floats(0, 30), st.sampled_from("abc")), max_size=30), st.integers(1, 40))
@settings(max_examples=25, deadline=None)
def test_every_request_is_told_once_and_keys_keep_their_order(
    wanted: list[tuple[float, str]], room: int
) -> None:
    """Sent or dropped, each once; those of a key in order, one at a time; never more than there is room for."""
    posts = [post(at, key, n) for n, (at, key) in enumerate(sorted(wanted))]
    client = Slow(0.001)
    sent = run(posts, client, room)
    assert sorted(one.post for one in sent) == sorted(posts)
    assert client.most <= min(room, 3)
    for key in "abc":
        of_key = [one.at for one in client.order if one.key == key]
        assert of_key == sorted(of_key)
    assert all(one.sent >= one.intended for one in sent)
    assert [one for one in sent if one.dropped] == [one for one in sent if one.status < 0]


def test_an_error_of_the_client_itself_ends_the_run() -> None:
    """What waits behind the request would wait for ever, and nobody would count it."""

    class Broken(Slow):
        def send(self, post: Post) -> tuple[int, str]:
            """The second request meets an error that nobody foresaw."""
            if post.ids == ("shop:1",):
                raise KeyError("unforeseen")
            return super().send(post)

    posts = [post(10 * n, "k", n) for n in range(5)]
    with pytest.raises(KeyError, match="unforeseen"):
        run(posts, Broken(0.001))


def serving(answers: list[bytes | None]) -> tuple[int, list[bytes], gevent.Greenlet[..., None]]:
    """A server with an answer for each request in turn; None: it resets the connection instead."""
    listener = gevent.socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    heard: list[bytes] = []

    def serve() -> None:
        with listener:
            connection = None
            for answer in answers:
                if connection is None:
                    connection, _ = listener.accept()
                heard.append(connection.recv(65536))
                if answer is None:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    connection.close()
                    connection = None
                else:
                    connection.sendall(answer)
            if connection is not None:
                connection.close()

    return listener.getsockname()[1], heard, gevent.spawn(serve)


TAKEN = b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("answers", "statuses"),
    [
        ([TAKEN, None, TAKEN], [202, 202]),  # a kept connection is closed as the request comes
        ([TAKEN, None, None], [202, NO_ANSWER]),
        ([TAKEN, b"HTTP/1.1 gibberish\r\n\r\n"], [202, NO_ANSWER]),
        ([TAKEN, b"HTTP/1.1 202 Acc"], [202, NO_ANSWER]),
    ],
)
def test_a_connection_that_breaks_costs_a_second_try_or_an_answer_and_never_a_request(
    answers: list[bytes | None], statuses: list[int]
) -> None:
    """Each of two requests of one key is told, whatever the dispatcher's connections do."""
    port, heard, server = serving(answers)
    client = HttpClient(f"http://127.0.0.1:{port}", "", 10)
    sent: list[Sent] = []
    OpenLoop(client, iter([post(0, "k", 0), post(1, "k", 1)]), clock.now(), sent.append, 10).run()
    client.close()
    server.join(10)
    assert [one.status for one in sent] == statuses
    assert len(heard) == len(answers)


def test_slow_answers_do_not_delay_other_keys() -> None:
    """The open loop: requests of different keys start at their times, however long answers take."""
    client = Slow(0.3)
    posts = [post(n, str(n), n) for n in range(50)]
    begun = clock.now()
    run(posts, client)
    assert client.most == 50
    assert clock.now() - begun < 50 * 300 * MS


def test_waiting_for_the_predecessor_of_a_key_is_lateness() -> None:
    """Three requests of one key at once, each taking 50 ms: the last is at least 100 ms late."""
    sent = run([post(0, "a", n) for n in range(3)], Slow(0.05))
    late = sorted(one.sent - one.intended for one in sent)
    assert late[1] >= 50 * MS
    assert late[2] >= 100 * MS


def test_what_has_no_room_is_dropped_at_once_and_told() -> None:
    """Two fit, three do not; nothing is sent late instead."""
    client = Slow(0.2)
    sent = run([post(0, str(n), n) for n in range(5)], client, capacity=2)
    assert len(client.order) == 2
    dropped = [one for one in sent if one.dropped]
    assert [one.post.ids for one in dropped] == [("shop:2",), ("shop:3",), ("shop:4",)]
    assert all(one.failed for one in dropped)
    figures = posted.posted(posted.row(one) for one in sent).metrics
    assert figures["dropped"] == 3
    assert "no room for 3" in posted.too_late(figures)


def test_a_closed_loop_waits_for_answers() -> None:
    """Two users, answers after 50 ms: never more than two under way, and nobody is late by definition."""
    client = Slow(0.05)
    sent: list[Sent] = []
    posts = iter([post(0, str(n), n) for n in range(10)])
    users = [gevent.spawn(ClosedLoop(client, posts, sent.append, 0.0).run) for _ in range(2)]
    gevent.joinall(users, raise_error=True)
    assert client.most == 2
    assert len(sent) == 10
    assert all(one.sent == one.intended for one in sent)


def test_only_the_open_loop_sees_a_stall() -> None:
    """The example: the requests of the stall's first tenth of a second wait longer than its other nine.

    Exact for the open loop: 40 of 2,000 are more than one in a hundred. The closed loop meets the stall with its 20
    users once, which is one in a hundred.
    """
    setting = Setting(for_s=5.0, stall_from_s=2.0, stall_for_s=1.0)
    open_p99 = measure(setting, closed=False)["request_latency_s_p99"]
    closed = measure(setting, closed=True)
    assert open_p99 >= setting.stall_for_s - 0.1
    assert closed["requests"] > 100 * USERS / 2
    assert closed["request_latency_s_p99"] < open_p99 / 2


@pytest.mark.parametrize(
    ("gated_s", "late_s", "valid"),
    [
        (float("inf"), 0.004, True),
        (float("inf"), 0.006, False),
        (2.0, 0.15, True),  # a tenth of the gated quantile
        (2.0, 0.25, False),
        (0.01, 0.004, True),  # never less than 5 ms
    ],
)
def test_a_late_generator_spoils_a_run(gated_s: float, late_s: float, valid: bool) -> None:
    """p99 of the lateness beyond 5 ms and a tenth of what is gated."""
    rows = [
        [n * MS, n * MS + round(late_s * SECOND), n * MS + SECOND, 202, [f"a:{n}"], False, False]
        for n in range(9)
    ]
    figures = posted.posted(rows).metrics
    assert (posted.too_late(figures, gated_s) == "") == valid


def test_a_generator_that_sent_nothing_was_not_on_time() -> None:
    """A lateness that nobody measured is none within the limit."""
    assert "sent nothing" in posted.too_late(posted.posted([]).metrics)


def test_figures_of_requests_are_exact() -> None:
    """Quantiles are observed values; latency counts from the intended start, and what was dropped has none."""
    rows = [[0, 0, (n + 1) * SECOND, 202, [f"a:{n}"], False, False] for n in range(100)]
    rows.append([0, 5 * SECOND, 5 * SECOND, -1, ["a:100"], True, True])
    made = posted.posted(rows)
    assert made.metrics["request_latency_s_p50"] == 50
    assert made.metrics["request_latency_s_p99"] == 99
    assert made.metrics["request_latency_s_p999"] == 100
    assert made.metrics["requests"] == 101
    assert made.metrics["request_failures"] == 1
    assert made.accepted["a:7"] == 8 * SECOND
    assert "a:100" not in made.accepted
