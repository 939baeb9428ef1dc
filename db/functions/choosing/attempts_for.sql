-- qr_refresh.attempts_for(): what is to be asked about these instances, and how carefully.
create or replace function qr_refresh.attempts_for(
    instances bytea[], names text[], is_paced boolean, is_ours boolean
)
returns setof qr_refresh.attempt
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    asked_at constant timestamptz := clock_timestamp();
    default_base_url constant text := (select u.base_url from qr_refresh.evolution_api_base_url() as u);
    give_up_after constant interval := (select s.give_up_after from qr_refresh.settings as s);
    -- Evolution API closes an instance for up to three seconds to open its next socket, and as long
    -- after a scan. One may follow the other, and nobody may have looked in between.
    closed_for constant interval := interval '7 seconds';
begin
    return query
    with named as materialized (
        -- By name alone, which the table may have an index of; then only these are looked at.
        select
            i.instance,
            i.position,
            e.instance_name::text as instance_name,
            e.instance_token::text as instance_token,
            e.evolution_server::text as evolution_server,
            e.last_qr_update is not null as had_qr_code
        from unnest(instances, names) with ordinality as i (instance, instance_name, position)
        inner join public.evolution_instances as e on i.instance_name = e.instance_name::text
        where
            e.instance_status = 'connecting'
            and (e.instance_token is null or octet_length(e.instance_token::text) <= 1020)
            and (e.evolution_server is null or octet_length(e.evolution_server::text) <= 1020)
    ), rows as (
        -- Two rows may be the same instance.
        select
            n.instance,
            n.instance_name,
            n.instance_token,
            n.evolution_server,
            min(n.position) as position,
            bool_or(n.had_qr_code) as had_qr_code
        from named as n
        where
            n.instance = qr_refresh.instance_key(
                n.evolution_server, n.instance_name, n.instance_token
            )
        group by n.instance, n.instance_name, n.instance_token, n.evolution_server
    ), located as (
        select
            r.*,
            case
                when r.evolution_server is null then default_base_url
                else (
                    select rtrim(v.base_url, '/')
                    from qr_refresh.evolution_servers as v
                    where v.server_name = r.evolution_server
                )
            end as base_url
        from rows as r
    ), judged as (
        select
            l.*,
            coalesce(
                qr_refresh.instance_problem(l.instance_name, l.instance_token),
                case
                    when l.base_url is not null then null
                    when l.evolution_server is null then 'Missing required environment variables'
                    else 'Evolution server is unknown'
                end
            ) as problem
        from located as l
    )
    select
        j.instance,
        j.instance_name,
        j.evolution_server,
        j.instance_token,
        j.base_url,
        coalesce(s.quiet_until <= asked_at, true),
        is_ours
        and coalesce(s.quiet_until <= asked_at, true)
        and coalesce(asked_at < s.known_since + give_up_after, true)
        and case
            when s.reconnected_at is null and s.qr_digest is null and not j.had_qr_code then true
            else coalesce(s.closed_since <= asked_at - closed_for, false)
        end
        and coalesce(
            case
                when is_paced
                    then asked_at >= qr_refresh.reconnect_at(s.instance, s.reconnected_at, s.reconnects)
                -- A job that runs each minute comes a little early now and then.
                else s.reconnected_at <= asked_at - interval '55 seconds'
            end,
            true
        )
        -- Another session that asks it may be connecting it.
        and (is_paced or s.under_way_until is null or s.under_way_until < asked_at),
        asked_at,
        case when j.problem is not null then 'failed' end,
        j.problem,
        null::text,
        null::bytea,
        false,
        null::double precision,
        case when j.problem is not null then asked_at end,
        null::integer
    from judged as j
    left join qr_refresh.instance_state as s on j.instance = s.instance
    order by j.position;
end
$$;

comment on function qr_refresh.attempts_for(bytea[], text[], boolean, boolean) is
'What is to be asked about these instances. connect is harmless only in state connecting; in state close it opens a WhatsApp socket. So that is '
'allowed for an instance that has never had a QR code, else once it was found closed for over 7 seconds; at most once a minute, and less and less often; not '
'within a minute after a scan, and not after settings.give_up_after.
instances: keys, see qr_refresh.instance_key(). names: their instance_name, in the same order. is_ours: the caller has locked what is known of them; else none is connected in state close. is_paced: the caller goes on and on, so connect is called '
'less and less often while that is of no use.
Returns an attempt for each that is still connecting, in the same order. One that cannot be asked has its outcome already.
Private.';
