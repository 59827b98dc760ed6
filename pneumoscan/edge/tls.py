"""The edge's certificate: the one that was given, or one for a first start that it signs itself."""

from __future__ import annotations

import ipaddress
import socket
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pneumoscan.errors import EdgeError
from pneumoscan.files import write_bytes, write_whole

_DAYS: Final = 397  # the most that browsers take: CA/Browser Forum ballot SC31


def link_certificate(folder: Path, given: tuple[Path, Path] | None = None) -> bool:
    """Let ``tls.crt`` and ``tls.key`` of a run folder lead to the certificate; give whether it is self-signed.

    They are links, so that nginx finds a renewed certificate where the old one was.

    Raises
    ------
    EdgeError
        One of the two cannot be read, or the key is open to others.
    """
    if given is None:
        certificate, key = folder / "self-signed.crt", folder / "self-signed.key"
        if not _is_usable(certificate, key):
            _make(certificate, key)
        self_signed = True
    else:
        certificate, key = (path.absolute() for path in given)
        _check(certificate, key)
        self_signed = False
    for name, target in (("tls.crt", certificate), ("tls.key", key)):
        write_whole(folder / name, partial(Path.symlink_to, target=target))
    return self_signed


def _check(certificate: Path, key: Path) -> None:
    for path, option in ((certificate, "--tls-cert"), (key, "--tls-key")):
        try:
            path.read_bytes()
        except OSError as error:
            raise EdgeError(f"{option} {path} cannot be read ({error.strerror}): give a PEM file") from error
    # A secret that an orchestrator mounts belongs to a group of its own; the world is another matter.
    if key.stat().st_mode & 0o007:
        raise EdgeError(f"--tls-key {key} is open to every user: chmod 600 {key}")


def _is_usable(certificate: Path, key: Path) -> bool:
    try:
        made = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError):
        return False
    lasts = made.not_valid_after_utc > datetime.now(UTC) + timedelta(days=7)
    return lasts and made.public_key() == private.public_key()


def _make(certificate: Path, key: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "PneumoScan edge (self-signed)")])
    now = datetime.now(UTC)
    hosts = {"localhost", socket.gethostname()}
    names: list[x509.GeneralName] = [x509.DNSName(host) for host in sorted(hosts) if host.isascii() and host]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    builder = x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + timedelta(days=_DAYS))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    # Which of two certificates with the same name is meant, for a client that believes the old and the new one.
    named, by = x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier
    builder = builder.add_extension(named.from_public_key(private.public_key()), critical=False)
    builder = builder.add_extension(by.from_issuer_public_key(private.public_key()), critical=False)
    usage = x509.KeyUsage(True, False, False, False, False, True, False, False, False)
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    signed = builder.sign(private, hashes.SHA256())
    secret = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_bytes(key, secret, mode=0o600, durable=True)
    write_bytes(certificate, signed.public_bytes(serialization.Encoding.PEM), mode=0o644, durable=True)
