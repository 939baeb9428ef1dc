"""Fixtures: the page on a database of the test's own, and Debian's Chromium."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright._impl._driver import compute_driver_executable
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


def problem_of_browser() -> str | None:
    """Say what the browser lacks, and how to get it; None where it starts."""
    if not CHROMIUM.exists():
        return f"the live page is not tested: {CHROMIUM} is missing, apt-get install chromium"
    driver, *_ = compute_driver_executable()
    started = subprocess.run([driver, "--version"], capture_output=True, text=True, check=False)
    if started.returncode != 0:
        return (
            "the live page is not tested: Playwright's driver does not start, apt-get install"
            f" libatomic1 ({started.stderr.strip()})"
        )
    return None


# Not for the session: while Playwright runs, this thread has an event loop, and other modules'
# tests may want one of their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    problem = problem_of_browser()
    if problem:
        if os.environ.get("CI"):
            pytest.fail(problem)
        pytest.skip(problem)
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
