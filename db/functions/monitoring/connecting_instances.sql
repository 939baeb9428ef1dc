-- qr_refresh.connecting_instances(): what is known of each connecting instance, for the views.
-- A function and not a view: a view would stop the application from changing a column it uses.
create or replace function qr_refresh.connecting_instances()
returns table (
    instance_name text,
    evolution_server text,
    is_live boolean,
    qr_age interval,
    qr_age_at_most interval,
    last_qr_update timestamptz,
    last_attempt_at timestamptz,
    last_outcome text,
    last_error text,
    failures integer,
    next_attempt_at timestamptz,
    is_slow boolean,
    no_live_qr_since timestamptz
)
language plpgsql stable parallel unsafe security definer
rows 100
set search_path = pg_catalog, pg_temp
-- Compiling our queries takes longer than running them.
set jit = off
-- A caller could otherwise have the plans of our queries shown, and what is in them.
set debug_print_parse = off
set debug_print_rewritten = off
set debug_print_plan = off
as $$
#variable_conflict use_column
declare
    -- How long WhatsApp accepts a QR code, counted from when it came into being.
    qr_life constant interval := '45 seconds';
    said text;
    context text;
begin
    return query
    with rows as (
        select
            -- What is too long to be an instance is not read either.
            case
                when octet_length(e.instance_name::text) <= 1020 then e.instance_name::text
                else left(e.instance_name::text, 40) || '...'
            end as instance_name,
            case
                when
                    octet_length(e.instance_name::text) <= 1020
                    and coalesce(octet_length(e.instance_token::text), 0) <= 1020
                    and coalesce(octet_length(e.evolution_server::text), 0) <= 1020
                    then qr_refresh.instance_key(
                        e.evolution_server::text, e.instance_name::text, e.instance_token::text
                    )
            end as instance,
            left(e.evolution_server::text, 255) as evolution_server,
            e.last_qr_update::timestamptz as last_qr_update,
            e.qr_code::text as qr_code
        from public.evolution_instances as e
        where e.instance_status = 'connecting'
    ), known as (
        select
            r.instance_name,
            r.evolution_server,
            r.last_qr_update,
            s.qr_first_seen_at,
            s.qr_changed_after,
            s.attempted_at,
            s.outcome,
            s.error,
            s.failures,
            s.next_attempt_at,
            s.queue = 'failing' or coalesce(s.round_trip > 1, false) as is_slow,
            s.known_since,
            s.qr_digest is not distinct from s.used_digest as is_used,
            -- The last QR code seen is the one that stands in the table: nobody else has written it.
            coalesce(
                s.qr_digest = sha256(convert_to(r.qr_code, getdatabaseencoding())), false
            ) as is_stored
        from rows as r
        left join qr_refresh.instance_state as s on r.instance = s.instance and s.left_at is null
    ), judged as (
        select
            k.*,
            case
                when k.is_stored then k.qr_first_seen_at + qr_life
                else k.last_qr_update + qr_life
            end as dead_since,
            k.is_stored
            and not k.is_used
            -- Nor is one live that comes from the future: the clock was set back.
            and clock_timestamp() between k.qr_first_seen_at and k.qr_first_seen_at + qr_life
                as is_live
        from known as k
    )
    select
        j.instance_name,
        j.evolution_server,
        j.is_live,
        case when j.is_stored then clock_timestamp() - j.qr_first_seen_at end,
        case when j.is_stored then clock_timestamp() - j.qr_changed_after end,
        j.last_qr_update,
        j.attempted_at,
        j.outcome,
        j.error,
        j.failures,
        j.next_attempt_at,
        j.is_slow,
        -- Not asked yet: what is missing then is a run, not an answer.
        case
            when not j.is_live and j.known_since is not null
                then greatest(j.dead_since, j.known_since)
        end
    from judged as j;
-- A column, the table or a privilege is missing.
exception when syntax_error_or_access_rule_violation then
    get stacked diagnostics said = message_text, context = pg_exception_context;
    -- What a function of the application's says, below a view, may quote a row.
    if split_part(context, e'\n', 1) not like '%qr_refresh.connecting_instances()%' then
        said := format('SQLSTATE %s', sqlstate);
    end if;
    raise exception using
        errcode = 'QR018',
        message = 'evolution_instances cannot be read',
        detail = said,
        hint = 'make migrate adds what is missing; SELECT * FROM qr_refresh.doctor() shows the rest.';
end
$$;

comment on function qr_refresh.connecting_instances() is
'The rows of the view qr_refresh.status, whose columns are described there. No token and no QR code.
Errors: QR018 evolution_instances cannot be read, with what the database says; on a standby 0A000, because qr_refresh.instance_state is not there.
Privileges: EXECUTE for pg_monitor and service_role. Runs with the privileges of qr_refresh_owner.';
