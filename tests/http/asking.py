"""qr_refresh.ask() by itself, in a session of PostgreSQL, without rows and state."""

from __future__ import annotations

from tools.job import Connection

# For a session that was prepared; the parameters are names (array) and url. One row for each name.
ASK_ALL = "select * from pg_temp.ask_all(%(names)s::text[], %(url)s)"


def prepare_to_ask(session: Connection, *, places: int = 20, timeout: float = 60) -> None:
    """Let ASK_ALL ask so many at a time, each for at most so many seconds."""
    session.execute(
        "update qr_refresh.settings set max_concurrency = %s, run_timeout = '10 min',"
        " request_timeout = make_interval(secs => %s)",
        (places, timeout),
    )
    session.execute(
        """
        create function pg_temp.ask_all(names text[], url text)
        returns table (outcome text, error text, has_qr_code boolean)
        language plpgsql as $$
        declare
            attempts qr_refresh.attempt[] := array(
                select (
                    sha256(convert_to(n.name || n.position, 'UTF8')), n.name, null, 'a-token', url,
                    true, false, now(), null, null, null, null, null, null, null, null
                )::qr_refresh.attempt
                from unnest(names) with ordinality as n (name, position)
            );
            answered integer := 0;
        begin
            while answered < cardinality(names) loop
                for outcome, error, has_qr_code in
                    select a.outcome, a.error, a.qr_code is not null
                    from qr_refresh.ask(attempts, 600, 1) as a
                loop
                    answered := answered + 1;
                    return next;
                end loop;
                attempts := '{}';
            end loop;
        end
        $$
        """
    )
