-- qr_refresh.describe_outcomes(): the words for what came of each instance.
create or replace function qr_refresh.describe_outcomes(
    instance_names text[], outcomes text[], reasons text[]
)
returns table (success boolean, error text, log_line text)
language sql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp
as $$
    select
        w.success,
        w.error,
        case
            when o.outcome = 'stored'
                -- Not every database encoding has the check mark. Its number must not be a constant,
                -- of which chr() would be computed, and refused, before it is looked at.
                then coalesce(chr(case getdatabaseencoding() when 'UTF8' then 10003 end) || ' ', '')
                    || 'Successfully refreshed QR for ' || o.instance_name
            when o.outcome = 'connected' then o.instance_name || ' is connected'
            when o.outcome = 'failed' then w.error
            when not w.success then 'Error processing ' || o.instance_name || ': ' || w.error
        end
    from unnest(instance_names, outcomes, reasons)
        with ordinality as o (instance_name, outcome, reason, position)
    left join (
        values
        ('stored', true, null),
        ('unchanged', true, null),
        ('no_qr_code', true, 'No QR code available from Evolution API'),
        ('closed', true, 'No QR code available from Evolution API'),
        ('connected', true, 'No QR code available from Evolution API'),
        ('expired', true, 'QR code expired, waiting for a new one'),
        ('changed', true, 'Instance changed during the run'),
        ('failed', false, null),
        ('update_failed', false, 'Database update failed'),
        ('timeout', false, 'Request timeout'),
        ('not_attempted', false, 'Not attempted: run timeout reached')
    ) as v (outcome, success, error) on o.outcome = v.outcome
    cross join lateral (
        select
            v.success,
            case
                when o.outcome = 'failed'
                    then 'Failed to fetch QR for ' || o.instance_name || ': ' || o.reason
                else v.error
            end as error
    ) as w
    order by o.position
$$;

comment on function qr_refresh.describe_outcomes(text[], text[], text[]) is
'The words of the report and of the server log for what came of each instance.
instance_names, outcomes, reasons: arrays of one length; outcomes as in qr_refresh.instance_state, or not_attempted; reasons for outcome failed.
Returns one row for each element, in order: success and error as in the report (error NULL: none); log_line (NULL: none).
Private.';
