"""The workers of a job: processes that each score one film at a time, and what happens when one does not come back.

A film whose worker ends, or does not answer in time, is tried once more with no other film beside it, so that one that
another film brought down gets its answer; so is a film that the machine had no memory for. What then fails again has
its own reply, and the job goes on with a new worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from cxr.errors import CODES, ModelError
from pneumoscan.errors import ScoreError
from pneumoscan.processes import adopt_orphans, die_with_parent, kill_group
from pneumoscan.score.plan import ListedFilm
from pneumoscan.score.rows import NO_ANSWER, WORKER_LOST, Reply, Scorer

_PROGRAM: Final = Path(__file__).with_name("worker.py")
_START_S: Final = 300.0  # as startupTimeout in model-config.yaml
_STARTS: Final = 3  # in a row that may fail
_MOST_LOST: Final = 10  # films, before one has a reply: then it is not the films
_CHUNK: Final = 1 << 16
_LONGEST_WAIT_S: Final = 60.0
_LAST_WORDS_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Task:
    """A film to score, and its place in the list."""

    place: int
    film: ListedFilm
    is_second_try: bool = False


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What every worker is started with.

    Parameters
    ----------
    folder
        The unpacked archive.
    headers
        Of each request to its handler.
    variables
        Of the environment: how many threads it computes with, and which files it reads.
    timeout_s
        How long one film may take.
    log
        Gets what the workers write to stderr.
    """

    folder: Path
    headers: Mapping[str, str]
    variables: Mapping[str, str]
    timeout_s: float
    log: IO[bytes]


class WorkerPool:
    """Workers for one job; they end with the block, and with this process however it ends.

    Parameters
    ----------
    size
        How many.
    """

    def __init__(self, settings: WorkerSettings, size: int) -> None:
        self._settings, self._size = settings, size
        self._workers: list[_Worker] = []
        self._again: deque[Task] = deque()
        self._failed_starts = self._lost = 0
        self._has_answered = False
        self.scorer: Scorer | None = None  # known from the first worker that is ready
        self.first_film_at = 0.0  # by the monotonic clock

    def __enter__(self) -> Self:
        adopt_orphans()
        self._fill_up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.end()

    def score(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, Reply]]:
        """The reply to each film, in the order in which they come; at most as many are taken as there are workers.

        Raises
        ------
        ModelError
            The archive refuses to work.
        ScoreError
            Workers end before they are ready, or with whatever film they have.
        """
        while self._hand_out(tasks):
            heard = {worker.fileno(): worker for worker in self._workers}
            patience_s = min(worker.deadline for worker in self._workers) - time.monotonic()
            for number in wait(heard, min(max(patience_s, 0.0), _LONGEST_WAIT_S)):
                assert isinstance(number, int)
                yield from self._hear(heard[number])
            for worker in [one for one in self._workers if one.deadline < time.monotonic()]:
                if not wait([worker.fileno()], 0.0):  # else it is who takes the rows that was slow
                    yield from self._lose(worker, NO_ANSWER)

    def _hand_out(self, tasks: Iterator[Task]) -> bool:
        """Give idle workers something to do; False when all is done."""
        if any(one.task and one.task.is_second_try for one in self._workers):
            return True
        is_working = any(one.task for one in self._workers)
        for worker in [one for one in self._workers if one.is_idle]:
            if self._again and is_working:
                break
            task = self._again.popleft() if self._again else next(tasks, None)
            if task is None:
                return is_working
            worker.take(task)
            is_working = True
            self.first_film_at = self.first_film_at or time.monotonic()
            if task.is_second_try:
                break
        return True

    def _hear(self, worker: _Worker) -> Iterator[tuple[Task, Reply]]:
        """What a worker says, or that it has ended."""
        try:
            messages = worker.messages()
        except EOFError:
            yield from self._lose(worker, WORKER_LOST)
            return
        for message in messages:
            if "error" in message and self.scorer is None:
                raise ModelError(f"the archive cannot be used: {message['error']}")
            if "engine" in message:
                self.scorer = Scorer(**message)
                self._failed_starts = 0
                worker.is_ready()
            elif "sha256" in message:
                worker.file_sha256 = message["sha256"]
            elif "status" in message:
                task, digest = worker.done()
                self._has_answered = True
                yield from self._judge(task, Reply(message["status"], message["body"], digest))

    def _judge(self, task: Task, reply: Reply) -> Iterator[tuple[Task, Reply]]:
        code = CODES.get(str(reply.body.get("code")))
        if code is not None and code.retryable and not task.is_second_try:
            self._again.append(Task(task.place, task.film, is_second_try=True))
        else:
            yield task, reply

    def _lose(self, worker: _Worker, code: str) -> Iterator[tuple[Task, Reply]]:
        """End a worker and put another in its place."""
        self._workers.remove(worker)
        ended = worker.end(_LAST_WORDS_S if code == WORKER_LOST else 0.0)
        log = self._settings.log.name
        if worker.task is None:
            self._failed_starts += 1
            if self._failed_starts == _STARTS:
                how = ended if code == WORKER_LOST else f"took more than {_START_S:.0f} s"
                raise ScoreError(f"while it loaded the archive a worker {how}, {_STARTS} times in a row: see {log}")
        else:
            how = ended if code == WORKER_LOST else f"did not answer within {self._settings.timeout_s:g} s"
            task, digest = worker.done()
            if task.is_second_try:
                self._lost += 1
                if self._lost == _MOST_LOST and not self._has_answered:
                    raise ScoreError(f"no film has a reply: each time the process that scored it {how}; see {log}")
                detail = f"the process that scored it {how}, and again when it was tried alone."
                yield task, Reply(503, {"code": code, "detail": detail}, digest)
            else:
                self._again.append(Task(task.place, task.film, is_second_try=True))
        self._fill_up()

    def _fill_up(self) -> None:
        while len(self._workers) < self._size:
            self._workers.append(_Worker(self._settings))


class _Worker:
    """One process, and the film it has."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._timeout_s = settings.timeout_s
        words = [sys.executable, "-P", str(_PROGRAM), str(settings.folder), json.dumps(dict(settings.headers))]
        self._process = subprocess.Popen(
            words,
            env={**os.environ, **settings.variables},
            cwd=settings.folder.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=settings.log,
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
        self._rest = b""
        self._loaded = False
        self.task: Task | None = None
        self.file_sha256: str | None = None
        self.deadline = time.monotonic() + _START_S

    def fileno(self) -> int:
        """Where it is heard."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a film."""
        return self._loaded and self.task is None

    def is_ready(self) -> None:
        """Note that it has loaded the archive."""
        self._loaded, self.deadline = True, float("inf")

    def take(self, task: Task) -> None:
        """Give it a film."""
        assert self._process.stdin is not None
        self.task, self.deadline = task, time.monotonic() + self._timeout_s
        with contextlib.suppress(BrokenPipeError):  # it has ended; what is heard next is the end of its output
            self._process.stdin.write(task.film.to_line().encode("ascii"))
            self._process.stdin.flush()

    def done(self) -> tuple[Task, str | None]:
        """Take its film back, with the digest of the file where it is known."""
        assert self.task is not None
        task, digest = self.task, self.file_sha256
        self.task, self.file_sha256, self.deadline = None, None, float("inf")
        return task, digest

    def messages(self) -> list[dict[str, Any]]:
        """What it has said; call it when there is something to read.

        Raises
        ------
        EOFError
            It has ended, or is about to.
        """
        data = os.read(self.fileno(), _CHUNK)
        if not data:
            raise EOFError
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def end(self, patience_s: float = 0.0) -> str:
        """End it and all that it started; how it ended where it did so by itself, in words.

        Parameters
        ----------
        patience_s
            A process closes its output a moment before it is gone.
        """
        try:
            status = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            try:
                status = self._process.wait(_LAST_WORDS_S)
            except subprocess.TimeoutExpired:  # it waits for a disk or a network that does not answer
                status = -signal.SIGKILL
        kill_group(self._process.pid)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
