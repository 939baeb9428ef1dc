-- qr_refresh.instances_to_ask(): whom a run asks, in which order, and how carefully.
create or replace function qr_refresh.instances_to_ask(
    instance_name text,
    only_due boolean,
    lane text,
    worker integer,
    workers integer,
    default_base_url text
)
returns table (
    name text,
    token text,
    is_connecting boolean,
    base_url text,
    check_state boolean,
    connect_on_close boolean,
    former_outcome text,
    qr_digest bytea,
    qr_dead_at double precision
)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
-- Whoever changes the table's definition may hold it for long.
set lock_timeout = '1s'
as $$
-- The table may have columns of any name.
#variable_conflict use_variable
begin
    return query
    with wanted as materialized (
        select
            e.instance_name::text as name,
            e.instance_token::text as token,
            e.instance_status = 'connecting' as is_connecting,
            case
                when e.evolution_server is null then default_base_url
                else (
                    select rtrim(v.base_url, '/')
                    from qr_refresh.evolution_servers as v
                    where v.server_name = e.evolution_server::text
                )
            end as base_url,
            s.instance_name is null as is_new,
            -- connect has no side effect as long as there is a QR code that still changes in time.
            case
                -- It has to be connected anyway. But the fast lane has no time for a connect that
                -- opens a socket, and leaves it to the slow one.
                when s.instance_name is null then lane is not distinct from 'fast'
                -- It opened a socket a moment ago, and may be close again, with the same QR code. One
                -- that has come since then shows that the socket lives.
                when
                    s.reconnected_at > clock_timestamp() - interval '55 seconds'
                    and s.reconnected_at >= s.qr_first_seen_at
                    then true
                when s.outcome not in ('stored', 'unchanged', 'changed', 'update_failed') then true
                else only_due and s.qr_first_seen_at < clock_timestamp() - interval '47 seconds'
            end as check_state,
            -- Where it opens a WhatsApp socket: at most once a minute, less and less often while
            -- that is of no use. A job that is run each minute comes a little early now and then.
            coalesce(
                case
                    when lane = 'fast' then false
                    when not only_due
                        then s.reconnected_at <= clock_timestamp() - interval '55 seconds'
                    else clock_timestamp() >= qr_refresh.reconnect_at(
                        s.instance_name, s.reconnected_at, s.reconnects
                    )
                end,
                true
            ) as connect_on_close,
            s.outcome as former_outcome,
            s.qr_digest,
            extract(
                epoch from s.qr_first_seen_at
                + (select t.qr_lifetime from qr_refresh.settings as t)
            )::double precision as qr_dead_at,
            s.attempted_at
        from public.evolution_instances as e
        left join qr_refresh.instance_state as s on e.instance_name::text = s.instance_name
        where
            (e.instance_status = 'connecting' or instances_to_ask.instance_name is not null)
            and e.instance_name is not null
            and (
                instances_to_ask.instance_name is null
                or e.instance_name::text = instances_to_ask.instance_name
            )
            and (
                not only_due
                or coalesce(s.next_attempt_at <= clock_timestamp(), true)
                -- Somebody has cleared it; a trigger may do so each time.
                or (
                    e.qr_code is null
                    and s.outcome in ('stored', 'unchanged')
                    and s.attempted_at < clock_timestamp() - interval '1 second'
                )
            )
            and (lane is null or coalesce(s.is_slow, false) = (lane = 'slow'))
            -- Here and not in a function, which would take longer than all the rest.
            and (
                workers = 1
                or (hashtextextended(e.instance_name::text, 0) & 2147483647) % workers = worker - 1
            )
    ), guarded as materialized (
        select
            w.*,
            -- Two sessions that ask at once know nothing of each other's calls before they end. So
            -- who may open a socket does so alone, and who asks a new instance also records it
            -- alone. At most 2,048 locks, however many instances there are.
            case
                when case when w.check_state then w.connect_on_close else w.is_new end
                    then pg_try_advisory_xact_lock(
                        hashtext('qr_refresh.connect'), hashtext(w.name) & 1023
                    )
                else true
            end as connects_alone,
            case
                when w.is_new
                    then pg_try_advisory_xact_lock(
                        hashtext('qr_refresh.record'), hashtext(w.name) & 1023
                    )
                else true
            end as records_alone
        from wanted as w
    )
    select
        g.name,
        g.token,
        g.is_connecting,
        g.base_url,
        g.check_state or not g.connects_alone,
        g.connect_on_close and g.connects_alone,
        g.former_outcome,
        g.qr_digest,
        g.qr_dead_at
    from guarded as g
    where g.records_alone or not only_due
    -- What the last run did not reach comes first.
    order by g.attempted_at nulls first, g.name;
end
$$;

comment on function qr_refresh.instances_to_ask(text, boolean, text, integer, integer, text) is
'The instances that a run asks, least recently attempted first.
instance_name: this instance only, whatever its status; NULL for all that are connecting. only_due: only those whose time has come. '
'lane: fast or slow leaves out the instances of the other lane, NULL takes both. worker, workers: the share of this worker, from 1. '
'default_base_url: http(s) URL for instances that name no server.
Returns one row for each: name; token (a secret); is_connecting; base_url (NULL: the instance names a server that is not in '
'qr_refresh.evolution_servers); check_state (ask for the state before connect); connect_on_close (whether connect may open a WhatsApp '
'socket); former_outcome and qr_digest (as in qr_refresh.instance_state); qr_dead_at (when a QR code with this digest is too old, in seconds since 1970).
Private.';
