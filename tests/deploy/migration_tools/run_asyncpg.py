"""asyncpg, in one transaction: URL, execute or prepare, then files."""

import asyncio
import sys
from pathlib import Path

import asyncpg

url, way, *files = sys.argv[1:]


async def main() -> None:
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        for file in files:
            sql = Path(file).read_text(encoding="utf-8")
            await (connection.execute(sql) if way == "execute" else connection.fetch(sql))
    await connection.close()


asyncio.run(main())
