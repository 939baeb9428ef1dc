"""Runs an asyncio service in a thread of its own, for as long as a `with` block lasts."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

Service = TypeVar("Service")


@contextmanager
def in_background(service: AbstractAsyncContextManager[Service]) -> Iterator[Service]:
    """Enter `service` on a new event loop in a new thread; leave it and end both at the end.

    Tasks that still run when the service has been left are cancelled.

    Args:
        service: What to run, as an asynchronous context manager.

    Yields:
        What the service yields.

    Raises:
        Exception: Whatever entering or leaving the service raises.
    """
    started: Future[tuple[Service, asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    ended: Future[None] = Future()

    async def live() -> None:
        stop = asyncio.Event()
        async with service as value:
            started.set_result((value, asyncio.get_running_loop(), stop))
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:
            (ended if started.done() else started).set_exception(error)
        else:
            ended.set_result(None)

    thread = threading.Thread(target=run, name="service", daemon=True)
    thread.start()
    try:
        value, loop, stop = started.result()
    except BaseException:
        thread.join()
        raise
    try:
        yield value
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        ended.result()
