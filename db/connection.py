"""The URL of a database: connecting with it, and what others have to know of it.

The URL is read from the environment, because everybody on a machine can see the arguments of its
processes. libpq takes a URL apart and never a split at some character: a URL may have options after
a question mark, a Unix socket's directory for a host, or no database at all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db.url import problem_of

CONNECT_TIMEOUT = "10"  # seconds, where the operator has not asked for others

# Those of libpq's options that mean the same to dbmate. It passes any other on to the server, which
# does not know it, as it does with the settings that are added below.
DBMATE_KNOWS = (
    "application_name",
    "connect_timeout",
    "krbsrvname",
    "options",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "sslsni",
)


class DeployError(Exception):
    """The deployment cannot go on; the message says why, and what to do."""


def connect(url: str, command: str, database: str | None = None) -> psycopg.Connection:
    """Open a session on the database of the URL, or on another one of the same server.

    Args:
        url: a postgresql:// URL, with any option that libpq knows.
        command: the target of make, for the message.
        database: the name of another database.

    Raises:
        DeployError: there is no URL, or the server does not let us in.
    """
    problem = problem_of(url, command)
    if problem:
        raise DeployError(problem)
    if not is_whole(url):
        # Not what libpq says: it quotes the part that it cannot read, which is of the password.
        raise DeployError(
            "DATABASE_URL cannot be read. In a user or password write special characters as %XX:"
            " @ is %40, / is %2F, % is %25, a space is %20. After a ? it may only have what libpq"
            " knows, such as sslmode."
        )
    parts = conninfo_to_dict(url, dbname=database)
    if "PGCONNECT_TIMEOUT" not in os.environ:
        parts.setdefault("connect_timeout", CONNECT_TIMEOUT)
    try:
        connection = psycopg.connect(make_conninfo("", **parts), autocommit=True)
        # Whatever the URL says: our files are not in its encoding, and with SQL_ASCII texts come as
        # bytes.
        encoding = connection.info.parameter_status("server_encoding")
        client_encoding = "UTF8" if encoding == "SQL_ASCII" else encoding
        connection.execute(f"set client_encoding = '{client_encoding}'".encode())
        return connection
    except psycopg.Error as error:
        place = f"database {database}" if database else "the database of DATABASE_URL"
        raise DeployError(f"cannot connect to {place}: {error}") from error


def is_whole(url: str) -> bool:
    """Tell whether libpq reads the URL as it is meant, and not a part of the password as a host."""
    try:
        port = str(conninfo_to_dict(url).get("port", ""))
    except psycopg.ProgrammingError:
        return False
    authority = re.split("[/?]", url.partition("://")[2])[0]
    return authority.count("@") <= 1 and bool(re.fullmatch(r"[\d,]*", port))


def dbmate_url(connection: psycopg.Connection, settings: Mapping[str, str]) -> str:
    """Return the URL of this very connection for dbmate, whose defaults are not libpq's.

    Where no sslmode is asked for, libpq takes TLS if the server has it, while dbmate insists on it.
    dbmate then gets what libpq has settled on; a mode that the user asked for stays.

    Args:
        connection: what libpq has made of a URL, the environment and its own files.
        settings: settings of the server for dbmate's session.
    """
    info = connection.info
    asked = info.get_parameters()
    options = {name: asked[name] for name in DBMATE_KNOWS if asked.get(name)}
    if options.get("sslmode", "prefer") in ("prefer", "allow"):
        options["sslmode"] = "require" if connection.pgconn.ssl_in_use else "disable"
    options.setdefault("application_name", "dbmate")
    if info.hostaddr:
        # A name may have several addresses, and a URL several hosts.
        options["hostaddr"] = info.hostaddr
    parts = {"host": info.host, "port": str(info.port), "dbname": info.dbname}
    parts |= {"user": info.user, "password": info.password}
    return url_of({**parts, **options, **settings})


def dbmate_environment(url: str) -> dict[str, str]:
    """Return the environment for dbmate: the URL, and nothing that would change what it says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "DATABASE_URL": url}


def database_name(url: str) -> str:
    """Return the name of the database of a URL that names one."""
    return str(conninfo_to_dict(url)["dbname"])


def changed(url: str, **parts: str) -> str:
    """Return the URL with other parts, which have the names of libpq's options."""
    return url_of({name: str(value) for name, value in conninfo_to_dict(url, **parts).items()})


def url_of(parts: Mapping[str, str]) -> str:
    """Return the postgresql:// URL with these parts, which have the names of libpq's options."""
    options = dict(parts)
    user, password = options.pop("user", ""), options.pop("password", "")
    host, port = options.pop("host", ""), options.pop("port", "")
    name = quote(options.pop("dbname", ""), safe="")
    if host and not re.fullmatch(r"[\w.:-]+", host):
        # The directory of a Unix socket, or several hosts: they have no place in front of a path.
        options["host"], host = host, ""
    if not host and port:
        options["port"], port = port, ""
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    address = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    query = f"?{urlencode(options, quote_via=quote)}" if options else ""
    return f"postgresql://{login}{'@' if login else ''}{address}/{name}{query}"


def in_words(diagnosis: psycopg.errors.Diagnostic, message: str) -> str:
    """Return a message of the server with its detail and its hint, each on its own line."""
    lines = [message]
    lines += [f"DETAIL: {diagnosis.message_detail}"] * bool(diagnosis.message_detail)
    lines += [f"HINT: {diagnosis.message_hint}"] * bool(diagnosis.message_hint)
    return "\n".join(lines)
