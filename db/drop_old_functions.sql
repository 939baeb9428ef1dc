-- What earlier releases had and this one has not. With the functions that called it, in one
-- transaction: a run that begins meanwhile finds all of the old ones or all of the new ones.
drop function if exists qr_refresh.define_answer_reader();
drop function if exists qr_refresh.define_evolution_call();
drop function if exists qr_refresh.define_evolution_server();
drop function if exists qr_refresh.define_http_adapter();
drop function if exists qr_refresh.define_http_client();
drop function if exists qr_refresh.define_tls_trust();
