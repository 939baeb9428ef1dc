"""Fixtures of the simulator's own tests."""

import ssl
from pathlib import Path

import pytest

from simulator.certificates import new_certificate


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, ssl.SSLContext]:
    """Return a CA file and a server context with a new certificate for 127.0.0.1."""
    _, context = new_certificate(tmp_path, "127.0.0.1")
    return str(tmp_path / "127.0.0.1.pem"), context
