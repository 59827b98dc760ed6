"""The same model without a server: processes that each hold it and answer films as a worker does."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from benchmarks.load import rate
from benchmarks.servers import BenchmarkError, WrongUsage
from cxr.films.decode import decode
from cxr.films.film import Pixels
from cxr.model.preprocess import resize
from cxr.predict import Predictor
from cxr.serving.metrics import quiet_libraries
from cxr.serving.reply import ModelIdentity
from cxr.serving.service import BatchService, IncomingRequest

HEADERS: Final = {"Content-Type": "application/octet-stream"}
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
    BenchmarkError
        It is no archive.
    """
    if not zipfile.is_zipfile(archive):
        raise WrongUsage(f"{archive} is not a model archive: give one made by scripts.package_mar")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    return folder


def load_service(folder: Path, device: str) -> BatchService:
    """What a worker answers with, in this process."""
    quiet_libraries()
    predictor = Predictor.load(folder, device)
    return BatchService(predictor, ModelIdentity.of(predictor.spec, "pneumonia", "in-process"))


def incoming(film: bytes) -> IncomingRequest:
    """A film as a server hands it over."""
    return IncomingRequest({"body": film}, HEADERS, "00000000-0000-0000-0000-000000000000")


class Team:
    """Processes that are idle until they are asked."""

    def __init__(self, pipes: Sequence[Connection]) -> None:
        self._pipes = pipes

    def rate(self, what: str, seconds: float) -> float:
        """Films a second of all processes together.

        Parameters
        ----------
        what
            MODEL or SERVICE.
        """
        start = time.time() + 0.05
        for pipe in self._pipes:
            pipe.send((what, start, seconds))
        done = sorted(itertools.chain.from_iterable(_received(pipe) for pipe in self._pipes))
        return rate([at for at in done if at <= seconds], seconds)


def _received(pipe: Connection) -> list[float]:
    try:
        said = pipe.recv()
    except EOFError as error:
        raise BenchmarkError("a process that holds the model in memory has ended: see its output above") from error
    assert isinstance(said, list)
    return said


@contextmanager
def team(folder: Path, films: Sequence[bytes], layout: Layout, device: str) -> Iterator[Team]:
    """Processes in a layout, each with the model of an unpacked archive; ended with the block."""
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    members = []
    try:
        with _variables(dict.fromkeys(_THREADS, str(layout.threads))):
            for _ in range(layout.processes):
                ours, theirs = context.Pipe()
                member = context.Process(target=_work, args=(theirs, folder, films, layout, device), daemon=True)
                member.start()
                theirs.close()
                members.append(member)
                pipes.append(ours)
        for pipe in pipes:
            _received(pipe)  # loaded and warm
        yield Team(pipes)
    finally:
        for member in members:
            member.kill()
            member.join()


@contextmanager
def _variables(changed: Mapping[str, str]) -> Iterator[None]:
    """Environment for processes that are started in the block: libraries read it when they are loaded."""
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(pipe: Connection, folder: Path, films: Sequence[bytes], layout: Layout, device: str) -> None:
    service = load_service(folder, device)
    asked = [incoming(film) for film in films]
    preprocessing = service.predictor.spec.preprocessing
    small = [resize(decode(film).pixels, preprocessing) for film in films]
    for what in (MODEL, SERVICE):
        _repeat(service, what, asked, small, layout.batch, 0.0, time.time())
    pipe.send([])
    while True:
        try:
            what, start, seconds = pipe.recv()
        except (EOFError, OSError):  # whoever asked has gone
            return
        pipe.send(_repeat(service, what, asked, small, layout.batch, seconds, start))


def _repeat(
    service: BatchService,
    what: str,
    asked: Sequence[IncomingRequest],
    small: Sequence[Pixels],
    batch: int,
    seconds: float,
    start: float,
) -> list[float]:
    """When each film was answered, in seconds from `start`; one batch at least."""
    time.sleep(max(0.0, start - time.time()))
    begun = time.perf_counter()
    done: list[float] = []
    turn = 0
    while True:
        some = [(turn * batch + i) % len(asked) for i in range(batch)]
        if what == MODEL:
            service.predictor.predict([small[i] for i in some])
        else:
            service.answer([asked[i] for i in some])
        turn += 1
        now = time.perf_counter() - begun
        done += [now] * batch
        if now >= seconds:
            return done
