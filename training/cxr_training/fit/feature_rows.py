"""Rows of features on disk by film: added to as films come, each with a digest of its own.

Three files make a table. ``NAME.rows`` holds the rows one after the other, in float32 or float16, and is memory-mapped;
``NAME.films`` holds the SHA-256 of the film of each row, 32 bytes each, and is the lock under which rows are added;
``NAME.sums``, memory-mapped too, holds the SHA-256 of film and row together, and zeros until the row is worked out. A
row counts if its digest is right: whatever was killed, cut off, overwritten or flipped, the film is worked out again.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cxr_training.errors import TrainingError
from pneumoscan.files import locked

Features = npt.NDArray[np.float32]

_DIGEST_BYTES: Final = 32
_CHUNK_BYTES: Final = 1 << 24  # that are filled at once


@dataclass(frozen=True, slots=True)
class StoredFeatures:
    """Features of N films on disk, (N, …), read where they are looked at, as float32 whatever is stored.

    Parameters
    ----------
    rows
        All rows of the table.
    sums
        (rows, 32), their digests.
    places
        (N,), the row of each film.
    films
        SHA-256 of each film, in hexadecimal.
    """

    rows: np.memmap[tuple[int, ...], np.dtype[np.float32 | np.float16]]
    sums: np.memmap[tuple[int, ...], np.dtype[np.uint8]]
    places: npt.NDArray[np.int64]
    films: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, films: int | slice) -> Features:
        """A copy of the features of one film or of some."""
        return np.array(self.rows[self.places[films]], dtype=np.float32)

    def array(self) -> Features:
        """A copy of all of them."""
        return self[:]

    def state(self, film: int) -> str:
        """Of a film's row: ``right``, ``missing``, or ``damaged``, which is to be worked out again as well."""
        place = self.places[film]
        noted = self.sums[place].tobytes()
        if noted == self._digest(film, self.rows[place]):
            return "right"
        return "damaged" if any(noted) else "missing"

    def put(self, films: Sequence[int], features: Features) -> None:
        """Write the rows of some films, then their digests."""
        places = self.places[list(films)]
        stored = features.astype(self.rows.dtype)
        self.rows[places] = stored
        self.rows.flush()
        digests = b"".join(self._digest(film, row) for film, row in zip(films, stored, strict=True))
        self.sums[places] = np.frombuffer(digests, np.uint8).reshape(-1, _DIGEST_BYTES)
        self.sums.flush()

    def _digest(self, film: int, row: npt.NDArray[Any]) -> bytes:
        digest = hashlib.sha256(bytes.fromhex(self.films[film]))
        digest.update(np.ascontiguousarray(row).data)
        return digest.digest()


class FeatureRows:
    """A table of features.

    Parameters
    ----------
    name
        Path of its files without their endings.
    shape
        Of one row.
    kind
        ``float32``, or ``float16`` for what can be rounded to eleven bits.
    """

    def __init__(self, name: Path, shape: tuple[int, ...], kind: str = "float32") -> None:
        self._rows, self._films, self._sums = (name.with_suffix(f".{end}") for end in ("rows", "films", "sums"))
        self._shape = shape
        self._kind = np.dtype(kind)
        self._row_bytes = self._kind.itemsize * math.prod(shape)

    def add(self, films: Sequence[str], what: str) -> None:
        """Make room for films that are not in the table yet, and mend the rows a damaged file lacks.

        Parameters
        ----------
        films
            SHA-256 of each, in hexadecimal.
        what
            Is stored, for the message.

        Raises
        ------
        TrainingError
            If the disk has no room for them; the table is then as it was.
        """
        self._films.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._films, wait=True):
            known = self._known()
            listed = set(known)
            fresh = [film for film in dict.fromkeys(films) if film not in listed]
            size = self._rows.stat().st_size if self._rows.exists() else 0
            start, end = min(len(known), size // self._row_bytes), len(known) + len(fresh)
            self._check_room(end - start, what)
            self._fill(start, end)
            with self._sums.open("ab") as stream:
                stream.truncate(max(end * _DIGEST_BYTES, stream.tell()))  # what is added is zeros
            with self._films.open("r+b") as stream:
                stream.seek(len(known) * _DIGEST_BYTES)  # over what a kill left of an entry
                stream.write(bytes.fromhex("".join(fresh)))
                stream.flush()
                os.fsync(stream.fileno())

    def stored(self, films: Sequence[str]) -> StoredFeatures:
        """The rows of some films, which were added before."""
        known = self._known()
        row_of = {film: row for row, film in enumerate(known)}
        rows = np.memmap(self._rows, self._kind, "r+", shape=(len(known), *self._shape))
        sums = np.memmap(self._sums, np.uint8, "r+", shape=(len(known), _DIGEST_BYTES))
        return StoredFeatures(rows, sums, np.array([row_of[film] for film in films], dtype=np.int64), tuple(films))

    def _known(self) -> list[str]:
        """The film of each row."""
        data = self._films.read_bytes()
        whole = len(data) // _DIGEST_BYTES
        return [data[i * _DIGEST_BYTES : (i + 1) * _DIGEST_BYTES].hex() for i in range(whole)]

    def _check_room(self, count: int, what: str) -> None:
        needed, free = count * self._row_bytes, shutil.disk_usage(self._rows.parent).free
        if needed > free:
            raise TrainingError(
                f"{self._rows.parent}: {what} of {count} films takes {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB "
                "are free: take another --cache, fewer --views, or make room"
            )

    def _fill(self, start: int, end: int) -> None:
        """Make rows NaN, up to the end of the table."""
        with self._rows.open("r+b" if self._rows.exists() else "w+b") as stream:
            stream.seek(start * self._row_bytes)
            left = (end - start) * self._row_bytes
            empty = np.full(min(left, _CHUNK_BYTES) // self._kind.itemsize, np.nan, dtype=self._kind).tobytes()
            while left:
                left -= stream.write(empty[:left])
            stream.flush()
            os.fsync(stream.fileno())
