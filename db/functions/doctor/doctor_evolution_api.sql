-- qr_refresh.doctor_evolution_api(): the part of qr_refresh.doctor() about Evolution API.
create or replace function qr_refresh.doctor_evolution_api()
returns table ("check" text, ok boolean, detail text, fix text)
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    settings constant qr_refresh.settings := (select s from qr_refresh.settings as s);
    set_url constant text := 'UPDATE qr_refresh.settings SET evolution_api_base_url = ''https://...'';';
begin
    return query
    select
        'base URL',
        case
            when u.error is null then true
            -- All rows may name servers of their own.
            when u.source <> 'nowhere' or not exists (select from qr_refresh.evolution_servers)
                then false
        end,
        format('%s (from: %s)', coalesce(u.error, u.base_url), u.source),
        set_url
    from qr_refresh.evolution_api_base_url() as u;

    return query
    with asked as materialized (
        select
            coalesce(' ' || server.name, '') as of_server,
            probe.name as known_name,
            answer.*
        from (
            select null as name, u.base_url
            from qr_refresh.evolution_api_base_url() as u
            union all
            select v.server_name, rtrim(v.base_url, '/') from qr_refresh.evolution_servers as v
        ) as server
        -- One that failed rather than another.
        left join lateral (
            select e.instance_name::text as instance_name, e.instance_token::text as instance_token
            from public.evolution_instances as e
            left join qr_refresh.instance_state as s
                on
                    s.instance = qr_refresh.instance_key(
                        e.evolution_server::text, e.instance_name::text, e.instance_token::text
                    )
            where
                e.instance_status = 'connecting'
                and e.evolution_server::text is not distinct from server.name
                and qr_refresh.instance_problem(
                    e.instance_name::text, e.instance_token::text
                ) is null
            order by coalesce(s.outcome, '') not in ('failed', 'timeout'), e.instance_name
            limit 1
        ) as instance on true
        -- Any answer about an instance that does not exist shows that the server is there; one that
        -- exists may hang.
        inner join lateral (
            values
            (null, 'none'),
            -- GET / needs no token, and gets none.
            ('', ''),
            (instance.instance_name, instance.instance_token)
        ) as probe (name, token) on probe.name is not null or probe.token = 'none'
        -- The state is asked first; connect is called only on state connecting, where it opens nothing.
        cross join lateral qr_refresh.ask(
            array[(
                null, coalesce(probe.name, 'refresh-qr-codes-doctor'), server.name, probe.token,
                server.base_url, true, false, clock_timestamp(),
                null, null, null, null, null, null, null, null
            )::qr_refresh.attempt],
            extract(epoch from settings.request_timeout),
            extract(epoch from settings.request_timeout) + 1
        ) as answer
        where server.base_url is not null
    ), judged as (
        select
            a.*,
            a.outcome in ('timeout', 'not_attempted')
            or qr_refresh.is_no_answer(a.error)
            -- A proxy, a login page or another service answers.
            or coalesce(
                a.error ~ '^(3|429|5)'
                or a.error in (
                    '404 Not Found by something before Evolution API', 'answer is not JSON',
                    'answer is not a JSON object', 'answer is over 256 kB',
                    'Evolution API needs its license activated'
                ),
                false
            ) as is_silent
        from asked as a
    )
    select
        format('Evolution API%s answers', j.of_server),
        not j.is_silent,
        format(
            '%s after %s ms',
            case
                when not j.is_silent then 'yes'
                when j.outcome = 'failed' then j.error
                else 'Request timeout'
            end,
            round(extract(epoch from 1000 * (j.answered_at - j.asked_at)))
        ),
        'From the database server: curl -i URL. A status or no JSON: it is not Evolution API that '
        'answers; docs/operations.md, Errors. Else look at URL, firewall, DNS, TLS, ca_file'
    from judged as j
    where j.known_name is null
    union all
    select
        format('Evolution API%s knows the instance and its token', j.of_server),
        j.outcome not in ('failed', 'timeout', 'not_attempted'),
        format(
            case when j.known_name collate "C" ~ '^\s|\s$' then '"%s": %s' else '%s: %s' end,
            j.known_name, coalesce(j.error, j.outcome)
        ),
        case
            when j.known_name collate "C" ~ '^\s|\s$' then '404: 2.4 leaves out spaces around a name when it '
                'creates the instance; correct instance_name. '
            else ''
        end || '401: correct instance_token. 404: it is not on this server; delete the row or '
        'create the instance. Others: docs/operations.md'
    from judged as j
    where j.known_name <> ''
    union all
    select
        format('Evolution API%s version', j.of_server),
        case
            when j.outcome <> 'no_qr_code' then null
            when j.error ~ '^2\.[12]\.' then false
            when j.error is not null then true
        end,
        case
            when j.error ~ '^3' then 'GET / is redirected: ' || j.error
            when j.outcome <> 'no_qr_code' then 'GET / does not tell it'
            else coalesce(j.error, 'GET / has none')
        end || '; the newest stable one was 2.3.7 when this was released',
        '2.1 and 2.2 may never get a first QR code: the image evoapicloud/evolution-api:v2.3.7 does '
        '(atendai/evolution-api is abandoned). docs/operations.md, No QR code at all'
    from judged as j
    where j.known_name = '';
end
$$;

comment on function qr_refresh.doctor_evolution_api() is
'Part of qr_refresh.doctor(), which describes the columns: the URL in force, and what each Evolution server answers.
Raises nothing of its own. Private.';
