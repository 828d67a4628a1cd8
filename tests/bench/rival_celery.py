"""The benchmark's task in Celery on RabbitMQ, so that no event is lost.

Durable queue, persistent messages, publisher confirms, acknowledged after the work.

``rival_celery.py post URL TOTAL FIRST THREADS`` sends tasks; ``celery -A rival_celery worker`` does them.
"""

from __future__ import annotations

import sys

from celery import Celery
from rival_work import AMQP, QUEUE, QUEUE_TYPE, deliver, enqueue

app = Celery("rival_celery", broker=AMQP)
app.conf.update(
    task_default_queue=QUEUE,
    task_default_queue_type=QUEUE_TYPE,
    worker_detect_quorum_queues=True,
    task_default_delivery_mode="persistent",
    broker_transport_options={"confirm_publish": True},
    broker_pool_limit=16,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=16,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
)


@app.task(name="deliver", autoretry_for=(Exception,), max_retries=2, default_retry_delay=1)
def deliver_task(url: str, identity: str, body: str) -> None:
    """One delivery."""
    deliver(url, identity, body)


def clear() -> None:
    """Delete the queue."""
    with app.connection() as connection:
        connection.default_channel.queue_delete(QUEUE)


if __name__ == "__main__":
    if sys.argv[1] == "post":
        total, first, threads = map(int, sys.argv[3:6])
        enqueue(deliver_task.delay, sys.argv[2], total, first, threads)
    else:
        clear()
