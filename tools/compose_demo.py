"""The service demo-data of compose.yaml: the simulator's instances, and the live page's role."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from tools.page_role import create_page_role

# As compose.yaml starts it: --instances names them instance-1 to instance-6.
SIMULATOR = "http://simulator:8080"
INSTANCES = 6
PASSWORD_FILE = Path("/run/demo/pgpass")


def main() -> None:
    """Add what the demo shows; all of it may be there already."""
    url = os.environ["DATABASE_URL"]
    with psycopg.connect(url) as connection:
        # Its own server for its own rows: the setting is that of the other instances.
        connection.execute(
            "insert into qr_refresh.evolution_servers (server_name, base_url)"
            " values ('simulator', %s)"
            " on conflict (server_name) do update set base_url = excluded.base_url",
            (SIMULATOR,),
        )
        connection.execute(
            "insert into evolution_instances"
            " (instance_name, instance_token, instance_status, evolution_server)"
            " select 'instance-' || n, 'token-instance-' || n, 'connecting', 'simulator'"
            " from generate_series(1, %s) as n"
            " on conflict (instance_name) do nothing",
            (INSTANCES,),
        )
        # The first codes; the scheduled job begins with the next minute.
        connection.execute("select refresh_qr_codes()")
        # Without EVOLUTION_API_BASE_URL the server has scheduled nothing.
        connection.execute("create extension if not exists pg_cron")
        if not connection.execute("select from cron.job").fetchone():
            connection.execute("select qr_refresh.schedule('live')")
    page = urlsplit(create_page_role(url))
    PASSWORD_FILE.touch(mode=0o600)
    PASSWORD_FILE.write_text(f"*:*:*:{page.username}:{page.password}\n", encoding="utf-8")
    print(f"The demo's {INSTANCES} instances are in evolution_instances.")


if __name__ == "__main__":
    main()
