"""A DICOM archive in this process that keeps what it is sent, and a sender of films."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset, dcmread
from pynetdicom import AE, AllStoragePresentationContexts, build_context, evt

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
def listening(archive: Archive) -> Iterator[Archive]:
    """Take objects on a free port until the block ends."""
    entity: Any = AE(ae_title=archive.title)
    entity.supported_contexts = AllStoragePresentationContexts
    handlers = [(evt.EVT_C_STORE, archive.store)]
    server = entity.start_server(("127.0.0.1", archive.port), block=False, evt_handlers=handlers)
    archive.port = server.socket.getsockname()[1]
    try:
        yield archive
    finally:
        server.shutdown()


def send(port: int, films: Sequence[bytes], *, calling: str = "MODALITY", called: str = "PNEUMOSCAN") -> list[int]:
    """Store films; the status of each, -1 where none came or nobody let us in."""
    datasets = [dcmread(io.BytesIO(film)) for film in films]
    entity: Any = AE(ae_title=calling)
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = 20
    wanted = dict.fromkeys((one.SOPClassUID, one.file_meta.TransferSyntaxUID) for one in datasets)
    entity.requested_contexts = [build_context(*one) for one in wanted]
    association = entity.associate("127.0.0.1", port, ae_title=called)
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


def until(holds: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.02)
