-- qr_refresh.choose(): whom a run asks, least recently attempted first.
create or replace function qr_refresh.choose(instance_name text, only_due boolean)
returns setof qr_refresh.attempt
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
-- Whoever changes the table's definition may hold it for long.
set lock_timeout = '1s'
as $$
#variable_conflict use_column
declare
    wanted constant text := instance_name;
    chosen_at timestamptz;
    instances bytea [];
    names text [];
    attempts qr_refresh.attempt [];
    context text;
begin
    if not only_due then
        perform qr_refresh.log('Starting QR code refresh cycle...', 'cycle');
    end if;
    begin
        perform qr_refresh.notice(1, 1, wanted), qr_refresh.notice_new(1, 1, wanted);
    exception when serialization_failure then
        null; -- the isolation level is a strict one, and live mode has noticed them meanwhile
    end;

    chosen_at := clock_timestamp();
    -- One that is asked for by its name is looked after again.
    update qr_refresh.instance_state as s
    set known_since = chosen_at
    where s.instance in (
        select w.instance
        from qr_refresh.instance_state as w
        where
            w.instance_name = wanted
            and w.known_since < chosen_at - (select t.give_up_after from qr_refresh.settings as t)
        for update skip locked
    );

    select
        coalesce(array_agg(w.instance order by w.attempted_at nulls first, w.instance_name), '{}'),
        coalesce(
            array_agg(w.instance_name order by w.attempted_at nulls first, w.instance_name), '{}'
        )
    into instances, names
    from (
        select s.instance, s.instance_name, s.attempted_at
        from qr_refresh.instance_state as s
        where
            s.left_at is null
            and (wanted is null or s.instance_name = wanted)
            and (not only_due or s.next_attempt_at <= chosen_at)
        -- What cannot be recorded is not asked.
        for update skip locked
    ) as w;
    attempts := array(select a from qr_refresh.attempts_for(instances, names, only_due, true) as a);

    if not only_due then
        -- At these another session works.
        select array_agg(r.instance), array_agg(r.instance_name)
        into instances, names
        from qr_refresh.connecting_rows() as r
        where
            (wanted is null or r.instance_name = wanted)
            and r.instance not in (select unnest(instances));
        attempts := attempts || array(
            select
                case
                    -- One that is asked for by its name is asked all the same, but not connected.
                    when wanted is not null then a
                    else qr_refresh.came_to(a, 'changed')
                end
            from qr_refresh.attempts_for(instances, names, false, false) as a
        ) || array(select a from qr_refresh.oversized_rows() as a where wanted is null);
    end if;
    if not only_due then -- too many words for each second
        perform qr_refresh.log(
            format('Found %s connecting instance(s)', cardinality(attempts)), 'cycle'
        );
        perform
            qr_refresh.log('Processing ' || a.instance_name || '...', 'instance'),
            qr_refresh.log('Fetching QR for ' || a.instance_name, 'instance')
        from unnest(attempts) as a;
    end if;
    return query select * from unnest(attempts);
exception when query_canceled then
    get stacked diagnostics context = pg_exception_context;
    if qr_refresh.was_cancelled_there(context) then
        raise exception using
            errcode = 'QR017',
            message = 'the other server has not answered in time',
            detail = 'Its statement_timeout has ended a query on evolution_instances.',
            hint = 'Is its table locked, or does it lack an index? Else give it more time: '
                'ALTER SERVER ... OPTIONS (SET options ''-c statement_timeout=...'');';
    end if;
    raise;
end
$$;

comment on function qr_refresh.choose(text, boolean) is
'Chooses whom a run asks, and locks what is known of them until the transaction ends.
instance_name: this instance only; NULL for all that are connecting. only_due: only those whose time has come.
Returns the attempts, least recently attempted first; see qr_refresh.attempts_for(). Those at which another session works come last and have the outcome changed; where instance_name is given '
'it is asked nevertheless, but not connected in state close. At the end are rows whose name or token is too long, as failed.
Errors: QR017 the rows are on another server, which has not answered in time. Private.';
