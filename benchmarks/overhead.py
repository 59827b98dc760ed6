"""What serving costs: the lone client beside a call in process, and throughput beside the same model unserved."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.films import small_films
from benchmarks.http import Kept, code_of
from benchmarks.in_process import MODEL, SERVICE, Layout, Team, incoming, load_service, team
from benchmarks.load import closed, measure, requests_of, told
from benchmarks.servers import BenchmarkError, Running


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured, and for how long.

    Parameters
    ----------
    clients
        Of the closed loop, one measurement each.
    rates
        Of the open loop, as parts of the highest rate of the closed loop.
    seconds
        Of each measurement.
    pairs
        Of a served film and the same film in this process; 0 leaves the lone client out. A pass varies by more than
        the difference that is looked for: with 40 pairs the median was seen to be 2 ms off.
    rounds
        Of served and unserved throughput in turn; 0 leaves them out.
    deadline_s
        What a client waits.
    device, batch
        As the server has them.
    options
        Further ones of `scripts.serve`.
    """

    clients: tuple[int, ...] = (1, 4, 16, 64)
    rates: tuple[float, ...] = (0.25, 0.5, 0.8, 1.0, 1.5, 3.0)
    seconds: float = 20.0
    pairs: int = 160
    rounds: int = 5
    deadline_s: float = 60.0
    device: str = "auto"
    batch: int = 1
    options: tuple[str, ...] = ()


def layout_of(server: Running, settings: Settings) -> Layout:
    """The server's workers and threads, as its processes show them; this machine's where they cannot be seen."""
    threads = server.tree.worker_threads() if server.tree else []
    return Layout(max(1, len(threads)), max([*threads, 0]) or torch.get_num_threads(), settings.batch)


def lone_client(server: Running, unpacked: Path, films: Mapping[str, bytes], settings: Settings) -> dict[str, Any]:
    """The same film served and in this process, in turn; each waits while the other works.

    The connection is kept, as a client with more than one film keeps it.
    """
    told("the lone client beside the call in process")
    requests = requests_of(server, films)
    asked = [incoming(data) for data in films.values()]
    pairs: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    before = torch.get_num_threads()
    torch.set_num_threads(layout_of(server, settings).threads)
    try:
        service = load_service(unpacked, settings.device)
        for one in asked:
            service.answer([one])  # warm
        with Kept(server.address, settings.deadline_s) as connection:
            for turn in range(settings.pairs):
                index = turn % len(asked)
                start = time.perf_counter()
                status, body = connection.ask(requests[index])
                between = time.perf_counter()
                service.answer([asked[index]])
                end = time.perf_counter()
                if not 200 <= status < 300:
                    raise BenchmarkError(f"the lone client got {code_of(status, body)}")
                pairs[list(films)[index]].append(((between - start) * 1000, (end - between) * 1000))
    finally:
        torch.set_num_threads(before)
    every = [pair for some in pairs.values() for pair in some]
    return {"pairs": len(every), **_overhead(every), "by_film": {name: _overhead(some) for name, some in pairs.items()}}


def _overhead(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    return {
        "served_p50_ms": round(statistics.median(served for served, _ in pairs), 3),
        "called_p50_ms": round(statistics.median(called for _, called in pairs), 3),
        "overhead_p50_ms": round(statistics.median(served - called for served, called in pairs), 3),
    }


def without_server(server: Running, unpacked: Path, films: Mapping[str, bytes], settings: Settings) -> dict[str, Any]:
    """Served films a second over those of as many processes with as many threads, in turn."""
    layout = layout_of(server, settings)
    small = small_films()
    clients = 2 * layout.processes * layout.batch
    rows: list[dict[str, float]] = []
    with (
        team(unpacked, list(films.values()), layout, settings.device) as mixed,
        team(unpacked, list(small.values()), layout, settings.device) as plain,
    ):
        for number in range(settings.rounds):
            told(f"served and unserved, round {number + 1} of {settings.rounds}")
            rows.append(_round(server, (mixed, films), (plain, small), clients, settings))
    ratios = {
        "served_over_model_224": _ratio(rows, "served_224", "model_224"),
        "served_over_service_224": _ratio(rows, "served_224", "service_224"),
        "served_over_service": _ratio(rows, "served", "service"),
    }
    medians = {name: round(statistics.median(row[name] for row in rows), 3) for name in rows[0]}
    return {"layout": asdict(layout), "clients": clients, "films_per_s": medians, "ratios": ratios, "rounds": rows}


def _round(
    server: Running,
    mixed: tuple[Team, Mapping[str, bytes]],
    plain: tuple[Team, Mapping[str, bytes]],
    clients: int,
    settings: Settings,
) -> dict[str, float]:
    seconds = settings.seconds / 2
    found: dict[str, float] = {}
    for suffix, (members, films) in (("", mixed), ("_224", plain)):
        load = closed(clients, seconds, settings.deadline_s)
        found["served" + suffix] = measure(server, requests_of(server, films), load, seconds)["films_per_s"]
        found["service" + suffix] = round(members.rate(SERVICE, seconds), 4)
        found["model" + suffix] = round(members.rate(MODEL, seconds), 4)
    return found


def _ratio(rows: Sequence[Mapping[str, float]], above: str, below: str) -> dict[str, float]:
    ratios = [row[above] / row[below] for row in rows if row[below]]
    return {
        "median": round(statistics.median(ratios), 4),
        "lowest": round(min(ratios), 4),
        "highest": round(max(ratios), 4),
    }
