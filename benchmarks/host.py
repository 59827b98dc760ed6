"""The machine that figures were measured on, and what processes use of it."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import platform
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import psutil
import torch

from cxr_training.measure.parity import processor_name

PACKAGES: Final = ("torch", "openvino", "torchserve", "litserve", "bentoml", "captum")
_EVERY_S: Final = 0.25
_SEARCH_EVERY: Final = 8


@dataclass(frozen=True, slots=True)
class Host:
    """A machine, and the versions of what was measured on it."""

    processor: str
    gpu: str | None
    cores: int
    memory_gb: float
    system: str
    python: str
    versions: Mapping[str, str]
    load_before: float  # the system's load average when the measurement began

    @classmethod
    def here(cls, versions: Mapping[str, str] | None = None) -> Host:
        """This machine, with the versions that this interpreter has unless others are given."""
        return cls(
            processor=processor_name(torch.device("cpu")),
            gpu=processor_name(torch.device("cuda")) if torch.cuda.is_available() else None,
            cores=len(os.sched_getaffinity(0)),
            memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
            system=platform.platform(),
            python=platform.python_version(),
            versions=_installed_versions() if versions is None else versions,
            load_before=round(os.getloadavg()[0], 2),
        )

    def __str__(self) -> str:
        gpu = f", {self.gpu}" if self.gpu else ""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{self.processor}, {self.cores} cores, {self.memory_gb:.0f} GB{gpu}; {versions}"


def _installed_versions() -> dict[str, str]:
    found = {one.name: one.version for one in importlib.metadata.distributions()}
    return {name: found[name] for name in PACKAGES if name in found}


class Tree:
    """The process `pid` and its descendants, as they are at the time of each call."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def processes(self) -> list[psutil.Process]:
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
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                used += sum(process.cpu_times()[:4])
        return used

    def worker_threads(self) -> list[int]:
        """For each TorchServe worker, the threads that its environment sets; 0 where it sets none."""
        found = []
        for process in self.processes():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if any("model_service_worker" in word for word in process.cmdline()):
                    found.append(int(process.environ().get("OMP_NUM_THREADS", "0") or 0))
        return found


def rss_mb(processes: Sequence[psutil.Process]) -> float:
    """Resident memory of those that still live, in MB; what processes share is counted in each."""
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / 1e6


class Watch:
    """Processor seconds that a tree uses in a block, and its resident memory, sampled four times a second."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.cpu_s = self.before_mb = self.peak_mb = self.after_mb = 0.0

    def __enter__(self) -> Watch:
        self.before_mb = self.peak_mb = rss_mb(self._tree.processes())
        self._cpu_before = self._tree.cpu_s()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu_s = self._tree.cpu_s() - self._cpu_before
        self._stop.set()
        self._thread.join()
        self.after_mb = rss_mb(self._tree.processes())

    def _sample(self) -> None:
        known: list[psutil.Process] = []
        for turn in itertools.count():
            if self._stop.wait(_EVERY_S):
                return
            if turn % _SEARCH_EVERY == 0:  # to search for children takes milliseconds of the cores that are measured
                known = self._tree.processes()
            self.peak_mb = max(self.peak_mb, rss_mb(known))


def listener_of(port: int) -> int | None:
    """The process that listens on a local TCP port, None where that cannot be found out."""
    with suppress(psutil.AccessDenied):
        for one in psutil.net_connections("tcp"):
            if one.status == "LISTEN" and one.laddr.port == port and one.pid:
                return int(one.pid)
    return None
