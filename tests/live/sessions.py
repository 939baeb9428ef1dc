"""Sessions in which live mode goes on, as pg_cron keeps them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import psycopg

from tools.job import Connection, Job


@contextlib.contextmanager
def live(job: Job, connect: Callable[[], Connection], worker: int = 1) -> Iterator[Connection]:
    """Call live() in a session of its own, minute after minute, while the block lasts."""
    session = connect()
    stopping = threading.Event()
    failures: list[Exception] = []

    def call_again_and_again() -> None:
        while not stopping.is_set():
            try:
                session.execute("call qr_refresh.live(%s, %s)", (worker, max(worker, 1)))
            except psycopg.errors.QueryCanceled:
                if not stopping.is_set():
                    raise
            except psycopg.Error as e:
                failures.append(e)
                return

    thread = threading.Thread(target=call_again_and_again)
    thread.start()
    try:
        yield session
    finally:
        stopping.set()
        while thread.is_alive():
            # Again: between two calls there is nothing to cancel.
            session.cancel()
            thread.join(0.05)
    assert not failures, failures
