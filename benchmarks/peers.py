"""Our server beside LitServe, BentoML and other handlers of TorchServe: same films, same client, in turn in one run."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.films import colour_films, small_films
from benchmarks.http import ask, code_of
from benchmarks.in_process import unpack
from benchmarks.load import closed, measure, told
from benchmarks.machine import host
from benchmarks.peer_servers import MODEL, NO_MODEL, Peer, Place, request_to, start, versions_in
from benchmarks.servers import BenchmarkError, Running, short_temp

OURS: Final = "PneumoScan"
_WARM_ROUNDS: Final = 5  # at most
_FASTER: Final = 1.05
_AGREE: Final = 1e-4  # in a probability, between servers that run the same service


@dataclass(frozen=True, slots=True)
class Settings:
    """What is compared, and for how long.

    Parameters
    ----------
    rounds
        In each every server is measured once; the order moves on by one server a round.
    seconds
        Of a measurement.
    null_clients
        Of the closed loop where no model is behind the servers; where one is there are two for each worker.
    films
        A folder of films for the servers with the model; None for drawn ones.
    parts
        ``null``, ``model`` or both.
    restart
        Start and stop a server for each measurement instead of keeping all at once: for little memory, or where an
        idle server takes processor time.
    deadline_s
        What a client waits.
    """

    rounds: int = 5
    seconds: float = 8.0
    null_clients: int = 16
    films: Path | None = None
    parts: tuple[str, ...] = ("null", "model")
    restart: bool = False
    deadline_s: float = 60.0


def benchmark_peers(archive: Path, python: str, settings: Settings) -> dict[str, Any]:
    """All comparisons, as JSON values; a server that cannot be measured is there with why.

    Parameters
    ----------
    archive
        Ours; all models have its weights.
    python
        An interpreter that has LitServe, BentoML and captum, which TorchServe's stock handler needs.

    Raises
    ------
    BenchmarkError
        Our own archive is none, or the interpreter does not run.
    """
    versions = versions_in(python)
    workers = len(os.sched_getaffinity(0))
    found: dict[str, Any] = {
        "what": "peers",
        "machine": {**host(), "versions": versions},
        "settings": {**asdict(settings), "films": str(settings.films or "drawn")},
        "cores": workers,
        "parts": {},
    }
    with tempfile.TemporaryDirectory(prefix="cxrb-", dir=short_temp()) as temp:
        place = Place(archive, unpack(archive, Path(temp, "unpacked")), Path(temp), python, workers)
        if "null" in settings.parts:
            told("servers with no model")
            part = _compare(NO_MODEL, place, small_films(), settings.null_clients, settings, versions)
            found["parts"]["null"] = {"title": "no model: a constant for each film of 224x224", **part}
        if "model" in settings.parts:
            told("servers with the model")
            part = _compare(MODEL, place, colour_films(settings.films), 2 * workers, settings, versions)
            size = "of a folder" if settings.films else "of 1024x1024"
            found["parts"]["model"] = {"title": f"the same weights: colour JPEG films {size}", **part}
    return found


def _compare(
    peers: Sequence[Peer],
    place: Place,
    films: Mapping[str, bytes],
    clients: int,
    settings: Settings,
    versions: Mapping[str, str],
) -> dict[str, Any]:
    field = _Field(place, list(films.values()), clients, settings)
    with ExitStack() as stack:
        for peer in peers:
            missing = [name for name in peer.needs if name not in versions]
            if missing:
                field.fail(peer, f"skipped: {', '.join(missing)} is not installed in {place.python}")
            elif not settings.restart:
                told(f"starting {peer.name}")
                with field.noted(peer):
                    field.running[peer] = stack.enter_context(field.started(peer, "kept"))
        if field.running:
            field.rest()
        for number in range(settings.rounds):
            for at in range(len(peers)):
                peer = peers[(at + number) % len(peers)]
                if peer in field.failed:
                    continue
                told(f"round {number + 1} of {settings.rounds}: {peer.name}")
                with field.noted(peer):
                    field.measure(peer, number)
    return {"clients": clients, "servers": {peer.name: field.figures(peer, peers[0]) for peer in peers}}


class _Field:
    """The servers of one comparison, and what was found of each."""

    def __init__(self, place: Place, films: Sequence[bytes], clients: int, settings: Settings) -> None:
        self._place, self._films, self._clients, self._settings = place, films, clients, settings
        self._rows: dict[Peer, dict[int, dict[str, Any]]] = {}
        self._said: dict[Peer, dict[str, Any]] = {}
        self._idle: dict[Peer, float] = {}
        self.running: dict[Peer, Running] = {}
        self.failed: dict[Peer, str] = {}

    def fail(self, peer: Peer, why: str) -> None:
        """Leave a server out from now on."""
        told(f"{peer.name}: {why}")
        self.failed[peer] = why

    @contextmanager
    def noted(self, peer: Peer) -> Iterator[None]:
        """Note what goes wrong with a server, and go on with the others."""
        try:
            yield
        except (BenchmarkError, OSError) as error:
            self.fail(peer, str(error))

    @contextmanager
    def started(self, peer: Peer, name: str) -> Iterator[Running]:
        """The server; every film is sent to it once."""
        folder = self._place.folder / f"{len(list(self._place.folder.iterdir()))}-{name}"
        with start(peer, replace(self._place, folder=folder), self._films[0]) as server:
            for film in self._films:
                request = request_to(peer, server, film)
                # Each worker gets its first films, which are slow, before anything is measured.
                for _ in range(2 * self._place.workers):
                    status, body = ask(server.address, request)
                    if not 200 <= status < 300:
                        raise BenchmarkError(
                            f"it does not answer a film: {code_of(status, body) if status else status}"
                        )
            self._said[peer] = json.loads(body)
            self._warm(peer, server)
            yield server

    def _warm(self, peer: Peer, server: Running) -> None:
        """Rounds that are not counted, until they get no faster: Java compiles what it has run often."""
        fastest = 0.0
        for _ in range(_WARM_ROUNDS):
            now = float(self._drive(peer, server)["films_per_s"])
            if now < fastest * _FASTER:
                return
            fastest = max(fastest, now)

    def rest(self, seconds: float = 2.0) -> None:
        """What each server's processes take while nobody asks anything."""
        before = {peer: server.tree.cpu_s() for peer, server in self.running.items() if server.tree}
        start = time.perf_counter()
        time.sleep(seconds)
        for peer, cpu in before.items():
            tree = self.running[peer].tree
            assert tree is not None
            self._idle[peer] = (tree.cpu_s() - cpu) / (time.perf_counter() - start)

    def measure(self, peer: Peer, number: int) -> None:
        """One measurement of one server."""
        if not self._settings.restart:
            self._measure(peer, self.running[peer], number)
            return
        with self.started(peer, f"round{number}") as server:
            self._measure(peer, server, number)

    def _measure(self, peer: Peer, server: Running, number: int) -> None:
        row = self._drive(peer, server)
        if not row["answered"]:
            raise BenchmarkError(f"no film was answered in round {number + 1}: {row['errors']}")
        self._rows.setdefault(peer, {})[number] = row

    def _drive(self, peer: Peer, server: Running) -> dict[str, Any]:
        requests = [request_to(peer, server, film) for film in self._films]
        plan = closed(self._clients, self._settings.seconds, self._settings.deadline_s)
        return measure(server, requests, plan, self._settings.seconds)

    def figures(self, peer: Peer, ours: Peer) -> dict[str, Any]:
        """What was found of one server; ratios are ours over its, round by round."""
        rows = self._rows.get(peer, {})
        found: dict[str, Any] = {"server": peer.server, "service": peer.service, "rounds": list(rows.values())}
        if peer in self.failed:
            return found | {"failed": self.failed[peer]}
        found |= {
            "per_s": round(_median(row["films_per_s"] for row in rows.values()), 3),
            "p50_ms": _median(row["latency_ms"]["p50"] for row in rows.values()),
            "p99_ms": _median(row["latency_ms"]["p99"] for row in rows.values()),
            "errors": sum(row["sent"] - row["answered"] for row in rows.values()),
            "idle_cpu": round(self._idle.get(peer, 0.0), 4),
        }
        both = sorted(self._rows.get(ours, {}).keys() & rows.keys())
        if peer != ours and both:
            ratios = [self._rows[ours][number]["films_per_s"] / rows[number]["films_per_s"] for number in both]
            found["ours_over_it"] = {"median": _median(ratios), "lowest": min(ratios), "highest": max(ratios)}
        if peer != ours and peer.service == ours.service and peer.service == "ours" and ours in self._said:
            found["answers_agree"] = _agree(self._said[ours], self._said[peer])
        return found


def _median(values: Any) -> float:
    return float(statistics.median(values))


def _agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two replies to the same film say the same."""
    names = one["probabilities"]
    return all(abs(names[name] - other["probabilities"][name]) <= _AGREE for name in names)
