"""The reference dispatcher: the system under test, run by the very policies that the simulator runs.

    intake ──► store ──► scheduler ──► sender ──► receivers
                 ▲            │
                 └── results ─┘

``app`` assembles it; ``store`` is the port to what lasts (SQLite, PostgreSQL), ``scheduler`` decides with
``sim.policy`` and ``sim.dispatch`` who may start, ``sender`` makes one HTTP request of one attempt.
"""
