"""Certificates for tests: an authority of the test's own, and what it signs for the server and for clients."""

import functools
import ssl
from pathlib import Path

import trustme

HOST = "127.0.0.1"


@functools.cache
def authority() -> trustme.CA:
    """One for all tests: keys take time to make."""
    return trustme.CA()


@functools.cache
def _server_pem() -> bytes:
    return authority().issue_cert(HOST, "localhost").private_key_and_cert_chain_pem.bytes()


def write_server_certificate(folder: Path) -> Path:
    """Certificate and key in one file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "server.pem"
    file.write_bytes(_server_pem())
    return file


def write_authority(folder: Path) -> Path:
    file = folder / "authority.pem"
    authority().cert_pem.write_to_path(str(file))
    return file


@functools.cache
def client_context() -> ssl.SSLContext:
    """Trusts the authority and nobody else."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context
