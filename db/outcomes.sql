-- What each outcome means, written down once. Every installation runs this file.
insert into qr_refresh.outcomes (
    outcome, success, is_answer, is_live, queue, error, log_line,
    first_wait, growth, patience, longest_wait, meaning
)
values
(
    'stored', true, true, true, 'rotating', null, '%3$sSuccessfully refreshed QR for %1$s',
    null, 1, 0, null, 'The QR code was written.'
),
(
    'unchanged', true, true, true, 'rotating', null, null,
    null, 1, 0, null, 'The row holds the QR code already.'
),
(
    'changed', true, true, true, 'rotating', 'Instance changed during the run', null,
    '1 second', 1, 0, '1 second', 'The row changed meanwhile, or another session works at it.'
),
(
    'update_failed', false, true, false, 'failing', 'Database update failed',
    'Error processing %1$s: %2$s',
    '1 second', 2, 0, '10 minutes', 'The row could not be written.'
),
(
    'expired', true, true, false, 'waiting', 'QR code expired, waiting for a new one', null,
    '1 second', 1.3, 15, '10 minutes', 'The QR code is older than one lives, or was used.'
),
(
    'no_qr_code', true, true, false, 'waiting', 'No QR code available from Evolution API', null,
    '1 second', 1.3, 15, '10 minutes', 'It is connecting and has no QR code yet.'
),
(
    'closed', true, true, false, 'waiting', 'No QR code available from Evolution API', null,
    '1 second', 1.3, 15, '10 minutes', 'It is closed, and connect was not called: it is not time.'
),
(
    'given_up', true, true, false, 'waiting', 'No QR code available from Evolution API', null,
    '1 minute', 2, 0, '10 minutes', 'Closed, and nobody has scanned for settings.give_up_after.'
),
(
    'pairing', true, false, false, 'waiting', 'No QR code available from Evolution API', null,
    '1 second', 1.3, 15, '10 minutes', 'It was scanned, it seems, and is left alone for a minute.'
),
(
    'connected', true, true, false, 'waiting', 'No QR code available from Evolution API',
    '%1$s is connected',
    '1 second', 1.3, 15, '10 minutes', 'It is connected to WhatsApp.'
),
(
    'failed', false, false, false, 'failing', 'Failed to fetch QR for %1$s: %2$s', '%2$s',
    '1 second', 2, 0, '10 minutes', 'The answer was an error, or there was none.'
),
(
    'timeout', false, false, false, 'failing', 'Request timeout', 'Error processing %1$s: %2$s',
    '1 second', 2, 0, '10 minutes', 'No answer came in time.'
),
(
    'not_attempted', false, false, false, 'waiting', 'Not attempted: run timeout reached',
    'Error processing %1$s: %2$s',
    '0', 1, 0, '0', 'Its turn did not come before the run had to end.'
)
on conflict (outcome) do update set
    success = excluded.success,
    is_answer = excluded.is_answer,
    is_live = excluded.is_live,
    queue = excluded.queue,
    error = excluded.error,
    log_line = excluded.log_line,
    first_wait = excluded.first_wait,
    growth = excluded.growth,
    patience = excluded.patience,
    longest_wait = excluded.longest_wait,
    meaning = excluded.meaning
where outcomes.* is distinct from excluded.*;

-- The state of an instance can be none but these. A foreign key would write to this table with
-- each attempt, and so to the WAL.
do $$
declare
    wanted constant text := (
        select format('CHECK ((outcome = ANY (ARRAY[%s])))', string_agg(format('%L::text', o.outcome), ', ' order by o.outcome collate "C"))
        from qr_refresh.outcomes as o
    );
    present constant text := (
        select pg_get_constraintdef(c.oid)
        from pg_catalog.pg_constraint as c
        where
            c.conrelid = 'qr_refresh.instance_state'::regclass
            and c.conname = 'outcome_is_known'
    );
begin
    if present is distinct from wanted then
        alter table qr_refresh.instance_state drop constraint if exists outcome_is_known;
        -- Those of an earlier release have had other names.
        update qr_refresh.instance_state as s set outcome = null
        where s.outcome not in (select o.outcome from qr_refresh.outcomes as o);
        execute format('alter table qr_refresh.instance_state add constraint outcome_is_known %s', wanted);
    end if;
end
$$;
