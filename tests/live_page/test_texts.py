"""The words of the page in its three languages."""

from __future__ import annotations

import re
import typing

import pytest
from playwright.sync_api import Browser, expect

from examples.live_page.board import Database
from examples.live_page.reasons import Reason
from examples.live_page.server import FOLDER
from tests.live_page.screen import ENGLISH, TEXTS, add_with_code, card, opened
from tools.job import Job


def test_every_language_has_the_same_texts_with_the_same_values() -> None:
    assert list(TEXTS) == ["en", "pt-BR", "fr"]
    for language, texts in TEXTS.items():
        assert list(texts) == list(ENGLISH), language
        for key, text in texts.items():
            values = sorted(re.findall(r"{.*?}", text))
            assert values == sorted(re.findall(r"{.*?}", ENGLISH[key])), (language, key)
            assert text.strip() == text != "", (language, key)


def test_no_text_was_left_untranslated() -> None:
    for language in ("pt-BR", "fr"):
        same = {key for key, text in TEXTS[language].items() if text == ENGLISH[key]}
        # Their Portuguese is as the English.
        assert same <= {"state_other"}, language


def test_every_reason_and_problem_has_its_words_and_no_words_are_without_use() -> None:
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    markup = (FOLDER / "page.html").read_text(encoding="utf-8")
    used = {f"reason_{reason}" for reason in typing.get_args(Reason)}
    used |= {f"problem_{database}" for database in typing.get_args(Database)}
    used |= {"problem_lost"} | {f"state_{state}" for state in ("live", "expired", "waiting")}
    used |= {"state_connected", "state_other"}
    used |= set(re.findall(r'data-text="(\w+)"', markup)) | set(
        re.findall(r'text\("(\w+)"', script)
    )
    # No problem: the page says nothing then.
    assert used - set(ENGLISH) == {"problem_unread", "problem_online"}
    assert set(ENGLISH) - used == set()


@pytest.mark.parametrize(
    ("locale", "language"),
    [
        ("en-GB", "en"),
        ("pt-BR", "pt-BR"),
        ("pt-PT", "pt-BR"),
        ("fr", "fr"),
        ("fr-CA", "fr"),
        ("ja-JP", "en"),
    ],
)
def test_the_page_speaks_the_language_of_the_browser(
    job: Job, live_page: str, browser: Browser, locale: str, language: str
) -> None:
    add_with_code(job, "bakery")
    job.add_row("hotel")
    texts = TEXTS[language]
    with opened(browser, live_page, locale=locale) as page:
        expect(page.locator("html")).to_have_attribute("lang", language)
        assert page.title() == texts["title"]
        expect(page.locator("#how")).to_have_text(texts["how"])
        expect(card(page, "bakery").locator(".state")).to_have_text(texts["state_live"])
        expect(card(page, "hotel").locator(".reason")).to_have_text(texts["reason_not_asked"])
        expires = re.escape(texts["expires"]).replace(re.escape("{seconds}"), r"\d+")
        expect(card(page, "bakery").locator(".age")).to_have_text(re.compile(f"^{expires}$"))
        button = card(page, "bakery").get_by_role("button")
        expect(button).to_have_attribute("aria-label", texts["enlarge"].replace("{name}", "bakery"))
        # A template that nobody has filled in would be seen by these.
        assert "{" not in page.locator("body").inner_text()
