"""Servers that a benchmark starts, and that are gone when it ends, however it ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from benchmarks.client import Address
from benchmarks.host import Tree
from pneumoscan.errors import CommandError, UsageError
from pneumoscan.processes import die_with_parent
from pneumoscan.server.torchserve import HOST

START_S: Final = 300.0
REPOSITORY: Final = Path(__file__).resolve().parents[1]
_GRACE_S: Final = 40.0  # pneumoscan serve gives TorchServe 30 s
_POLL_S: Final = 0.2


class BenchmarkError(CommandError):
    """Something could not be measured; the message says what and why."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers films."""

    address: Address
    path: str
    tree: Tree | None  # its processes, where they are known


def short_folder() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder for a run folder: the path of a worker's unix socket is limited to 107 bytes."""
    return tempfile.TemporaryDirectory(prefix="cxrb-", dir="/tmp" if len(tempfile.gettempdir()) > 40 else None)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in sockets]


def environment(**more: str) -> dict[str, str]:
    """The environment of a server: the caller's without a PYTHONPATH, and what is added."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more


@contextmanager
def process(
    command: Sequence[str], log: Path, variables: Mapping[str, str], folder: Path = REPOSITORY
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes to a log; it and all its descendants are ended with the block.

    If this program is killed, the kernel ends the process.
    """
    with log.open("wb") as output:
        started = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(variables),
            cwd=folder,
            start_new_session=True,  # Ctrl-C reaches us alone, and we end it
            preexec_fn=die_with_parent(),
        )
    try:
        yield started
    finally:
        _end(started)


def _end(started: subprocess.Popen[bytes]) -> None:
    family = Tree(started.pid).processes()
    with suppress(ProcessLookupError):
        started.terminate()
    with suppress(subprocess.TimeoutExpired):
        started.wait(_GRACE_S)
    for one in family:
        with suppress(psutil.NoSuchProcess):  # psutil tells a process from another that got its number
            one.kill()
    with suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    psutil.wait_procs(family, timeout=5)


def wait_until(ready: Callable[[], bool], started: subprocess.Popen[bytes], log: Path, name: str) -> None:
    """Wait until a server answers.

    Raises
    ------
    BenchmarkError
        It ended, or did not answer in time; with the end of its log.
    """
    deadline = time.monotonic() + START_S
    while not ready():
        ended = started.poll()
        if ended is not None or time.monotonic() > deadline:
            why = f"ended with {ended}" if ended is not None else f"did not answer within {START_S:g} s"
            raise BenchmarkError(f"{name} {why}:\n{tail(log)}")
        time.sleep(_POLL_S)


def tail(log: Path) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-12:])


@contextmanager
def served_archive(archive: Path, folder: Path, options: Sequence[str] = ()) -> Iterator[Running]:
    """Our own server with one archive, as `pneumoscan serve` starts it with some options.

    The folder has a short path; it takes the store, the run folder and the log.
    """
    if not archive.is_file():
        raise UsageError(f"{archive} is not a file: give an archive made by pneumoscan pack")
    store = folder / "store"
    store.mkdir(parents=True)
    try:
        os.link(archive.resolve(), store / archive.name)
    except OSError:  # another file system
        shutil.copyfile(archive, store / archive.name)
    port, metrics_port = free_ports(2)
    log = folder / "serve.log"
    command = [sys.executable, "-m", "pneumoscan", "serve", "--store", str(store), "--run-dir", str(folder / "run")]
    command += ["--port", str(port), "--metrics-port", str(metrics_port), "--timeout", str(START_S), *options]
    with process(command, log, environment()) as started:
        wait_until(lambda: b"\nready:" in b"\n" + log.read_bytes(), started, log, "pneumoscan serve")
        yield Running((HOST, port), "/predictions/pneumonia", Tree(started.pid))
