"""Decoders that a damaged stream can bring down, in a process of their own with limits on time and memory.

A process for each stream would cost 0.1 s of imports. So every worker has one helper (`cxr.films.sandbox_helper`) that
has imported the libraries and forks for each stream; it is started when first needed, again where it has died, and it
ends with the worker. What a decoder may do is in `cxr.films.sandbox_walls`.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import importlib.util
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from cxr.films.sandbox_helper import ENDED, IS_UNPREPARED, LATE, OUTCOME, WALLS_BYTES, Order
from cxr.films.sandbox_walls import WALLS
from cxr.films.stream_codecs import LIBRARIES, Coded

# Seconds of processor time, and pixels for each second more: small films have less, and large ones no more than enough
_TIME_LIMITS: Final = ((1, 2_000_000), (3, 3_000_000))
_WALL_FACTOR: Final = 4.0  # other processes want the processors too
_LEAST_WALL_S: Final = 12.0
_MEMORY: Final = 192 << 20  # of address space, beyond what the libraries take
_MEMORY_A_PIXEL: Final = 40
_ATTEMPTS: Final = 2  # where the process is ended from outside
_START_S: Final = 30.0  # the longest that a helper takes to import the libraries on a machine that is busy
_ANSWER_S: Final = 5.0  # the longest that one that has imported them takes to say that a time limit has passed
_STOP_S: Final = 1.0
# What a stream does to its decoder: errors of its program, and the limit on its time. Others come from outside.
_OWN_FAULTS: Final = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGXCPU}
)
# Of the environment, which can hold secrets: a decoder that is taken over could write them for pixels.
_VARIABLES: Final = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "TZ")
_PROGRAM: Final = """
import sys
sys.path[:0] = [sys.argv[2]]
sys.path += sys.argv[3:]
from cxr.films.sandbox_helper import main
main(int(sys.argv[1]))
"""


class OutOfTimeError(ValueError):
    """A stream that takes its decoder more time than any film of its size; others would take no less."""


def is_installed(library: str) -> bool:
    """Whether a library, one of `cxr.films.stream_codecs.LIBRARIES`, is installed."""
    return importlib.util.find_spec(library) is not None


def decode_in_sandbox(coded: Coded, stream: bytes) -> mmap.mmap:
    """The values of a stream that is what `coded` says: `Coded.size` bytes, to be read only.

    Raises
    ------
    OutOfTimeError
        The stream takes more time than its limit.
    ValueError
        The library fails on the stream, or says it is damaged.
    TimeoutError
        The machine is so busy that the process did not get its time.
    ConnectionError
        The process was ended from outside, and again.
    MemoryError
        The system cannot start a process, or killed it.
    """
    seconds = min(least + coded.values // pixels for least, pixels in _TIME_LIMITS)
    order = Order(coded, seconds, max(_LEAST_WALL_S, seconds * _WALL_FACTOR), _MEMORY + coded.values * _MEMORY_A_PIXEL)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _values(order, stream)
        except ConnectionError:
            if attempt == _ATTEMPTS:
                raise
    raise AssertionError


def _values(order: Order, stream: bytes) -> mmap.mmap:
    film = os.memfd_create("film", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with memoryview(stream) as rest:
            written = 0
            while written < len(rest):
                written += os.write(film, rest[written:])
        kind, number = SANDBOX.outcome(order, film)
        if kind == LATE:
            raise TimeoutError(f"no answer within {order.wall_s:.0f} s")
        if kind != ENDED:
            raise MemoryError(f"no process could be started: {os.strerror(number)}")
        _check_ended(number, order.coded.library)
        # Whoever might still have the file cannot take the values away from under their reader
        fcntl.fcntl(film, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
        return mmap.mmap(film, order.coded.size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    finally:
        os.close(film)


def _check_ended(status: int, library: str) -> None:
    if status == 0:
        return
    if os.WIFSIGNALED(status):
        by = os.WTERMSIG(status)
        if by == signal.SIGKILL:
            raise MemoryError("the process was killed")
        if by == signal.SIGXCPU:
            raise OutOfTimeError(f"{library} takes too long")
        if by not in _OWN_FAULTS:
            raise ConnectionAbortedError(f"the process was ended by signal {by}")
    elif os.WEXITSTATUS(status) == IS_UNPREPARED:
        raise MemoryError("the process had no room to begin")
    raise ValueError(f"{library} ended with {os.waitstatus_to_exitcode(status)}")


class _Helper:
    """A helper that runs, and the socket for its orders."""

    def __init__(self) -> None:
        found = [importlib.util.find_spec(library) for library in LIBRARIES]
        folders = {str(Path(spec.origin).parent) for spec in found if spec is not None and spec.origin is not None}
        # In whole messages, so that threads can send at the same time
        self.orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = str(Path(__file__).parents[2])
        with theirs:
            command = [sys.executable, "-I", "-c", _PROGRAM, str(theirs.fileno()), root, *sorted(folders)]
            # numpy's threads reserve memory of the limit, and a process with threads is not safely forked
            environment = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
            environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            try:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=environment,
                )
            except OSError as error:
                self.orders.close()
                raise MemoryError("no process could be started") from error
        self.orders.settimeout(_START_S)
        self.has_answered = False
        self._missing: dict[str, str] | None = None

    def missing_walls(self) -> dict[str, str]:
        """As `_Sandbox.missing_walls`."""
        if self._missing is None:
            text = self.orders.recv(WALLS_BYTES)
            if not text:
                raise ConnectionResetError("the decoders' process has ended")
            self._missing = dict(json.loads(text))
        return self._missing

    def outcome(self, order: Order, film: int) -> tuple[int, int]:
        """As `_Sandbox.outcome`."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                socket.send_fds(self.orders, [order.to_bytes()], [film, theirs.fileno()])
            ours.settimeout(order.wall_s + (_ANSWER_S if self.has_answered else _START_S))
            data = ours.recv(OUTCOME.size)
        if len(data) < OUTCOME.size:
            raise ConnectionResetError("the decoders' process has ended")
        self.has_answered = True
        kind, number = OUTCOME.unpack(data)
        return kind, number

    def stop(self) -> None:
        """End it, and what it has at work."""
        self.orders.close()
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class _Sandbox:
    """The helper of this process, which threads share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._helper: _Helper | None = None
        self._is_registered = False

    def outcome(self, order: Order, film: int) -> tuple[int, int]:
        """What became of an order; `film` holds the stream and then its values.

        Raises
        ------
        ConnectionError
            The helper died.
        TimeoutError
            It does not answer; it is replaced.
        MemoryError
            None can be started.
        """
        with self._lock:
            helper = self._running()
        try:
            outcome = helper.outcome(order, film)
        except (ConnectionError, TimeoutError):
            with self._lock:
                if self._helper is helper:
                    self._helper = None
            helper.stop()
            raise
        return outcome

    def start(self) -> None:
        """Start the helper, without waiting for it; where none can be started, the next order tries again."""
        with self._lock, contextlib.suppress(MemoryError):
            self._running()

    def missing_walls(self) -> dict[str, str]:
        """Why one of `cxr.films.sandbox_walls.WALLS` does not stand around decoders on this machine, by its name."""
        with self._lock:
            try:
                return self._running().missing_walls()
            except (OSError, ValueError, MemoryError):
                return dict.fromkeys(WALLS, "the decoders' process does not answer")

    @property
    def process_id(self) -> int | None:
        """Of the helper that runs, None where none does."""
        return None if self._helper is None else self._helper.process.pid

    def _running(self) -> _Helper:
        if self._helper is None:
            self._helper = _Helper()
            if not self._is_registered:
                self._is_registered = True
                atexit.register(self.close)
                os.register_at_fork(after_in_child=self._forget)
        return self._helper

    def close(self) -> None:
        """Stop the helper; the next order starts another."""
        with self._lock:
            if self._helper is not None:
                self._helper.stop()
                self._helper = None

    def _forget(self) -> None:
        """In a fork of this process: the helper is its parent's, and must not wait for the fork to end as well."""
        self._lock = threading.Lock()
        if self._helper is not None:
            self._helper.orders.close()
            self._helper.process.returncode = 0  # not this process's child: nothing to wait for
            self._helper = None


SANDBOX: Final = _Sandbox()
