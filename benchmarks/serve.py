"""Our server under load: closed and open loop, the lone client beside a call in process, the same model unserved."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import torch
from matplotlib.figure import Figure as Drawing

from benchmarks.client import drive, error_code, kept_connection, post
from benchmarks.films import films_of, small_films
from benchmarks.host import Host, Tree, listener_of
from benchmarks.in_process import MODEL, SERVICE, Layout, incoming, load_service, team, unpack
from benchmarks.load import OCTETS, check, client_cost, closed, measure, poisson, report_progress, requests_of
from benchmarks.result import Column, Figure, Figures, Result, Row, Table, ratio_of
from benchmarks.servers import BenchmarkError, Running, served_archive, short_folder
from benchmarks.settings import ServeSettings
from pneumoscan.errors import UsageError

Films = Mapping[str, bytes]

_SEED: Final = 11
_WARM_S: Final = 8.0
_WARM_CLIENTS: Final = 4


LOAD_COLUMNS: Final = (
    Column("sent", "{:6.0f}", "sent"),
    Column("films_per_s", "{:8.2f}", "films/s"),
    *(Column(f"{p}_ms", "{:8.1f}", p) for p in ("p50", "p95", "p99")),
    Column("refused", "{:8.0f}", "refused"),
    Column("refused_p99_ms", "{:7.1f}", "p99"),
    Column("errors", "{:6.0f}", "errors"),
    Column("cpu_s_per_film", "{:7.4f}", "CPU s"),
    Column("memory_peak_mb", "{:8.0f}", "MB peak"),
)
_CLIENT: Final = (Column("cpu_ms", "{:.4f} ms of processor time"), Column("body_kb", "for a request of {:g} kB"))


def benchmark_serve(settings: ServeSettings) -> Result:
    """All measurements."""
    options, films, archive = settings.starting_options(), films_of(settings.films), settings.archive
    with ExitStack() as stack:
        folder = Path(stack.enter_context(short_folder()))
        report_progress("starting the server" if archive else f"using {settings.url}")
        if archive:
            server = stack.enter_context(served_archive(archive, folder / "s", options))
        else:
            server = running_server(settings.url or "")
        requests = requests_of(server, films)
        check(server, dict(zip(films, requests, strict=True)))
        if archive:
            _warm(server, settings)
        host, layout = Host.here(), _layout(server, settings)
        bodies = sorted(films.values(), key=len)[:: max(1, len(films) - 1)]
        costs = [Row("the client:", client_cost(body)) for body in bodies]
        tables = [Table("load", LOAD_COLUMNS, _loads(server, requests, settings), width=22, indent=0)]
        if archive:
            unpacked = unpack(archive, folder / "unpacked")
            if settings.pairs:
                tables += _lone_client(server, unpacked, films, layout.threads, settings)
            if settings.rounds:
                tables += _without_server(server, unpacked, films, layout, settings)
        tables.append(Table("client", _CLIENT, costs, indent=0))
    workers, sending = f"{layout.processes} workers x {layout.threads} threads", f"{len(films)} films in turn"
    title = f"{workers}, {sending}, {settings.seconds:g} s each; ms from when a film was due"
    sizes = {name: len(data) for name, data in films.items()}
    return Result("serve", settings.conditions() | {"sizes": sizes, "layout": asdict(layout)}, host, title, tables)


def running_server(url: str) -> Running:
    """A server that runs already; its processes are known where it listens on this machine."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise UsageError(f"--url is {url!r}: give http://HOST:PORT, the server's address")
    port = parts.port or 80
    pid = listener_of(port) if parts.hostname in ("127.0.0.1", "localhost") else None
    path = parts.path.rstrip("/") or "/predictions/pneumonia"
    return Running((parts.hostname, port), path, Tree(pid) if pid else None)


def _layout(server: Running, settings: ServeSettings) -> Layout:
    """The server's workers and threads, as its processes show them; this machine's where they cannot be seen."""
    threads = server.tree.worker_threads() if server.tree else []
    return Layout(max(1, len(threads)), max([*threads, 0]) or torch.get_num_threads(), settings.batch_size or 1)


def _warm(server: Running, settings: ServeSettings) -> None:
    """Requests that are no films, so that what is measured is not Java compiling what it has not run often yet.

    At a dozen films a second that would go on for minutes; a production server is past it.
    """
    report_progress(f"{_WARM_S:g} s of requests that the handler refuses, so that Java has compiled what it runs")
    no_film = post(server.address, server.path, b"no film", OCTETS)
    drive(server.address, [no_film], closed(_WARM_CLIENTS, _WARM_S, settings.deadline))


def _loads(server: Running, requests: Sequence[bytes], settings: ServeSettings) -> list[Row]:
    """Closed loops, and open loops at parts of the highest rate of these."""
    seconds, rows = settings.seconds, []
    for clients in settings.clients:
        report_progress(f"closed loop, {clients} clients")
        found = measure(server, requests, closed(clients, seconds, settings.deadline), seconds)
        rows.append(Row(f"closed, {clients} clients", found))
    capacity = max(row.figures["films_per_s"].median for row in rows)
    if capacity <= 0:
        errors = sorted({name for row in rows for name in row.figures if name.startswith(("error ", "refused "))})
        raise BenchmarkError(f"no film was answered in the closed loop ({', '.join(errors)}): give more --seconds")
    for number, part in enumerate(settings.rate):
        report_progress(f"open loop, {part:g} of {capacity:.1f} films/s")
        plan = poisson(part * capacity, seconds, settings.deadline, _SEED + number)
        offered = {"offered_per_s": Figure(part * capacity, "1/s")}
        rows.append(Row(f"open, {part:g} x capacity", offered | measure(server, requests, plan, seconds)))
    return rows


_LONE: Final = (
    Column("served_ms", "served {:.1f} ms,"),
    Column("called_ms", "in process {:.1f} ms,"),
    Column("overhead_ms", "overhead {:.2f} ms at p50"),
)
_BY_FILM: Final = [Column("overhead_ms", "overhead {:8.2f} ms")]


def _lone_client(server: Running, unpacked: Path, films: Films, threads: int, settings: ServeSettings) -> list[Table]:
    """The same film served and in this process, in turn; each waits while the other works.

    The connection is kept, as a client with more than one film keeps it.
    """
    report_progress("the lone client beside the call in process")
    works = list(zip(films, requests_of(server, films), map(incoming, films.values()), strict=True))
    times: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        service = load_service(unpacked, settings.device)
        for _, _, film in works:
            service.answer([film])  # warm
        with kept_connection(server.address, settings.deadline) as send:
            for name, request, film in itertools.islice(itertools.cycle(works), settings.pairs):
                start = time.perf_counter()
                status, body = send(request)
                between = time.perf_counter()
                service.answer([film])
                end = time.perf_counter()
                if not 200 <= status < 300:
                    raise BenchmarkError(f"the lone client got {error_code(status, body)}")
                times[name].append(((between - start) * 1000, (end - between) * 1000))
    finally:
        torch.set_num_threads(before)
    every = Row(f"lone client, {settings.pairs} pairs:", _overhead(list(itertools.chain.from_iterable(times.values()))))
    by_film = [Row(name, _overhead(some)) for name, some in times.items()]
    return [Table("lone client", _LONE, [every], indent=0), Table("lone client by film", _BY_FILM, by_film, width=28)]


def _overhead(pairs: Sequence[tuple[float, float]]) -> Figures:
    return {
        "served_ms": Figure.of((served for served, _ in pairs), "ms"),
        "called_ms": Figure.of((called for _, called in pairs), "ms"),
        "overhead_ms": Figure.of((served - called for served, called in pairs), "ms"),
    }


def _without_server(
    server: Running, unpacked: Path, films: Films, layout: Layout, settings: ServeSettings
) -> list[Table]:
    """Served films a second over those of as many processes with as many threads, in turn."""
    seconds, rounds = settings.seconds / 2, settings.rounds
    plan = closed(2 * layout.processes * layout.batch, seconds, settings.deadline)
    kinds = {"": films, "_224": small_films()}
    rates: defaultdict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        teams = [team(unpacked, list(some.values()), layout, settings.device) for some in kinds.values()]
        rate_of = dict(zip(kinds, map(stack.enter_context, teams), strict=True))
        for number in range(rounds):
            report_progress(f"served and unserved, round {number + 1} of {rounds}")
            for suffix, some in kinds.items():
                served = measure(server, requests_of(server, some), plan, seconds)
                rates["served" + suffix].append(served["films_per_s"].median)
                for what in (SERVICE, MODEL):
                    rates[what + suffix].append(rate_of[suffix](what, seconds))
    title = f"in turn, medians of {rounds} rounds, films/s (_224: JPEG films of 224x224)"
    ratios = [("served_224", "model_224"), ("served_224", "service_224"), ("served", "service")]
    ratio_rows = [
        Row(f"served over {below.replace('_', ' ')}", {"ratio": ratio_of(rates[above], rates[below])})
        for above, below in ratios
    ]
    rate_rows = [Row(name, {"films_per_s": Figure.of(values, "1/s")}) for name, values in rates.items()]
    return [
        Table("unserved", [Column("films_per_s", "{:10.2f}")], rate_rows, title, width=28),
        Table("served over unserved", [Column("ratio", "{:10.3f} ({:.3f} to {:.3f})")], ratio_rows, width=28),
    ]


_PERCENTILES: Final = (("p50_ms", "#1b6ca8", "o"), ("p95_ms", "#d98324", "s"), ("p99_ms", "#b33a3a", "^"))


def plot_load(result: Result, path: Path) -> None:
    """Draw a result of `benchmark_serve`: latency over the offered rate, and what was answered and refused.

    The upper part has the latency of the answered films on a logarithmic axis, the lower part the rates.
    """
    loads = result.rows("load").values()
    capacity = max(row["films_per_s"].median for row in loads if "offered_per_s" not in row)
    rows = [{name: figure.median for name, figure in row.items()} for row in loads if "offered_per_s" in row]
    rows.sort(key=lambda row: row["offered_per_s"])
    offered = [row["offered_per_s"] for row in rows]
    drawing = Drawing(figsize=(7.2, 6.4), layout="constrained")
    upper, lower = drawing.subplots(2, 1, sharex=True, height_ratios=(3, 2))

    def draw(name: str, colour: str, marker: str, label: str, style: str = "-") -> None:
        points = [(row["offered_per_s"], row[name]) for row in rows if name in row]
        if points:
            upper.plot(*zip(*points, strict=True), color=colour, marker=marker, linestyle=style, label=label)

    for name, colour, marker in _PERCENTILES:
        draw(name, colour, marker, f"answered, {name.removesuffix('_ms')}")
    draw("refused_p99_ms", "#555555", "x", "refused, p99", ":")
    upper.set_yscale("log")
    upper.set_ylabel("latency from when it was due, ms")
    upper.set_title(f"Latency over load, {result.host.processor}, {result.host.cores} cores")
    lower.plot(offered, [row["films_per_s"] for row in rows], color="#1b6ca8", marker="o", label="answered")
    refused = [row["refused"] / max(row["sent"], 1) * row["offered_per_s"] for row in rows]
    lower.plot(offered, refused, color="#555555", marker="x", linestyle=":", label="refused")
    lower.set_ylabel("films/s")
    lower.set_xlabel("offered films/s (open loop, Poisson arrivals)")
    for axes in (upper, lower):
        axes.axvline(capacity, color="black", linewidth=0.8, linestyle="--", label="capacity (closed loop)")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    drawing.savefig(path, dpi=150, format="png")
