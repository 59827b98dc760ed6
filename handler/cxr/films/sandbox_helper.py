"""The process that decoders run in: it has their libraries imported and forks for each stream.

It has one thread, so that a fork is safe, and is started as a program, so that it holds nothing of the worker's. It
ends when the worker has ended, whatever ended that, because its socket closes; its children end with it.

A child takes a stranger's bytes, and so has walls around it (`cxr.films.sandbox_walls`): of what the helper has it gets
its own film and a pipe that the helper listens to, and of the kernel next to nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import json
import os
import resource
import selectors
import signal
import socket
import struct
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NoReturn

from cxr.films.sandbox_walls import WALLS, raise_around_decoder, raise_around_helper
from cxr.films.stream_codecs import DAMAGE, Coded, import_libraries, values_of

ORDER_BYTES: Final = 512
WALLS_BYTES: Final = 4096
OUTCOME: Final = struct.Struct("<2i")  # which kind it is of those below, and its number
ENDED, LATE, NOT_STARTED = range(3)  # with the child's wait status; with 0; with the number of the system's error
IS_DAMAGED: Final = 65  # exit status of a child whose stream cannot be decoded
IS_UNPREPARED: Final = 70  # of one that failed before or after it looked at the stream
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_USUAL_MEMORY: Final = 1 << 30
_TAIL: Final = max(map(len, DAMAGE)) - 1
_CHUNK: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Order:
    """A stream to decode, with the limits of the process that does it."""

    coded: Coded
    cpu_s: int
    wall_s: float
    memory: int  # bytes of address space, beyond what the process has when it begins

    def to_bytes(self) -> bytes:
        """The order as it is sent."""
        return json.dumps(asdict(self)).encode().ljust(ORDER_BYTES)

    @classmethod
    def from_bytes(cls, data: bytes) -> Order:
        """The order that was sent as `data`."""
        fields = json.loads(data)
        return cls(**{**fields, "coded": Coded(**fields["coded"])})


@dataclass(slots=True)
class _Child:
    """A process at work on a stream."""

    pid: int
    customer: socket.socket
    deadline: float
    is_late: bool = False
    is_damaged: bool = False  # by what its library prints
    tail: bytes = b""


def main(handle: int) -> None:
    """Decode what is ordered through a socket until its other end closes.

    The first message out says which walls do not stand, and why. An order comes with two handles: a file with the
    stream, for its values too, and a socket for the outcome.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker, whose end ends this process
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    import_libraries()
    libc = ctypes.CDLL(None)
    low = os.dup(handle)  # the lowest free number, however many handles the worker has
    os.close(handle)
    with socket.socket(fileno=low) as orders, selectors.DefaultSelector() as selector:
        missing = {**raise_around_helper(), **_tried()}
        gc.freeze()  # a child that collects garbage would copy every page it looks at
        with contextlib.suppress(OSError):  # it has gone; the next look at the socket says so
            orders.send(json.dumps(missing).encode()[:WALLS_BYTES])
        _serve(orders, selector, libc)


def _tried() -> dict[str, str]:
    """Why a wall around decoders does not stand, by its name, as a child finds that raises them and decodes nothing."""
    answer, its_end = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            try:
                os.dup2(its_end, 1)
                os.write(1, json.dumps(raise_around_decoder(answer, 0)).encode())
            finally:
                os._exit(0)
        os.close(its_end)
        text = os.read(answer, WALLS_BYTES)
        os.waitpid(pid, 0)
        return dict(json.loads(text or b"{}")) if text else dict.fromkeys(set(WALLS) - {"network"}, "its trial failed")
    except OSError as error:
        return dict.fromkeys(set(WALLS) - {"network"}, error.strerror or "its trial failed")
    finally:
        os.close(answer)


def _serve(orders: socket.socket, selector: selectors.BaseSelector, libc: ctypes.CDLL) -> None:
    children: dict[int, _Child] = {}  # by the end of their standard error that is ours
    selector.register(orders, selectors.EVENT_READ)
    while True:
        deadlines = [child.deadline for child in children.values() if not child.is_late]
        wait = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        for key, _ in selector.select(wait):
            if key.fd == orders.fileno():
                try:
                    data, handles, _, _ = socket.recv_fds(orders, ORDER_BYTES, 2)
                except ConnectionResetError:  # nobody has read which walls stand
                    return
                if len(data) < ORDER_BYTES:
                    return  # what is still at work ends with this process
                if started := _start(Order.from_bytes(data), handles[0], handles[1], libc):
                    messages, child = started
                    children[messages] = child
                    selector.register(messages, selectors.EVENT_READ)
            elif not _listen(key.fd, children[key.fd]):
                selector.unregister(key.fd)
                os.close(key.fd)
                _report(children.pop(key.fd))
        for child in children.values():
            if not child.is_late and time.monotonic() >= child.deadline:
                child.is_late = True
                os.kill(child.pid, signal.SIGKILL)


def _start(order: Order, film: int, reply: int, libc: ctypes.CDLL) -> tuple[int, _Child] | None:
    customer = socket.socket(fileno=reply)
    messages, its_end = os.pipe()
    helper = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(messages)
        _tell(customer, NOT_STARTED, error.errno or errno.EAGAIN)
        return None
    finally:
        if os.getpid() == helper:
            os.close(its_end)
            os.close(film)
    if pid == 0:
        _decode(order, film, its_end, helper, libc)
    return messages, _Child(pid, customer, time.monotonic() + order.wall_s)


def _listen(messages: int, child: _Child) -> bool:
    """Read what a child's library prints, for as long as there is a child."""
    chunk = os.read(messages, _CHUNK)
    heard = child.tail + chunk
    child.is_damaged = child.is_damaged or any(words in heard for words in DAMAGE)
    child.tail = heard[-_TAIL:]
    return bool(chunk)


def _report(child: _Child) -> None:
    _, status = os.waitpid(child.pid, 0)
    if child.is_late:
        _tell(child.customer, LATE, 0)
    elif status == 0 and child.is_damaged:
        _tell(child.customer, ENDED, IS_DAMAGED << 8)
    else:
        _tell(child.customer, ENDED, status)


def _tell(customer: socket.socket, kind: int, number: int) -> None:
    try:
        customer.send(OUTCOME.pack(kind, number))
    except OSError:
        pass  # it has gone
    finally:
        customer.close()


def _decode(order: Order, film: int, messages: int, helper: int, libc: ctypes.CDLL) -> NoReturn:
    """The child: from the file's stream to its values, within the limits."""
    status = IS_UNPREPARED
    try:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == helper:
            os.dup2(messages, 1)  # what a library prints is no pixel
            os.dup2(messages, 2)
            os.close(messages)
            _set_limits(order)
            length = os.fstat(film).st_size
            raise_around_decoder(film, max(length, order.coded.size))
            stream = os.pread(film, length, 0)
            status = IS_DAMAGED
            values = memoryview(values_of(order.coded, stream))
            size = order.coded.size
            if size <= len(values) <= size + 1:  # DICOM's values have even lengths
                status = IS_UNPREPARED
                os.ftruncate(film, size)
                status = 0 if os.pwrite(film, values[:size], 0) == size else IS_UNPREPARED
    finally:
        os._exit(status)


def _own_memory() -> int:
    """Bytes of address space of this process: proc(5), statm."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):  # no /proc here
        return _USUAL_MEMORY


def _set_limits(order: Order) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the film
    resource.setrlimit(resource.RLIMIT_CPU, (order.cpu_s, order.cpu_s + 1))
    highest = resource.getrlimit(resource.RLIMIT_AS)[1]
    memory = _own_memory() + order.memory
    memory = memory if highest == resource.RLIM_INFINITY else min(memory, highest)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
