"""A DICOM archive in this process that keeps what it is sent, and a sender of films."""

from __future__ import annotations

import io
import ipaddress
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydicom import Dataset, dcmread
from pynetdicom import AE, AllStoragePresentationContexts, build_context, evt

from pneumoscan.dicom.node import Tls

SUCCESS = 0x0000


@dataclass
class Archive:
    """What was sent, in its order; `answer` gives the status for an object."""

    title: str = "PACS"
    port: int = 0
    received: list[Dataset] = field(default_factory=list)
    answer: Callable[[Dataset], int] = lambda _: SUCCESS

    @property
    def address(self) -> str:
        return f"{self.title}@127.0.0.1:{self.port}"

    @property
    def kinds_by_study(self) -> dict[str, Counter[str]]:
        """How many different objects of each modality each study has: SC is OT."""
        unique = {one.SOPInstanceUID: one for one in self.received}.values()
        found: dict[str, Counter[str]] = {}
        for one in unique:
            found.setdefault(one.StudyInstanceUID, Counter())[one.Modality] += 1
        return found

    def store(self, event: Any) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        status = self.answer(dataset)
        if status == SUCCESS:
            self.received.append(dataset)
        return status


@contextmanager
def listening(archive: Archive, tls: ssl.SSLContext | None = None) -> Iterator[Archive]:
    """Take objects on a free port until the block ends."""
    entity: Any = AE(ae_title=archive.title)
    entity.supported_contexts = AllStoragePresentationContexts
    handlers = [(evt.EVT_C_STORE, archive.store)]
    server = entity.start_server(("127.0.0.1", archive.port), block=False, evt_handlers=handlers, ssl_context=tls)
    archive.port = server.socket.getsockname()[1]
    try:
        yield archive
    finally:
        server.shutdown()


def send(
    port: int,
    films: Sequence[bytes],
    *,
    calling: str = "MODALITY",
    called: str = "PNEUMOSCAN",
    tls: ssl.SSLContext | None = None,
) -> list[int]:
    """Store films; the status of each, -1 where none came or nobody let us in."""
    datasets = [dcmread(io.BytesIO(film)) for film in films]
    entity: Any = AE(ae_title=calling)
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = 20
    wanted = dict.fromkeys((one.SOPClassUID, one.file_meta.TransferSyntaxUID) for one in datasets)
    entity.requested_contexts = [build_context(*one) for one in wanted]
    encrypted = None if tls is None else (tls, "127.0.0.1")
    association = entity.associate("127.0.0.1", port, ae_title=called, tls_args=encrypted)
    statuses = []
    for dataset in datasets:
        try:
            answer = association.send_c_store(dataset) if association.is_established else Dataset()
        except (RuntimeError, ValueError):  # it broke off
            answer = Dataset()
        statuses.append(int(answer.get("Status", -1)))
    if association.is_established:
        association.release()
    return statuses


def certificate_in(folder: Path) -> Tls:
    """A certificate for 127.0.0.1 that signed itself: it is its own authority."""
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = Tls(folder / "tls.crt", folder / "tls.key", folder / "tls.crt")
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files.key.write_bytes(key.private_bytes(*plain))
    return files


def until(holds: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.02)
