-- qr_refresh.doctor_python(): the part of qr_refresh.doctor() about the server's Python libraries.
create or replace function qr_refresh.doctor_python()
returns table ("check" text, ok boolean, detail text, fix text)
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import importlib
    import sys

    # Only show_qr() needs it.
    try:
        pillow = str(importlib.import_module("PIL").__version__)
    except Exception:
        pillow = None
    return [
        (
            "Python library Pillow",
            True if pillow else None,
            pillow or f"not in the Python {sys.version.split()[0]} of the server, {sys.prefix}",
            "Only for show_qr(). On the server: apt install python3-pil",
        ),
    ]
$python$;

comment on function qr_refresh.doctor_python() is
'Part of qr_refresh.doctor(), which describes the columns: the Python libraries of the server.
Raises nothing of its own. Private.';
