"""The pairs of a version on trial: what both versions said about one request, and the end of a trial that goes badly.

nginx drops the reply to a mirrored request, so the mirror only brings the film here. What the client was answered comes
as a line of nginx's log (the handler's header ``Cxr-Answer``), after which the other version is asked, so that the
comparison never stands in a client's way.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from pneumoscan.edge.nginx import lines_of, rotate
from pneumoscan.errors import VersionError
from pneumoscan.model_store import MODEL_NAME
from pneumoscan.versions.declared import now
from pneumoscan.versions.trial import (
    FILE_NAME,
    ROLLED_BACK,
    Said,
    Tally,
    Trial,
    read_tally,
    read_trial,
    write_tally,
    write_trial,
)

# Where nginx writes what clients were answered. No socket: its queue may hold ten lines (net.unix.max_dgram_qlen), and
# nginx drops what finds no room there.
ANSWERS: Final = "tmp/answers.log"
# What requests that name no version ask for; those of KServe's protocols are never in a trial.
ROUTES: Final = frozenset({f"/predictions/{MODEL_NAME}", f"/explanations/{MODEL_NAME}"})
PAIRS_NAME: Final = "pairs.jsonl"
_ASKED_AT_ONCE: Final = 2
_FILMS_HELD: Final = 256
_BYTES_HELD: Final = 256 * 1024 * 1024
_LOG_S: Final = 200.0  # after which the line about a film does not come any more
_ANSWER_S: Final = 130.0
_JUDGED_S: Final = 1.0
_PASSED_ON: Final = ("content-type", "accept", "cxr-cam", "cxr-target", "cxr-view", "cxr-film")
_NO_ANSWER: Final = "NO_ANSWER"
_PASSING: Final = ("WORKER_LOST", "OUT_OF_MEMORY")  # of the stable version: the film has no answer to compare with
_HELP: Final = {
    "pairs_total": ("counter", "Requests that both versions answered."),
    "flips_total": ("counter", "Of these, those with another label."),
    "errors_total": ("counter", "Requests that were not answered alike."),
    "unpaired_total": ("counter", "Requests of the trial that make no pair."),
    "shift_sum": ("counter", "Sum of the sizes of the score shifts of the pairs."),
    "stable_seconds_sum": ("counter", "Seconds of the stable version on the pairs."),
    "seconds_sum": ("counter", "Seconds of the version on trial on the pairs."),
    "share": ("gauge", "Share of the requests in the trial; 0 once it ended."),
    "rolled_back": ("gauge", "1 where the trial ended by itself because a limit was passed."),
}


@dataclass(frozen=True)
class _Film:
    """One mirrored request."""

    body: bytes
    head: dict[str, str]
    path: str
    at: float


@dataclass(frozen=True)
class _Answered:
    """What nginx says of the request that a client made."""

    pair: str
    request_id: str
    asked: str  # the version on trial, where it was to answer
    status: int
    seconds: float
    header: str


class Comparer:
    """Takes mirrored films and lines of the log, asks the other version, keeps the figures, ends a bad trial.

    Parameters
    ----------
    folder
        The edge's run folder, with the trial's file.
    upstreams
        ``host:port`` of each TorchServe.
    tell
        Gets a line for the operator.
    """

    def __init__(self, folder: Path, upstreams: Sequence[str], tell: Callable[[str], None]) -> None:
        self._folder, self._tell = folder, tell
        self._upstreams = itertools.cycle(upstreams)
        self._held: OrderedDict[str, _Film] = OrderedDict()
        self._bytes = 0
        self._jobs: queue.Queue[tuple[_Film, _Answered] | None] = queue.Queue()
        self._lock = threading.Lock()
        self._trial: Trial | None = None
        self._tally = Tally("")
        self._stamp: tuple[int, int] | None = None
        self._kept = self._tally
        self._stop = threading.Event()
        self._log = folder / ANSWERS
        work = [self._follow, self._judge_on, *[self._work] * _ASKED_AT_ONCE]
        self._threads = [threading.Thread(target=each, daemon=True) for each in work]

    def start(self) -> None:
        """Take up the trial that was going on, and begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Keep the figures and stop."""
        self._stop.set()
        for _ in range(_ASKED_AT_ONCE):
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(timeout=2.0)
        if self._trial is not None:
            with contextlib.suppress(OSError):
                write_tally(self._folder, self._tally)

    def trial(self) -> Trial | None:
        """The trial as its file says now; None where there is none, or the file is damaged."""
        try:
            found = (self._folder / FILE_NAME).stat()
        except OSError:
            return None
        stamp = found.st_mtime_ns, found.st_ino
        with self._lock:
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    trial = read_trial(self._folder)
                except VersionError as error:
                    trial = None
                    self._tell(str(error))
                if trial is not None and trial.at != self._tally.trial:
                    self._tally = read_tally(self._folder, trial)
                self._trial = trial
            return self._trial

    def place(self, request_id: str) -> tuple[str, str]:
        """Which version a request goes to by name, if any, and whether it makes a pair ("1")."""
        trial = self.trial() if request_id else None
        if trial is None or not trial.takes(request_id):
            return "", ""
        return (trial.version if trial.kind == "canary" else ""), "1"

    def offer(self, pair: str, route: str, head: Mapping[str, str], body: bytes) -> None:
        """Hold a film until nginx has said how it was answered; one that does not fit makes no pair."""
        film = _Film(body, {name: head[name] for name in _PASSED_ON if head.get(name)}, route, time.monotonic())
        with self._lock:
            while self._held and next(iter(self._held.values())).at < film.at - _LOG_S:
                self._let_go(next(iter(self._held)))
                self._tally = self._tally.lost()
            if self._bytes + len(body) <= _BYTES_HELD and len(self._held) + self._jobs.qsize() < _FILMS_HELD:
                self._held[pair] = film
                self._bytes += len(body)

    def metrics(self) -> str:
        """The trial for Prometheus; nothing where there was none."""
        trial = self.trial()
        if trial is None:
            return ""
        with self._lock:
            tally = self._tally
        values = {
            "pairs_total": tally.compared,
            "flips_total": tally.flips,
            "errors_total": tally.errors,
            "unpaired_total": tally.unpaired,
            "shift_sum": tally.shift_sum,
            "stable_seconds_sum": tally.stable_seconds,
            "seconds_sum": tally.trial_seconds,
            "share": 0.0 if trial.ended else trial.share,
            "rolled_back": int(trial.was_rolled_back),
        }
        lines: list[str] = []
        for name, value in values.items():
            full, (kind, text) = f"pneumoscan_edge_trial_{name}", _HELP[name]
            labels = f'{{version="{trial.version}",kind="{trial.kind}"}}'
            lines.append(f"# HELP {full} {text}\n# TYPE {full} {kind}\n{full}{labels} {value:.9g}\n")
        return "".join(lines)

    def _let_go(self, pair: str) -> _Film | None:
        film = self._held.pop(pair, None)
        self._bytes -= len(film.body) if film is not None else 0
        return film

    def _follow(self) -> None:
        for line in lines_of(self._log, self._stop):
            with contextlib.suppress(ValueError):
                self._take(_parsed(line))

    def _judge_on(self) -> None:
        while not self._stop.wait(_JUDGED_S):
            with contextlib.suppress(OSError):
                self._judge()

    def _take(self, answered: _Answered) -> None:
        trial = self.trial()
        if trial is None:
            return
        with self._lock:
            film = self._let_go(answered.pair)
            if film is None:
                self._tally = self._tally.lost()
        if film is not None:
            self._jobs.put((film, answered))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None and not self._stop.is_set():
            film, answered = job
            trial = self.trial()
            if trial is None:
                continue
            first = Said.parse(answered.header, answered.seconds)
            other = self._ask(film, "" if trial.kind == "canary" else trial.version)
            with self._lock:
                self._add(trial, answered, first, other)

    def _add(self, trial: Trial, answered: _Answered, first: Said | None, other: Said | None) -> None:
        if trial.at != self._tally.trial or trial.ended:
            return
        if trial.kind == "canary":
            by_trial, stable = first, other
            # It was to answer and another one did: the edge asked the stable version instead.
            if first is not None and first.version != trial.version:
                by_trial, stable = Said(trial.version, "", None, _NO_ANSWER, 0.0), first
        else:
            by_trial, stable = other, first
        if stable is None or by_trial is None or stable.code in _PASSING or stable.version == trial.version:
            self._tally = self._tally.lost()
        else:
            self._tally = self._tally.added(stable, by_trial)
        line = {
            "request_id": answered.request_id,
            "kind": trial.kind,
            "stable": None if stable is None else asdict(stable),
            "trial": None if by_trial is None else asdict(by_trial),
        }
        path = self._folder / "logs" / PAIRS_NAME
        with contextlib.suppress(OSError):  # a full disk must not end the comparison
            rotate(path)
            with path.open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")

    def _judge(self) -> None:
        """End a trial that goes badly, with the figures kept.

        The lock is not held meanwhile: every request waits for it, and the arithmetic takes a second to import.
        """
        with self._lock:
            trial, tally = self._trial, self._tally
        if trial is None or tally == self._kept:
            return
        write_tally(self._folder, tally)
        self._kept = tally
        if trial.ended or not (failures := tally.failures(trial.limits)):
            return
        ended = replace(trial, ended=f"{ROLLED_BACK} at {now()}: {'; '.join(failures)}")
        with self._lock:
            if self._trial != trial:  # somebody has ended it, or begun another
                return
            self._trial = ended  # from the next request on, whatever becomes of the file
        self._tell(f"the {trial.kind} of {trial.version} was {ended.ended}")
        write_trial(self._folder, ended)

    def _ask(self, film: _Film, version: str) -> Said | None:
        """What a version says about a film; None where it cannot be asked, or says nothing to compare."""
        host, _, port = next(self._upstreams).rpartition(":")
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=_ANSWER_S)
        path = film.path if not version else f"{film.path}/{version}"
        began = time.monotonic()
        try:
            connection.request("POST", path, film.body, film.head)
            reply = connection.getresponse()
            reply.read()
            seconds = time.monotonic() - began
            # TorchServe's own words: its queue is full, which says nothing of the version, or it cannot answer.
            if version and reply.status >= 400 and reply.status != 503 and "Cxr-Answer" not in reply.headers:
                return Said(version, "", None, _NO_ANSWER, seconds)
            return Said.parse(reply.headers.get("Cxr-Answer", ""), seconds)
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


def _parsed(line: str) -> _Answered:
    """A line of nginx's log format ``trial``.

    Raises
    ------
    ValueError
        It is none.
    """
    pair, request_id, asked, status, seconds, header = line.split("\t")
    # Of a request that was asked again, with commas and colons between: the time of all attempts.
    times = [float(each) for each in seconds.replace(",", " ").replace(":", " ").split() if each != "-"]
    return _Answered(pair, request_id, asked, int(status), sum(times), header)
