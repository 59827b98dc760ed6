"""The command line of `scripts.serve`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pneumoscan.model_store import MODEL_NAME
from pneumoscan.options import positive
from pneumoscan.server.capacity import (
    BATCH_DELAY_MS,
    CPU_QUEUE_PER_WORKER,
    GPU_BATCH_SIZE,
    GPU_QUEUE,
    WORKER_BYTES,
    WORKERS_PER_GPU,
)


def build_parser() -> argparse.ArgumentParser:
    """Give the parser of this command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.serve",
        description=f"Serve the {MODEL_NAME}-<version>.mar archives of a model store with TorchServe. All versions are "
        "loaded and the newest is the default, unless scripts.models has declared others in the store's versions.json. "
        "Without --detach it runs in the foreground until Ctrl-C or SIGTERM.",
        epilog="Exit codes: 0 done, 1 the server failed or is not ready, 2 it cannot be started as asked. "
        "PYTHONPATH must not be set: TorchServe would import from there before the archive.",
    )
    parser.add_argument(
        "--store",
        type=Path,
        default=Path("model_store"),
        metavar="DIR",
        help="folder of archives (default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=_port, default=8080, help="inference port on the loopback interface (default: %(default)s)"
    )
    parser.add_argument(
        "--metrics-port", type=_port, default=8082, metavar="PORT", help="metrics port, likewise (default: %(default)s)"
    )
    parser.add_argument(
        "--management-port",
        type=_port,
        metavar="PORT",
        help="management on a loopback port too, for tools that need one: /models only, with the token of "
        "RUN_DIR/management.token (default: the unix socket alone)",
    )
    parser.add_argument(
        "--run-dir",
        type=Path,
        default=Path("run"),
        metavar="DIR",
        help="folder of this server: management.sock, logs, pid file (default: %(default)s); for a second server on "
        "the same machine give another one, and other ports",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto: a GPU if there is one; cpu: hide any GPU; cuda: refuse to start without one (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=180.0,
        metavar="SECONDS",
        help="how long the server may take until it answers a film; then it is stopped, exit 1 (default: %(default)g)",
    )
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="show nothing more of TorchServe once it answers; its log files, which are rotated, have it all",
    )
    size = parser.add_argument_group(
        "capacity",
        "Worked out from the machine. On a CPU a worker for each core, as far as the memory holds them by an estimate "
        f"of {WORKER_BYTES / 1e9:g} GB a worker, each with one thread and one film at a time; with a GPU "
        f"{WORKERS_PER_GPU} workers for each and batches of {GPU_BATCH_SIZE}.",
    )
    size.add_argument("--workers", type=positive, metavar="N", help="worker processes of each version")
    size.add_argument(
        "--threads", type=positive, metavar="N", help="threads each worker computes with (default: cores / workers)"
    )
    size.add_argument(
        "--batch-size", type=positive, metavar="N", help="films a worker takes at once (default: 1, GPU: 64)"
    )
    size.add_argument(
        "--batch-delay",
        type=positive,
        metavar="MS",
        help=f"milliseconds a worker waits for a batch to fill; a lone client pays them (default: {BATCH_DELAY_MS})",
    )
    size.add_argument(
        "--queue",
        type=positive,
        metavar="N",
        help="requests that may wait, more are refused with 503 "
        f"(default: {CPU_QUEUE_PER_WORKER} for each worker, GPU: {GPU_QUEUE})",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--detach", action="store_true", help="start in the background and return once it answers")
    mode.add_argument("--stop", action="store_true", help="stop the server of --run-dir and wait until it is gone")
    mode.add_argument(
        "--ready",
        action="store_true",
        help="exit 0 only if the server of --run-dir has READY workers and answers a made-up film",
    )
    parser.add_argument("--notify-fd", type=int, help=argparse.SUPPRESS)  # how --detach hears from its child
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 65535")
    return port


def arguments_of_child(args: argparse.Namespace) -> list[str]:
    """Give the command line of the server that ``--detach`` starts, all paths absolute."""
    more = {
        "--management-port": args.management_port,
        "--workers": args.workers,
        "--threads": args.threads,
        "--batch-size": args.batch_size,
        "--batch-delay": args.batch_delay,
        "--queue": args.queue,
    }
    return [
        *("--store", str(args.store.absolute())),
        *("--run-dir", str(args.run_dir.absolute())),
        *("--port", str(args.port), "--metrics-port", str(args.metrics_port)),
        *("--device", args.device, "--timeout", str(args.timeout)),
        *(["--quiet"] if args.quiet else []),
        *(word for option, value in more.items() if value is not None for word in (option, str(value))),
    ]
