"""Makes evolution_instances of rows that are in another database; `make foreign-table` runs this.

    python -m db.foreign_table look      says what the application's database lacks
    python -m db.foreign_table create    makes server, user mapping, foreign table and view

The application's database, such as a managed one, needs nothing of ours but two columns and a role
that reads and writes them. `create` works in the database of DATABASE_URL, before `make migrate`,
and may be run again: what is named otherwise then is followed.

The environment, because everybody on a machine can see the arguments of its processes:

- ``APPLICATION_DATABASE_URL``: a postgresql:// URL of a role that need not be a superuser.
- ``EVOLUTION_TABLE``: the table or view with the rows, such as ``public.wa_accounts``.
- ``EVOLUTION_COLUMNS``: ours and theirs, such as ``instance_name=name,qr_code=qr``. What is not
  named is found by its name.
- ``EVOLUTION_CONNECTING``: the words of its status that mean connecting, such as ``qr,pending``.

The exit status is 3 where the application's database lacks something.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from db.connection import DeployError, connect, in_words, is_whole
from db.ending import ctrl_c_in_words

EXAMPLE = "APPLICATION_DATABASE_URL=postgresql://app:secret@db.example.com:5432/postgres"
CREATE_ROLES = Path(__file__).with_name("migrations") / "20261124000100_create_roles.sql"
SERVER = "application_database"
# Its name in the advice of the installation as well.
ROWS = "evolution_instances_rows"
LACKS_SOMETHING = 3  # exit status

# Other names of our columns, without underscores; as in qr_refresh.fitting_view().
SPELLINGS: Mapping[str, str] = {
    "instance_name": "name instance session sessionname nome nomeinstancia",
    "instance_token": "token apikey key hash apitoken accesstoken instancekey instanceapikey",
    "instance_status": "status state connectionstatus connectionstate situacao estado",
    "qr_code": "qr qrcode base64 qrbase64 qrcodebase64 lastqr lastqrcode",
    "last_qr_update": "qrupdatedat qrcodeupdatedat lastqrat qrat qrgeneratedat",
    "evolution_server": "",
}
# What they may be over there, and what is added where it is missing.
TEXTS = ("text", "character varying", "character", "citext")
TYPES: Mapping[str, tuple[str, ...]] = {
    "instance_name": TEXTS,
    "instance_token": TEXTS,
    "instance_status": TEXTS,  # or an enum
    "qr_code": ("text", "character varying"),
    "last_qr_update": ("timestamp with time zone", "timestamp without time zone"),
    "evolution_server": TEXTS,
}
ADDED = {"qr_code": "text", "last_qr_update": "timestamptz"}
WRITTEN = tuple(ADDED)

# What the other server does for us has an end. It waits for a row that is locked there for so long
# only, because one that waits holds up the other rows of its statement.
SESSION_OPTIONS = "-c lock_timeout=10ms -c statement_timeout=5s"
SERVER_OPTIONS: Mapping[str, str] = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "2",
    "tcp_user_timeout": "10000",
    # A thousand rows at a time, not 100: each time is a round trip.
    "fetch_size": "1000",
}
NO = "false"  # as postgres_fdw spells it
OF_THE_USER = ("user", "password", "sslcert", "sslkey", "sslpassword")


class LacksSomethingError(DeployError):
    """The application's database cannot serve the job yet; the message says what to run there."""


@dataclass(frozen=True)
class Wanted:
    """What the operator asks for."""

    url: str
    table: str = "public.evolution_instances"
    columns: Mapping[str, str] = field(default_factory=dict)
    connecting: tuple[str, ...] = ("connecting",)


@dataclass(frozen=True)
class Found:
    """The table of the application: its schema, its name, and a name and type for each column.

    `words` are those of its status, with the number of rows among the first 10,000.
    """

    schema: str
    name: str
    columns: Mapping[str, tuple[str, str]]
    is_enum: bool
    is_pooled: bool
    words: Mapping[str, int]


def read_environment(environment: Mapping[str, str]) -> Wanted:
    """Return what the environment asks for.

    Raises:
        DeployError: a variable cannot be read; the message has an example.
    """
    url = environment.get("APPLICATION_DATABASE_URL", "")
    if not url.startswith(("postgresql://", "postgres://")) or not is_whole(url):
        raise DeployError(
            "APPLICATION_DATABASE_URL is no postgresql:// URL. In a user or password write special"
            f" characters as %XX: @ is %40, / is %2F. Example:\n  {EXAMPLE}"
        )
    columns = {}
    for pair in filter(None, environment.get("EVOLUTION_COLUMNS", "").split(",")):
        ours, _, theirs = (part.strip() for part in pair.partition("="))
        if ours not in SPELLINGS or not theirs:
            raise DeployError(
                f"EVOLUTION_COLUMNS: {pair.strip()!r} is no pair of a column of ours and one of"
                f" yours. Ours are {', '.join(SPELLINGS)}. Example:\n"
                "  EVOLUTION_COLUMNS=instance_name=name,instance_status=status,qr_code=qr"
            )
        columns[ours] = theirs
    words = environment.get("EVOLUTION_CONNECTING", "") or "connecting"
    return Wanted(
        url,
        environment.get("EVOLUTION_TABLE", "") or Wanted.table,
        columns,
        tuple(word.strip() for word in words.split(",") if word.strip()),
    )


def look(wanted: Wanted) -> Found:
    """Look at the application's table as the role of the URL, and change nothing.

    Raises:
        LacksSomethingError: there is no way in, or a table, a column or a right is missing.
    """
    parts = conninfo_to_dict(wanted.url)
    parts.setdefault("connect_timeout", SERVER_OPTIONS["connect_timeout"])
    try:
        with psycopg.connect(**parts) as there:  # type: ignore[arg-type]
            there.read_only = True
            return _look(there, wanted)
    except psycopg.Error as error:
        raise LacksSomethingError(
            f"The application's database cannot be asked: {str(error).strip()}"
        ) from error


def _look(there: psycopg.Connection, wanted: Wanted) -> Found:
    row = there.execute(
        "select c.oid, n.nspname, c.relname, c.relkind, pg_backend_pid(), current_user,"
        " has_schema_privilege(n.oid, 'usage'),"
        # Whether row level security chooses the rows of this role.
        " c.relrowsecurity and not (r.rolsuper or r.rolbypassrls)"
        " and (c.relforcerowsecurity or not pg_has_role(c.relowner, 'usage'))"
        " from pg_class as c join pg_namespace as n on c.relnamespace = n.oid"
        " join pg_roles as r on r.rolname = current_user"
        " where c.oid = to_regclass(%s) and c.relkind in ('r', 'p', 'v', 'f')",
        (wanted.table,),
    ).fetchone()
    if row is None:
        raise LacksSomethingError(
            f"The application's database has no table {wanted.table}, or its role must not use the"
            " schema. EVOLUTION_TABLE names another one: EVOLUTION_TABLE=public.wa_accounts"
        )
    oid, schema, name, kind, backend, role, may_use_schema, is_filtered = row
    present = {
        column: (type_, is_enum, may_select, may_update)
        for column, type_, is_enum, may_select, may_update in there.execute(
            "select a.attname, format_type(a.atttypid, null), t.typtype = 'e',"
            " has_column_privilege(a.attrelid, a.attnum, 'select'),"
            " has_column_privilege(a.attrelid, a.attnum, 'update')"
            " from pg_attribute as a join pg_type as t on a.atttypid = t.oid"
            " where a.attrelid = %s and a.attnum > 0 and not a.attisdropped order by a.attnum",
            (oid,),
        ).fetchall()
    }
    columns = {ours: _match(ours, wanted, list(present)) for ours in SPELLINGS}
    table = sql.Identifier(schema, name)
    to_run = _missing_columns(there, wanted, columns, present, table, kind)

    if not may_use_schema:
        to_run.append(
            sql.SQL("GRANT USAGE ON SCHEMA {} TO {};")
            .format(sql.Identifier(schema), sql.Identifier(role))
            .as_string(there)
        )
    for privilege, index, names in (("SELECT", 2, SPELLINGS), ("UPDATE", 3, WRITTEN)):
        lacking = [
            theirs
            for ours in names
            if (theirs := columns[ours]) and (theirs not in present or not present[theirs][index])
        ]
        if lacking:
            listed = sql.SQL(", ").join(map(sql.Identifier, lacking))
            to_run.append(
                sql.SQL("GRANT {} ({}) ON {} TO {};")
                .format(sql.SQL(privilege), listed, table, sql.Identifier(role))
                .as_string(there)
            )
    if is_filtered and not _has_policies(there, oid):
        to_run.append(
            sql.SQL("CREATE POLICY refresh_qr_codes ON {} TO {} USING (true);")
            .format(table, sql.Identifier(role))
            .as_string(there)
        )
    if to_run:
        lines = "\n  ".join(to_run)
        raise LacksSomethingError(
            f"The application's database lacks something. As the owner of the table, run there:\n"
            f"  {lines}"
        )
    found = {ours: (theirs, present[theirs][0]) for ours, theirs in columns.items() if theirs}
    status = found["instance_status"][0]
    counted = there.execute(
        sql.SQL(
            # Of so many rows, because the table may be a large one.
            "select left({0}::text, 40), count(*) from (select {0} from {1} limit 10000) as t"
            " group by 1 order by 2 desc limit 20"
        ).format(sql.Identifier(status), table)
    ).fetchall()
    is_pooled = backend != there.info.backend_pid
    return Found(schema, name, found, present[status][1], is_pooled, dict(counted))


def _match(ours: str, wanted: Wanted, present: list[str]) -> str | None:
    """Return the name of a column over there; one that is to be added has our name."""
    if ours in wanted.columns:
        return wanted.columns[ours]
    if ours in present:
        return ours
    taken = {*SPELLINGS, *wanted.columns.values()}
    spellings = {ours.replace("_", ""), *SPELLINGS[ours].split()}
    for column in present:
        if column not in taken and column.lower().replace("_", "") in spellings:
            return column
    return ours if ours in ADDED else None


def _missing_columns(
    there: psycopg.Connection,
    wanted: Wanted,
    columns: Mapping[str, str | None],
    present: Mapping[str, tuple[str, bool, bool, bool]],
    table: sql.Identifier,
    kind: str,
) -> list[str]:
    """Return the statement that adds what can be added.

    Raises:
        LacksSomethingError: it is another table, or a column is of a type that does not serve.
    """
    unknown = [
        ours
        for ours, theirs in columns.items()
        if (theirs is None and ours != "evolution_server")
        or (theirs is not None and theirs not in present and (ours not in ADDED or kind == "v"))
    ]
    if unknown:
        raise LacksSomethingError(
            f"{wanted.table} has no column for {', '.join(unknown)}. It has:"
            f" {', '.join(present)}.\nEVOLUTION_COLUMNS says which one is meant:"
            f" EVOLUTION_COLUMNS={unknown[0]}=..."
        )
    for ours, theirs in columns.items():
        if theirs is None or theirs not in present:
            continue
        type_, is_enum, *_ = present[theirs]
        if type_ not in TYPES[ours] and not (is_enum and ours == "instance_status"):
            raise LacksSomethingError(
                f"{wanted.table}.{theirs} has the type {type_}, and {ours} may be"
                f" {' or '.join(TYPES[ours])}. EVOLUTION_TABLE may name a view over it, in which"
                " it is of such a type."
            )
    added = [
        sql.SQL("ADD COLUMN {} {}").format(sql.Identifier(theirs), sql.SQL(ADDED[ours]))
        for ours in ADDED
        if (theirs := columns[ours]) and theirs not in present
    ]
    if not added:
        return []
    statement = sql.SQL("ALTER TABLE {} {};").format(table, sql.SQL(", ").join(added))
    return [statement.as_string(there)]


def _has_policies(there: psycopg.Connection, oid: int) -> bool:
    """Tell whether policies that name the role let it read and write. PUBLIC's are of tenants."""
    row = there.execute(
        "select bool_or(p.polcmd in ('*', 'r')) and bool_or(p.polcmd in ('*', 'w'))"
        " from pg_policy as p, unnest(p.polroles) as named (role)"
        " where p.polrelid = %s and p.polpermissive and named.role <> 0"
        " and pg_has_role(named.role, 'usage')",
        (oid,),
    ).fetchone()
    return row == (True,)


def create(url: str, wanted: Wanted, found: Found) -> None:
    """Make server, user mapping, foreign table and view here, in the place of former ones.

    Args:
        url: a postgresql:// URL of a superuser of the database that gets the job.
        wanted: what the operator asks for.
        found: what look() has found.

    Raises:
        DeployError: there is a table evolution_instances here; nothing was changed.
    """
    with connect(url, "foreign-table") as here:
        try:
            with here.transaction():
                _replace(here, wanted, found)
        except psycopg.Error as error:
            # Not the statement, which has the password in it.
            said = in_words(error.diag, error.diag.message_primary or "the connection was lost")
            raise DeployError(f"Nothing was changed: {said}") from None
    for warning in _warnings(wanted, found):
        print(warning)
    print(f"evolution_instances is {wanted.table} of the application's database.")


def _replace(here: psycopg.Connection, wanted: Wanted, found: Found) -> None:
    # The statements below have the password in them.
    for setting, value in (("log_statement", "none"), ("log_min_error_statement", "panic")):
        here.execute("select set_config(%s, %s, true)", (setting, value))
    here.execute("select set_config('log_min_duration_statement', '-1', true)")
    here.execute("select set_config('search_path', 'pg_catalog, pg_temp', true)")
    here.execute(CREATE_ROLES.read_bytes())
    kinds: dict[str, str] = dict(
        here.execute(
            "select relname::text, relkind::text from pg_class"
            " where relnamespace = 'public'::regnamespace and relname = any(%s)",
            (["evolution_instances", ROWS],),
        ).fetchall()
    )
    if kinds not in ({}, {"evolution_instances": "v", ROWS: "f"}):
        raise DeployError(
            f"there is a table evolution_instances or {ROWS} in the database of DATABASE_URL."
            " Nothing was changed. If its rows are not needed here, rename or drop it, and run"
            " this again."
        )
    here.execute("create extension if not exists postgres_fdw")
    # Without CASCADE: what the operator has built on it must not go.
    here.execute(
        f"drop view if exists public.evolution_instances;"
        f"drop foreign table if exists public.{ROWS};"
        f"drop user mapping if exists for qr_refresh_owner server {SERVER};"
        f"drop server if exists {SERVER}".encode()
    )
    for statement in _definition(wanted, found):
        here.execute(statement)


def _definition(wanted: Wanted, found: Found) -> list[sql.Composed]:
    """Return the statements that make it all."""
    parts = {name: str(value) for name, value in conninfo_to_dict(wanted.url).items()}
    user = {name: parts.pop(name) for name in OF_THE_USER if name in parts}
    server = {**SERVER_OPTIONS, **parts}
    if not found.is_pooled:
        server["options"] = f"{SESSION_OPTIONS} {parts.get('options', '')}".strip()
    if "password" not in user:
        # Else postgres_fdw refuses everybody but superusers.
        user["password_required"] = NO
    columns = [
        sql.SQL("{} {} options (column_name {})").format(
            sql.Identifier(ours),
            sql.SQL(type_ if ours == "last_qr_update" else "text"),
            sql.Literal(theirs),
        )
        for ours, (theirs, type_) in found.columns.items()
    ]
    names = sql.SQL("server {server}").format(server=sql.Identifier(SERVER))
    rows, owner = sql.Identifier("public", ROWS), sql.Identifier("qr_refresh_owner")
    written = sql.SQL(", ").join(map(sql.Identifier, WRITTEN))
    return [
        sql.SQL("create server {} foreign data wrapper postgres_fdw options ({})").format(
            sql.Identifier(SERVER), _options(server)
        ),
        sql.SQL("grant usage on foreign server {} to {}").format(sql.Identifier(SERVER), owner),
        sql.SQL("create user mapping for {} {} options ({})").format(owner, names, _options(user)),
        sql.SQL("create foreign table {} ({}) {} options ({})").format(
            rows,
            sql.SQL(", ").join(columns),
            names,
            _options({"schema_name": found.schema, "table_name": found.name}),
        ),
        sql.SQL("comment on foreign table {} is {}").format(
            rows, sql.Literal("The rows in the application's database; see evolution_instances.")
        ),
        sql.SQL(
            "create view public.evolution_instances with (security_invoker = true) as"
            " select {} from {} as t"
        ).format(_view_columns(wanted, found), rows),
        sql.SQL("comment on view public.evolution_instances is {}").format(
            sql.Literal("WhatsApp instances of Evolution API, in the application's database.")
        ),
        sql.SQL("grant select, update ({}) on {}, public.evolution_instances to {}").format(
            written, rows, owner
        ),
    ]


def _view_columns(wanted: Wanted, found: Found) -> sql.Composable:
    items: list[sql.Composable] = []
    for ours in SPELLINGS:
        column = sql.SQL("t.{}").format(sql.Identifier(ours))
        if ours == "evolution_server" and ours not in found.columns:
            items.append(sql.SQL("null::text as evolution_server"))
        elif ours == "instance_status" and wanted.connecting != ("connecting",):
            # Spelled so that the other server can do it, also where its column is an enum.
            means = sql.SQL(" or ").join(
                sql.SQL("{} = {}").format(column, sql.Literal(word)) for word in wanted.connecting
            )
            other = sql.SQL("null") if found.is_enum else column
            items.append(
                sql.SQL("case when {} then 'connecting' else {} end as instance_status").format(
                    means, other
                )
            )
        else:
            items.append(column)
    return sql.SQL(", ").join(items)


def _options(options: Mapping[str, str]) -> sql.Composable:
    return sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.Literal(value))
        for name, value in options.items()
    )


def _warnings(wanted: Wanted, found: Found) -> list[str]:
    """Return what works and could be better."""
    warnings = []
    if found.is_pooled:
        warnings.append(
            "WARNING: APPLICATION_DATABASE_URL leads to a pooler. In transaction mode the"
            " application's next query may find the settings of postgres_fdw: take the direct"
            " connection, or the session mode. Set there, since a pooler takes no options:\n"
            "  ALTER ROLE ... SET lock_timeout = '10ms';\n"
            "  ALTER ROLE ... SET statement_timeout = '5s';"
        )
    if found.words and not found.words.keys() & set(wanted.connecting):
        words = ", ".join(f"{word} ({times})" for word, times in found.words.items())
        warnings.append(
            f"WARNING: no row is {' or '.join(wanted.connecting)} now. The status of the rows is"
            f" {words}. EVOLUTION_CONNECTING says which of these words mean connecting."
        )
    return warnings


def main() -> None:
    """Run the command that is named on the command line."""
    if len(sys.argv) != 2 or sys.argv[1] not in ("look", "create"):
        raise SystemExit("usage: python -m db.foreign_table look|create")
    try:
        with ctrl_c_in_words("Ended by Ctrl-C: nothing was changed."):
            wanted = read_environment(os.environ)
            found = look(wanted)
            if sys.argv[1] == "create":
                create(os.environ.get("DATABASE_URL", ""), wanted, found)
    except LacksSomethingError as error:
        print(error, file=sys.stderr)
        raise SystemExit(LACKS_SOMETHING) from error
    except DeployError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
