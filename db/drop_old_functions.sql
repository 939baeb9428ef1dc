-- What earlier releases had and this one has not. With the functions that called it, in one
-- transaction: a run that begins meanwhile finds all of the old ones or all of the new ones.
drop function if exists qr_refresh.define_answer_reader();
drop function if exists qr_refresh.define_evolution_call();
drop function if exists qr_refresh.define_evolution_server();
drop function if exists qr_refresh.define_http_adapter();
drop function if exists qr_refresh.define_http_client();
drop function if exists qr_refresh.define_tls_trust();
drop function if exists qr_refresh.fetch_qr_codes(
    text[], text[], text[], boolean[], boolean[], double precision, double precision, integer, text
);
drop function if exists qr_refresh.instances_to_ask(text, boolean, text, integer, integer, text);
drop function if exists qr_refresh.store_qr_codes(text[], text[], text[], timestamptz, boolean);
drop function if exists qr_refresh.store_postponed_qr_codes(
    text[], text[], text[], timestamptz, timestamptz
);
drop function if exists qr_refresh.store_connected(text[], text[], text);
drop function if exists qr_refresh.notify_stored(text[], text[], timestamptz);
drop function if exists qr_refresh.forget_instances();
drop function if exists qr_refresh.reconnect_at(text, timestamptz, integer);
drop function if exists qr_refresh.record_outcomes(
    timestamptz, text[], text[], bytea[], text[], boolean[], double precision[]
);
drop function if exists qr_refresh.wait_for_next_attempt(
    text, integer, interval, interval, interval
);
drop function if exists qr_refresh.describe_outcomes(text[], text[], text[]);
drop function if exists qr_refresh.run_cycle(text, boolean, text, integer, integer);
drop function if exists qr_refresh.run_settings(text);
drop procedure if exists qr_refresh.live(text, integer, integer);
drop function if exists qr_refresh.live_tick(text, integer, integer, jsonb);
drop function if exists qr_refresh.refresh_due(text, integer, integer);
drop function if exists qr_refresh.late_lanes();
