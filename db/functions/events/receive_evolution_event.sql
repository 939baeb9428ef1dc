-- receive_evolution_event(): takes what Evolution API posts, so that it need not be asked.
create or replace function public.receive_evolution_event(json)
returns jsonb
language plpgsql volatile parallel unsafe security definer
set search_path = pg_catalog, pg_temp
-- Compiling our queries takes longer than running them.
set jit = off
-- A caller could otherwise have the plans of our queries shown, and in them the tokens.
set debug_print_parse = off
set debug_print_rewritten = off
set debug_print_plan = off
as $$
#variable_conflict use_column
declare
    received_at constant timestamptz := clock_timestamp();
    patience constant double precision := 0.1; -- seconds for a row that is locked
    told record;
    attempts qr_refresh.attempt [];
    results jsonb [];
begin
    perform qr_refresh.check_writable();
    select * into told from qr_refresh.read_event($1);
    if told.outcome is null then
        return jsonb_build_object('success', true, 'results', '[]'::jsonb);
    end if;
    perform qr_refresh.notice_new(1, 1, told.instance_name);
    attempts := array(
        select (
            r.instance, r.instance_name, r.evolution_server, r.instance_token, null, true, false,
            received_at, told.outcome, null, told.qr_code, told.qr_digest, false, null, received_at,
            null
        )::qr_refresh.attempt
        from qr_refresh.instances_of_event(
            told.instance_name, told.instance_token, told.server_url
        ) as r
        left join qr_refresh.instance_state as s on r.instance = s.instance
        where
            -- Told again, or of a QR code that has been replaced since.
            told.qr_digest is null
            or s.instance is null
            or (
                told.qr_digest is distinct from s.qr_digest
                and coalesce(told.happened_at >= s.qr_first_seen_at, true)
            )
    );
    if cardinality(attempts) = 0 then
        return jsonb_build_object('success', true, 'results', '[]'::jsonb);
    end if;
    attempts := array(select a from qr_refresh.store(attempts, true, patience) as a);
    results := array(select m.result from qr_refresh.remember(attempts, true) as m);
    -- It came a moment ago. And who is told of each one is asked as a safety net only.
    update qr_refresh.instance_state as s
    set
        told_at = received_at,
        qr_changed_after = case
            when s.qr_first_seen_at = received_at then received_at - interval '1 second'
            else s.qr_changed_after
        end,
        next_attempt_at = case
            when s.queue = 'rotating' then received_at + interval '60 seconds'
            else s.next_attempt_at
        end
    where s.instance in (
        select w.instance
        from qr_refresh.instance_state as w
        where w.instance in (select a.instance from unnest(attempts) as a)
        for update skip locked
    );
    return jsonb_build_object('success', true, 'results', to_jsonb(results));
end
$$;

comment on function public.receive_evolution_event(json) is
'Takes an event that Evolution API posts to a webhook: QRCODE_UPDATED stores its QR code at once, CONNECTION_UPDATE is taken as an answer about the state. '
'Who is told of each QR code is asked only once in 60 seconds.
The one argument, without a name so that PostgREST hands over the body as it is: the event. Its apikey, where there is one, must be the token of the row.
Returns {"success": true, "results": [...]}, results as in the report of public.refresh_qr_codes(). They are empty where the event changes nothing: it is another one, of an instance that is not '
'connecting, of a QR code that is known, used or replaced since, or without a picture of one.
Errors: QR003 the transaction is read-only.
Privileges: EXECUTE for service_role and those you grant it to. Runs with the privileges of qr_refresh_owner.';
