"""The installed job as the tests hold it: its rows, its settings, its report."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import zxingcpp
from PIL import Image
from psycopg import sql
from psycopg.rows import class_row

from db.order import FIRST, MIGRATIONS, REPEATED, text_of
from simulator import Instance, Simulator
from simulator.picture import data_url

Connection = psycopg.Connection[tuple[Any, ...]]
PNG_URL = "data:image/png;base64,"
# What may stand in a row before a run.
OLD_QR = PNG_URL + "iVBORw0KGgo="
# What the report says of an instance whose QR code was stored, without its name.
STORED = {"success": True, "qr_updated": True}


def install(url: str, paths: Sequence[Path] = (*FIRST, *MIGRATIONS, *REPEATED)) -> None:
    """Run the files of an installation in a database, in one transaction; without paths all."""
    with psycopg.connect(url) as connection:
        for path in paths:
            connection.execute(text_of(path).encode())


def wait_until(condition: Callable[[], object], what: str, timeout: float = 30.0) -> None:
    """Wait until a condition holds, and no longer.

    Args:
        condition: asked again and again until what it returns is true.
        what: says in the error what was waited for.
        timeout: seconds; long, because others may use this machine.

    Raises:
        TimeoutError: it did not come to hold.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout} s still not: {what}")
        time.sleep(0.01)


def value_of(connection: Connection, query: str, *parameters: Any) -> Any:
    """Return the one value that a query gives in this session."""
    row = connection.execute(query.encode(), parameters or None).fetchone()
    assert row is not None
    return row[0]


def refusal(connection: Connection, query: str, *parameters: Any) -> psycopg.Error:
    """Return the error with which the server refuses a statement.

    Raises:
        AssertionError: it does what it was told.
    """
    try:
        connection.execute(query.encode(), parameters or None)
    except psycopg.Error as error:
        return error
    raise AssertionError(f"not refused: {query}")


def read_qr(data_url: str | None) -> str:
    """Return the text of a stored QR picture, as a decoder reads it.

    Raises:
        AssertionError: it is not a PNG data URL, or not one QR code.
    """
    assert data_url is not None and data_url.startswith(PNG_URL), "not a PNG data URL"
    picture = base64.b64decode(data_url.removeprefix(PNG_URL), validate=True)
    found = zxingcpp.read_barcodes(Image.open(io.BytesIO(picture), formats=["PNG"]))
    assert len(found) == 1, f"{len(found)} codes in the picture"
    return found[0].text


@dataclass(frozen=True)
class Row:
    """What the application sees of an instance."""

    instance_status: str
    qr_code: str | None
    last_qr_update: datetime | None


class Job:
    """The job in one database, and the Evolution API that it asks."""

    def __init__(self, connection: Connection, simulator: Simulator) -> None:
        """Hold a session on the database, as superuser and in autocommit, and the simulator."""
        self.connection = connection
        self.simulator = simulator

    def set(self, **settings: Any) -> None:
        """Change columns of qr_refresh.settings."""
        columns = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), value)
            for name, value in settings.items()
        )
        self.connection.execute(sql.SQL("update qr_refresh.settings set {}").format(columns))

    def add_row(
        self,
        name: str,
        token: str | None = "a-token",
        status: str = "connecting",
        qr_code: str | None = None,
    ) -> None:
        """Add a row to the application's table only."""
        self.connection.execute(
            "insert into evolution_instances"
            " (instance_name, instance_token, instance_status, qr_code, last_qr_update)"
            " values (%(name)s, %(token)s, %(status)s, %(qr)s,"
            " case when %(qr)s::text is not null then now() - interval '1 hour' end)",
            {"name": name, "token": token, "status": status, "qr": qr_code},
        )

    def add(self, name: str, *, qr_code: str | None = None, **options: Any) -> Instance:
        """Add an instance to the table and to the simulated server; options go to the latter."""
        token = f"token-of-{len(self.simulator.instances)}"
        self.add_row(name, token, qr_code=qr_code)
        instance = self.simulator.add_instance(name, token, **options)
        if instance.qr is not None:
            # Drawing takes the simulator a while, in which it answers nobody: now, and not when a
            # test counts the time.
            data_url(instance.qr.code)
        return instance

    def run(self, name: str | None = None) -> dict[str, Any]:
        """Call refresh_qr_codes() and return its report."""
        row = self.connection.execute("select refresh_qr_codes(%s)", (name,)).fetchone()
        assert row is not None
        report: dict[str, Any] = row[0]
        return report

    def result(self, name: str) -> dict[str, Any]:
        """Run for all, and return what the report says of one instance, without its name."""
        (result,) = (r for r in self.run()["results"] if r["instance_name"] == name)
        return {key: value for key, value in result.items() if key != "instance_name"}

    def tick(self, worker: int = 1, workers: int = 1) -> list[str]:
        """Ask who is due as live() does, and return the names of whom it asked."""
        report = self.tick_report(worker, workers)
        return [result["instance_name"] for result in report]

    def tick_report(self, worker: int = 1, workers: int = 1) -> list[dict[str, Any]]:
        """Ask who is due as live() does, until all have answered; return their results."""
        self.look(worker, workers)
        results: list[dict[str, Any]] = []
        under_way = 0
        while True:
            before = under_way
            row = self.connection.execute(
                "select * from qr_refresh.refresh_due(%s, %s, %s, %s)",
                (worker, workers, float(under_way > 0), under_way),
            ).fetchone()
            assert row is not None
            under_way = row[0]
            results += row[1]
            if not before and not under_way and not row[1]:
                return results

    def look(self, worker: int = 1, workers: int = 1) -> None:
        """Notice who connects and who does not, as live() does once a second."""
        self.connection.execute("select qr_refresh.notice(%s, %s)", (worker, workers))
        self.connection.execute("select qr_refresh.notice_new(%s, %s)", (worker, workers))

    def let_time_pass(self, seconds: float) -> None:
        """Move the simulator's clock forward, and what the job remembers back by as much.

        The job then sees what it would see after so many seconds.
        """
        self.simulator.clock.advance(seconds)
        moments = ["attempted_at", "answered_at", "next_attempt_at", "reconnected_at"]
        moments += ["qr_first_seen_at", "qr_changed_after", "closed_since", "quiet_until"]
        moments += ["under_way_until", "left_at", "told_at"]
        changes = sql.SQL(", ").join(
            sql.SQL("{0} = {0} - make_interval(secs => {1})").format(sql.Identifier(name), seconds)
            for name in moments
        )
        self.connection.execute(sql.SQL("update qr_refresh.instance_state set {}").format(changes))
        self.connection.execute(
            "update qr_refresh.server_state"
            " set answered_at = answered_at - make_interval(secs => %(s)s),"
            " away_since = away_since - make_interval(secs => %(s)s),"
            " next_probe_at = next_probe_at - make_interval(secs => %(s)s)",
            {"s": seconds},
        )

    def row(self, name: str) -> Row:
        """Read an instance's row back from the table."""
        cursor = self.connection.cursor(row_factory=class_row(Row))
        row = cursor.execute(
            "select instance_status, qr_code, last_qr_update from evolution_instances"
            " where instance_name = %s",
            (name,),
        ).fetchone()
        assert row is not None, f"no row for {name}"
        return row

    def value(self, query: str, *parameters: Any) -> Any:
        """Return the one value that a query gives."""
        return value_of(self.connection, query, *parameters)
