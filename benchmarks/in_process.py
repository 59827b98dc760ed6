"""The same model without a server: in this process, or in processes that each answer films as a worker does."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from benchmarks.load import OCTETS, rate
from benchmarks.servers import BenchmarkError
from cxr.films.decode import decode
from cxr.model.preprocess import network_film
from cxr.predict import Predictor
from cxr.serving.metrics import quiet_libraries
from cxr.serving.reply import ModelIdentity
from cxr.serving.service import BatchService, IncomingRequest
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
    """The folder an archive is unpacked to, as a worker sees it."""
    if not zipfile.is_zipfile(archive):
        raise UsageError(f"{archive} is not a model archive: give one made by pneumoscan pack")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    return folder


def load_service(folder: Path, device: str) -> BatchService:
    """The service of a worker, in this process."""
    quiet_libraries()
    predictor = Predictor.load(folder, device)
    return BatchService(predictor, ModelIdentity.of(predictor.spec, "pneumonia", "in-process"))


def incoming(film: bytes) -> IncomingRequest:
    """A film as a server hands it over."""
    return IncomingRequest({"body": film}, {"Content-Type": OCTETS}, "00000000-0000-0000-0000-000000000000")


Rate = Callable[[str, float], float]


@contextmanager
def team(folder: Path, films: Sequence[bytes], layout: Layout, device: str) -> Iterator[Rate]:
    """Processes in a layout, each with the model of an unpacked archive; ended with the block.

    They are idle but while the function that is given measures their films a second, of MODEL or SERVICE for a time.
    """
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []

    def rate_of(what: str, seconds: float) -> float:
        start = time.time() + 0.05
        for pipe in pipes:
            pipe.send((what, start, seconds))
        done = sorted(itertools.chain.from_iterable(_received(pipe) for pipe in pipes))
        return rate([at for at in done if at <= seconds], seconds)

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
        yield rate_of


def _received(pipe: Connection) -> list[float]:
    try:
        times: list[float] = pipe.recv()
    except EOFError as error:
        raise BenchmarkError("a process that holds the model in memory has ended: see its output above") from error
    return times


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
    requests = [incoming(film) for film in films]
    preprocessing = service.predictor.spec.preprocessing
    small = [network_film(decode(film).pixels, preprocessing) for film in films]

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
                service.answer([requests[i] for i in some])
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
