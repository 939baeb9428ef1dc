-- qr_refresh.record_outcomes(): remembers what each instance answered; tells which QRs are dead.
create or replace function qr_refresh.record_outcomes(
    instance_names text[], outcomes text[], qr_codes text[]
)
returns setof boolean
language plpgsql volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
declare
    seen_at constant timestamptz := clock_timestamp();
    live_since constant timestamptz := seen_at - (select s.qr_lifetime from qr_refresh.settings as s);
begin
    return query
    with observed as materialized (
        select
            o.instance_name,
            o.outcome,
            o.position,
            sha256(convert_to(o.qr_code, 'UTF8')) as qr_digest
        from unnest(instance_names, outcomes, qr_codes)
            with ordinality as o (instance_name, outcome, qr_code, position)
    ), known as (
        -- Locked rows are skipped: another session's open transaction must not hold a run.
        select s.instance_name
        from qr_refresh.instance_state as s
        where s.instance_name = any(instance_names)
        order by s.instance_name
        for update skip locked
    ), updated as (
        update qr_refresh.instance_state as s
        set
            attempted_at = seen_at,
            outcome = o.outcome,
            qr_digest = coalesce(o.qr_digest, s.qr_digest),
            qr_first_seen_at = case
                when o.qr_digest is null or o.qr_digest = s.qr_digest then s.qr_first_seen_at
                else seen_at
            end
        from observed as o, known as k
        where
            s.instance_name = o.instance_name
            and s.instance_name = k.instance_name
            and o.outcome <> 'not_attempted'
        returning s.instance_name, s.qr_first_seen_at
    ), inserted as (
        insert into qr_refresh.instance_state (
            instance_name, attempted_at, outcome, qr_digest, qr_first_seen_at
        )
        select distinct on (o.instance_name)
            o.instance_name,
            seen_at,
            o.outcome,
            o.qr_digest,
            case when o.qr_digest is not null then seen_at end
        from observed as o
        where
            o.outcome <> 'not_attempted'
            and not exists (
                select from qr_refresh.instance_state as s where s.instance_name = o.instance_name
            )
        on conflict do nothing
    )
    select o.qr_digest is not null and coalesce(u.qr_first_seen_at < live_since, false)
    from observed as o
    left join updated as u on o.instance_name = u.instance_name
    order by o.position;

    delete from qr_refresh.instance_state as s
    where s.instance_name in (
        select gone.instance_name
        from qr_refresh.instance_state as gone
        where not exists (
            select from public.evolution_instances as e
            where e.instance_name::text = gone.instance_name and e.instance_status = 'connecting'
        )
        for update skip locked
    );
end
$$;

alter function qr_refresh.record_outcomes(text[], text[], text[]) owner to qr_refresh_owner;
revoke all on function qr_refresh.record_outcomes(text[], text[], text[]) from public;

comment on function qr_refresh.record_outcomes(text[], text[], text[]) is
'Updates qr_refresh.instance_state, and removes the rows of instances that are no longer connecting.
instance_names, outcomes, qr_codes: arrays of one length; a NULL QR code keeps what is known of the last one.
Returns a boolean for each element, in order: true when its QR code has been the same for longer than settings.qr_lifetime.
Raises lock_not_available (55P03) when another session is adding the same instance. '
'Privileges: EXECUTE for nobody but the owner and superusers.';
