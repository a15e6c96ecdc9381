"""A certificate for the loopback host. It is made for one server, and no other program trusts it."""

from __future__ import annotations

import os
import ssl
import tempfile
from typing import TYPE_CHECKING

from .._errors import UsageError

if TYPE_CHECKING:
    import trustme


class Certificate:
    """The TLS contexts of the server and of its client. `ca_file` is a PEM file that exists until `remove()`."""

    def __init__(self, host: str) -> None:
        authority = _authority()
        self.server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(host).configure_cert(self.server_context)
        # with cadata the context does not load the system's list of authorities, which would take 25 ms
        self.client_context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        handle, self.ca_file = tempfile.mkstemp(prefix="aprefill-testing-", suffix=".pem")
        with open(handle, "wb") as file:
            file.write(authority.cert_pem.bytes())

    def remove(self) -> None:
        """Delete the PEM file."""
        if os.path.exists(self.ca_file):
            os.remove(self.ca_file)


def _authority() -> trustme.CA:
    try:
        import trustme
    except ImportError as exc:
        raise UsageError(
            "tls=True needs the package trustme to make a certificate, and it is not installed", "pip install trustme"
        ) from exc
    return trustme.CA()
