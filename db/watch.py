"""Shows qr_refresh.status and qr_refresh.alerts of the database of DATABASE_URL, until Ctrl-C.

`make watch` runs this. The URL is read from the environment, because everybody on a machine can see
the arguments of its processes.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import psycopg

from db.connection import DeployError, connect
from db.ending import ctrl_c_in_words

EVERY = 1.0  # seconds
HEALTH = (
    "select format('%s  %s of %s live, last run %s ago, %s of last hour''s attempts succeeded',"
    " to_char(clock_timestamp(), 'HH24:MI:SS'), live_instances, connecting_instances,"
    " coalesce(date_trunc('second', now() - last_run_finished_at)::text, 'never'),"
    " coalesce(round(100 * success_share_last_hour) || ' %', 'none'))"
    " from qr_refresh.health"
)
STATUS = (
    "select instance_name, case when is_live then 'live' else 'DEAD' end as qr,"
    " date_trunc('second', qr_age)::text as age, last_outcome as outcome,"
    " failures::text as failures,"
    " date_trunc('second', now() - last_attempt_at)::text || ' ago' as asked, last_error as error"
    " from qr_refresh.status order by is_live, instance_name limit %s"
)
ALERTS = (
    "select 'ALERT ' || alert || coalesce(' ' || instance_name, '') || ': ' || detail"
    " from qr_refresh.alerts order by alert <> 'no_live_qr' desc, since limit 5"
)
Connection = psycopg.Connection[tuple[Any, ...]]


def screen(connection: Connection, rows: int) -> str:
    """Return what is to be seen now: a line on the whole, the alerts, the instances."""
    lines = [row[0] for row in connection.execute(HEALTH)]
    lines += [row[0] for row in connection.execute(ALERTS)]
    cursor = connection.execute(STATUS, (max(rows - len(lines) - 3, 1),))
    assert cursor.description is not None
    table = [[column.name for column in cursor.description]]
    table += [["" if value is None else value for value in row] for row in cursor]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines += ["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)]
    # A name with a control character in it must not command the terminal.
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)


def watch(connection: Connection) -> None:
    """Draw the screen again and again, in place on a terminal, else one below the other."""
    while True:
        is_terminal = sys.stdout.isatty()
        rows, columns = 50, 0
        if is_terminal:
            columns, rows = os.get_terminal_size()
        text = screen(connection, rows or 50)
        if is_terminal:
            text = "\n".join(line[: columns or None] for line in text.splitlines())
            # Home, clear to the end of each line and below: no flicker, unlike clearing first.
            text = "\x1b[H" + text.replace("\n", "\x1b[K\n") + "\x1b[K\x1b[J"
        print(text, flush=True)
        time.sleep(EVERY)


def main() -> None:
    """Connect, and show until Ctrl-C."""
    try:
        with (
            ctrl_c_in_words(),
            connect(os.environ.get("DATABASE_URL", ""), "watch") as connection,
        ):
            watch(connection)
    except DeployError as error:
        raise SystemExit(f"error: {error}") from error
    except (psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedTable) as error:
        raise SystemExit("error: refresh-qr-codes is not installed: make migrate") from error
    except psycopg.Error as error:
        raise SystemExit(f"error: the database of DATABASE_URL: {error}") from error


if __name__ == "__main__":
    main()
