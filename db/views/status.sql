-- qr_refresh.status: one row for each connecting instance.
-- `create or replace` keeps the grants of others; so columns are only ever added, at the end.
create or replace view qr_refresh.status as
select
    c.instance_name,
    c.is_live,
    c.qr_age,
    c.last_outcome,
    c.last_error,
    c.failures,
    c.last_attempt_at,
    c.next_attempt_at,
    c.last_qr_update,
    c.no_live_qr_since,
    c.qr_age_at_most,
    c.is_slow,
    c.evolution_server
from qr_refresh.connecting_instances() as c;


comment on view qr_refresh.status is
'One row for each instance that is connecting: is its stored QR code live, and how the last attempt went. No token and no QR code. '
'Not readable on a standby.';
comment on column qr_refresh.status.instance_name is 'Name of the instance in Evolution API.';
comment on column qr_refresh.status.is_live is
'The stored QR code is the one that was last seen, it was not used, and it was first seen less than 45 s ago, which is how long WhatsApp accepts one.';
comment on column qr_refresh.status.qr_age is
'Time since the stored QR code was first seen. NULL: none is stored, or the job has not seen it since the instance is connecting.';
comment on column qr_refresh.status.last_outcome is
'Of the last attempt, a row of qr_refresh.outcomes. NULL: not asked yet.';
comment on column qr_refresh.status.last_error is
'Short reason of the outcome failed, without host and token; SQLSTATE of update_failed.';
comment on column qr_refresh.status.failures is
'Attempts since the last live QR code was seen: without a QR code, with a dead one, or failed.';
comment on column qr_refresh.status.last_attempt_at is 'When Evolution API was last asked.';
comment on column qr_refresh.status.next_attempt_at is
'When live mode asks again. A plain run asks for every connecting instance.';
comment on column qr_refresh.status.last_qr_update is 'When qr_code was last written, as in evolution_instances.';
comment on column qr_refresh.status.no_live_qr_since is
'Since when there is no live QR code; at the earliest since the job knows the instance as connecting. NULL: it is live, or not asked yet.';
comment on column qr_refresh.status.qr_age_at_most is
'Greatest possible age of the stored QR code: time since the last answer without it. NULL: not known.';
comment on column qr_refresh.status.is_slow is
'It answers after over a second, with an error or not at all.';
comment on column qr_refresh.status.evolution_server is
'Name in qr_refresh.evolution_servers; NULL: the server of qr_refresh.settings.';
