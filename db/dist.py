"""Writes the whole installation into one SQL file; `make dist` and `make release` run this.

    python -m db.dist             dist/qr_refresh.sql, which the Docker image installs
    python -m db.dist release     two files to attach to a release, each with its SHA-256:
                                  qr_refresh-VERSION.sql             for psql
                                  qr_refresh-VERSION-migration.sql   for migration tools

All install the same, all of it or nothing, and can be run again, also to upgrade.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tomllib
from pathlib import Path
from tempfile import NamedTemporaryFile

from db.order import (
    FIRST,
    LOCK,
    MIGRATION_LOCK_TIMEOUT,
    MIGRATIONS,
    MIGRATIONS_TABLE,
    REPEATED,
    ROOT,
    SEARCH_PATH,
    text_of,
)

DIST = ROOT / "dist"

# What tools read in a file, also inside quotes: a colon before a word is a parameter for SQLAlchemy
# and Alembic, ? is one for knex, a backslash hides either, ${ begins a placeholder of Flyway.
READ_BY_TOOLS = re.compile(r"(?<!:):(?=\w)|\?|\\|\$(?=\{)")
STAND_INS = {":": "<colon>", "?": "<question>", "\\": "<backslash>", "$": "<dollar>"}


def write_dist() -> None:
    """Write the file for psql, without a version in its name."""
    write(DIST / "qr_refresh.sql", psql_file("qr_refresh.sql"))


def write_release() -> None:
    """Write the files of a release and their checksums, as `sha256sum --check` reads them."""
    for kind, content in (("", psql_file), ("-migration", migration_file)):
        path = DIST / f"qr_refresh-{project()['version']}{kind}.sql"
        write(path, content(path.name))
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        write(path.with_name(f"{path.name}.sha256"), f"{checksum}  {path.name}\n")


def write(path: Path, text: str) -> None:
    """Write one file, with the same bytes on every system; a reader sees the old one or the new."""
    path.parent.mkdir(exist_ok=True)
    with NamedTemporaryFile(
        "w", dir=path.parent, encoding="utf-8", newline="\n", delete=False
    ) as file:
        file.write(text)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
    print(f"Wrote {path.relative_to(ROOT)}")


def psql_file(name: str) -> str:
    """Return the installation with BEGIN and COMMIT around it."""
    text = f"""\
-- {title()}
--
-- Installs into one database, as a superuser:
--     psql --set ON_ERROR_STOP=1 --file {name} postgresql://postgres@host/database
-- It can be run again, also to upgrade; if a statement fails, nothing is installed.
-- Made from the folder db, which is in the order of this file.

begin;
set local client_min_messages = warning;
set local standard_conforming_strings = on;
set local search_path = {SEARCH_PATH};
-- Two installations at once would get into each other's way: the second waits.
do $$ begin perform pg_catalog.pg_advisory_xact_lock({LOCK}); end $$;
-- The application waits for whoever waits for its table.
set local lock_timeout = '{MIGRATION_LOCK_TIMEOUT}';
"""
    return text + "".join(f"\n{part}\n" for part in parts()) + "\ncommit;\n"


def migration_file(name: str) -> str:
    """Return the installation as one statement that is a part of the caller's transaction.

    As one statement it is whole also for drivers that prepare what they are given. Its parts are
    literals in single quotes, because graphile-migrate's parser does not know dollar quotes.
    """
    literals = ",\n\n".join(literal(part) for part in parts())
    readable = "part"
    for character, stand_in in STAND_INS.items():
        readable = f"replace({readable}, '{stand_in}', chr({ord(character)}))"
    return f"""\
-- This file has no BEGIN and COMMIT: it is for migration tools, which bring their transaction.
--
-- {title()}
--
-- Installs into one database, as a superuser: {name} as a whole is one migration.
-- It can be run again, also to upgrade; if a statement fails, nothing is installed.
-- Made from the folder db, which is in the order of this file. To read it take the file for psql,
-- which installs the same: here {", ".join(STAND_INS.values())} stand for
-- characters that migration tools would take for their own.

do $installation$
declare
    settings constant pg_catalog.text [] := array[
        'client_min_messages', 'standard_conforming_strings', 'search_path', 'lock_timeout'
    ];
    former pg_catalog.text [];
    part pg_catalog.text := 'the beginning of the file';
    said pg_catalog.text;
    advice pg_catalog.text;
    place pg_catalog.text;
    guards pg_catalog.text;
begin
    former := array(
        select pg_catalog.current_setting(s.name)
        from pg_catalog.unnest(settings) with ordinality as s (name, place)
        order by s.place
    );
    set local client_min_messages = warning;
    set local standard_conforming_strings = on;
    set local search_path = {SEARCH_PATH};
    -- Two installations at once would get into each other's way, so the second waits.
    perform pg_advisory_xact_lock({LOCK});
    -- The application waits for whoever waits for its table.
    set local lock_timeout = '{MIGRATION_LOCK_TIMEOUT}';
    foreach part in array array[

{literals}

    ] loop
        execute {readable};
    end loop;
    -- What the tool does next in this transaction is done as before.
    for i in 1 .. cardinality(settings) loop
        perform pg_catalog.set_config(settings[i], former[i], true);
    end loop;
exception when others then
    -- Without the context, which would be a long part of this file.
    get stacked diagnostics
        said = pg_exception_detail, advice = pg_exception_hint, place = pg_exception_context;
    set local search_path = {SEARCH_PATH};
    select string_agg(
        format('Event trigger %I, function %s, has stopped it.', e.evtname, f.name), ' '
    )
    into guards
    from pg_event_trigger as e, cast(cast(e.evtfoid as regproc) as text) as f (name)
    where strpos(place, concat(' ', f.name, '(')) > 0;
    raise exception using
        errcode = sqlstate,
        message = sqlerrm,
        detail = concat_ws(
            ' ', nullif(said, ''), guards, 'In ' || ltrim(split_part(part, chr(10), 1), '- ') || '.'
        ),
        hint = coalesce(nullif(advice, ''), 'Nothing was installed.');
end
$installation$;
"""


def literal(part: str) -> str:
    """Return a literal of SQL in which no tool finds anything to replace.

    Raises:
        ValueError: the part has in it what marks the end of the file, or stands for a character.
    """
    for mark in ("$installation$", *STAND_INS.values()):
        if mark in part:
            raise ValueError(f"{part.splitlines()[0]}: {mark} has a meaning in db/dist.py")
    inert = READ_BY_TOOLS.sub(lambda found: STAND_INS[found[0]], part)
    # On a line of its own: sql-migrate leaves out lines of comment, and one may be the last.
    return "'" + inert.replace("'", "''") + "\n'"


def parts() -> list[str]:
    """Return the installation in its order, one part a file, each with its name in front."""
    versions = ",\n".join(f"    ('{path.name.split('_')[0]}')" for path in MIGRATIONS)
    note = f"""\
-- Tells a later `make migrate` (dbmate) what has been run.

create table if not exists {MIGRATIONS_TABLE} (version varchar primary key);
insert into {MIGRATIONS_TABLE} (version) values
{versions}
on conflict do nothing;"""
    return [*map(part_of, (*FIRST, *MIGRATIONS[1:])), note, *map(part_of, REPEATED)]


def part_of(path: Path) -> str:
    """Return a file without dbmate's marks and without the part that undoes a migration."""
    text = text_of(path).split("-- migrate:down")[0]
    text = re.sub(r"\A-- migrate:up\s*\n", "", text).strip()
    return f"-- {path.relative_to(ROOT).as_posix()}\n\n{text}"


def title() -> str:
    """Return what is installed, in one line."""
    return f"{project()['name']} {project()['version']}: {project()['description']}"


def project() -> dict[str, str]:
    """Return what pyproject.toml says of this project."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        described: dict[str, str] = tomllib.load(file)["project"]
    return described


def main() -> None:
    """Run the command that is named on the command line."""
    commands = {(): write_dist, ("release",): write_release}
    if tuple(sys.argv[1:]) not in commands:
        raise SystemExit("usage: python -m db.dist [release]")
    commands[tuple(sys.argv[1:])]()


if __name__ == "__main__":
    main()
