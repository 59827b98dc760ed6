"""Serve the archives of a model store with TorchServe: ``python -m scripts.serve``.

Exit codes: 0 done, 1 the server failed or is not ready, 2 it cannot be started as asked.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pneumoscan.daemon import Notifier
from pneumoscan.errors import AlreadyRunning, ConfigError, NoJavaError, RunFolderError, StoreError
from pneumoscan.model_store import MODEL_NAME
from pneumoscan.processes import Child, StopRequest, adopt_orphans
from pneumoscan.resources import resource
from pneumoscan.server.capacity import Capacity, CapacityOptions, machine, plan, workers_in_memory
from pneumoscan.server.management_port import management_port
from pneumoscan.server.options import arguments_of_child, build_parser
from pneumoscan.server.readiness import StartCheck, wait_until_ready, wait_until_stopped, why_not_ready
from pneumoscan.server.run_folder import GRACE_S, RunDir, ServerState, daemon
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
    asked = CapacityOptions(args.workers, args.threads, args.batch_size, args.batch_delay, args.queue)
    capacity = plan(here, asked, len(serving.archives))
    fitting = workers_in_memory(here.memory_bytes, len(serving.archives))
    if capacity.workers > fitting:
        print(f"note: by estimate the free memory holds {fitting} workers of each version", file=sys.stderr)
    return Plan(run_dir, addresses, serving, find_java(), device, capacity, args.timeout, args.quiet)


def serve(plan: Plan, notifier: Notifier) -> int:
    """Serve until a signal comes; give the exit code."""
    stop = StopRequest()
    stop.listen()
    adopt_orphans()
    run_dir = plan.run_dir
    with run_dir.locked() as lock:
        run_dir.clean_leftovers()
        temp = run_dir.create_temp()
        try:
            return _serve(plan, temp, lock, stop, notifier)
        finally:
            run_dir.clean(temp)


def _show(line: str) -> None:
    sys.stderr.write(line)
    sys.stderr.flush()


def _serve(plan: Plan, temp: Path, lock: int, stop: StopRequest, notifier: Notifier) -> int:
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
    server = Child(
        server_command(plan.java, run_dir, temp, store),
        environment=server_environment(os.environ, run_dir, temp, plan.device, plan.capacity),
        folder=run_dir.path,
        show=_show,
        keep_open=(lock,),  # shows a JVM whose supervisor was killed
    )
    ports = contextlib.ExitStack()
    try:
        if plan.addresses.management_port is not None:
            ports.enter_context(management_port(plan.addresses.management_port, run_dir.socket, run_dir.token))
        run_dir.write_state(state.with_jvm(server.pid))
        why = wait_until_ready(server, stop, StartCheck(run_dir, url, versions).why_not_ready, plan.timeout_s)
        if why is None and not stop.requested.is_set():
            run_dir.socket.chmod(0o600)  # until then its folder alone keeps others out
            notifier.ready(f"ready: {url}/predictions/{MODEL_NAME} ({', '.join(versions)})")
            if notifier.is_detached or plan.quiet:
                server.quiet()
            why = wait_until_stopped(server, stop)
    finally:
        ports.close()
        server.end(GRACE_S, stop.hurry.is_set)
    if why is None:
        return 0
    log = run_dir.last_lines(marks) or server.last_output()
    notifier.failed(f"{log}scripts.serve: {why}; logs are in {run_dir.logs}")
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    args = build_parser().parse_args(argv)
    run_dir = RunDir(args.run_dir.absolute())
    try:
        if args.stop:
            return daemon(run_dir).stop()
        if args.ready:
            return daemon(run_dir).ready(lambda server: why_not_ready(run_dir, server.url))
        plan = make_plan(args)
        if args.notify_fd is None:
            print(f"{plan.device}: {plan.capacity.summary}", file=sys.stderr)
        if args.detach:
            command = [sys.executable, "-m", "pneumoscan.commands.serve", *arguments_of_child(args)]
            stop_it = f"python -m scripts.serve --run-dir {shlex.quote(str(run_dir.path))} --stop"
            return daemon(run_dir).detach(command, f"logs: {run_dir.logs}; stop: {stop_it}")
        return serve(plan, Notifier(args.notify_fd))
    except (ConfigError, StoreError, RunFolderError, NoJavaError) as error:
        print(f"scripts.serve: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
