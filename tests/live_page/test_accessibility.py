"""The live page by keyboard, by screen reader, on a phone, in light and dark."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from playwright.sync_api import Browser, Page, expect

from examples.live_page.server import serving
from simulator.background import in_background
from simulator.instance import ROTATION
from simulator.picture import qr_text
from tests.live_page.screen import (
    CONNECTED,
    EXPIRED,
    LIVE,
    WAITING,
    add_with_code,
    age,
    card,
    opened,
    set_status,
    state,
    wait_for_code,
)
from tools.job import Job


def test_the_keyboard_enlarges_a_code_and_keeps_its_place(job: Job, page: Page) -> None:
    for name in ("hotel", "bakery"):
        job.add(name)
    job.run()
    expect(state(page, "hotel")).to_have_text(LIVE)
    dialog = page.get_by_role("dialog")
    for name in ("bakery", "hotel"):
        page.keyboard.press("Tab")
        expect(card(page, name).get_by_role("button")).to_be_focused()
    focused = card(page, "hotel").get_by_role("button")
    assert focused.evaluate("element => parseFloat(getComputedStyle(element).outlineWidth)") >= 2
    assert focused.get_attribute("aria-label") == "Enlarge the QR code of hotel"

    page.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("heading")).to_have_text("hotel")
    wait_for_code(dialog, job.simulator.current_code("hotel"))

    # The enlarged code changes with its card, and neither change takes the keyboard's place.
    before = dialog.locator("img").get_attribute("src")
    assert before is not None
    job.simulator.clock.advance(ROTATION)
    job.run()
    expect(dialog.locator("img")).not_to_have_attribute("src", before)
    wait_for_code(dialog, job.simulator.current_code("hotel"))
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(focused).to_be_focused()

    # Once it is connected there is nothing to press: the place is kept at the card's name.
    page.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    set_status(job, "hotel", "connected")
    expect(dialog).to_be_hidden()
    expect(card(page, "hotel").get_by_role("heading")).to_be_focused()


def test_a_code_enlarged_again_at_once_changes_with_its_card(job: Job, page: Page) -> None:
    job.add("hotel")
    job.run()
    expect(state(page, "hotel")).to_have_text(LIVE)
    dialog = page.get_by_role("dialog")
    # In one turn of the browser, as two quick keys on a busy machine: it tells of the first close
    # after the second click.
    card(page, "hotel").get_by_role("button").evaluate("""async (button) => {
        const dialog = document.querySelector("dialog");
        const closed = new Promise((resolve) => dialog.addEventListener("close", resolve));
        button.click();
        dialog.close();
        button.click();
        await closed;
    }""")
    expect(dialog).to_be_visible()
    before = dialog.locator("img").get_attribute("src")
    assert before is not None
    job.simulator.clock.advance(ROTATION)
    job.run()
    expect(dialog.locator("img")).not_to_have_attribute("src", before)
    wait_for_code(dialog, job.simulator.current_code("hotel"))


@pytest.mark.parametrize(
    ("size", "share"),
    [((1280, 800), 0.99), ((390, 844), 0.99), ((1920, 1080), 0.99), ((1000, 1000), 0.75)],
    ids=["desktop", "phone", "large", "square"],
)
def test_an_enlarged_code_fills_the_shorter_side_of_the_window(
    job: Job, live_page: str, browser: Browser, size: tuple[int, int], share: float
) -> None:
    add_with_code(job, "hotel")
    width, height = size
    with opened(browser, live_page, viewport={"width": width, "height": height}) as page:
        card(page, "hotel").get_by_role("button").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_be_visible()
        box = dialog.locator("img").bounding_box()
        assert box is not None
        assert box["width"] == box["height"] >= share * min(size)
        wait_for_code(dialog, qr_text("hotel"))
        # Nothing is cut off: the words and the button are beside or below it.
        for element in (dialog.locator("img"), dialog.get_by_role("button", name="Close")):
            box = element.bounding_box()
            assert box is not None
            assert box["x"] >= 0 and box["x"] + box["width"] <= width
            assert box["y"] >= 0 and box["y"] + box["height"] <= height
        expect(dialog.get_by_role("button", name="Close")).to_be_focused()


def test_a_long_name_leaves_an_enlarged_code_and_its_button_within_reach(
    job: Job, live_page: str, browser: Browser
) -> None:
    add_with_code(job, "anamewithoutanybreak" * 12)
    for width, height in [(360, 740), (740, 360)]:
        with opened(browser, live_page, viewport={"width": width, "height": height}) as page:
            page.locator("#cards button").click()
            dialog = page.get_by_role("dialog")
            wait_for_code(dialog.locator("img"), qr_text("anamewithoutanybreak" * 12))
            dialog.get_by_role("button", name="Close").click()
            expect(dialog).to_be_hidden()


def test_a_screen_reader_hears_of_states_and_not_of_each_new_code(
    job: Job, live_page: str, browser: Browser
) -> None:
    job.add("bakery")
    job.run()
    with opened(browser, live_page) as page:
        expect(state(page, "bakery")).to_have_text(LIVE)
        picture = card(page, "bakery").locator("img")
        before = picture.get_attribute("src")
        assert before is not None
        announcer = page.get_by_role("status")
        # Empty, or that the first code has come, if the page was sooner.
        heard = announcer.text_content() or ""
        job.simulator.clock.advance(ROTATION)
        job.run()
        expect(picture).not_to_have_attribute("src", before)
        expect(announcer).to_have_text(heard)
        # Nor that there was none for a moment, but that there is none.
        age(job, "bakery", timedelta(seconds=45.2))
        at_first = page.evaluate("""async () => {
            const state = document.querySelector("#cards .state");
            while (state.textContent !== "Expired") await new Promise((r) => setTimeout(r));
            return document.querySelector("#announcer").textContent;
        }""")
        assert at_first == heard
        expect(announcer).to_have_text("bakery: Expired", timeout=30_000)
        set_status(job, "bakery", "connected")
        expect(announcer).to_have_text("bakery: Connected")


# Contrast as WCAG 2.1 defines it, of each element that has text of its own, on what is behind it.
CONTRASTS = """() => {
  const channels = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const luminance = (colour) => {
    const [r, g, b] = channels(colour).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (channels(colour)[3] !== 0) return colour;
    }
    throw new Error("no background");
  };
  // In the same turn of the browser, for the page itself draws it anew each second.
  const problem = document.getElementById("problem");
  problem.hidden = false;
  problem.textContent = "a problem";
  return [...document.querySelectorAll("h1, h2, p, button")]
    .filter((element) => element.checkVisibility() && element.textContent.trim())
    .map((element) => {
      const [light, dark] = [getComputedStyle(element).color, behind(element)]
        .map(luminance).sort((a, b) => b - a);
      return [element.textContent, (light + 0.05) / (dark + 0.05)];
    });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_in_light_and_dark(
    job: Job, page_database: str, browser: Browser, scheme: str
) -> None:
    for name in ("live", "old", "done"):
        add_with_code(job, name)
    job.add_row("none")
    age(job, "old", timedelta(hours=2))
    with (
        in_background(serving(page_database, made_up={None})) as address,
        opened(browser, address, color_scheme=scheme) as page,
    ):
        expect(state(page, "done")).to_have_text(LIVE)
        set_status(job, "done", "connected")
        expect(state(page, "done")).to_have_text(CONNECTED)
        contrasts = page.evaluate(CONTRASTS)
        assert {LIVE, EXPIRED, WAITING, CONNECTED, "a problem"} <= {text for text, _ in contrasts}
        for beginning in ("Demo: ", "The job has not asked", "To link a phone: ", "Expires in "):
            assert any(text.startswith(beginning) for text, _ in contrasts), beginning
        assert [item for item in contrasts if item[1] < 4.5] == []
        background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        is_dark = sum(map(int, re.findall(r"\d+", background)[:3])) < 3 * 64
        assert is_dark == (scheme == "dark")
        wait_for_code(card(page, "live"), qr_text("live"))


def test_a_phone_shows_a_code_that_can_be_scanned_without_sideways_scrolling(
    job: Job, live_page: str, browser: Browser
) -> None:
    job.add("anamewithoutanybreak" * 6)
    job.run()
    phone = {"width": 360, "height": 740}
    with opened(browser, live_page, viewport=phone, device_scale_factor=2, has_touch=True) as page:
        picture = page.locator("#cards img")
        expect(picture).to_be_visible()
        width = page.evaluate("() => document.documentElement.scrollWidth")
        assert width <= phone["width"]
        only = job.simulator.instances[0].name
        wait_for_code(picture, job.simulator.current_code(only))
        picture.tap()
        expect(page.get_by_role("dialog")).to_be_visible()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= phone["width"]
        wait_for_code(page.get_by_role("dialog"), job.simulator.current_code(only))
