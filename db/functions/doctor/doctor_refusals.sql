-- qr_refresh.doctor_refusals(): the part of qr_refresh.doctor() about rows that take no QR code.
create or replace function qr_refresh.doctor_refusals()
returns table ("check" text, ok boolean, detail text, fix text)
-- Not the caller with another role: a trigger could then take the caller's own again.
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
set debug_print_parse = off
set debug_print_rewritten = off
set debug_print_plan = off
as $$
#variable_conflict use_variable
declare
    -- As long as a picture, and as hard to compress.
    sample constant text := 'data:image/png;base64,'
    || (select string_agg(md5(i::text), '') from generate_series(1, 418) as s (i));
    refused text;
    before text;
    is_written boolean;
    code text;
    said text;
    more text;
    context text;
    advice text;
begin
    select s.instance_name, s.error into refused, before
    from qr_refresh.instance_state as s
    where s.outcome = 'update_failed'
    order by s.attempted_at desc
    limit 1;
    if refused is null then
        return query select 'rows take their QR codes', true, 'none was refused', null;
        return;
    end if;
    begin
        with free as (
            select e.instance_name
            from public.evolution_instances as e
            where e.instance_name::text = refused
            for no key update
        )
        update public.evolution_instances as e
        set qr_code = sample, last_qr_update = clock_timestamp()
        from free as f
        where f.instance_name = e.instance_name;
        is_written := found;
        -- Takes the row back.
        raise transaction_rollback;
    exception when others or assert_failure then
        get stacked diagnostics
            code = returned_sqlstate,
            said = message_text,
            more = pg_exception_detail,
            advice = pg_exception_hint,
            context = pg_exception_context;
    end;
    if is_written is not null then
        code := case when is_written then null else '09000' end;
        said := case
            when is_written then format('refused before (%s), would be stored now', before)
            else 'a trigger or a rule keeps the row as it is, or the row is gone'
        end;
        advice := '';
    -- These name objects and types. What others say may quote a row.
    elsif code !~ '^(0A|23|42|54|55)' and code <> '22001' then
        said := 'refused';
        advice := '';
    -- Details quote rows as well, but for those.
    elsif code ~ '^(42|55)' then
        said := concat_ws(': ', said, nullif(more, ''));
    end if;
    return query select
        'rows take their QR codes',
        case when is_written is not true then false end,
        format(
            '%s: %s%s%s',
            refused,
            said,
            ' (SQLSTATE ' || code || ')',
            ', in function ' || substring(
                context from '(?n)^PL/pgSQL function (?!qr_refresh\.)([^(]+\(.*\)) line'
            )
        ),
        case
            when is_written
                then 'Nothing, if it stays so; else see whether the row takes settings.connected_status'
            when code = '42501'
                then 'GRANT it to qr_refresh_owner, or make the trigger function SECURITY DEFINER'
            when code in ('42P01', '42883')
                then 'ALTER FUNCTION of the trigger SET search_path = public: it has that of the job'
            when advice <> '' then advice
            else 'Look at triggers, rules, constraints, indexes and publications: '
                '\d+ public.evolution_instances'
        end;
end
$$;

comment on function qr_refresh.doctor_refusals() is
'Part of qr_refresh.doctor(), which describes the columns: where a QR code was refused last, writes one there once more, '
'tells what the database says, and takes it back.
Raises nothing of its own. Private. Runs with the privileges of qr_refresh_owner, as the job does.';
