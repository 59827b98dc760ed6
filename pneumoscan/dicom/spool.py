"""The spool of a node: films on disk and what is to be done with them, safe from the moment a film is accepted.

A film is a file, written whole and on the disk before its row stands in the database; the row is on the disk before the
sender is answered. Whatever is killed afterwards, the film is there and waits. Everything is done at least once, and as
results have the same UIDs each time, doing it twice is doing it once.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pneumoscan.dicom.results import ResultObject
from pneumoscan.files import clear_drafts, locked, write_bytes

# waiting -> scored -> sent, or refused; failed is what is tried no more until somebody asks for it.
STATES: Final = ("waiting", "scored", "sent", "refused", "failed")
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS films (
    id INTEGER PRIMARY KEY AUTOINCREMENT, uid TEXT NOT NULL UNIQUE, calling TEXT NOT NULL, urgency INTEGER NOT NULL,
    received REAL NOT NULL, state TEXT NOT NULL DEFAULT 'waiting', attempts INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL DEFAULT 0, code TEXT NOT NULL DEFAULT '', detail TEXT NOT NULL DEFAULT '', ended REAL);
CREATE TABLE IF NOT EXISTS deliveries (
    film INTEGER NOT NULL REFERENCES films (id) ON DELETE CASCADE, destination TEXT NOT NULL, kind TEXT NOT NULL,
    uid TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'waiting', attempts INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL DEFAULT 0, detail TEXT NOT NULL DEFAULT '', PRIMARY KEY (film, destination, kind));
CREATE INDEX IF NOT EXISTS films_due ON films (state, urgency, received);
CREATE INDEX IF NOT EXISTS deliveries_due ON deliveries (destination, state, due);
"""


@dataclass(frozen=True, slots=True)
class SpooledFilm:
    """A film that waits; `number` is what logs call it."""

    number: int
    path: Path
    attempts: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """An object that is to go to a destination."""

    film: int
    kind: str
    destination: str
    path: Path
    attempts: int
    received: float


@dataclass(frozen=True, slots=True)
class Failure:
    """A film, or an object of it, that is tried no more."""

    film: int
    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Status:
    """What is in a spool: films by state, objects that wait by destination, how long the oldest waits, failures."""

    films: dict[str, int]
    to_send: dict[str, int]
    oldest_s: float
    failures: tuple[Failure, ...]


class Spool:
    """A folder that only its user reads (0700), with films, results and a database. May be shared by threads."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.films, self.results = folder, folder / "films", folder / "results"
        for one in (self.folder, self.films, self.results):
            one.mkdir(mode=0o700, parents=True, exist_ok=True)
            one.chmod(0o700)
        self._lock = threading.RLock()
        self._claimed: set[int] = set()
        self._arriving: set[str] = set()
        self._left = threading.Condition(self._lock)
        database = folder / "spool.sqlite"
        os.close(os.open(database, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its other files the same mode
        self._database = sqlite3.connect(database, timeout=30.0, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    @contextmanager
    def held(self, busy: Exception) -> Iterator[None]:
        """Hold the spool for one node, and take up what one that was killed had begun.

        Raises
        ------
        Exception
            `busy`, where another one holds it.
        """
        with locked(self.folder / "lock", busy=busy):
            for folder in (self.films, self.results):
                clear_drafts(folder)
            for path in self.films.glob("*.dcm"):  # on the disk, and killed before its row was
                self._insert(path.stem, "", 1)
            yield

    def receive(self, uid: str, data: bytes, calling: str, urgency: int) -> bool:
        """Take a film; it is on the disk when this returns. False for one that is here already.

        Parameters
        ----------
        uid
            Its SOP Instance UID, checked.
        data
            A whole DICOM file.
        calling
            The AE title that sent it.
        urgency
            0 before 1 before 2.

        Raises
        ------
        OSError, sqlite3.Error
            It cannot be kept, and was not.
        """
        with self._alone(uid):
            if self._one("SELECT id FROM films WHERE uid = ?", uid):
                # Sent again because it failed.
                revive = "UPDATE films SET state = 'waiting', attempts = 0, due = 0 WHERE uid = ? AND state = 'failed'"
                self._change(revive, uid)
                return False
            path = self._film(uid)
            write_bytes(path, data, mode=0o600, durable=True)
            try:
                return self._insert(uid, calling, urgency)
            except sqlite3.Error:
                path.unlink(missing_ok=True)
                raise

    @contextmanager
    def _alone(self, uid: str) -> Iterator[None]:
        """Let one thread at a time take a film; others may take other films meanwhile."""
        with self._left:
            self._left.wait_for(lambda: uid not in self._arriving)
            self._arriving.add(uid)
        try:
            yield
        finally:
            with self._left:
                self._arriving.discard(uid)
                self._left.notify_all()

    def _insert(self, uid: str, calling: str, urgency: int) -> bool:
        statement = "INSERT OR IGNORE INTO films (uid, calling, urgency, received) VALUES (?, ?, ?, ?)"
        return self._change(statement, uid, calling, urgency, time.time()) == 1

    def claim_film(self) -> SpooledFilm | None:
        """The film to be scored next, the most urgent and then the oldest; no other thread gets it meanwhile."""
        query = """
            SELECT id, uid, attempts FROM films WHERE state = 'waiting' AND due <= ?
            ORDER BY urgency, received, id LIMIT ?"""
        with self._lock:
            for number, uid, attempts in self._all(query, time.time(), len(self._claimed) + 1):
                if number not in self._claimed:
                    self._claimed.add(number)
                    return SpooledFilm(number, self._film(uid), attempts)
        return None

    def scored(
        self,
        film: SpooledFilm,
        objects: Iterable[ResultObject],
        destinations: Sequence[str],
        refused: tuple[str, str] | None,
    ) -> None:
        """What came of a film: its objects are to be sent; a refusal has code and detail, and may have none."""
        with self._transaction():
            for one in objects:
                for destination in destinations:
                    self._change(
                        "INSERT OR IGNORE INTO deliveries (film, destination, kind, uid) VALUES (?, ?, ?, ?)",
                        *(film.number, destination, one.kind, one.uid),
                    )
            state, code, detail = ("refused", *refused) if refused else ("scored", "", "")
            self._change(
                "UPDATE films SET state = ?, code = ?, detail = ? WHERE id = ?", state, code, detail, film.number
            )
            self._settle(film.number)
        self.let_go(film)

    def postpone_film(self, film: SpooledFilm, code: str, detail: str, pause_s: float | None) -> None:
        """Try again after a pause; None is never, until somebody asks for it."""
        self._change(
            "UPDATE films SET state = ?, attempts = attempts + 1, due = ?, code = ?, detail = ? WHERE id = ?",
            *("failed" if pause_s is None else "waiting", time.time() + (pause_s or 0.0), code, detail, film.number),
        )
        self.let_go(film)

    def let_go(self, film: SpooledFilm) -> None:
        """Give a claimed film back."""
        with self._lock:
            self._claimed.discard(film.number)

    def due_deliveries(self, destination: str, most: int) -> list[Delivery]:
        """Objects to be sent to a destination now, the longest received first."""
        query = """
            SELECT film, kind, deliveries.uid, deliveries.attempts, received
            FROM deliveries JOIN films ON films.id = film
            WHERE destination = ? AND deliveries.state = 'waiting' AND deliveries.due <= ?
            ORDER BY urgency, received, kind LIMIT ?"""
        found = self._all(query, destination, time.time(), most)
        return [
            Delivery(film, kind, destination, self.results / ResultObject(kind, uid).file, attempts, received)
            for film, kind, uid, attempts, received in found
        ]

    def delivered(self, delivery: Delivery) -> None:
        """A destination has taken an object."""
        self._end(delivery, "sent", "", 0.0)

    def postpone_delivery(self, delivery: Delivery, detail: str, pause_s: float | None) -> None:
        """Try again after a pause; None is never, until somebody asks for it."""
        self._end(delivery, "failed" if pause_s is None else "waiting", detail, pause_s or 0.0)

    def _end(self, delivery: Delivery, state: str, detail: str, pause_s: float) -> None:
        with self._transaction():
            self._change(
                "UPDATE deliveries SET state = ?, attempts = attempts + 1, due = ?, detail = ? "
                "WHERE film = ? AND destination = ? AND kind = ?",
                *(state, time.time() + pause_s, detail, delivery.film, delivery.destination, delivery.kind),
            )
            self._settle(delivery.film)

    def _settle(self, film: int) -> None:
        """A film of which nothing waits any more has come to its end, but for one with objects that failed."""
        left = self._one("SELECT 1 FROM deliveries WHERE film = ? AND state != 'sent'", film)
        if not left:
            statement = (
                "UPDATE films SET state = CASE state WHEN 'scored' THEN 'sent' ELSE state END, ended = ? WHERE id = ?"
            )
            self._change(statement, time.time(), film)

    def retry(self) -> int:
        """Let all that failed be tried again; how many films and objects."""
        with self._transaction():
            films = self._change("UPDATE films SET state = 'waiting', attempts = 0, due = 0 WHERE state = 'failed'")
            objects = self._change(
                "UPDATE deliveries SET state = 'waiting', attempts = 0, due = 0 WHERE state = 'failed'"
            )
        return films + objects

    def clean(self, keep_s: float) -> int:
        """Remove films that came to their end longer ago than this, with their results; how many."""
        old = self._all("SELECT id, uid FROM films WHERE ended < ?", time.time() - keep_s)
        for number, uid in old:
            for kind, its in self._all("SELECT DISTINCT kind, uid FROM deliveries WHERE film = ?", number):
                (self.results / ResultObject(kind, its).file).unlink(missing_ok=True)
            self._film(uid).unlink(missing_ok=True)
            self._change("DELETE FROM films WHERE id = ?", number)
        return len(old)

    def status(self) -> Status:
        """What there is; numbers and reasons, nothing of a film."""
        films = dict.fromkeys(STATES, 0) | dict(self._all("SELECT state, COUNT(*) FROM films GROUP BY state"))
        waiting = "SELECT destination, COUNT(*) FROM deliveries WHERE state = 'waiting' GROUP BY destination"
        (oldest,) = self._all("SELECT MIN(received) FROM films WHERE state IN ('waiting', 'scored')")[0]
        failed_films = self._all("SELECT id, code, detail FROM films WHERE state = 'failed' ORDER BY id")
        failed = self._all(
            "SELECT film, kind, destination, detail FROM deliveries WHERE state = 'failed' ORDER BY film"
        )
        failures = [Failure(number, "film", f"{code}: {detail}") for number, code, detail in failed_films]
        failures += [Failure(number, f"{kind} to {place}", detail) for number, kind, place, detail in failed]
        oldest_s = 0.0 if oldest is None else max(0.0, time.time() - oldest)
        return Status(films, dict(self._all(waiting)), oldest_s, tuple(failures))

    def _film(self, uid: str) -> Path:
        return self.films / f"{uid}.dcm"

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def _change(self, statement: str, *values: object) -> int:
        with self._lock:
            return self._database.execute(statement, values).rowcount

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._database.execute(query, values).fetchall()

    def _one(self, query: str, *values: object) -> bool:
        return bool(self._all(query, *values))
