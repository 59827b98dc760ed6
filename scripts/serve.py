"""Serve the archives of a model store with TorchServe: ``python -m scripts.serve``.

Exit codes: 0 done, 1 the server failed or is not ready, 2 it cannot be started as asked.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts import server_control
from scripts.java import NoJava, find_java
from scripts.model_store import MODEL_NAME, Archive, StoreError, check_archive, list_archives
from scripts.readiness import Start
from scripts.run_dir import AlreadyRunning, RunDir, RunDirError, ServerState
from scripts.server_config import (
    REPOSITORY,
    Addresses,
    ConfigError,
    check_caller,
    check_cuda,
    effective_config,
    server_command,
    server_environment,
)
from scripts.server_process import ServerProcess, StopRequest, adopt_orphans, wait_until_asked, wait_until_ready


@dataclass(frozen=True)
class Plan:
    """Everything a server is started from, checked."""

    run_dir: RunDir
    addresses: Addresses
    archives: tuple[Archive, ...]
    java: Path
    device: str
    timeout_s: float


def make_plan(args: argparse.Namespace) -> Plan:
    """Check everything that can be checked before a process is started.

    Raises
    ------
    ConfigError, StoreError, RunDirError, NoJava
        Something is wrong; the message is one line with the remedy.
    """
    check_caller(os.environ)
    archives, ignored = list_archives(args.store.absolute())
    for name in ignored:
        print(f"ignored: {args.store / name} is not named {MODEL_NAME}-<version>.mar", file=sys.stderr)
    for archive in archives:
        check_archive(archive)
    run_dir = RunDir(args.run_dir.absolute())
    run_dir.create()
    if run_dir.is_locked():
        raise AlreadyRunning(
            f"a server already runs from {args.run_dir}: stop it with --stop, or give another --run-dir"
        )
    addresses = Addresses(args.port, args.metrics_port)
    addresses.check_free()
    if args.device == "cuda":
        check_cuda(os.environ)
    return Plan(run_dir, addresses, tuple(archives), find_java(), args.device, args.timeout)


class Teller:
    """Tells how it went: a person at the terminal, or the ``--detach`` that waits at the other end of a pipe."""

    def __init__(self, pipe: int | None) -> None:
        self._pipe = pipe
        self.detached = pipe is not None

    def tell(self, verdict: str, text: str) -> None:
        """Say it once to whoever started us; what comes later goes to the log of a detached server."""
        print(text, file=sys.stdout if verdict == "ready" and not self.detached else sys.stderr, flush=True)
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # the starter has gone: nobody to tell
                os.write(self._pipe, f"{verdict}\n{text}".encode())
            os.close(self._pipe)
            self._pipe = None


def serve(plan: Plan, teller: Teller) -> int:
    """Serve until a signal comes; give the exit code."""
    stop = StopRequest()
    stop.listen()
    adopt_orphans()
    run_dir = plan.run_dir
    with run_dir.locked() as lock:
        run_dir.clean_leftovers()
        temp = run_dir.create_temp()
        try:
            return _serve(plan, temp, lock, stop, teller)
        finally:
            run_dir.clean(temp)


def _serve(plan: Plan, temp: Path, lock: int, stop: StopRequest, teller: Teller) -> int:
    run_dir, url = plan.run_dir, plan.addresses.url
    versions = [archive.version.text for archive in plan.archives]
    state = ServerState(os.getpid(), 0, url, plan.addresses.metrics_url, str(temp), versions)
    run_dir.write_state(state)
    (temp / "no-workflows").mkdir(mode=0o500)
    base = (REPOSITORY / "config.properties").read_text()
    run_dir.config.write_text(effective_config(base, run_dir, temp, plan.addresses, plan.archives, plan.device))
    marks = run_dir.log_marks()
    server = ServerProcess(
        server_command(plan.java, run_dir, temp, plan.archives[0].path.parent),
        server_environment(os.environ, run_dir, temp, plan.device),
        run_dir.path,
        lock,
        sys.stderr,
    )
    try:
        run_dir.write_state(state.with_jvm(server.pid))
        why = wait_until_ready(server, stop, Start(run_dir, url, versions).why_not_ready, plan.timeout_s)
        if why is None and not stop.asked.is_set():
            teller.tell("ready", f"ready: {url}/predictions/{MODEL_NAME} ({', '.join(versions)})")
            if teller.detached:
                server.quiet()
            why = wait_until_asked(server, stop)
    finally:
        server.end(stop.hurry)
    if why is None:
        return 0
    log = run_dir.last_lines(marks) or server.last_output()
    teller.tell("failed", f"{log}scripts.serve: {why}; logs are in {run_dir.logs}")
    return 1


def build_parser() -> argparse.ArgumentParser:
    """Give the parser of this command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.serve",
        description=f"Serve the {MODEL_NAME}-<version>.mar archives of a model store with TorchServe. All versions are "
        "loaded; the newest is the default. Without --detach it runs in the foreground until Ctrl-C or SIGTERM.",
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    args = build_parser().parse_args(argv)
    try:
        if args.stop:
            return server_control.stop(RunDir(args.run_dir.absolute()))
        if args.ready:
            return server_control.ready(RunDir(args.run_dir.absolute()))
        plan = make_plan(args)
        if args.detach:
            return server_control.detach(plan.run_dir, _arguments_of_child(args))
        return serve(plan, Teller(args.notify_fd))
    except (ConfigError, StoreError, RunDirError, NoJava) as error:
        print(f"scripts.serve: {error}", file=sys.stderr)
        return 2


def _arguments_of_child(args: argparse.Namespace) -> list[str]:
    return [
        *("--store", str(args.store.absolute())),
        *("--run-dir", str(args.run_dir.absolute())),
        *("--port", str(args.port), "--metrics-port", str(args.metrics_port)),
        *("--device", args.device, "--timeout", str(args.timeout)),
    ]


if __name__ == "__main__":
    sys.exit(main())
