"""The options of a server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

from pneumoscan.options import Group, Option, Port
from pneumoscan.server.capacity import (
    GPU_BATCH_SIZE,
    WORKER_BYTES,
    WORKERS_PER_GPU,
    CapacityOptions,
)

Format = Literal["tiff", "jpeg2000"]  # cxr.films.scans.FORMATS
FORMATS_VARIABLE = "PNEUMOSCAN_FORMATS"  # cxr.films.scans, which no command imports for its help
RUN_DIR: Final = Path("run")
_CAPACITY = (
    "Worked out from the machine. On a CPU a worker for each core, as far as the memory holds them by an estimate "
    f"of {WORKER_BYTES / 1e9:g} GB a worker, each with one thread and one film at a time; with a GPU "
    f"{WORKERS_PER_GPU} workers for each and batches of {GPU_BATCH_SIZE}."
)


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Serve the pneumonia-<version>.mar archives of a model store with TorchServe.

    All versions are loaded and the newest is the default, unless `pneumoscan models` has declared others in the
    store's versions.json. Without --detach it runs in the foreground until Ctrl-C or SIGTERM. PYTHONPATH must not be
    set: TorchServe would import from there before the archive.
    """

    store: Annotated[Path, Option("folder of archives", "DIR")] = Path("model_store")
    trust: Annotated[
        Path | None,
        Option(
            "serve only archives signed with a key of this file, see pneumoscan keys (default: STORE/signers where it "
            "exists, else any archive)",
            "FILE",
        ),
    ] = None
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
    ] = RUN_DIR
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        Option("auto: a GPU if there is one; cpu: hide any GPU; cuda: refuse to start without one"),
    ] = "auto"
    formats: Annotated[
        tuple[Format, ...],
        Option(
            "read these files of film digitisers too, beside JPEG, PNG and DICOM; off because each is one more parser "
            "that what strangers send reaches. In the server's environment they are PNEUMOSCAN_FORMATS"
        ),
    ] = ()
    timeout: Annotated[
        float | None,
        Option(
            "how long the server may take until it answers a film; then it is stopped, exit 1 (default: 180, and as "
            "long after that as it computes, up to 900)",
            "SECONDS",
        ),
    ] = None
    record: Annotated[
        Path | None,
        Option(
            "write each prediction down there as a JSON line: ids, the film's SHA-256, score, label, flags, version, "
            "engine, seconds, and nothing of a patient; at most 500 MB (default: nothing is written down)",
            "DIR",
        ),
    ] = None
    quiet: Annotated[
        bool,
        Option("show nothing more of TorchServe once it answers; its log files, which are rotated, have it all"),
    ] = False
    capacity: Annotated[CapacityOptions, Group("capacity", _CAPACITY)] = field(default_factory=CapacityOptions)
    detach: Annotated[bool, Option("start in the background and return once it answers", exclusive="mode")] = False
    stop: Annotated[bool, Option("stop the server of --run-dir and wait until it is gone", exclusive="mode")] = False
    ready: Annotated[
        bool,
        Option("exit 0 only if the server of --run-dir has READY workers and answers a made-up film", exclusive="mode"),
    ] = False
    notify_fd: Annotated[int | None, Option(None)] = None  # how --detach hears from its child
    lock_fd: Annotated[int | None, Option(None)] = None  # the run folder's lock, which --detach hands down
