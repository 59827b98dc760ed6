"""Servers that somebody starts again, and a load that loses no request unnoticed: for tests of what goes wrong."""

from __future__ import annotations

import itertools
import os
import signal
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import requests

from cxr_client import ClientError, ManagementClient
from tests.e2e.edges import Edge
from tests.e2e.servers import Server, clean_environment
from tests.films import encoded, film
from tests.places import REPOSITORY

DEADLINE_S = 60.0  # what InferenceClient waits for one answer, and so the longest that a server may be away
FILMS = [encoded(film(seed, 200, 220)) for seed in range(6)]


@dataclass
class Load:
    """What clients that never pause were answered: status or error, and after how many seconds."""

    answers: list[tuple[str, float]] = field(default_factory=list)
    on_the_way: set[int] = field(default_factory=set)
    sent: Iterator[int] = field(default_factory=itertools.count)
    done: threading.Event = field(default_factory=threading.Event)

    def ask(self, edge: Edge, data: bytes) -> None:
        """Ask until the load ends; the edge alone answers for it, since this client sends nothing twice."""
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {edge.key}"
            while not self.done.is_set():
                number, before = next(self.sent), time.monotonic()
                self.on_the_way.add(number)
                try:
                    reply = session.post(edge.predictions, data=data, verify=str(edge.believed), timeout=2 * DEADLINE_S)
                    said = str(reply.status_code)
                except requests.RequestException as error:
                    said = repr(error)
                self.answers.append((said, time.monotonic() - before))
                self.on_the_way.discard(number)

    def wait_until_answered(self) -> None:
        """Wait for every request that is on its way now: so none is there for two kills, and each client asks again."""
        now, deadline = set(self.on_the_way), time.monotonic() + 2 * DEADLINE_S
        while now & self.on_the_way:
            assert time.monotonic() < deadline, "a request is neither answered nor refused"
            time.sleep(0.01)

    def check(self, name: str, recoveries: list[float]) -> None:
        """Print what was measured, and hold it against the deadline."""
        seconds = sorted(took for _, took in self.answers)
        said = dict(Counter(said for said, _ in self.answers))
        print(
            f"\n{name}: {len(recoveries)} kills, {len(seconds)} requests, answered {said}; "
            f"longest {seconds[-1]:.1f} s, median {statistics.median(seconds):.2f} s; back after "
            f"{min(recoveries):.1f} to {max(recoveries):.1f} s, median {statistics.median(recoveries):.1f} s"
        )
        assert set(said) == {"200"}
        assert seconds[-1] < DEADLINE_S
        assert max(recoveries) < DEADLINE_S


@contextmanager
def load(clients: Iterable[Edge]) -> Iterator[Load]:
    """One client for each edge given, each with a film of its own."""
    made, edges = Load(), list(clients)
    with ThreadPoolExecutor(len(edges)) as pool:
        asked = [pool.submit(made.ask, edge, FILMS[n % len(FILMS)]) for n, edge in enumerate(edges)]
        try:
            yield made
        finally:
            made.done.set()
    assert [one.exception() for one in asked] == [None] * len(edges)
    assert not made.on_the_way


@dataclass
class Supervised:
    """A server and the loop that starts the same command again when it ends, as systemd and Kubernetes do.

    Parameters
    ----------
    ends
        Of each end that was not asked for: the exit status, and which processes were still there.
    """

    server: Server
    arguments: tuple[str, ...]
    ends: list[tuple[int, list[int]]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with (self.server.folder / "supervisor.log").open("wb") as log:
            while not self.stop.is_set():
                status = subprocess.run(
                    self.server.command("--device", "cpu", *self.arguments),
                    cwd=REPOSITORY,
                    env=clean_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    check=False,
                ).returncode
                if not self.stop.is_set():
                    self.ends.append((status, self.server.processes()))

    def ready_workers(self) -> list[int]:
        """The processes of the READY workers; none where fewer are READY than there should be."""
        try:
            with ManagementClient(self.server.run_dir.socket) as management:
                (version,) = management.ready("pneumonia").versions or (None,)
        except ClientError:
            return []
        return [worker.pid for worker in version.workers if worker.is_ready] if version and version.is_ready else []

    def seconds_until_back(self, since: float, without: int = 0) -> float:
        """How long after a moment as many workers are READY as there should be, a killed one not counted."""
        while without in (ready := self.ready_workers()) or not ready:
            assert time.monotonic() < since + 2 * DEADLINE_S, (self.server.folder / "supervisor.log").read_text()[
                -4000:
            ]
            time.sleep(0.05)
        return time.monotonic() - since


@contextmanager
def supervised(server: Server, *arguments: str) -> Iterator[Supervised]:
    one = Supervised(server, arguments)
    thread = threading.Thread(target=one.run)
    thread.start()
    try:
        yield one
    finally:
        one.stop.set()
        deadline = time.monotonic() + 60
        while thread.is_alive() and time.monotonic() < deadline:
            server.call("--stop")  # again, should the loop have been between two servers
            thread.join(1.0)
        for pid in server.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        thread.join()
