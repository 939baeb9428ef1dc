-- qr_refresh.store_foreign(): as store_qr_codes() and the others, for rows on another server.
create or replace function qr_refresh.store_foreign(
    attempts qr_refresh.attempt[],
    stored_at timestamptz,
    only_changed boolean,
    connected_status text,
    patience double precision
)
returns qr_refresh.attempt[]
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    most constant integer := 100; -- in a statement, each with its picture
    -- To find one that is locked among a hundred takes some ten statements.
    gives_up_at constant timestamptz := clock_timestamp()
    + make_interval(secs => patience) + interval '1 second';
    unchanged bytea [] := '{}';
    wanted qr_refresh.attempt [];
    stored qr_refresh.attempt [];
    batch record;
begin
    wanted := array(select a from unnest(attempts) as a where a.outcome = 'qr_code');
    if only_changed and cardinality(wanted) > 0 then
        unchanged := qr_refresh.find_foreign(wanted, true);
    end if;
    stored := array(
        select qr_refresh.came_to(w, 'unchanged')
        from unnest(wanted) as w
        where w.instance = any(unchanged)
    ) || array(
        select a
        from unnest(attempts) as a
        where
            a.outcome is distinct from 'qr_code'
            and (a.outcome is distinct from 'connected' or connected_status is null)
    );

    -- Last, and each alone, those that were refused the last time. One of them may take all of the
    -- time, and the others did nothing but stand in a statement with it: so it is another one's
    -- turn the next time.
    for batch in
        select
            array_agg(n.attempt) as attempts,
            n.is_suspect,
            case when n.outcome = 'connected' then connected_status end as connected_status
        from (
            select
                a as attempt,
                a.outcome,
                s.outcome is not distinct from 'update_failed' as is_suspect,
                row_number() over (
                    partition by a.outcome, s.outcome is not distinct from 'update_failed'
                    order by random()
                ) as number
            from unnest(attempts) as a
            left join qr_refresh.instance_state as s on a.instance = s.instance
            where
                (a.outcome = 'qr_code' and a.instance <> all(unchanged))
                or (a.outcome = 'connected' and connected_status is not null)
        ) as n
        group by
            n.is_suspect, n.outcome, case when n.is_suspect then n.number else (n.number - 1) / most end
        order by n.is_suspect, min(n.number)
    loop
        if batch.is_suspect and clock_timestamp() > gives_up_at then
            stored := stored || qr_refresh.came_to(
                batch.attempts[1], 'update_failed', 'SQLSTATE 55P03'
            );
        else
            stored := stored || qr_refresh.write_foreign(
                batch.attempts, stored_at, batch.connected_status, gives_up_at
            );
        end if;
    end loop;
    return stored;
end
$$;

comment on function qr_refresh.store_foreign(qr_refresh.attempt[], timestamptz, boolean, text, double precision) is
'Writes what attempts have brought into a foreign table. Locks and SKIP LOCKED do not reach the other server: how long a statement waits there for a row is for the lock_timeout '
'and statement_timeout of the foreign server to say.
attempts: as qr_refresh.ask() returns them. stored_at: the value for last_qr_update. only_changed: true leaves rows alone that hold the QR code already. connected_status: as in qr_refresh.settings. '
'patience: for how many seconds, and one more, those are tried singly that were refused together.
Returns the attempts, in any order, with the outcomes of qr_refresh.store().
Raises nothing of its own but what the other server says to a query. Private.';
