"""Looks at DATABASE_URL before anything is installed; the system's Python runs this as it stands.

``python3 -m db.url migrate`` ends with a message for ``make migrate`` where there is no URL.
"""

from __future__ import annotations

import os
import sys

EXAMPLE = "DATABASE_URL=postgresql://postgres:secret@127.0.0.1:5432/postgres"


def problem_of(url: str, command: str) -> str | None:
    """Return what is wrong with a URL that is no postgresql:// URL, with an example, else None."""
    if url.startswith(("postgresql://", "postgres://")):
        return None
    problem = "is not a postgresql:// URL" if url else "is not set"
    return f"DATABASE_URL {problem}. Example:\n  make {command} {EXAMPLE}"


if __name__ == "__main__":
    problem = problem_of(os.environ.get("DATABASE_URL", ""), sys.argv[1])
    raise SystemExit(problem and f"error: {problem}")
