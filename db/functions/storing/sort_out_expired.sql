-- qr_refresh.sort_out_expired(): which QR codes nobody can scan any more.
create or replace function qr_refresh.sort_out_expired(
    attempts qr_refresh.attempt[], qr_lifetime interval
)
returns qr_refresh.attempt[]
language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select
        case
            -- It was connected with this one, or Evolution API gets no new one.
            when
                a.qr_digest = s.used_digest
                or (a.qr_digest = s.qr_digest and a.answered_at > s.qr_first_seen_at + qr_lifetime)
                then qr_refresh.came_to(a, 'expired')
            else a
        end
        from unnest(attempts) as a
        left join qr_refresh.instance_state as s on a.instance = s.instance
    );
end
$$;

comment on function qr_refresh.sort_out_expired(qr_refresh.attempt[], interval) is
'Gives the outcome expired to attempts whose QR code was used, or has been the same for longer than qr_lifetime.
attempts: as qr_refresh.ask() returns them. qr_lifetime: as in qr_refresh.settings.
Returns all attempts. Private.';
