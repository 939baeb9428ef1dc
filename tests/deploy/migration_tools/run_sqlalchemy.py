"""SQLAlchemy's text(), in one transaction: URL, then files."""

import asyncio
import sys
from pathlib import Path

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

url, *files = sys.argv[1:]


def run(connection: Connection) -> None:
    for file in files:
        connection.execute(text(Path(file).read_text(encoding="utf-8")))


async def run_async() -> None:
    async with create_async_engine(url).begin() as connection:
        await connection.run_sync(run)


if "+asyncpg:" in url:
    asyncio.run(run_async())
else:
    with create_engine(url).begin() as connection:
        run(connection)
