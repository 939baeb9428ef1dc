-- migrate:up

-- What each outcome of an attempt means. Its rows are in db/outcomes.sql, which each installation
-- runs.
create table if not exists qr_refresh.outcomes (
    outcome text primary key,
    success boolean not null,
    error text,
    log_line text,
    is_answer boolean not null,
    is_live boolean not null,
    queue text not null,
    first_wait interval,
    growth double precision not null default 1,
    patience integer not null default 0,
    longest_wait interval,
    meaning text not null
);

comment on table qr_refresh.outcomes is
'What each outcome of an attempt means: the words of the report, what is known of the instance then, and how long it is left alone.';
comment on column qr_refresh.outcomes.outcome is 'Name, as in qr_refresh.instance_state.';
comment on column qr_refresh.outcomes.success is 'success in the report.';
comment on column qr_refresh.outcomes.error is
'error in the report: %1$s is the name of the instance, %2$s the reason. NULL: none.';
comment on column qr_refresh.outcomes.log_line is
'Line of the server log: %1$s is the name of the instance, %2$s the error, %3$s a check mark. NULL: none.';
comment on column qr_refresh.outcomes.is_answer is 'Evolution API has told whether there is a QR code.';
comment on column qr_refresh.outcomes.is_live is 'A QR code that can be scanned was seen.';
comment on column qr_refresh.outcomes.queue is
'With whom the instance then waits for a place: rotating, waiting or failing. A new instance waits with those that are new.';
comment on column qr_refresh.outcomes.first_wait is
'Time until the next attempt. NULL: it follows from the age of the QR code.';
comment on column qr_refresh.outcomes.growth is
'By what that time is multiplied with each further failure.';
comment on column qr_refresh.outcomes.patience is 'Failures before it grows.';
comment on column qr_refresh.outcomes.longest_wait is 'What it grows to.';
comment on column qr_refresh.outcomes.meaning is 'The same in a sentence.';

-- One attempt: what is to be asked, and then what came of it.
do $$
begin
    if to_regtype('qr_refresh.attempt') is null then
        create type qr_refresh.attempt as (
            instance bytea,
            instance_name text,
            evolution_server text,
            instance_token text,
            base_url text,
            may_connect boolean,
            connect_on_close boolean,
            asked_at timestamptz,
            outcome text,
            error text,
            qr_code text,
            qr_digest bytea,
            reconnected boolean,
            round_trip double precision,
            answered_at timestamptz,
            qr_count integer
        );
    end if;
end
$$;
revoke all on type qr_refresh.attempt from public;
grant usage on type qr_refresh.attempt to qr_refresh_owner;

comment on type qr_refresh.attempt is
'One attempt to learn the QR code of an instance. It goes from qr_refresh.choose() to ask(), store() and remember(), and each adds what the next one needs.';
comment on column qr_refresh.attempt.instance is 'Key of the instance, see qr_refresh.instance_key().';
comment on column qr_refresh.attempt.instance_name is 'Name of the instance in Evolution API.';
comment on column qr_refresh.attempt.evolution_server is 'Server that its row names; NULL: the one of the settings.';
comment on column qr_refresh.attempt.instance_token is 'Secret: its API key.';
comment on column qr_refresh.attempt.base_url is 'http(s) URL of the server, without a trailing slash.';
comment on column qr_refresh.attempt.may_connect is 'false: only the state is asked for.';
comment on column qr_refresh.attempt.connect_on_close is
'true: connect may be called in state close, where it opens a WhatsApp socket.';
comment on column qr_refresh.attempt.asked_at is 'When it was handed over to the HTTP client.';
comment on column qr_refresh.attempt.outcome is 'What came of it, a row of qr_refresh.outcomes.';
comment on column qr_refresh.attempt.error is 'Short reason without host and token; SQLSTATE where the row was not written.';
comment on column qr_refresh.attempt.qr_code is 'QR code as a data URL.';
comment on column qr_refresh.attempt.qr_digest is 'SHA-256 of the QR code.';
comment on column qr_refresh.attempt.reconnected is 'connect was called in state close.';
comment on column qr_refresh.attempt.round_trip is 'Seconds that the shorter of its requests took.';
comment on column qr_refresh.attempt.answered_at is 'When the answer came.';
comment on column qr_refresh.attempt.qr_count is
'How manieth QR code since Evolution API began to connect it is; NULL: not known.';

-- What is known of an instance is kept by server, name and token: in Evolution API that is who it
-- is. Another token or server is another instance, of which nothing is known.
do $$
begin
    if exists (
        select from pg_catalog.pg_attribute
        where
            attrelid = 'qr_refresh.instance_state'::regclass
            and attname = 'instance'
            and not attisdropped
    ) then
        return;
    end if;
    alter table qr_refresh.instance_state
    drop constraint instance_state_pkey,
    add column instance bytea,
    add column evolution_server text,
    add column queue text not null default 'new',
    add column under_way_until timestamptz,
    add column round_trip double precision,
    add column closed_since timestamptz,
    add column quiet_until timestamptz,
    add column used_digest bytea,
    add column left_at timestamptz,
    add column told_at timestamptz,
    alter column attempted_at drop not null,
    alter column outcome drop not null;
    -- Rows of earlier releases, which were kept by name alone.
    -- Where there are none, a foreign table is not looked at: its server may be away.
    if exists (select from qr_refresh.instance_state) then
        update qr_refresh.instance_state as s
        set
            evolution_server = e.evolution_server::text,
            queue = case
                when s.outcome in ('stored', 'unchanged', 'changed') then 'rotating' else 'waiting'
            end,
            -- As qr_refresh.instance_key() makes it.
            instance = sha256(convert_to(
                concat(
                    length(e.evolution_server::text), ':', e.evolution_server::text,
                    length(e.instance_name::text), ':', e.instance_name::text, e.instance_token::text
                ),
                getdatabaseencoding()
            ))
        from public.evolution_instances as e
        where
            e.instance_status = 'connecting'
            and octet_length(e.instance_name::text) <= 1020
            and octet_length(e.instance_token::text) <= 1020
            and e.instance_name::text = s.instance_name;
    end if;
    delete from qr_refresh.instance_state where instance is null;
    alter table qr_refresh.instance_state
    add primary key (instance),
    alter column instance_name set not null;
end
$$;

alter table qr_refresh.instance_state drop column if exists is_slow;

-- Who is due is found without looking at those who are not.
create index if not exists instance_state_due_idx
on qr_refresh.instance_state (evolution_server, queue, next_attempt_at) where left_at is null;
create index if not exists instance_state_under_way_idx
on qr_refresh.instance_state (under_way_until) where under_way_until is not null;
create index if not exists instance_state_left_idx
on qr_refresh.instance_state (left_at) where left_at is not null;

comment on table qr_refresh.instance_state is
'What the job knows of each instance that is connecting, and for a day of those that were. Private: not for publication or the application.';
comment on column qr_refresh.instance_state.instance is
'Who it is: a digest of server, name and token, see qr_refresh.instance_key().';
comment on column qr_refresh.instance_state.evolution_server is
'Server that its row names; NULL: the one of the settings.';
comment on column qr_refresh.instance_state.outcome is
'Last outcome, a row of qr_refresh.outcomes; NULL: not asked yet.';
comment on column qr_refresh.instance_state.attempted_at is 'When the instance was last asked. Oldest first in a run.';
comment on column qr_refresh.instance_state.answered_at is
'When Evolution API last told which QR code there is, or that there is none.';
comment on column qr_refresh.instance_state.queue is
'With whom it waits for a place: rotating, new, waiting or failing.';
comment on column qr_refresh.instance_state.next_attempt_at is 'When it is due.';
comment on column qr_refresh.instance_state.under_way_until is
'A session of live mode is asking it, and has an answer by then. NULL: nobody is.';
comment on column qr_refresh.instance_state.round_trip is 'Seconds that its state took to be answered, the last time.';
comment on column qr_refresh.instance_state.closed_since is
'Since when Evolution API has it in state close; NULL: it has not.';
comment on column qr_refresh.instance_state.quiet_until is
'It was scanned, it seems: until then only its state is asked for.';
comment on column qr_refresh.instance_state.used_digest is
'SHA-256 of the QR code with which it was connected, which is never stored again.';
comment on column qr_refresh.instance_state.told_at is
'When Evolution API last told of it by an event, see public.receive_evolution_event().';
comment on column qr_refresh.instance_state.left_at is
'When its row was seen to be connecting no longer. NULL: it is.';

-- What is known of each Evolution server as a whole: whether anybody there gets an answer.
create unlogged table if not exists qr_refresh.server_state (
    evolution_server text primary key,
    answered_at timestamptz not null,
    away_since timestamptz,
    next_probe_at timestamptz not null default '-infinity',
    round_trip double precision
);
comment on table qr_refresh.server_state is
'What live mode knows of each Evolution server: does anybody there get an answer. Private.';
comment on column qr_refresh.server_state.evolution_server is 'Name of the server; empty for the one of the settings.';
comment on column qr_refresh.server_state.answered_at is 'When it last answered anybody.';
comment on column qr_refresh.server_state.away_since is 'Since when it answers nobody; NULL: it does.';
comment on column qr_refresh.server_state.next_probe_at is 'When one instance there is asked again, whoever is due.';
comment on column qr_refresh.server_state.round_trip is 'Seconds that its fastest answer took of late; NULL: not known.';

comment on column qr_refresh.runs.report is
'What refresh_qr_codes() returned; of a run over all instances only the results that failed, 100 at most, and not_attempted: how many of them nobody was asked about.';

-- Tokens go to nobody by default. Until now they went to the address on which the replaced Edge
-- Function falls back, where neither the settings nor the environment named another.
alter table qr_refresh.settings
alter column evolution_api_base_url
set default 'https://cst-evolution-api-kaezwnkk.usecloudstation.com';
comment on column qr_refresh.settings.evolution_api_base_url is
'http(s) URL of Evolution API. NULL: the environment variable EVOLUTION_API_BASE_URL of the Postgres server; without it nobody is asked. '
'DEFAULT: the address of the former Edge Function. Instance tokens are sent there.';
do $$
declare
    source text;
begin
    -- Where a release before this one is installed, and only there, it can be asked.
    if to_regprocedure('qr_refresh.evolution_api_base_url()') is not null then
        execute 'select u.source from qr_refresh.evolution_api_base_url() as u' into source;
        if source = 'default' then
            update qr_refresh.settings set evolution_api_base_url = default;
            raise warning using
                message = 'no URL of Evolution API has been set, so the built-in one stays in force',
                detail = 'Instance tokens are sent to '
                || (select s.evolution_api_base_url from qr_refresh.settings as s) || '.',
                hint = 'UPDATE qr_refresh.settings SET evolution_api_base_url = ''https://...'';';
        end if;
    end if;
end
$$;

alter table qr_refresh.settings
add column if not exists give_up_after interval default '1 day';
alter table qr_refresh.settings drop constraint if exists give_up_after_at_least_5_minutes;
alter table qr_refresh.settings add constraint give_up_after_at_least_5_minutes check (
    give_up_after >= interval '5 minutes'
);
comment on column qr_refresh.settings.give_up_after is
'How long an instance may be connecting before no more WhatsApp sockets are opened for it. NULL: for ever. '
'SELECT refresh_qr_codes(name) begins again, and so does a row that becomes connecting anew.';

-- Live mode has one lane: the job of the slow one goes, and the others call without it.
do $$
begin
    if exists (select from pg_catalog.pg_extension where extname = 'pg_cron') then
        perform cron.unschedule(j.jobid)
        from cron.job as j
        where
            j.database = current_database()
            and j.jobname = 'refresh-qr-codes-slow'
            and j.command ~* '\mqr_refresh\.live\s*\(\s*''slow''';
        perform cron.alter_job(
            j.jobid,
            command => regexp_replace(j.command, '(\mqr_refresh\.live\s*\()\s*''fast''\s*,?\s*', '\1', 'i')
        )
        from cron.job as j
        where
            j.database = current_database()
            and j.command ~* '\mqr_refresh\.live\s*\(\s*''fast''';
    end if;
end
$$;

revoke all on qr_refresh.outcomes, qr_refresh.server_state from public;
grant select on qr_refresh.outcomes to qr_refresh_owner;
grant select, insert, update on qr_refresh.server_state to qr_refresh_owner;

-- migrate:down
-- Nothing: there is no way back to an older schema but a backup. README.md tells how to uninstall.
