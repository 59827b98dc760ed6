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

from pneumoscan.errors import AlreadyRunning, ConfigError, NoJavaError, RunFolderError, StoreError
from pneumoscan.model_store import MODEL_NAME
from pneumoscan.resources import resource
from pneumoscan.server import control
from pneumoscan.server.capacity import Asked, Capacity, machine, plan, workers_in_memory
from pneumoscan.server.management_port import management_port
from pneumoscan.server.options import arguments_of_child, build_parser
from pneumoscan.server.readiness import Start
from pneumoscan.server.run_folder import RunDir, ServerState
from pneumoscan.server.supervisor import ServerProcess, StopRequest, adopt_orphans, wait_until_asked, wait_until_ready
from pneumoscan.server.torchserve import (
    Addresses,
    check_caller,
    choose_device,
    effective_config,
    find_java,
    server_command,
    server_environment,
)
from pneumoscan.versions.declared import ServingSet, serving_set


@dataclass(frozen=True)
class Plan:
    """Everything a server is started from, checked."""

    run_dir: RunDir
    addresses: Addresses
    serving: ServingSet
    java: Path
    device: str
    capacity: Capacity
    timeout_s: float
    quiet: bool


def make_plan(args: argparse.Namespace) -> Plan:
    """Check everything that can be checked before a process is started.

    Raises
    ------
    ConfigError, StoreError, RunFolderError, NoJavaError
        Something is wrong; the message is one line with the remedy.
    """
    check_caller(os.environ)
    serving = serving_set(args.store.absolute())
    for remark in serving.remarks:
        print(f"ignored: {remark}", file=sys.stderr)
    run_dir = RunDir(args.run_dir.absolute())
    run_dir.create()
    if run_dir.is_locked():
        raise AlreadyRunning(
            f"a server already runs from {args.run_dir}: stop it with --stop, or give another --run-dir"
        )
    addresses = Addresses(args.port, args.metrics_port, args.management_port)
    addresses.check_free()
    device, gpus = choose_device(args.device, os.environ)
    here = machine(gpus)
    asked = Asked(args.workers, args.threads, args.batch_size, args.batch_delay, args.queue)
    capacity = plan(here, asked, len(serving.archives))
    fitting = workers_in_memory(here.memory_bytes, len(serving.archives))
    if capacity.workers > fitting:
        print(f"note: by estimate the free memory holds {fitting} workers of each version", file=sys.stderr)
    return Plan(run_dir, addresses, serving, find_java(), device, capacity, args.timeout, args.quiet)


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
    archives = plan.serving.archives
    versions, store = [archive.version.text for archive in archives], archives[0].path.parent
    state = ServerState(
        os.getpid(),
        0,
        url,
        plan.addresses.metrics_url,
        str(temp),
        versions,
        plan.serving.digests,
        str(store),
        plan.capacity,
    )
    run_dir.write_state(state)
    (temp / "no-workflows").mkdir(mode=0o500)
    base = resource("config.properties").read_text()
    config = effective_config(base, run_dir, temp, plan.addresses, archives, plan.device, plan.capacity)
    run_dir.config.write_text(config)
    marks = run_dir.log_marks()
    server = ServerProcess(
        server_command(plan.java, run_dir, temp, store),
        server_environment(os.environ, run_dir, temp, plan.device, plan.capacity),
        run_dir.path,
        lock,
        sys.stderr,
    )
    ports = contextlib.ExitStack()
    try:
        if plan.addresses.management_port is not None:
            ports.enter_context(management_port(plan.addresses.management_port, run_dir.socket, run_dir.token))
        run_dir.write_state(state.with_jvm(server.pid))
        why = wait_until_ready(server, stop, Start(run_dir, url, versions).why_not_ready, plan.timeout_s)
        if why is None and not stop.asked.is_set():
            run_dir.socket.chmod(0o600)  # until then its folder alone keeps others out
            teller.tell("ready", f"ready: {url}/predictions/{MODEL_NAME} ({', '.join(versions)})")
            if teller.detached or plan.quiet:
                server.quiet()
            why = wait_until_asked(server, stop)
    finally:
        ports.close()
        server.end(stop.hurry)
    if why is None:
        return 0
    log = run_dir.last_lines(marks) or server.last_output()
    teller.tell("failed", f"{log}scripts.serve: {why}; logs are in {run_dir.logs}")
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    args = build_parser().parse_args(argv)
    try:
        if args.stop:
            return control.stop(RunDir(args.run_dir.absolute()))
        if args.ready:
            return control.ready(RunDir(args.run_dir.absolute()))
        plan = make_plan(args)
        if args.notify_fd is None:
            print(f"{plan.device}: {plan.capacity.summary}", file=sys.stderr)
        if args.detach:
            return control.detach(plan.run_dir, arguments_of_child(args))
        return serve(plan, Teller(args.notify_fd))
    except (ConfigError, StoreError, RunFolderError, NoJavaError) as error:
        print(f"scripts.serve: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
