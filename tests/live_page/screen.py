"""The page in a browser, as a test sees it, and the rows behind it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import zxingcpp
from PIL import Image
from playwright.sync_api import Browser, Locator, Page

from examples.live_page.server import FOLDER
from simulator.picture import data_url, qr_text
from tools.job import Job, wait_until

LIVE, EXPIRED, WAITING, CONNECTED = "Live", "Expired", "Waiting for a code", "Connected"
TEXTS: dict[str, dict[str, str]] = json.loads((FOLDER / "texts.json").read_text(encoding="utf-8"))
ENGLISH = TEXTS["en"]


@contextmanager
def opened(browser: Browser, address: str, **options: object) -> Iterator[Page]:
    """Open the page in a fresh profile; options are those of Playwright's new_context."""
    context = browser.new_context(**options)  # type: ignore[arg-type]
    try:
        page = context.new_page()
        page.goto(address)
        yield page
    finally:
        context.close()


def card(page: Page, name: str) -> Locator:
    return page.locator("#cards > li").filter(
        has=page.get_by_role("heading", name=name, exact=True)
    )


def state(page: Page, name: str) -> Locator:
    return card(page, name).locator(".state")


def seconds_left(page: Page, name: str) -> int:
    """For how long the code still lives, as its card says in English."""
    text = card(page, name).locator(".age").text_content() or ""
    found = re.fullmatch(r"Expires in (\d+) s", text)
    assert found, text
    return int(found[1])


def wait_for_code(element: Locator, text: str | None) -> None:
    """Wait until this QR code, and no other, is to be seen: a browser draws it a little later."""
    wait_until(lambda: codes_on_screen(element) == [text], f"the screen shows the code {text}")


def codes_on_screen(element: Locator) -> list[str]:
    element.scroll_into_view_if_needed()
    found = zxingcpp.read_barcodes(Image.open(io.BytesIO(element.screenshot())))
    return [code.text for code in found]


def add_with_code(job: Job, name: str, stored_before: str = "0 seconds") -> None:
    """Add a connecting instance at once with a code, which was stored so long ago."""
    job.connection.execute(
        "insert into evolution_instances (instance_name, instance_status, qr_code, last_qr_update)"
        " values (%s, 'connecting', %s, now() - %s::interval)",
        (name, data_url(qr_text(name)), stored_before),
    )


def age(job: Job, name: str, stored_before: timedelta) -> None:
    job.connection.execute(
        "update evolution_instances set last_qr_update = now() - %s where instance_name = %s",
        (stored_before, name),
    )


def set_status(job: Job, name: str, status: str) -> None:
    job.connection.execute(
        "update evolution_instances set instance_status = %s where instance_name = %s",
        (status, name),
    )
