"""Load shapes for Locust: how many users there are, and when a test is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from locust import LoadTestShape, User

Tick = tuple[int, float, list[type[User]]]


class UntilSettled(LoadTestShape):
    """As many users as are asked for, until the load test is over."""

    abstract: ClassVar[bool] = True

    users: Callable[[], tuple[int, type[User]]]
    """How many users of which kind; asked every second."""
    over: Callable[[], bool]
    """Whether the test is over; asked every second but the first."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._begun = False

    def tick(self) -> Tick | None:
        """What Locust asks every second."""
        kind = type(self)
        if self._begun and kind.over():
            self._begun = False
            return None
        self._begun = True
        count, user = kind.users()
        return count, float(count), [user]
