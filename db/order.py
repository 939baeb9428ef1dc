"""The order in which everything is installed, written down once: deploy, dist and tests use it.

First the checks, which change nothing, and the application's table. Then the migrations, by their
names, and only those that the database has not had. Then, with each installation, the functions,
room by room, the views, what goes of earlier releases, who owns and may use all of it, and whether
the HTTP client starts. Within a room the order does not matter. Also what the session has to be
like meanwhile.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DB = ROOT / "db"

# The folders of db/functions. A function in SQL and a view need what they call to be there; a
# function in PL/pgSQL or PL/Python needs it only when it is called.
ROOMS = (
    "identity",
    "http",
    "choosing",
    "storing",
    "pacing",
    "job",
    "live",
    "events",
    "schedule",
    "monitoring",
    "doctor",
)
VIEW_NAMES = ("status", "alerts", "health", "metrics")

CHECK_PYTHON = DB / "check_python.sql"
CLAIM_SCHEMA = DB / "claim_schema.sql"
CHECK_TABLE = DB / "check_table.sql"
APPLICATION_TABLE = DB / "application_table.sql"
MIGRATIONS = sorted((DB / "migrations").glob("*.sql"))
FUNCTIONS = [path for room in ROOMS for path in sorted((DB / "functions" / room).glob("*.sql"))]
VIEWS = [DB / "views" / f"{name}.sql" for name in VIEW_NAMES]
OUTCOMES = DB / "outcomes.sql"
DROP_OLD = DB / "drop_old_functions.sql"
PRIVILEGES = DB / "privileges.sql"
REPORT_TABLE = DB / "report_table.sql"
CHECK_CLIENT = DB / "check_client_works.sql"
UNINSTALL = DB / "uninstall.sql"

# What every installation runs after the migrations.
REPEATED = [OUTCOMES, *FUNCTIONS, *VIEWS, DROP_OLD, PRIVILEGES, REPORT_TABLE, CHECK_CLIENT]

MIGRATIONS_TABLE = "qr_refresh.schema_migrations"

# Whoever may create objects in public (everybody, before PostgreSQL 15) could otherwise put a
# function of their own in the way of one that a superuser calls here.
SEARCH_PATH = "pg_catalog, pg_temp"

# The last migration of each earlier release.
RELEASES = {"20261124000600": "1.0.0", "20261124300000": "1.1.0"}

# An arbitrary number, the same in every release: what else takes this lock is another deployment.
LOCK = 7_160_624_931
# The application waits for whoever waits for its table. A run of the job holds it for run_timeout.
MIGRATION_LOCK_TIMEOUT = "1min"


# The last migration that did something to the application's table, which today may be a view.
# APPLICATION_TABLE and PRIVILEGES do that now, with each installation.
LAST_WITH_TABLE = "20261124300000"
STATEMENT = re.compile(r"^(?:do \$\$\n.*?^\$\$;\n|[a-z].*?;\n)", re.MULTILINE | re.DOTALL)


def text_of(path: Path) -> str:
    """Return the statements of a file, as they are run.

    A line `include NAME` stands for the file of that name beside it. Released migrations, which are
    never edited, come without what they did to the application's table.
    """
    text = path.read_text(encoding="utf-8")
    if path in MIGRATIONS and path.name[: len(LAST_WITH_TABLE)] <= LAST_WITH_TABLE:
        text = STATEMENT.sub(
            lambda found: "" if "public.evolution_instances" in found[0] else found[0], text
        )
    return re.sub(
        r"^include (\S+)\n",
        lambda line: (path.parent / line[1]).read_text(encoding="utf-8"),
        text,
        flags=re.MULTILINE,
    )


def function(name: str) -> Path:
    """Return the file of a function, which has its name.

    Raises:
        LookupError: there is no such file.
    """
    for path in FUNCTIONS:
        if path.stem == name:
            return path
    raise LookupError(f"no file {name}.sql in the rooms of db/functions: {', '.join(ROOMS)}")


# What every installation runs before the other migrations.
CHECKS = [CHECK_PYTHON, MIGRATIONS[0], CLAIM_SCHEMA, function("fitting_view"), CHECK_TABLE]
FIRST = [*CHECKS, APPLICATION_TABLE]
