"""qr_refresh.settings: nonsense is refused when written; the base URL has its order of sources."""

from __future__ import annotations

import psycopg
import pytest

from tools.job import Job

NONSENSE: dict[str, list[object]] = {
    "evolution_api_base_url": [
        "",
        "example.org",
        "ftp://example.org",
        "http://",
        "http://user:password@example.org",
        "http://example.org?key=1",
        "http://example.org#top",
        "http://exam ple.org",
        "http://example.org\n",
    ],
    "request_timeout": ["0", "-1 s", "31 s", None],
    "run_timeout": ["1 s", "11 minutes", None],
    "max_concurrency": [0, -1, 257, None],
    "qr_lifetime": ["0", "2 hours", None],
    "history_retention": ["0", "11 years", None],
    "alert_after": ["0", "2 days", None],
    "log_detail": ["", "all", None],
    "ca_file": ["", "ca.pem", "/etc/ca\n.pem"],
}


@pytest.mark.parametrize(
    ("column", "value"), [(column, value) for column in NONSENSE for value in NONSENSE[column]]
)
def test_nonsense_is_refused_and_the_old_value_stays(job: Job, column: str, value: object) -> None:
    before = job.value(f"select {column} from qr_refresh.settings")
    with pytest.raises(psycopg.IntegrityError):
        job.set(**{column: value})
    assert job.value(f"select {column} from qr_refresh.settings") == before


@pytest.mark.parametrize(
    "url",
    ["http://localhost", "https://api.example.org:8443/evolution/", "http://[::1]:8080", None],
)
def test_proper_base_urls_are_accepted(job: Job, url: str | None) -> None:
    job.set(evolution_api_base_url=url)
    assert job.value("select evolution_api_base_url from qr_refresh.settings") == url


def test_there_is_one_row_of_settings_and_no_second(job: Job) -> None:
    for row in ("default", "false"):
        with pytest.raises(psycopg.IntegrityError):
            job.connection.execute(
                f"insert into qr_refresh.settings (singleton) values ({row})".encode()
            )


def test_the_base_url_comes_from_settings_then_the_environment(job: Job) -> None:
    query = "select row(base_url, source, error)::text from qr_refresh.evolution_api_base_url()"
    job.set(evolution_api_base_url="http://from-settings/")
    job.connection.execute(
        "do language plpython3u"
        " $$ import os; os.environ['EVOLUTION_API_BASE_URL'] = 'http://from-environment/' $$"
    )
    assert job.value(query) == "(http://from-settings,settings,)"
    job.set(evolution_api_base_url=None)
    assert job.value(query) == "(http://from-environment,environment,)"
    job.connection.execute(
        "do language plpython3u $$ import os; del os.environ['EVOLUTION_API_BASE_URL'] $$"
    )
    assert job.value(query) == '(,nowhere,"Missing required environment variables")'
    # Whoever wants the address of the former Edge Function says so.
    job.connection.execute("update qr_refresh.settings set evolution_api_base_url = default")
    default = "https://cst-evolution-api-kaezwnkk.usecloudstation.com"
    assert job.value(query) == f"({default},settings,)"


def test_a_slash_at_the_end_of_the_base_url_does_no_harm(job: Job) -> None:
    job.set(evolution_api_base_url=job.simulator.base_url + "/")
    job.add("shop")
    assert job.run()["refreshed"] == 1
