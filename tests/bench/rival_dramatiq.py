"""The benchmark's task in dramatiq on RabbitMQ, so that no event is lost.

Its queues are durable, its messages persistent and acknowledged after the work as they are; publisher confirms are
switched on.

``rival_dramatiq.py post URL TOTAL FIRST THREADS`` sends tasks; ``dramatiq rival_dramatiq`` does them.
"""

from __future__ import annotations

import sys

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from rival_work import AMQP, AS_IN_GUIDE, QUEUE, QUEUE_TYPE, deliver, enqueue


class SafeBroker(RabbitmqBroker):
    """The broker, with the type of queue that this comparison asks for: the library offers no choice of it."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, str]:
        return {**super()._build_queue_arguments(queue_name), "x-queue-type": QUEUE_TYPE}


broker = SafeBroker(url=AMQP, confirm_delivery=True)
if not AS_IN_GUIDE:
    # the limits of age and time have no part in this; retries stay
    broker.middleware[:] = [one for one in broker.middleware if type(one).__name__ in ("Retries", "Shutdown")]
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=QUEUE, max_retries=2, min_backoff=1000)
def deliver_task(url: str, identity: str, body: str) -> None:
    """One delivery."""
    deliver(url, identity, body)


def clear() -> None:
    """Delete its queues."""
    for name in (QUEUE, f"{QUEUE}.DQ", f"{QUEUE}.XQ"):
        broker.channel.queue_delete(name)
    broker.close()


if __name__ == "__main__":
    if sys.argv[1] == "post":
        total, first, threads = map(int, sys.argv[3:6])
        enqueue(deliver_task.send, sys.argv[2], total, first, threads)
    else:
        clear()
