"""Each CHECK of the settings at its edge: the last value that is taken, the first that is not."""

from __future__ import annotations

import psycopg
import pytest

from tools.job import Job

# Column: values just inside, values just outside. The others are as they are at first: a request
# may take 8 seconds, a run 30.
EDGES: dict[str, tuple[list[object], list[object]]] = {
    "request_timeout": (["100 ms", "30 s"], ["99.999 ms", "30.001 s"]),
    "run_timeout": (["8 s", "10 minutes"], ["7.999 s", "10 minutes 1 ms"]),
    "max_concurrency": ([1, 256], [0, 257]),
    "qr_lifetime": (["1 s", "1 hour"], ["0.999 s", "1 hour 1 ms"]),
    "history_retention": (["1 hour", "10 years"], ["59 minutes 59.999 s", "10 years 1 ms"]),
    "give_up_after": (["5 minutes", None], ["4 minutes 59.999 s"]),
    "alert_after": (["1 minute", "1 day"], ["59.999 s", "1 day 1 ms"]),
    "log_detail": (["instance", "cycle", "off"], ["Instance", "cycles", ""]),
    "ca_file": (["/a", None], ["/", "a", "/a\t"]),
    "evolution_api_base_url": (
        ["http://a", "https://a:1", "http://a:12345/", "http://[::1]", None],
        ["http:/a", "httpss://a", "http://a:", "http://a:123456", "http://a/ ", "http://[::g]"],
    ),
}


@pytest.mark.parametrize("column", EDGES)
def test_a_setting_takes_what_is_just_inside_and_refuses_what_is_just_outside(
    job: Job, column: str
) -> None:
    inside, outside = EDGES[column]
    for value in inside:
        job.set(**{column: value})
    for value in outside:
        with pytest.raises(psycopg.errors.CheckViolation):
            job.set(**{column: value})


@pytest.mark.parametrize("url", EDGES["evolution_api_base_url"][1])
def test_a_further_server_has_the_same_rule_for_its_url(job: Job, url: str) -> None:
    insert = "insert into qr_refresh.evolution_servers values (%s, %s)"
    job.connection.execute(insert, ("taken", "https://a:1"))
    with pytest.raises(psycopg.errors.CheckViolation):
        job.connection.execute(insert, ("refused", url))


def test_every_check_of_the_settings_has_its_edges_here(job: Job) -> None:
    checked = job.value(
        "select array_agg(distinct a.attname::text) from pg_constraint as c"
        " inner join pg_attribute as a on a.attrelid = c.conrelid and a.attnum = any(c.conkey)"
        " where c.conrelid = 'qr_refresh.settings'::regclass and c.contype = 'c'"
    )
    assert set(checked) == set(EDGES) | {"singleton"}
