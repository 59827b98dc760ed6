"""A record of predictions as JSON lines, without anything that names a patient: off unless a folder is named for it.

A line has what a client was answered and the digest of its file, so that who has the file can find its line. Files are
bounded: each is closed when it is full, and the oldest go.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

FOLDER_VARIABLE: Final = "PNEUMOSCAN_RECORD"
FILE_BYTES: Final = 10_000_000
FILES_KEPT: Final = 50  # of all workers together


@dataclass(frozen=True, slots=True)
class Entry:
    """One film that was answered.

    Parameters
    ----------
    request_id, trace_id
        Of its request, as the reply has the first; the second of its ``traceparent``, empty without one.
    film, film_sha256
        Its place in the request, from 0, and the SHA-256 of its file.
    score
        P(PNEUMONIA), rounded as in the reply.
    label, indeterminate, flags
        As in the reply.
    version, weights_sha256, engine, rescored
        What answered it, and whether float32 did in the place of int8.
    waited_s, latency_s
        Seconds until a worker read the request, None where nobody says when it was sent; from then, or else from when
        it was read, until its reply was made.
    """

    request_id: str
    trace_id: str
    film: int
    film_sha256: str
    score: float
    label: str
    indeterminate: bool
    flags: tuple[str, ...]
    version: str
    weights_sha256: str
    engine: str
    rescored: bool
    waited_s: float | None
    latency_s: float


class PredictionRecord:
    """The files of one worker in a folder of all workers.

    Parameters
    ----------
    folder
        For the server's user only; it is there.
    file_bytes, files_kept
        When a file is full, and how many there may be.
    """

    def __init__(self, folder: Path, file_bytes: int = FILE_BYTES, files_kept: int = FILES_KEPT) -> None:
        self._folder, self._file_bytes, self._files_kept = folder, file_bytes, files_kept
        self._descriptor: int | None = None
        self._files = 0

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> PredictionRecord | None:
        """The record that an environment asks for; None where it asks for none."""
        folder = environment.get(FOLDER_VARIABLE)
        return cls(Path(folder)) if folder else None

    def add(self, entries: Sequence[Entry]) -> None:
        """Write a line for each film, all in one piece. Never raises: a full disk must not cost an answer."""
        if not entries:
            return
        now = time.time()
        moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"
        lines = "".join(json.dumps({"time": moment, **asdict(entry)}) + "\n" for entry in entries)
        with suppress(OSError):
            os.write(self._open(), lines.encode("ascii"))

    def _open(self) -> int:
        if self._descriptor is not None:
            found = os.fstat(self._descriptor)
            # Another worker took it away as the oldest of all: what is written there nobody finds.
            if found.st_size < self._file_bytes and found.st_nlink:
                return self._descriptor
            os.close(self._descriptor)
            self._descriptor = None
        self._files += 1
        name = f"predictions-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}-{self._files}.jsonl"
        self._descriptor = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        files = [path for path in os.scandir(self._folder) if path.name.startswith("predictions-")]
        with suppress(OSError):  # another worker clears up just now
            for oldest in sorted(files, key=lambda path: path.stat().st_mtime_ns)[: -self._files_kept]:
                Path(oldest).unlink(missing_ok=True)
        return self._descriptor
