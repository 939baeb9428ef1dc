"""What the page shows, kept up to date with the database."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg.rows import DictRow, dict_row

from .reasons import Reason, reason_of

Key = tuple[str | None, str]
Database = Literal["unread", "online", "offline", "refused"]

LOG = logging.getLogger(__name__)

# The job sends a NOTIFY for each QR code that it stores. What the application writes, such as a new
# status, sends none: it is found by reading the small columns again after so many seconds.
READ_INTERVAL = 0.5
# Why a code is missing is asked less often, for the view looks at each picture.
REASON_INTERVAL = 2.0
READ_TIMEOUT = 5.0
RECONNECT_INTERVAL = 1.0

# Seconds for which an instance stays on the page after it has stopped connecting.
KEPT_AFTER_CONNECTING = 300.0

PNG_URL = "data:image/png;base64,"

# A picture is sent by the database only where last_qr_update is another one than that of the
# picture which is here already. An `instance_status` that is an enum is compared as one, so that an
# index on it serves. The other columns may be of any type that the job takes. A code lives 45 s, as
# in qr_refresh.status; the setting is longer as a rule, for the job judges pictures by it.
QUERY = """
select
    e.instance_name::text as name,
    e.evolution_server::text as server,
    e.instance_status::text as status,
    e.last_qr_update::text as updated_at,
    case
        when isfinite(e.last_qr_update::timestamptz)
            then extract(epoch from clock_timestamp() - e.last_qr_update::timestamptz)::float8
    end as age,
    e.qr_code is not null as has_picture,
    known.name is not null
    and known.updated_at is not distinct from e.last_qr_update::text as is_known,
    case
        when known.name is null or known.updated_at is distinct from e.last_qr_update::text
            then e.qr_code
    end as qr_code,
    (
        select extract(epoch from least(s.qr_lifetime, interval '45 seconds'))::float8
        from qr_refresh.settings as s
    ) as lifetime
from public.evolution_instances as e
left join
    unnest(%(servers)s::text[], %(names)s::text[], %(times)s::text[])
    as known (server, name, updated_at)
    on known.name = e.instance_name::text
    and known.server is not distinct from e.evolution_server::text
where
    (
        e.instance_status = 'connecting'
        or (e.instance_name::text = any(%(names)s::text[]) and known.name is not null)
    )
    -- The job leaves these alone.
    and e.instance_name is not null
-- Of two rows of one name on one server the last one is shown.
order by e.last_qr_update nulls first
"""

REASON_QUERY = """
select
    s.instance_name as name,
    s.evolution_server as server,
    s.last_outcome as outcome,
    s.last_error as error,
    extract(epoch from clock_timestamp() - s.last_attempt_at)::float8 as asked_before,
    extract(epoch from clock_timestamp() - s.next_attempt_at)::float8 as overdue
from qr_refresh.status as s
"""


@dataclass(frozen=True)
class Card:
    """An instance as the page shows it.

    Attributes:
        name: as in instance_name; any characters.
        server: as in evolution_server; None for the one of the settings.
        status: as in instance_status.
        picture: the QR code as a PNG data URL; None without one.
        updated_at: last_qr_update as the database writes it, only to notice another one.
        stored_at: when that picture was first stored, on this process's monotonic clock; None
            where it is not known.
        is_used: the picture was there already when the instance was not connecting.
        left_at: when the instance was first seen not connecting; None while it connects.
        reason: why there is no newer code; None where there is nothing to say.
        error: what the view says to it; None for nothing.
    """

    name: str
    server: str | None
    status: str
    picture: str | None
    updated_at: str | None
    stored_at: float | None
    is_used: bool
    left_at: float | None
    reason: Reason | None
    error: str | None


class Board:
    """The cards of all instances that connect or have just stopped to, and whether they are true.

    Attributes:
        cards: by server and name. A card object is replaced when something in it changes, and only
            then.
        lifetime: seconds after which a QR code that stays the same is dead.
        database: `unread` before the first answer; `online`; `offline` while it does not answer;
            `refused` while it answers with an error.
    """

    def __init__(self) -> None:
        """Make an empty board; `watch` fills it."""
        self.cards: dict[Key, Card] = {}
        self.lifetime = 45.0
        self.database: Database = "unread"
        self._reasons: dict[Key, tuple[Reason | None, str | None]] = {}
        self._changes = 0
        self._changed = asyncio.Condition()

    async def wait_for_change(self, seen: int, timeout: float) -> int:
        """Wait until there was another change than those seen, or for so many seconds.

        Returns:
            The number of changes now, to be passed to the next call; 0 is the first one's.
        """
        try:
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: self._changes > seen)
        except TimeoutError:
            pass
        return self._changes

    async def watch(self, url: str) -> None:
        """Follow the database until cancelled, whether it answers or not.

        Args:
            url: a postgresql:// URL, of a role as ./create_role.sql makes it.
        """
        while True:
            try:
                await self._follow(url)
            # Whatever it is: the page must not go on as if all were well.
            except Exception as error:
                unanswered = isinstance(error, (psycopg.OperationalError, TimeoutError))
                database: Database = "offline" if unanswered else "refused"
                if self.database != database:
                    LOG.warning("database %s: %s", database, str(error) or "no answer in time")
                    self.database = database
                    await self._announce()
            await asyncio.sleep(RECONNECT_INTERVAL)

    async def _follow(self, url: str) -> None:
        async with await psycopg.AsyncConnection.connect(
            url,
            autocommit=True,
            row_factory=dict_row,
            client_encoding="utf8",
            connect_timeout=5,
            application_name="refresh-qr-codes live page",
        ) as connection:
            with _cut_off_when_late(connection):
                await connection.execute("listen qr_refresh")
            reasons_at = -REASON_INTERVAL
            while True:
                asked_at = time.monotonic()
                if asked_at - reasons_at >= REASON_INTERVAL:
                    reasons_at = asked_at
                    with _cut_off_when_late(connection):
                        self._reasons = await _read_reasons(connection)
                    asked_at = time.monotonic()
                with _cut_off_when_late(connection):
                    rows = await self._read(connection)
                await self._take(rows, asked_at)
                async for _ in connection.notifies(timeout=READ_INTERVAL, stop_after=1):
                    pass

    async def _read(self, connection: psycopg.AsyncConnection[DictRow]) -> list[DictRow]:
        known = {
            "servers": [card.server for card in self.cards.values()],
            "names": [card.name for card in self.cards.values()],
            "times": [card.updated_at for card in self.cards.values()],
        }
        cursor = await connection.execute(QUERY, known)
        return await cursor.fetchall()

    async def _take(self, rows: list[DictRow], asked_at: float) -> None:
        before = self.cards
        after: dict[Key, Card] = {}
        for row in rows:
            key = (row["server"], row["name"])
            card = _card(row, before.get(key), self._reasons.get(key, (None, None)), asked_at)
            if card.left_at is None or asked_at - card.left_at < KEPT_AFTER_CONNECTING:
                after[key] = card
            self.lifetime = row["lifetime"]
        if after != before or self.database != "online":
            if self.database != "online":
                LOG.info("database online")
            self.cards, self.database = after, "online"
            await self._announce()

    async def _announce(self) -> None:
        async with self._changed:
            self._changes += 1
            self._changed.notify_all()


async def _read_reasons(
    connection: psycopg.AsyncConnection[DictRow],
) -> dict[Key, tuple[Reason | None, str | None]]:
    cursor = await connection.execute(REASON_QUERY)
    return {
        (row["server"], row["name"]): (
            reason_of(row["outcome"], row["error"], row["asked_before"], row["overdue"]),
            row["error"],
        )
        for row in await cursor.fetchall()
    }


@contextlib.contextmanager
def _cut_off_when_late(connection: psycopg.AsyncConnection[DictRow]) -> Iterator[None]:
    """End a connection on which the answer takes longer than READ_TIMEOUT.

    Raises:
        TimeoutError: it did.
    """
    # Not asyncio.timeout: psycopg then asks the server to cancel, and waits for its answer to that
    # as well. Debian 13's psycopg (3.2.6) does so for ever.
    loop = asyncio.get_running_loop()
    with socket.socket(fileno=os.dup(connection.fileno())) as link:
        timer = loop.call_later(READ_TIMEOUT, _shut_down, link)
        try:
            yield
        except psycopg.OperationalError:
            if loop.time() < timer.when():
                raise
            raise TimeoutError from None
        finally:
            timer.cancel()


def _shut_down(link: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side was faster
        link.shutdown(socket.SHUT_RDWR)


def _card(
    row: dict[str, Any],
    former: Card | None,
    why: tuple[Reason | None, str | None],
    asked_at: float,
) -> Card:
    picture: str | None = row["qr_code"]
    if not row["has_picture"]:
        picture = None
    elif row["is_known"]:
        picture = former.picture if former else None
    elif picture and not picture.startswith(PNG_URL):
        picture = None  # not written by the job, and nothing to scan
    same = former if former and picture is not None and picture == former.picture else None
    is_connecting = row["status"] == "connecting"
    # Scanned, or the connection that it belonged to has ended: a code of before lets nobody in.
    is_used = picture is not None and (not is_connecting or (same is not None and same.is_used))
    stored_at = None
    if picture is not None and not is_used and row["age"] is not None:
        # The future where the database's clock was set back. Counted from the question, for the
        # answer may have been on its way.
        stored_at = asked_at - max(row["age"], 0.0)
        # A picture becomes no younger by being stored again. Where it is older than was thought, a
        # clock was set, or this machine slept, and its monotonic clock with it.
        if same and same.stored_at is not None and same.stored_at < stored_at + READ_TIMEOUT:
            stored_at = same.stored_at
    left_at = None
    if not is_connecting:
        left_at = former.left_at if former and former.left_at is not None else asked_at
    card = Card(
        name=row["name"],
        server=row["server"],
        status=row["status"],
        picture=picture,
        updated_at=row["updated_at"],
        stored_at=stored_at,
        is_used=is_used,
        left_at=left_at,
        reason=why[0] if is_connecting else None,
        error=why[1] if is_connecting else None,
    )
    # The same object, where it would be shown the same.
    return former if former == card else card
