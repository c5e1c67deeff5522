"""The server's certificate, read again when its files change. Knows nothing of connections."""

import os
import ssl

from chatcore_server.logging import get_logger
from chatcore_server.settings import TlsSettings
from chatcore_server.watched_files import WatchedFiles

_log = get_logger()
_MODES = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


class CertificateError(Exception):
    """The files do not make a certificate. The text names them and says what is wrong."""


class CertificateKeeper:
    """`context` is what new connections are to shake hands with."""

    def __init__(self, settings: TlsSettings) -> None:
        """Raises CertificateError."""
        self._settings = settings
        self._watched = WatchedFiles(_files(settings).values())
        self.context = make_context(settings)

    def refresh(self) -> bool:
        """Look at the files, and if they have changed, read them. True: there is a new context.

        What cannot be used is logged once, and the old context stays: certificate and key are two files, and between
        the writing of one and of the other they do not fit.
        """
        if not self._watched.have_changed():
            return False
        try:
            self.context = make_context(self._settings)
        except CertificateError as error:
            _log.warning("certificate_rejected", reason=str(error))
            return False
        _log.info("certificate_read", file=self._settings.certificate_file)
        return True


def _files(settings: TlsSettings) -> dict[str, str]:
    """By the setting that names each."""
    files = {
        "tls.certificate_file": settings.certificate_file,
        "tls.key_file": settings.key_file,
        "tls.client_ca_file": settings.client_ca_file,
    }
    return {key: file for key, file in files.items() if file}


def make_context(settings: TlsSettings) -> ssl.SSLContext:
    """Raises CertificateError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # older ones are out of use: RFC 8996
    context.options |= ssl.OP_NO_RENEGOTIATION  # a client could make the server work for nothing
    context.verify_mode = _MODES[settings.client_certificates]
    files = _files(settings)
    for key, file in files.items():
        if not os.access(file, os.R_OK):
            raise CertificateError(f"{key}: {file} cannot be read")
    try:
        # Without the callback OpenSSL would ask on the terminal for a key's password, and wait.
        context.load_cert_chain(settings.certificate_file, settings.key_file or None, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        pair = " and ".join(f"{key} {file}" for key, file in files.items() if key != "tls.client_ca_file")
        raise CertificateError(f"{pair}: no certificate with its key: {error}") from None
    if settings.client_ca_file:
        try:
            context.load_verify_locations(settings.client_ca_file)
        except OSError as error:
            raise CertificateError(
                f"tls.client_ca_file: {settings.client_ca_file} holds no certificates: {error}"
            ) from None
    return context


def _no_password() -> str:
    raise ValueError("the key needs a password; store it without one")
