"""How a server is cut to the machine it runs on: workers, threads, batches, queue."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

from pneumoscan.options import Option, at_least

# An estimate for a worker with a ResNet-152: Python and torch 0.5 GB, weights twice while they are checked 0.5 GB, and
# a film of tens of millions of pixels while it is decoded.
WORKER_BYTES: Final = 1_500_000_000
WORKERS_PER_GPU: Final = 2  # one decodes while the other computes
GPU_BATCH_SIZE: Final = 64
# Milliseconds. With 0, TorchServe 0.12.0 makes batches of two at most; with 1, a lone client waits for one millisecond.
BATCH_DELAY_MS: Final = 1
# Requests that may wait. On a CPU a worker answers a few films a second, so that 32 wait for some ten seconds; what is
# refused at once can be sent again elsewhere.
CPU_QUEUE_PER_WORKER: Final = 32
GPU_QUEUE: Final = 512
# Of TorchServe's JVM: itself with the largest requests that are being read, and for each that waits the bytes of a CR
# film as base64. Java alone would take a quarter of the machine's memory and keep it.
HEAP_BYTES: Final = 1 << 30
HEAP_BYTES_PER_REQUEST: Final = 16 << 20


@dataclass(frozen=True)
class CapacityOptions:
    """The capacity that the command line requests; None leaves a part to the machine."""

    workers: Annotated[int | None, Option("worker processes of each version", "N", check=at_least(1))] = None
    threads: Annotated[
        int | None, Option("threads each worker computes with (default: cores / workers)", "N", check=at_least(1))
    ] = None
    batch_size: Annotated[
        int | None, Option("films a worker takes at once (default: 1, GPU: 64)", "N", check=at_least(1))
    ] = None
    batch_delay_ms: Annotated[
        int | None,
        Option(
            f"milliseconds a worker waits for a batch to fill; a lone client pays them (default: {BATCH_DELAY_MS})",
            "MS",
            flag="--batch-delay",
            check=at_least(1),
        ),
    ] = None
    queue: Annotated[
        int | None,
        Option(
            "requests that may wait, more are refused with 503 "
            f"(default: {CPU_QUEUE_PER_WORKER} for each worker, GPU: {GPU_QUEUE})",
            "N",
            check=at_least(1),
        ),
    ] = None


@dataclass(frozen=True)
class Capacity:
    """The capacity of each registered version.

    Parameters
    ----------
    workers
        Worker processes.
    threads
        Threads each of them computes with.
    batch_size, batch_delay_ms
        Films a worker takes at once, and how long it waits for the second one.
    queue
        Requests that may wait; more are refused with 503.
    """

    workers: int
    threads: int
    batch_size: int
    batch_delay_ms: int
    queue: int

    @property
    def summary(self) -> str:
        """One line for people."""
        return (
            f"{self.workers} worker{'s' * (self.workers != 1)} of {self.threads} thread{'s' * (self.threads != 1)} for "
            f"each version, batches of up to {self.batch_size}, {self.queue} requests may wait"
        )

    def heap_bytes(self, free_bytes: int | None) -> int:
        """The most memory of TorchServe's JVM: enough for the requests that may wait, within a quarter of the free."""
        wanted = HEAP_BYTES + self.queue * HEAP_BYTES_PER_REQUEST
        return wanted if free_bytes is None else max(HEAP_BYTES // 2, min(wanted, free_bytes // 4))

    @property
    def thread_variables(self) -> dict[str, str]:
        """Environment that makes torch, OpenVINO and numpy's libraries compute with so many threads."""
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        return dict.fromkeys(names, str(self.threads))

    def models_property(self, model: str, versions: Sequence[str]) -> str:
        """TorchServe's ``models`` property, which it reads where an archive's own configuration says nothing."""
        each = {
            "minWorkers": self.workers,
            "maxWorkers": self.workers,
            "batchSize": self.batch_size,
            "maxBatchDelay": self.batch_delay_ms,
        }
        return json.dumps({model: dict.fromkeys(versions, each)})

    def to_dict(self) -> dict[str, int]:
        """The numbers by name."""
        return asdict(self)


def plan(machine: Machine, options: CapacityOptions, versions: int = 1) -> Capacity:
    """The capacity of a server.

    Parameters
    ----------
    machine
        Its resources; a card in it means that workers compute there.
    options
        What is requested instead.
    versions
        How many versions are loaded at once. Each has its own workers, and only those of the default one are busy: they
        share the memory, but not the cores.

    Returns
    -------
    Capacity
        On a CPU a worker for each core with one thread, which is faster than fewer workers with more threads; fewer
        where the memory does not hold so many, but one at least.
    """
    on_gpu = machine.gpus > 0
    wanted = WORKERS_PER_GPU * machine.gpus if on_gpu else max(1, machine.cores // (options.threads or 1))
    workers = options.workers or min(wanted, workers_in_memory(machine.memory_bytes, versions))
    return Capacity(
        workers=workers,
        threads=options.threads or max(1, machine.cores // workers),
        batch_size=options.batch_size or (GPU_BATCH_SIZE if on_gpu else 1),
        batch_delay_ms=options.batch_delay_ms or BATCH_DELAY_MS,
        queue=options.queue or (GPU_QUEUE if on_gpu else CPU_QUEUE_PER_WORKER * workers),
    )


def workers_in_memory(memory_bytes: int | None, versions: int = 1) -> int:
    """The workers of each version that fit by the estimate of `WORKER_BYTES`; at least 1."""
    if memory_bytes is None:
        return 1 << 16
    return max(1, memory_bytes // (WORKER_BYTES * max(1, versions)))


_PROC: Final = Path("/proc")
_CGROUPS: Final = Path("/sys/fs/cgroup")
_NO_LIMIT: Final = 1 << 60  # cgroup v1 writes "no limit" as a number beyond any memory


@dataclass(frozen=True)
class Machine:
    """The resources that may be used.

    Parameters
    ----------
    cores
        Processors this process may run on at the same time, at least 1.
    memory_bytes
        Memory that is not in use; None where the system does not tell.
    gpus
        Graphics cards that torch can compute on.
    """

    cores: int
    memory_bytes: int | None
    gpus: int = 0


def machine(gpus: int = 0) -> Machine:
    """What this process may use, with as many graphics cards as were found before."""
    return Machine(cores(), free_memory(), gpus)


def cores(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """The processors this process may use at once: its affinity, and no more than its control groups' share.

    Parameters
    ----------
    proc, cgroups
        Where the kernel's files are.

    References
    ----------
    Linux, Documentation/admin-guide/cgroup-v2.rst, ``cpu.max``; Documentation/scheduler/sched-bwc.rst for version 1.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [float(count)]
    for folder in _own_groups("", proc, cgroups):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        shares += _share(quota, period)
    for folder in _own_groups("cpu", proc, cgroups):
        shares += _share(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))
    return max(1, int(min(shares)))


def free_memory(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int | None:
    """The bytes of memory that may still be taken, or None where the system does not tell."""
    found = []
    for line in _text(proc / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    files = (("", "memory.max", "memory.current"), ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"))
    for controller, limit_file, usage_file in files:
        for folder in _own_groups(controller, proc, cgroups):
            limit, usage = _text(folder / limit_file), _text(folder / usage_file)
            if limit.isdigit() and usage.isdigit() and int(limit) < _NO_LIMIT:
                # File cache counts as used there, and is given up when the memory is needed.
                found.append(int(limit) - int(usage) + _file_cache(folder))
    return max(0, min(found)) if found else None


def count_gpus(environment: Mapping[str, str]) -> int:
    """The number of graphics cards that TorchServe would find and a worker could compute on.

    TorchServe 0.12.0 believes ``nvidia-smi``; torch is asked as well, in another process since its import takes
    seconds: a build of it for the CPU, or a driver too old for it, finds none.
    """
    driver = shutil.which("nvidia-smi")
    if driver is None or environment.get("CUDA_VISIBLE_DEVICES") == "":
        return 0
    listed = subprocess.run([driver, "-L"], env=dict(environment), capture_output=True, text=True, check=False)
    if listed.returncode != 0 or not listed.stdout.strip():
        return 0
    question = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    done = subprocess.run(
        [sys.executable, "-c", question], env=dict(environment), capture_output=True, text=True, check=False
    )
    last = done.stdout.split()[-1:] or ["0"]
    return int(last[0]) if last[0].isdigit() else 0


def _own_groups(controller: str, proc: Path, cgroups: Path) -> Iterator[Path]:
    """This process's control group and those around it; version 2 has one tree, version 1 one for each controller."""
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller not in controllers.split(","):
            continue
        root = cgroups / controller
        # In a container the path may be one of the host's that does not exist here; the root always does.
        inner = root / path.lstrip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(root))


def _share(quota: str, period: str) -> list[float]:
    """Processors for a quota of microseconds in a period; none for "max" or -1, which set no limit."""
    return [int(quota) / int(period)] if quota.isdigit() and period.isdigit() and int(period) > 0 else []


def _file_cache(folder: Path) -> int:
    for line in _text(folder / "memory.stat").splitlines():
        if line.startswith("inactive_file "):
            return int(line.split()[1])
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):  # not this kind of system, or a group that is not shown here
        return ""
