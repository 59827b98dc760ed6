"""Our server under load: closed and open loop, the lone client, and the same model without a server."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.client import drive
from benchmarks.films import films_of
from benchmarks.http import post
from benchmarks.in_process import unpack
from benchmarks.load import check, closed, measure, poisson, requests_of, told
from benchmarks.machine import client_cost, host
from benchmarks.overhead import Settings, layout_of, lone_client, without_server
from benchmarks.processes import Tree, listener_of
from benchmarks.servers import BenchmarkError, Running, WrongUsage, served_archive, short_temp

_SEED: Final = 11
_WARM_S: Final = 8.0
_WARM_CLIENTS: Final = 4


def benchmark_serve(archive: Path | None, url: str | None, films: Path | None, settings: Settings) -> dict[str, Any]:
    """All measurements, as JSON values.

    Parameters
    ----------
    archive
        Served by a server of its own, which is stopped at the end; also what is compared with it in process.
    url
        Of a running server, instead of `archive`.
    films
        A folder, or None for made-up films.

    Raises
    ------
    BenchmarkError
        The server does not start, or does not answer one of the films.
    """
    some = films_of(films)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cxrb-", dir=short_temp())))
        told("starting the server" if archive else f"using {url}")
        server = stack.enter_context(_server(archive, url, folder / "s", settings))
        requests = requests_of(server, some)
        check(server, dict(zip(some, requests, strict=True)))
        if archive:
            _warm(server, settings)
        found: dict[str, Any] = {
            "what": "serve",
            "machine": host(),
            "settings": asdict(settings),
            "films": {name: len(data) for name, data in some.items()},
            "client": [client_cost(data) for data in sorted(some.values(), key=len)[:: max(1, len(some) - 1)]],
            "layout": asdict(layout_of(server, settings)),
        }
        found["closed"] = _closed(server, requests, settings)
        found["open"] = _open(server, requests, settings, _capacity(found["closed"]))
        if archive:
            unpacked = unpack(archive, folder / "unpacked")
            if settings.pairs:
                found["lone_client"] = lone_client(server, unpacked, some, settings)
            if settings.rounds:
                found["without_server"] = without_server(server, unpacked, some, settings)
    return found


@contextmanager
def _server(archive: Path | None, url: str | None, folder: Path, settings: Settings) -> Iterator[Running]:
    if archive is not None:
        with served_archive(archive, folder, ("--device", settings.device, *settings.options)) as running:
            yield running
        return
    parts = urlsplit(url or "")
    if parts.scheme != "http" or not parts.hostname:
        raise WrongUsage(f"--url is {url!r}: give http://HOST:PORT, the server's address")
    port = parts.port or 80
    pid = listener_of(port) if parts.hostname in ("127.0.0.1", "localhost") else None
    path = parts.path.rstrip("/") or "/predictions/pneumonia"
    yield Running((parts.hostname, port), path, Tree(pid) if pid else None)


def _warm(server: Running, settings: Settings) -> None:
    """Requests that are no films, so that what is measured is not Java compiling what it has not run often yet.

    At a dozen films a second that would go on for minutes; a production server is past it.
    """
    told(f"{_WARM_S:g} s of requests that the handler refuses, so that Java has compiled what it runs")
    no_film = post(server.address, server.path, b"no film", "application/octet-stream")
    drive(server.address, [no_film], closed(_WARM_CLIENTS, _WARM_S, settings.deadline_s))


def _closed(server: Running, requests: Sequence[bytes], settings: Settings) -> list[dict[str, Any]]:
    found = []
    for clients in settings.clients:
        told(f"closed loop, {clients} clients")
        plan = closed(clients, settings.seconds, settings.deadline_s)
        found.append({"clients": clients, **measure(server, requests, plan, settings.seconds)})
    return found


def _capacity(found: Sequence[Mapping[str, Any]]) -> float:
    best = max(float(one["films_per_s"]) for one in found)
    if best <= 0:
        raise BenchmarkError("no film was answered in the closed loop: see its errors with --json, or wait --seconds")
    return best


def _open(server: Running, requests: Sequence[bytes], settings: Settings, capacity: float) -> list[dict[str, Any]]:
    found = []
    for number, part in enumerate(settings.rates):
        told(f"open loop, {part:g} of {capacity:.1f} films/s")
        plan = poisson(part * capacity, settings.seconds, settings.deadline_s, _SEED + number)
        row = {"part": part, "offered_per_s": round(part * capacity, 3)}
        found.append(row | measure(server, requests, plan, settings.seconds))
    return found
