"""The clock that the simulated Evolution API lives by."""

import asyncio
import threading
import time


class Clock:
    """A clock that runs at a chosen speed and can be moved forward by hand.

    Safe to use from several threads.
    """

    def __init__(self, speed: float = 1.0) -> None:
        """Start the clock.

        Args:
            speed: Simulated seconds per real second. At 0 it stands still: only `advance` moves
                it, and whoever sleeps on it moves it by that sleep instead of waiting.

        Raises:
            ValueError: If `speed` is negative.
        """
        if speed < 0:
            raise ValueError(f"a clock cannot run at speed {speed}")
        self._speed = speed
        self._moved = 0.0
        self._lock = threading.Lock()

    def now(self) -> float:
        """Return the time in simulated seconds since an arbitrary start."""
        return time.monotonic() * self._speed + self._moved

    def advance(self, seconds: float) -> None:
        """Move the clock forward by `seconds` of simulated time, at once."""
        with self._lock:
            self._moved += seconds

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of simulated time."""
        if self._speed == 0:
            self.advance(seconds)
        else:
            await asyncio.sleep(seconds / self._speed)
