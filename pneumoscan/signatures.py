"""Signatures of archives, and the keys that are trusted to make them.

A signature is ``NAME-VERSION.mar.sig`` in the OpenSSF model-signing format: a Sigstore bundle with a DSSE envelope
around an in-toto statement about the SHA-256 of the archive, signed with an elliptic curve key. ``model_signing verify
key`` accepts what is written here, and its signatures are accepted here. It is read with `cryptography` alone: who
serves need not install the clients of transparency services, which nothing here asks.

References
----------
OpenSSF Model Signing Specification v1.0; DSSE v1.0.0, protocol.md (pre-authentication encoding); in-toto Statement v1;
Sigstore bundle v0.3.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pneumoscan.errors import ArchiveRefused, KeyFileError
from pneumoscan.files import changing, sha256_of, write_text
from pneumoscan.model_store import Archive, archive_digest

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

# Trusted keys of a store, where no file is named.
SIGNERS_FILE: Final = "signers"

_BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD: Final = "application/vnd.in-toto+json"
_STATEMENT: Final = "https://in-toto.io/Statement/v1"
_PREDICATE: Final = "https://model_signing/signature/v1.0"
_SERIALIZATION: Final = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": []}
_MOST_BYTES: Final = 1 << 16
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_LINE: Final = re.compile(r"(?P<name>[A-Za-z0-9_-]{1,32}) (?P<state>trusted|retired) (?P<key>[A-Za-z0-9+/]+={0,2})")
_HEAD: Final = "# Who may sign archives: name, trusted or retired, public key. Written by pneumoscan keys.\n"
_CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")


def signature_file(archive: Path) -> Path:
    """Where the signature of an archive lies: beside it."""
    return archive.with_name(archive.name + ".sig")


@dataclass(frozen=True)
class Signer:
    """One key that signs archives.

    Parameters
    ----------
    name
        Who holds it.
    public_key
        SubjectPublicKeyInfo (RFC 5280, 4.1.2.7), DER.
    is_retired
        Nothing signed with it is accepted any more.
    """

    name: str
    public_key: bytes
    is_retired: bool = False


@dataclass(frozen=True)
class Trust:
    """The keys of a file of signers, as they were when it was read."""

    path: Path
    signers: tuple[Signer, ...]

    def check(self, archive: Archive) -> str:
        """Check an archive's signature, before anything else of it is looked at; gives the signer's name.

        Raises
        ------
        ArchiveRefused
            It has none, or none of a trusted key over these bytes.
        """
        path = signature_file(archive.path)
        remedy = f"sign it with pneumoscan pack --sign, or trust its signer in {self.path}"
        try:
            with path.open("rb") as file:
                data = file.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            raise ArchiveRefused(f"{archive.path} is not signed ({path.name} is missing): {remedy}") from None
        except OSError as error:
            raise ArchiveRefused(f"{path} cannot be read ({error.strerror}): {remedy}") from error
        try:
            signer, payload = _open_envelope(data, self.signers)
            digest = None if signer is None else _signed_digest(payload)  # nothing is read of a stranger's
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ArchiveRefused(f"{path} is no valid signature ({_words(error)}): {remedy}") from error
        if signer is None:
            raise ArchiveRefused(f"{archive.path} is signed by nobody in {self.path}: {remedy}")
        if signer.is_retired:
            raise ArchiveRefused(f"{archive.path} is signed by {signer.name}, whose key was retired: {remedy}")
        if digest != archive_digest(archive):
            raise ArchiveRefused(f"{archive.path} is not the file that {signer.name} signed: {remedy}")
        return signer.name


def trust_of(store: Path, named: Path | None) -> Trust | None:
    """The keys that are trusted for a store: those of the file that was named, else of the store's own, else None.

    Raises
    ------
    KeyFileError
        The file is not there, may be changed by others, or cannot be read as keys: then nothing is trusted.
    """
    if named is None and not (store / SIGNERS_FILE).exists():
        return None
    path = (named or store / SIGNERS_FILE).absolute()
    return Trust(path, read_signers(path))


def read_signers(path: Path) -> tuple[Signer, ...]:
    """The keys of a file.

    Raises
    ------
    KeyFileError
        It cannot be read, belongs to another user, may be changed by others, or holds a line that is no key.
    """
    try:
        with path.open(encoding="ascii") as file:
            stat = os.fstat(file.fileno())
            text = file.read(1 << 20)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise KeyFileError(f"{path} cannot be read ({reason}): trust a key with pneumoscan keys trust") from error
    if stat.st_uid not in (os.geteuid(), 0) or stat.st_mode & 0o022:
        raise KeyFileError(f"{path} may be changed by others: chown it to who runs the server, and chmod go-w {path}")
    found: list[Signer] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if (match := _LINE.fullmatch(line)) is None:
            raise KeyFileError(f"{path}, line {number} is no key: a line is <name> <trusted|retired> <public key>")
        public = _public_key(base64.b64decode(match["key"]), f"{path}, line {number}")
        found.append(Signer(match["name"], public, match["state"] == "retired"))
    return tuple(found)


def trust_key(path: Path, name: str, public_file: Path) -> None:
    """Add a public key to a file of signers, which is made where there is none.

    Raises
    ------
    KeyFileError
        The name is none or taken, the key is none or known, or the file cannot be changed.
    """
    if not _NAME.fullmatch(name):
        raise KeyFileError(f"{name!r} is no name of a key: give 1 to 32 letters, digits, - or _")
    public = _public_key(_read_key(public_file), str(public_file))
    with changing(path, f".{path.name}.lock", KeyFileError):
        signers = read_signers(path) if path.exists() else ()
        for signer in signers:
            if signer.name == name or signer.public_key == public:
                state = "retired" if signer.is_retired else "trusted"
                raise KeyFileError(f"{path} has {signer.name} already ({state}): a new key needs a new name")
        _write(path, (*signers, Signer(name, public)))


def retire_key(path: Path, name: str) -> None:
    """Trust a key no more; it stays in the file, so that what it signed is refused by its name.

    Raises
    ------
    KeyFileError
        There is none of that name.
    """
    with changing(path, f".{path.name}.lock", KeyFileError):
        signers = read_signers(path)
        if name not in {signer.name for signer in signers}:
            known = ", ".join(signer.name for signer in signers) or "none"
            raise KeyFileError(f"there is no key {name!r} in {path}: known are {known}")
        _write(path, [replace(each, is_retired=each.is_retired or each.name == name) for each in signers])


def make_key(path: Path) -> Path:
    """Make a key that signs, readable by its user alone; gives the file of its public half, ``FILE.pub``.

    Raises
    ------
    KeyFileError
        One of the two files exists or cannot be written.
    """
    _need_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    public = path.with_name(path.name + ".pub")
    if there := [each for each in (path, public) if each.exists()]:
        raise KeyFileError(f"{there[0]} exists: give another file, no key is overwritten")
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        write_text(path, private.decode("ascii"), mode=0o600, durable=True)
        write_text(public, _pem(key.public_key()).decode("ascii"), durable=True)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written ({error.strerror}): give another file") from error
    return public


def read_private_key(path: Path) -> EllipticCurvePrivateKey:
    """A key that signs.

    Raises
    ------
    KeyFileError
        It cannot be read, others may read it, or it is no elliptic curve key in PEM without a password.
    """
    _need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    data = _read_key(path)
    if path.stat().st_mode & 0o077:
        raise KeyFileError(f"{path} may be read by others: chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} is no private key in PEM without a password: see pneumoscan keys make") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise KeyFileError(f"{path} is no key of the curves P-256, P-384 or P-521: make one with pneumoscan keys make")
    return key


def sign(archive: Path, key: EllipticCurvePrivateKey) -> Path:
    """Write the signature of an archive beside it; gives its path."""
    from cryptography.hazmat.primitives.asymmetric import ec

    digest = sha256_of(archive)
    statement = {
        "_type": _STATEMENT,
        "subject": [{"name": archive.name, "digest": {"sha256": _root_digest(digest)}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": _SERIALIZATION,
            "resources": [{"name": ".", "algorithm": "sha256", "digest": digest}],
        },
    }
    payload = json.dumps(statement, indent=1).encode()
    made = key.sign(_encoded(payload), ec.ECDSA(_hash_of(key.public_key())))
    bundle = {
        "mediaType": _BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": _hint(key.public_key())}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode("ascii"),
            "payloadType": _PAYLOAD,
            "signatures": [{"sig": base64.b64encode(made).decode("ascii"), "keyid": ""}],
        },
    }
    path = signature_file(archive)
    write_text(path, json.dumps(bundle) + "\n", durable=True)
    return path


def _open_envelope(data: bytes, signers: Sequence[Signer]) -> tuple[Signer | None, bytes]:
    """The signer whose key made the envelope's signature, None if none did, and what was signed."""
    _need_cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    if len(data) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES >> 10} KiB")
    bundle = json.loads(data)
    envelope = bundle["dsseEnvelope"]
    if bundle["mediaType"] != _BUNDLE or envelope["payloadType"] != _PAYLOAD:
        raise ValueError("it is of another format")
    (only,) = envelope["signatures"]
    payload, made = (base64.b64decode(text, validate=True) for text in (envelope["payload"], only["sig"]))
    for signer in signers:
        key = _load(signer.public_key)
        try:
            key.verify(made, _encoded(payload), ec.ECDSA(_hash_of(key)))
        except InvalidSignature:
            continue
        return signer, payload
    return None, payload


def _signed_digest(payload: bytes) -> str:
    """The SHA-256 of the one file that a statement is about."""
    statement = json.loads(payload)
    if statement["_type"] != _STATEMENT or statement["predicateType"] != _PREDICATE:
        raise ValueError("it states something else")
    predicate = statement["predicate"]
    (subject,), (resource,) = statement["subject"], predicate["resources"]
    if predicate["serialization"]["method"] != "files" or resource["algorithm"] != "sha256":
        raise ValueError("it counts the digest in another way")
    digest = str(resource["digest"])
    if subject["digest"]["sha256"] != _root_digest(digest):
        raise ValueError("its digests contradict each other")
    return digest


def _root_digest(digest: str) -> str:
    return hashlib.sha256(bytes.fromhex(digest)).hexdigest()


def _encoded(payload: bytes) -> bytes:
    """The bytes that are signed (DSSE, PAE)."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)


def _hash_of(key: EllipticCurvePublicKey) -> Any:
    from cryptography.hazmat.primitives import hashes

    return {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.curve.key_size]


def _pem(key: EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _hint(key: EllipticCurvePublicKey) -> str:
    return hashlib.sha256(_pem(key)).hexdigest()


def _load(der: bytes) -> EllipticCurvePublicKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = serialization.load_der_public_key(der)
    assert isinstance(key, ec.EllipticCurvePublicKey)  # `_public_key` let nothing else in
    return key


def _public_key(data: bytes, where: str) -> bytes:
    """A public key, PEM or DER, as DER."""
    _need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    load = serialization.load_pem_public_key if data.startswith(b"-----") else serialization.load_der_public_key
    try:
        key = load(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{where} is no public key: give the .pub file that pneumoscan keys make wrote") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise KeyFileError(f"{where} is no key of the curves P-256, P-384 or P-521")
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read ({error.strerror}): make a key with pneumoscan keys make") from error


def _need_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise KeyFileError("signatures need the package cryptography: pip install 'pneumoscan[serve]'") from error


def _words(error: Exception) -> str:
    known = {KeyError: "a field is missing", json.JSONDecodeError: "no JSON", binascii.Error: "no base64"}
    return known.get(type(error), str(error)[:100].replace("\n", " "))


def _write(path: Path, signers: Sequence[Signer]) -> None:
    lines = (
        f"{each.name} {'retired' if each.is_retired else 'trusted'} {base64.b64encode(each.public_key).decode()}\n"
        for each in signers
    )
    write_text(path, _HEAD + "".join(lines), mode=0o644, durable=True)
