"""Our server beside LitServe, BentoML and other handlers of TorchServe: same films, same client, in turn in one run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks.client import error_code, exchange
from benchmarks.films import colour_films, small_films
from benchmarks.host import Host
from benchmarks.in_process import unpack
from benchmarks.load import closed, measure, report_progress
from benchmarks.peer_servers import MODEL, NO_MODEL, Peer, Place, request_to, start, versions_in
from benchmarks.result import Column, Figure, Figures, Result, Row, Table, over_rounds, ratio_of
from benchmarks.servers import BenchmarkError, Running, short_folder
from benchmarks.settings import PeerSettings

_WARM_ROUNDS: Final = 5  # at most
_FASTER: Final = 1.05
_IDLE_S: Final = 2.0
_DEADLINE_S: Final = 60.0  # what a client waits
_COLUMNS: Final = (
    Column("films_per_s", "{:9.2f}", "per s"),
    Column("p50_ms", "{:8.2f}", "p50 ms"),
    Column("p99_ms", "{:8.2f}", "p99 ms"),
    Column("unanswered", "{:6.0f}", "errors"),
    Column("idle_cpu", "{:8.2%}", "idle CPU"),
    Column("ours_over_it", " {:.3f} ({:.3f} to {:.3f})", " ours / it"),
)


def benchmark_peers(settings: PeerSettings) -> Result:
    """All comparisons; a server that cannot be measured is there with why."""
    host = Host.here(versions_in(settings.python))
    workers = len(os.sched_getaffinity(0))
    tables = []
    with short_folder() as temp:
        unpacked = unpack(settings.archive, Path(temp, "unpacked"))
        place = Place(settings.archive, unpacked, Path(temp), settings.python, workers)
        if "null" in settings.parts:
            report_progress("servers with no model")
            field = _Field(place, small_films(), settings.clients, settings)
            title = "no model: a constant for each film of 224x224"
            tables.append(_compare("null", title, NO_MODEL, field, host.versions))
        if "model" in settings.parts:
            report_progress("servers with the model")
            field = _Field(place, colour_films(settings.films), 2 * workers, settings)
            title = f"the same weights: colour JPEG films {'of a folder' if settings.films else 'of 1024x1024'}"
            tables.append(_compare("model", title, MODEL, field, host.versions))
    each = f"{settings.seconds:g} s in each of {settings.rounds} rounds"
    title = f"{workers} workers x 1 thread each, {each}, in turn; medians"
    return Result("peers", settings.conditions() | {"workers": workers, "deadline_s": _DEADLINE_S}, host, title, tables)


def _compare(part: str, title: str, peers: Sequence[Peer], field: _Field, installed: Mapping[str, str]) -> Table:
    settings = field.settings
    with ExitStack() as stack:
        for peer in peers:
            missing = [name for name in peer.needs if name not in installed]
            if missing:
                field.fail(peer, f"skipped: {', '.join(missing)} is not installed in {settings.python}")
            elif not settings.restart:
                report_progress(f"starting {peer.name}")
                with field.failures(peer):
                    field.running[peer] = stack.enter_context(field.started(peer, "kept"))
        if field.running:
            field.rest()
        for number in range(settings.rounds):
            first = number % len(peers)
            for peer in (*peers[first:], *peers[:first]):
                if peer not in field.failed:
                    report_progress(f"round {number + 1} of {settings.rounds}: {peer.name}")
                    with field.failures(peer):
                        field.measure(peer, number)
    rows = [field.row(peer, peers[0]) for peer in peers]
    return Table(part, _COLUMNS, rows, f"{title}, {field.clients} clients", width=24)


class _Field:
    """The servers of one comparison, and what was found of each."""

    def __init__(self, place: Place, films: Mapping[str, bytes], clients: int, settings: PeerSettings) -> None:
        self._place, self._films = place, list(films.values())
        self.clients, self.settings = clients, settings
        self._rounds: dict[Peer, dict[int, Figures]] = {}
        self._replies: dict[Peer, dict[str, Any]] = {}
        self._idle: dict[Peer, float] = {}
        self.running: dict[Peer, Running] = {}
        self.failed: dict[Peer, str] = {}

    def fail(self, peer: Peer, why: str) -> None:
        """Leave a server out from now on."""
        report_progress(f"{peer.name}: {why}")
        self.failed[peer] = why

    @contextmanager
    def failures(self, peer: Peer) -> Iterator[None]:
        """Note what goes wrong with a server in the block, and go on with the others."""
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
                    status, body = exchange(server.address, request)
                    if not 200 <= status < 300:
                        why = error_code(status, body) if status else "no reply"
                        raise BenchmarkError(f"it does not answer a film: {why}")
            self._replies[peer] = json.loads(body)
            self._warm(peer, server)
            yield server

    def _warm(self, peer: Peer, server: Running) -> None:
        """Rounds that are not counted, until they get no faster: Java compiles what it has run often."""
        fastest = 0.0
        for _ in range(_WARM_ROUNDS):
            now = self._drive(peer, server)["films_per_s"].median
            if now < fastest * _FASTER:
                return
            fastest = max(fastest, now)

    def rest(self) -> None:
        """Measure what each server's processes take while no request comes."""
        trees = {peer: server.tree for peer, server in self.running.items() if server.tree}
        before = {peer: tree.cpu_s() for peer, tree in trees.items()}
        start = time.perf_counter()
        time.sleep(_IDLE_S)
        for peer, tree in trees.items():
            self._idle[peer] = (tree.cpu_s() - before[peer]) / (time.perf_counter() - start)

    def measure(self, peer: Peer, number: int) -> None:
        """One measurement of one server."""
        with ExitStack() as stack:
            server = self.running.get(peer) or stack.enter_context(self.started(peer, f"round{number}"))
            found = self._drive(peer, server)
        if not found["answered"].median:
            errors = ", ".join(name for name in found if name.startswith(("error ", "refused ")))
            raise BenchmarkError(f"no film was answered in round {number + 1}: {errors}")
        unanswered = Figure(found["sent"].median - found["answered"].median, "films")
        self._rounds.setdefault(peer, {})[number] = found | {"unanswered": unanswered}

    def _drive(self, peer: Peer, server: Running) -> Figures:
        requests = [request_to(peer, server, film) for film in self._films]
        seconds = self.settings.seconds
        return measure(server, requests, closed(self.clients, seconds, _DEADLINE_S), seconds)

    def row(self, peer: Peer, ours: Peer) -> Row:
        """What was found of one server; ratios are ours over its, round by round, and errors those of all rounds."""
        rounds = self._rounds.get(peer, {})
        found = over_rounds(list(rounds.values()))
        if peer in self.failed:
            return Row(peer.name, found, self.failed[peer])
        found["unanswered"] = replace(found["unanswered"], median=sum(found["unanswered"].rounds))
        found["idle_cpu"] = Figure(self._idle.get(peer, 0.0), "cores")
        our_rounds = self._rounds.get(ours, {})
        both = [number for number in rounds if number in our_rounds and rounds[number]["films_per_s"].median]
        if peer != ours and both:
            above, below = ([one[number]["films_per_s"].median for number in both] for one in (our_rounds, rounds))
            found["ours_over_it"] = ratio_of(above, below)
        if peer != ours and peer.service == ours.service == "ours" and ours in self._replies:
            one, other = (self._replies[each]["probabilities"] for each in (ours, peer))
            found["probability_difference"] = Figure(max(abs(one[name] - other[name]) for name in one))
        return Row(peer.name, found)
