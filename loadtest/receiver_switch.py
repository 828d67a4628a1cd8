"""Faults that somebody switches on by hand while receivers run: an extra around what the scenario decides.

A switch stands in front of ``sim.receiver`` and never changes it. While one is on, the figures are no longer those
of the scenario: it is written to the log, and whoever judges a run can tell. Times are int nanoseconds since T0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sim.errors import Problem, ScenarioError
from sim.fields import format_duration, parse_duration, parse_whole
from sim.policy import CONNECTION_REFUSED, NO_ANSWER, SECOND
from sim.receiver import NEVER, Answer

SCENARIO = "scenario"
"""Stands for no switch."""
STATUS, SLOWER, HANG, REFUSE = "status", "slower", "hang", "refuse"
KINDS = {
    SCENARIO: "none (as the scenario says)",
    STATUS: "answer always with a status",
    SLOWER: "answer slower",
    HANG: "hang (never answer)",
    REFUSE: "refuse connections",
}
"""What can be chosen, in words."""
LONGEST = 24 * 3600 * SECOND
"""By how much answers can be slower, ns."""


@dataclass(frozen=True, kw_only=True)
class Switch:
    """A fault of one endpoint that is on until it is switched off."""

    kind: str
    status: int = 0
    """Of every answer, for ``STATUS``; 2xx: all is processed at once, others: nothing is."""
    delay: int = 0
    """By how much answers come later, ns, for ``SLOWER``; work is done as it would have been."""

    def __str__(self) -> str:
        return {
            STATUS: f"answer always {self.status}",
            SLOWER: f"answer slower by {format_duration(self.delay)}",
            HANG: "hang",
            REFUSE: "refuse connections",
        }[self.kind]

    def answer(self, now: int, as_scenario: Callable[[], Answer]) -> Answer:
        """What becomes of a request that arrives at ``now``; the scenario is asked only where it has a say."""
        if self.kind == SLOWER:
            found = as_scenario()
            given = found.code not in (NO_ANSWER, CONNECTION_REFUSED)
            return found._replace(answered=min(found.answered + self.delay, NEVER - 1)) if given else found
        if self.kind == STATUS:
            processed = now if 200 <= self.status < 300 else NEVER
            return Answer(self.status, now, processed, processed, -1)
        if self.kind == REFUSE:
            return Answer(CONNECTION_REFUSED, now, NEVER, NEVER, -1)
        return Answer(NO_ANSWER, NEVER, NEVER, NEVER, -1)

    def refuses(self, scenario: bool) -> bool:
        """Whether connections are refused, given whether the scenario would."""
        return scenario if self.kind == SLOWER else self.kind == REFUSE


def read_switch(kind: str, status: str = "", delay: str = "") -> Switch | None:
    """The switch that a form describes; None: as the scenario says.

    Raises:
        ScenarioError: a field is wrong; its problem's path is the name of the field.
    """
    if kind not in KINDS:
        raise ScenarioError([Problem("fault", kind, f"must be one of {', '.join(KINDS)}")])
    if kind == SCENARIO:
        return None
    try:
        if kind == STATUS:
            number = int(status) if status.isascii() and status.isdigit() and len(status) < 9 else status
            return Switch(kind=kind, status=parse_whole(number, 200, 599))
    except ValueError as error:
        raise ScenarioError([Problem("status", status, str(error))]) from None
    return Switch(kind=kind, delay=_delay(delay)) if kind == SLOWER else Switch(kind=kind)


def _delay(text: str) -> int:
    try:
        found = parse_duration(text)
    except ValueError as error:
        raise ScenarioError([Problem("delay", text, str(error))]) from None
    if not 0 < found <= LONGEST:
        rule = f"must be above 0 and at most {format_duration(LONGEST)}"
        raise ScenarioError([Problem("delay", text, rule)])
    return found
