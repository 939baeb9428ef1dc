"""A server on which the Python of the HTTP client is missing or broken, as one session sees it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tools.backend import run_python
from tools.job import Connection

# The interpreter is looked for under this prefix.
NO_INTERPRETER = "import sys; sys.exec_prefix = '/nowhere'"

# -S: the libraries of Debian's packages are not found.
WITHOUT_LIBRARIES = """
    import os, pathlib, sys, tempfile
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folder = pathlib.Path(tempfile.mkdtemp(prefix="refresh-qr-codes-"))
    script = folder / "bin" / name
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\\nexec {sys.exec_prefix}/bin/{name} -S "$@"\\n')
    script.chmod(0o755)
    sys.exec_prefix = str(folder)
    plpy.notice(folder)
"""


@contextlib.contextmanager
def python_without_libraries(connection: Connection) -> Iterator[None]:
    """Let this session find an interpreter that has no libraries but its own."""
    folder = run_python(connection, WITHOUT_LIBRARIES)
    try:
        yield
    finally:
        connection.rollback()
        run_python(connection, f"import shutil; shutil.rmtree({folder!r})")
