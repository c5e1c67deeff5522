"""The server's certificate: what is refused with which words, and what happens when its files change."""

import os
import ssl
from pathlib import Path

import pytest

from chatcore_server.doors.certificates import CertificateError, CertificateKeeper, make_context
from chatcore_server.settings import TlsSettings
from support.certificates import authority, write_authority


def pair(folder: Path, name: str = "localhost") -> TlsSettings:
    """A new certificate and its key in two files of always the same names."""
    issued = authority().issue_cert(name)
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return TlsSettings(certificate_file=str(certificate), key_file=str(key))


def test_only_versions_that_are_safe(tmp_path: Path) -> None:
    context = make_context(pair(tmp_path))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize(("asked", "mode"), [("none", 0), ("optional", 1), ("required", 2)])
def test_certificates_of_clients(asked: str, mode: int, tmp_path: Path) -> None:
    settings = pair(tmp_path)
    context = make_context(
        TlsSettings(
            certificate_file=settings.certificate_file,
            key_file=settings.key_file,
            client_ca_file=str(write_authority(tmp_path)),
            client_certificates=asked,  # type: ignore[arg-type]
        )
    )
    assert context.verify_mode == mode
    assert len(context.get_ca_certs()) == 1


def test_what_makes_no_certificate(tmp_path: Path) -> None:
    good = pair(tmp_path)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    other = pair(foreign)
    junk = tmp_path / "junk"
    junk.write_text("junk")
    both = f"tls.certificate_file {good.certificate_file} and tls.key_file"
    for certificate, key, authorities, named in [
        (str(tmp_path / "none"), good.key_file, "", f"tls.certificate_file: {tmp_path}"),
        (good.certificate_file, str(tmp_path / "none"), "", f"tls.key_file: {tmp_path}"),
        (good.certificate_file, str(junk), "", f"{both} {junk}: no"),
        (good.certificate_file, other.key_file, "", f"{both} {other.key_file}: no"),
        (good.certificate_file, "", "", f"tls.certificate_file {good.certificate_file}: no"),
        (good.certificate_file, good.key_file, str(junk), f"tls.client_ca_file: {junk} holds no"),
    ]:
        settings = TlsSettings(certificate_file=certificate, key_file=key, client_ca_file=authorities)
        with pytest.raises(CertificateError, match=f"^{named}"):
            CertificateKeeper(settings)


def test_a_key_with_a_password_is_not_asked_for_it(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    settings = pair(tmp_path)
    key = serialization.load_pem_private_key(Path(settings.key_file).read_bytes(), None)
    Path(settings.key_file).write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(CertificateError, match="without one"):
        make_context(settings)


def test_new_files_make_a_new_context(tmp_path: Path) -> None:
    keeper = CertificateKeeper(pair(tmp_path))
    first = keeper.context
    assert not keeper.refresh()
    assert keeper.context is first
    pair(tmp_path)
    assert keeper.refresh()
    assert keeper.context is not first
    assert not keeper.refresh()


def test_half_a_pair_changes_nothing_until_the_other_half_is_there(tmp_path: Path) -> None:
    settings = pair(tmp_path)
    keeper = CertificateKeeper(settings)
    first = keeper.context
    elsewhere = tmp_path / "new"
    elsewhere.mkdir()
    new = pair(elsewhere)
    os.replace(new.certificate_file, settings.certificate_file)
    assert not keeper.refresh()
    assert keeper.context is first
    os.remove(settings.key_file)
    assert not keeper.refresh()
    os.replace(new.key_file, settings.key_file)
    assert keeper.refresh()
    assert keeper.context is not first
