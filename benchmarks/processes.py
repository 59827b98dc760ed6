"""What a server's processes cost: processor time and memory of a process and all its descendants."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final

import psutil  # type: ignore[import-untyped]

_EVERY_S: Final = 0.25
_SEARCH_EVERY: Final = 8


class Tree:
    """A process and its descendants, as they are when they are asked.

    Parameters
    ----------
    pid
        Of the process at the root.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def processes(self) -> list[Any]:
        """All that live, the root first."""
        try:
            root = psutil.Process(self.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_s(self) -> float:
        """Processor seconds used so far, those of children that have ended included."""
        used = 0.0
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # it ended while we looked
                used += sum(process.cpu_times()[:4])
        return used

    def rss_mb(self) -> float:
        """Resident memory in MB; what processes share is counted in each."""
        return rss_mb(self.processes())

    def worker_threads(self) -> list[int]:
        """For each TorchServe worker, the threads its environment tells it to compute with; 0 where it tells none."""
        found = []
        for process in self.processes():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if any("model_service_worker" in word for word in process.cmdline()):
                    found.append(int(process.environ().get("OMP_NUM_THREADS", "0") or 0))
        return found


def rss_mb(processes: Sequence[Any]) -> float:
    """Resident memory of those that still live, in MB."""
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / 1e6


class Watch:
    """Processor time and memory of a tree while a block runs.

    Attributes
    ----------
    cpu_s
        Processor seconds used in the block.
    before_mb, peak_mb, after_mb
        Resident memory, looked at four times a second.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.cpu_s = self.before_mb = self.peak_mb = self.after_mb = 0.0

    def __enter__(self) -> Watch:
        self.before_mb = self.peak_mb = self._tree.rss_mb()
        self._cpu_before = self._tree.cpu_s()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cpu_s = self._tree.cpu_s() - self._cpu_before
        self._stop.set()
        self._thread.join()
        self.after_mb = self._tree.rss_mb()

    def _look(self) -> None:
        known: list[Any] = []
        for turn in itertools.count():
            if self._stop.wait(_EVERY_S):
                return
            if turn % _SEARCH_EVERY == 0:  # to search for children takes milliseconds of the cores that are measured
                known = self._tree.processes()
            self.peak_mb = max(self.peak_mb, rss_mb(known))


def listener_of(port: int) -> int | None:
    """The process that listens on a local TCP port, None where that cannot be found out."""
    try:
        found = [one.pid for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.laddr.port == port]
    except psutil.AccessDenied:
        return None
    return next((pid for pid in found if pid), None)
