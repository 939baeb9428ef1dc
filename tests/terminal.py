"""A terminal for programs that draw on one."""

from __future__ import annotations

import pty

import pytest


def open_terminal() -> tuple[int, int]:
    """Return the descriptors of our end and of the program's end."""
    try:
        return pty.openpty()
    except OSError as error:
        pytest.skip(f"no terminal can be had here: is /dev/pts mounted? ({error})")
