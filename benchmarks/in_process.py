"""What serving costs: the lone client beside a call in process, and throughput beside the same model unserved.

Unserved, the model is held by processes that each answer films as a worker does.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import torch

from benchmarks.client import KeptConnection, error_code
from benchmarks.films import small_films
from benchmarks.load import OCTETS, closed, measure, rate, report_progress, requests_of
from benchmarks.result import Column, Figure, Figures, Row, Table, ratio_of
from benchmarks.servers import BenchmarkError, Running
from cxr.films.decode import decode
from cxr.model.preprocess import resize
from cxr.predict import Predictor
from cxr.serving.metrics import silence_libraries
from cxr.serving.reply import ModelIdentity
from cxr.serving.service import BatchService, Incoming
from pneumoscan.errors import UsageError

MODEL, SERVICE = "model", "service"  # what a process repeats: the forward pass alone, or all from bytes to reply
_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Layout:
    """How the machine is shared: processes, threads in each, films in a batch."""

    processes: int
    threads: int
    batch: int = 1


def unpack(archive: Path, folder: Path) -> Path:
    """The folder an archive is unpacked to, as a worker sees it.

    Raises
    ------
    UsageError
        It is no archive.
    """
    if not zipfile.is_zipfile(archive):
        raise UsageError(f"{archive} is not a model archive: give one made by scripts.package_mar")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    return folder


def load_service(folder: Path, device: str) -> BatchService:
    """The service of a worker, in this process."""
    silence_libraries()
    predictor = Predictor.load(folder, device)
    return BatchService(predictor, ModelIdentity.of(predictor.spec, "pneumonia", "in-process"))


def _incoming(film: bytes) -> Incoming:
    return Incoming({"body": film}, {"Content-Type": OCTETS}, "00000000-0000-0000-0000-000000000000")


class Team:
    """Processes that hold the model and are idle until a rate is measured."""

    def __init__(self, pipes: Sequence[Connection]) -> None:
        self._pipes = pipes

    def rate(self, what: str, seconds: float) -> float:
        """Films a second of all processes together; `what` is MODEL or SERVICE."""
        start = time.time() + 0.05
        for pipe in self._pipes:
            pipe.send((what, start, seconds))
        done = sorted(itertools.chain.from_iterable(_received(pipe) for pipe in self._pipes))
        return rate([at for at in done if at <= seconds], seconds)


def _received(pipe: Connection) -> list[float]:
    try:
        times: list[float] = pipe.recv()
    except EOFError as error:
        raise BenchmarkError("a process that holds the model in memory has ended: see its output above") from error
    return times


@contextmanager
def team(folder: Path, films: Sequence[bytes], layout: Layout, device: str) -> Iterator[Team]:
    """Processes in a layout, each with the model of an unpacked archive; ended with the block."""
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    with ExitStack() as stack:
        with _variables(dict.fromkeys(_THREADS, str(layout.threads))):
            for _ in range(layout.processes):
                ours, theirs = context.Pipe()
                member = context.Process(target=_work, args=(theirs, folder, films, layout.batch, device), daemon=True)
                member.start()
                stack.callback(member.join)
                stack.callback(member.kill)
                theirs.close()
                pipes.append(ours)
        for pipe in pipes:
            _received(pipe)  # loaded and warm
        yield Team(pipes)


@contextmanager
def _variables(changed: Mapping[str, str]) -> Iterator[None]:
    """Environment for processes that are started in the block: libraries read it when they are loaded."""
    before = dict(os.environ)
    os.environ.update(changed)
    try:
        yield
    finally:
        for name in changed.keys() - before.keys():
            del os.environ[name]
        os.environ.update({name: before[name] for name in changed.keys() & before.keys()})


def _work(pipe: Connection, folder: Path, films: Sequence[bytes], batch: int, device: str) -> None:
    """Answer films for as long as another process wants it; each time, when each film was done, from the start."""
    service = load_service(folder, device)
    incoming = [_incoming(film) for film in films]
    preprocessing = service.predictor.spec.preprocessing
    small = [resize(decode(film).pixels, preprocessing) for film in films]

    def repeat(what: str, start: float, seconds: float) -> list[float]:
        time.sleep(max(0.0, start - time.time()))
        begun = time.perf_counter()
        done: list[float] = []
        turns = itertools.cycle(range(len(films)))
        while not done or done[-1] < seconds:
            some = list(itertools.islice(turns, batch))
            if what == MODEL:
                service.predictor.predict([small[i] for i in some])
            else:
                service.answer([incoming[i] for i in some])
            done += [time.perf_counter() - begun] * batch
        return done

    for what in (MODEL, SERVICE):
        repeat(what, time.time(), 0.0)
    pipe.send([])
    while True:
        try:
            work = pipe.recv()
        except (EOFError, OSError):  # the other end has gone
            return
        pipe.send(repeat(*work))


_LONE: Final = (
    Column("served_ms", "served {:.1f} ms,"),
    Column("called_ms", "in process {:.1f} ms,"),
    Column("overhead_ms", "overhead {:.2f} ms at p50"),
)
_BY_FILM: Final = [Column("overhead_ms", "overhead {:8.2f} ms")]


def lone_client(
    server: Running, service: BatchService, films: Mapping[str, bytes], threads: int, pairs: int, deadline_s: float
) -> list[Table]:
    """The same film served and in this process, in turn; each waits while the other works.

    The connection is kept, as a client with more than one film keeps it.
    """
    report_progress("the lone client beside the call in process")
    works = list(zip(films, requests_of(server, films), map(_incoming, films.values()), strict=True))
    times: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for _, _, film in works:
            service.answer([film])  # warm
        with KeptConnection(server.address, deadline_s) as connection:
            for name, request, film in itertools.islice(itertools.cycle(works), pairs):
                start = time.perf_counter()
                status, body = connection.exchange(request)
                between = time.perf_counter()
                service.answer([film])
                end = time.perf_counter()
                if not 200 <= status < 300:
                    raise BenchmarkError(f"the lone client got {error_code(status, body)}")
                times[name].append(((between - start) * 1000, (end - between) * 1000))
    finally:
        torch.set_num_threads(before)
    every = Row(f"lone client, {pairs} pairs:", _overhead(list(itertools.chain.from_iterable(times.values()))))
    by_film = [Row(name, _overhead(some)) for name, some in times.items()]
    return [Table("lone client", _LONE, [every], indent=0), Table("lone client by film", _BY_FILM, by_film, width=28)]


def _overhead(pairs: Sequence[tuple[float, float]]) -> Figures:
    return {
        "served_ms": Figure.of((served for served, _ in pairs), "ms"),
        "called_ms": Figure.of((called for _, called in pairs), "ms"),
        "overhead_ms": Figure.of((served - called for served, called in pairs), "ms"),
    }


def without_server(
    server: Running,
    unpacked: Path,
    films: Mapping[str, bytes],
    layout: Layout,
    device: str,
    rounds: int,
    seconds: float,
    deadline_s: float,
) -> list[Table]:
    """Served films a second over those of as many processes with as many threads, in turn, `seconds` each."""
    plan = closed(2 * layout.processes * layout.batch, seconds, deadline_s)
    kinds = {"": films, "_224": small_films()}
    rates: defaultdict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        teams = {
            suffix: stack.enter_context(team(unpacked, list(some.values()), layout, device))
            for suffix, some in kinds.items()
        }
        for number in range(rounds):
            report_progress(f"served and unserved, round {number + 1} of {rounds}")
            for suffix, some in kinds.items():
                served = measure(server, requests_of(server, some), plan, seconds)
                rates["served" + suffix].append(served["films_per_s"].median)
                for what in (SERVICE, MODEL):
                    rates[what + suffix].append(teams[suffix].rate(what, seconds))
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
