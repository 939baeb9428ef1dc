"""Certificates for TLS servers of the tests."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


def new_certificate(
    folder: Path, host: str, signed_by: str | None = None
) -> tuple[str, ssl.SSLContext]:
    """Return a certificate for a host as PEM, and a server's context with it.

    It is signed by itself, or with the key of a host for which this made one in the same folder.
    """
    is_name = host.replace(".", "").isalpha()
    pem, key = folder / f"{host}.pem", folder / f"{host}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += [
        "-nodes",
        "-days",
        "1",
        "-subj",
        f"/CN={host}",
        "-out",
        str(pem),
        "-keyout",
        str(key),
    ]
    command += ["-addext", f"subjectAltName={'DNS' if is_name else 'IP'}:{host}"]
    if signed_by is not None:
        command += ["-CA", str(folder / f"{signed_by}.pem")]
        command += ["-CAkey", str(folder / f"{signed_by}.key")]
        command += ["-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    return pem.read_text(), context
