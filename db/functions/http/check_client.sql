-- qr_refresh.check_client(): can the HTTP client be started? Starts its interpreter, asks nobody.
create or replace function qr_refresh.check_client()
returns text
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import subprocess
    import sys

    longest = 20  # seconds; a slow machine takes two
    reason = None
    program = (
        "import platform, requests, urllib3; print('Python', platform.python_version() + ',',"
        " 'requests', requests.__version__ + ',', 'urllib3', urllib3.__version__)"
    )
    # As qr_refresh.ask() starts it.
    python = f"{sys.exec_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    try:
        ended = subprocess.run(
            [python, "-I", "-c", program],
            capture_output=True,
            cwd="/",
            env={"PATH": "/usr/bin:/bin"},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=longest,
            check=False,
        )
    except OSError as e:
        plpy.error(
            "the HTTP client cannot be started",
            detail=f"Starting {python} failed: {e.strerror}.",
            hint=f"The system user of PostgreSQL must be able to run {python}",
            sqlstate="QR010",
        )
    except subprocess.TimeoutExpired:
        reason = f"it has not started within {longest} seconds"
    else:
        if ended.returncode != 0:
            # The last line names the exception.
            lines = ended.stderr.strip().splitlines()
            reason = lines[-1][:300] if lines else f"exit status {ended.returncode}"
    if reason:
        plpy.error(
            "the HTTP client does not start",
            detail=f"Most often its library requests is missing or broken. {python}: {reason}.",
            hint="On the server, Debian or Ubuntu: apt install python3-requests",
            sqlstate="QR011",
        )
    return ended.stdout.strip()
$python$;

comment on function qr_refresh.check_client() is
'Starts the Python of the HTTP client as qr_refresh.ask() does, and imports what the client needs.
Returns the versions that were found, as text.
Errors: QR010 the interpreter cannot be started; QR011 it cannot import requests (the detail has Python''s reason). Each with a hint.
Private.';
