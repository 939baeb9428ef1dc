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
begin
    return query
    select
        e.instance_name::text,
        e.instance_token::text,
        e.instance_status = 'connecting',
        case
            when e.evolution_server is null then default_base_url
            else (
                select rtrim(v.base_url, '/')
                from qr_refresh.evolution_servers as v
                where v.server_name = e.evolution_server
            )
        end,
        -- connect has no side effect as long as there is a QR code that still changes in time, and
        -- an instance that is new has to be connected anyway.
        case
            when s.instance_name is null then false
            when s.outcome not in ('stored', 'unchanged', 'changed', 'update_failed') then true
            else only_due and s.qr_first_seen_at < clock_timestamp() - interval '47 seconds'
        end,
        -- Where it opens a WhatsApp socket: at most once a minute, less and less often while that
        -- is of no use. A job that is run each minute comes a little early now and then.
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
        ),
        s.outcome,
        s.qr_digest,
        extract(
            epoch from s.qr_first_seen_at
            + (select t.qr_lifetime from qr_refresh.settings as t)
        )::double precision
    from public.evolution_instances as e
    left join qr_refresh.instance_state as s on e.instance_name::text = s.instance_name
    where
        (e.instance_status = 'connecting' or instances_to_ask.instance_name is not null)
        and (
            instances_to_ask.instance_name is null
            or e.instance_name::text = instances_to_ask.instance_name
        )
        and (not only_due or coalesce(s.next_attempt_at <= clock_timestamp(), true))
        and (lane is null or coalesce(s.is_slow, false) = (lane = 'slow'))
        and (workers = 1 or qr_refresh.worker_of(e.instance_name::text, workers) = worker)
    -- What the last run did not reach comes first.
    order by s.attempted_at nulls first, e.instance_name;
end
$$;

alter function qr_refresh.instances_to_ask(text, boolean, text, integer, integer, text)
owner to qr_refresh_owner;
revoke all on function qr_refresh.instances_to_ask(text, boolean, text, integer, integer, text)
from public;

comment on function qr_refresh.instances_to_ask(text, boolean, text, integer, integer, text) is
'The instances that a run asks, least recently attempted first.
instance_name: this instance only, whatever its status; NULL for all that are connecting. only_due: only those whose time has come. '
'lane: fast or slow leaves out the instances of the other lane, NULL takes both. worker, workers: the share of this worker, from 1. '
'default_base_url: http(s) URL for instances that name no server.
Returns one row for each: name; token (a secret); is_connecting; base_url (NULL: the instance names a server that is not in '
'qr_refresh.evolution_servers); check_state (ask for the state before connect); connect_on_close (whether connect may open a WhatsApp '
'socket); former_outcome and qr_digest (as in qr_refresh.instance_state); qr_dead_at (when a QR code with this digest is too old, in seconds since 1970).
Privileges: EXECUTE for nobody but the owner and superusers.';
