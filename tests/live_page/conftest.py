"""Fixtures: the page on a database of the test's own, and Debian's Chromium."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from examples.live_page.server import serving
from simulator.background import in_background
from tests.live_page.screen import opened
from tools.page_role import create_page_role

CHROMIUM = Path("/usr/bin/chromium")
# Chromium asks for hosts of its own at every start, which no test needs.
CHROMIUM_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# A machine with much to do may need more than the second that a person waits. What is expected is
# waited for no longer than it takes.
expect.set_options(timeout=30_000)


@pytest.fixture
def page_database(database: str) -> str:
    """The URL of the test's database for the page's role."""
    return create_page_role(database)


@pytest.fixture
def live_page(page_database: str) -> Iterator[str]:
    """The address of the page that shows the test's database."""
    with in_background(serving(page_database)) as address:
        yield address


# Not for the session: while Playwright runs, this thread has an event loop, and other modules'
# tests may want one of their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        message = f"{CHROMIUM} is missing: tools/install_packages.sh browser installs it on Debian"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=CHROMIUM_OPTIONS, chromium_sandbox=False
        )
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser, live_page: str) -> Iterator[Page]:
    """The live page in a browser."""
    with opened(browser, live_page) as page:
        yield page
