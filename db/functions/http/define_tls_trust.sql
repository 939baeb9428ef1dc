-- qr_refresh.define_tls_trust(): which certificates to trust, in Python.
create or replace function qr_refresh.define_tls_trust()
returns void
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import ssl
    from pathlib import Path

    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    def tls_trust(ca_file: str | None) -> ssl.SSLContext:
        """One context for all connections, from a file that no environment variable names."""
        path = ca_file or DEFAULT_CA_BUNDLE_PATH
        file = Path(path).stat()
        key = (path, file.st_ino, file.st_size, file.st_mtime_ns)
        kept = GD.get("qr_refresh.trust")  # reading the system's takes 20 ms
        if kept and kept[0] == key:
            context: ssl.SSLContext = kept[1]
            return context
        # urllib3's own function would write secrets to the file that SSLKEYLOGFILE names.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False  # urllib3 does that, for addresses as well
        context.load_verify_locations(path)
        GD["qr_refresh.trust"] = (key, context)
        return context

    GD["qr_refresh.tls_trust"] = tls_trust
$python$;

comment on function qr_refresh.define_tls_trust() is
'Defines the Python function tls_trust(ca_file) for qr_refresh.fetch_qr_codes() of this session, in PL/Python''s dictionary GD. '
'It returns an ssl.SSLContext that trusts the CAs of this PEM file, or of the system''s for None, and raises OSError where the file cannot '
'be read. The context is kept for the session until the file changes.
Private.';
