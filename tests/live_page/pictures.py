"""Takes the pictures of the live page in docs/ anew: python -m tests.live_page.pictures."""

from __future__ import annotations

import io
from datetime import timedelta
from pathlib import Path

import psycopg
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from examples.live_page.server import serving
from simulator import error_answer, running_simulator
from simulator.background import in_background
from tests.live_page.conftest import CHROMIUM, CHROMIUM_OPTIONS
from tests.live_page.screen import ENGLISH, age, card, opened, set_status
from tools.engines import ROOT, start_postgres
from tools.job import Job, install
from tools.page_role import create_page_role

DOCS = ROOT / "docs"
DESKTOP = {"width": 1100, "height": 760}
PHONE = {"width": 390, "height": 844}
COLOURS = 256


def show_something_of_each_kind(job: Job) -> None:
    """Fill the table: live codes, and a card for some of the reasons to wait."""
    for name in ("bakery", "florist", "hotel", "tailor"):
        job.add(name)
    job.add("garage", qr_delay=3600.0)
    job.add("laundry").answer_state_with = error_answer(401, "Unauthorized", "Unauthorized")
    job.run()


def take(
    page: Page, job: Job, name: str, enlarged: str | None = None, full_page: bool = False
) -> None:
    """Save what the window shows, or the whole page, as docs/NAME.png."""
    age(job, "bakery", timedelta(seconds=28))
    age(job, "florist", timedelta(seconds=9))
    age(job, "hotel", timedelta(minutes=4))
    expect(card(page, "hotel")).to_have_attribute("data-state", "expired")
    expect(card(page, "bakery")).to_have_attribute("data-state", "live")
    for waiting in ("garage", "laundry"):
        expect(card(page, waiting).locator(".reason")).not_to_be_empty()
    # Connected counts only where it was seen connecting.
    set_status(job, "tailor", "connected")
    expect(card(page, "tailor")).to_have_attribute("data-state", "connected")
    if enlarged is not None:
        card(page, enlarged).get_by_role("button").click()
        expect(page.get_by_role("dialog")).to_be_visible()
    image = (
        Image.open(io.BytesIO(page.screenshot(full_page=full_page)))
        .convert("RGB")
        .quantize(COLOURS)
    )
    path = DOCS / f"{name}.png"
    image.save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes")


def take_all(job: Job, address: str, browser: Browser) -> None:
    """Take each picture from a fresh browser."""
    with opened(browser, address, viewport=DESKTOP, locale="en") as page:
        expect(page.locator("#how")).to_have_text(ENGLISH["how"])
        take(page, job, "live_page", full_page=True)
    with opened(browser, address, viewport=DESKTOP, locale="pt-BR", color_scheme="dark") as page:
        take(page, job, "live_page_dark_pt", full_page=True)
    with opened(browser, address, viewport=PHONE, locale="fr") as page:
        take(page, job, "live_page_phone_fr")
    with opened(browser, address, viewport=DESKTOP, locale="en") as page:
        take(page, job, "live_page_enlarged", enlarged="florist")


def main() -> None:
    """Start a throw-away PostgreSQL, the simulator, the page and the browser."""
    if not Path(CHROMIUM).exists():
        raise SystemExit(f"{CHROMIUM} is missing: apt-get install chromium")
    with (
        start_postgres(own=True) as server,
        running_simulator(server.listen_host) as simulator,
        sync_playwright() as playwright,
    ):
        install(server.dsn())
        with (
            psycopg.connect(server.dsn(), autocommit=True) as connection,
            in_background(serving(create_page_role(server.dsn()), made_up={None})) as address,
        ):
            job = Job(connection, simulator)
            job.set(evolution_api_base_url=server.as_reached(simulator.base_url))
            show_something_of_each_kind(job)
            browser = playwright.chromium.launch(
                executable_path=str(CHROMIUM), args=CHROMIUM_OPTIONS, chromium_sandbox=False
            )
            take_all(job, address, browser)
            browser.close()


if __name__ == "__main__":
    main()
