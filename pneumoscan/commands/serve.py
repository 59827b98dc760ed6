"""``pneumoscan serve``: serve the archives of a model store with TorchServe."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from pneumoscan.daemon import Notifier
from pneumoscan.options import as_argv
from pneumoscan.server.capacity import machine, plan, workers_in_memory
from pneumoscan.server.options import FORMATS_VARIABLE, ServeOptions
from pneumoscan.server.run_folder import RunDir, daemon, make_record_folder
from pneumoscan.server.torchserve import Addresses, check_caller, choose_device, find_java
from pneumoscan.signatures import Trust, trust_of
from pneumoscan.versions.declared import serving_set

if TYPE_CHECKING:
    from pneumoscan.server.supervisor import Plan

OPTIONS = ServeOptions


def run(options: ServeOptions) -> int:
    """Serve, or do to a running server what is asked."""
    from pneumoscan.server.readiness import why_not_ready
    from pneumoscan.server.supervisor import serve
    from pneumoscan.versions.servers import announce, follower

    run_dir = RunDir(options.run_dir.absolute())
    if options.stop:
        return daemon(run_dir).stop()
    if options.ready:
        return daemon(run_dir).ready(lambda server: why_not_ready(run_dir, server.url))
    check_caller(os.environ)
    if options.formats:
        os.environ[FORMATS_VARIABLE] = ",".join(options.formats)
    run_dir.create()
    # Before anything that takes its time: from here on a stop finds this process.
    with run_dir.locked(options.lock_fd) as lock:
        announce(
            options.store.absolute(), run_dir.path
        )  # before its versions are read: a change finds one or the other
        checked = make_plan(options, run_dir)
        if options.notify_fd is None:
            print(f"{checked.device}: {checked.capacity.summary}", file=sys.stderr)
        if options.detach:
            command = [sys.executable, "-m", "pneumoscan", "serve", *as_argv(replace(options, detach=False))]
            stop_it = f"pneumoscan serve --run-dir {shlex.quote(str(run_dir.path))} --stop"
            return daemon(run_dir).detach(command, lock, f"logs: {run_dir.logs}; stop: {stop_it}")
        with follower(options.store.absolute(), run_dir):
            return serve(checked, Notifier(options.notify_fd), lock)


def make_plan(options: ServeOptions, run_dir: RunDir) -> Plan:
    """Check everything that can be checked before a process is started.

    Raises
    ------
    ConfigError, StoreError, NoJavaError
        Something is wrong; the message is one line with the remedy.
    """
    from pneumoscan.server.supervisor import Plan

    store = options.store.absolute()
    trust = trust_of(store, options.trust)
    serving = serving_set(store, trust)
    for remark in serving.remarks:
        print(f"ignored: {remark}", file=sys.stderr)
    addresses = Addresses(options.port, options.metrics_port, options.management_port)
    addresses.check_free()
    device, gpus = choose_device(options.device, os.environ)
    here = machine(gpus)
    capacity = plan(here, options.capacity, len(serving.archives))
    fitting = workers_in_memory(here.memory_bytes, len(serving.archives))
    if capacity.workers > fitting:
        print(f"note: by estimate the free memory holds {fitting} workers of each version", file=sys.stderr)
    checked = Plan(
        run_dir,
        addresses,
        serving.archives,
        serving.digests,
        find_java(),
        device,
        capacity,
        capacity.heap_bytes(here.memory_bytes),
        options.timeout,
        options.quiet,
        None if options.record is None else make_record_folder(options.record),
        None if trust is None else trust.path,
    )
    print(f"archives: {_vouched(serving.signers, trust)}", file=sys.stderr)
    return checked


def _vouched(signers: dict[str, str], trust: Trust | None) -> str:
    if trust is None:
        return "nobody vouches for them, their signatures were not looked at (give --trust FILE)"
    return ", ".join(f"{version} signed by {name}" for version, name in signers.items()) + f" ({trust.path})"
