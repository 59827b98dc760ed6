"""How a server is cut to the machine it runs on: workers, threads, batches, queue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from scripts.server.machine import Machine

# An estimate for a worker with a ResNet-152: Python and torch 0.5 GB, weights twice while they are checked 0.5 GB, and
# a film of tens of millions of pixels while it is decoded.
WORKER_BYTES: Final = 1_500_000_000
WORKERS_PER_GPU: Final = 2  # one decodes while the other computes
GPU_BATCH_SIZE: Final = 64
# Milliseconds. With 0, TorchServe 0.12.0 makes batches of two at most; with 1, a lone client waits for one millisecond.
BATCH_DELAY_MS: Final = 1
# Requests that may wait. On a CPU a worker answers a few films a second, so that 32 wait for some ten seconds; what is
# refused at once can be asked again elsewhere.
CPU_QUEUE_PER_WORKER: Final = 32
GPU_QUEUE: Final = 512


@dataclass(frozen=True)
class Asked:
    """What the command line asks for; None leaves it to the machine."""

    workers: int | None = None
    threads: int | None = None
    batch_size: int | None = None
    batch_delay_ms: int | None = None
    queue: int | None = None


@dataclass(frozen=True)
class Capacity:
    """What each registered version gets.

    Attributes
    ----------
    workers : int
        Worker processes.
    threads : int
        Threads each of them computes with.
    batch_size, batch_delay_ms : int
        Films a worker takes at once, and how long it waits for the second one.
    queue : int
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
        """Give the numbers by name."""
        return asdict(self)


def plan(machine: Machine, asked: Asked, versions: int = 1) -> Capacity:
    """Give the capacity of a server.

    Parameters
    ----------
    machine : Machine
        What may be used; a card in it means that workers compute there.
    asked : Asked
        What was asked for instead.
    versions : int
        How many versions are loaded at once. Each has its own workers, and only those of the default one are busy: they
        share the memory, but not the cores.

    Returns
    -------
    Capacity
        On a CPU a worker for each core with one thread, which is faster than fewer workers with more threads; fewer
        where the memory does not hold so many, but one at least.
    """
    on_gpu = machine.gpus > 0
    wanted = WORKERS_PER_GPU * machine.gpus if on_gpu else max(1, machine.cores // (asked.threads or 1))
    workers = asked.workers or min(wanted, workers_in_memory(machine.memory_bytes, versions))
    return Capacity(
        workers=workers,
        threads=asked.threads or max(1, machine.cores // workers),
        batch_size=asked.batch_size or (GPU_BATCH_SIZE if on_gpu else 1),
        batch_delay_ms=asked.batch_delay_ms or BATCH_DELAY_MS,
        queue=asked.queue or (GPU_QUEUE if on_gpu else CPU_QUEUE_PER_WORKER * workers),
    )


def workers_in_memory(memory_bytes: int | None, versions: int = 1) -> int:
    """Give the workers of each version that fit by the estimate of `WORKER_BYTES`; at least 1."""
    if memory_bytes is None:
        return 1 << 16
    return max(1, memory_bytes // (WORKER_BYTES * max(1, versions)))
