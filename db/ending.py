"""How a program ends when somebody presses Ctrl-C."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

# What a shell reports of a program that was ended by this signal.
INTERRUPTED = 130


@contextlib.contextmanager
def ctrl_c_in_words(sentence: str = "Ended by Ctrl-C.") -> Iterator[None]:
    """End with a sentence and the exit status 130, and without a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\n{sentence}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
