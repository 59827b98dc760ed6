"""The options of a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pneumoscan.options import Group, Option, Port, at_least
from pneumoscan.server.capacity import (
    BATCH_DELAY_MS,
    CPU_QUEUE_PER_WORKER,
    GPU_BATCH_SIZE,
    GPU_QUEUE,
    WORKER_BYTES,
    WORKERS_PER_GPU,
    Asked,
)

_CAPACITY = (
    "Worked out from the machine. On a CPU a worker for each core, as far as the memory holds them by an estimate "
    f"of {WORKER_BYTES / 1e9:g} GB a worker, each with one thread and one film at a time; with a GPU "
    f"{WORKERS_PER_GPU} workers for each and batches of {GPU_BATCH_SIZE}."
)


@dataclass(frozen=True, kw_only=True)
class CapacityOptions:
    """How large a server is, where the machine is not to say it."""

    workers: Annotated[int | None, Option("worker processes of each version", "N", check=at_least(1))] = None
    threads: Annotated[
        int | None, Option("threads each worker computes with (default: cores / workers)", "N", check=at_least(1))
    ] = None
    batch_size: Annotated[
        int | None, Option("films a worker takes at once (default: 1, GPU: 64)", "N", check=at_least(1))
    ] = None
    batch_delay: Annotated[
        int | None,
        Option(
            f"milliseconds a worker waits for a batch to fill; a lone client pays them (default: {BATCH_DELAY_MS})",
            "MS",
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

    @property
    def requested(self) -> Asked:
        """The capacity that is requested; what is None, the machine decides."""
        return Asked(self.workers, self.threads, self.batch_size, self.batch_delay, self.queue)


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Serve the pneumonia-<version>.mar archives of a model store with TorchServe.

    All versions are loaded and the newest is the default, unless `pneumoscan models` has declared others in the
    store's versions.json. Without --detach it runs in the foreground until Ctrl-C or SIGTERM. PYTHONPATH must not be
    set: TorchServe would import from there before the archive.
    """

    store: Annotated[Path, Option("folder of archives", "DIR")] = Path("model_store")
    port: Annotated[Port, Option("inference port on the loopback interface")] = 8080
    metrics_port: Annotated[Port, Option("metrics port, likewise", "PORT")] = 8082
    management_port: Annotated[
        Port | None,
        Option(
            "management on a loopback port too, for tools that need one: /models only, with the token of "
            "RUN_DIR/management.token (default: the unix socket alone)",
            "PORT",
        ),
    ] = None
    run_dir: Annotated[
        Path,
        Option(
            "folder of this server: management.sock, logs, pid file; for a second server on the same machine give "
            "another one, and other ports",
            "DIR",
        ),
    ] = Path("run")
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        Option("auto: a GPU if there is one; cpu: hide any GPU; cuda: refuse to start without one"),
    ] = "auto"
    timeout: Annotated[
        float, Option("how long the server may take until it answers a film; then it is stopped, exit 1", "SECONDS")
    ] = 180.0
    quiet: Annotated[
        bool,
        Option("show nothing more of TorchServe once it answers; its log files, which are rotated, have it all"),
    ] = False
    capacity: Annotated[CapacityOptions, Group("capacity", _CAPACITY)] = CapacityOptions()
    detach: Annotated[bool, Option("start in the background and return once it answers", exclusive="mode")] = False
    stop: Annotated[bool, Option("stop the server of --run-dir and wait until it is gone", exclusive="mode")] = False
    ready: Annotated[
        bool,
        Option("exit 0 only if the server of --run-dir has READY workers and answers a made-up film", exclusive="mode"),
    ] = False
    notify_fd: Annotated[int | None, Option(None)] = None  # how --detach hears from its child
