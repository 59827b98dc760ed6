"""TorchServe supervised: from a plan in which everything is checked, until a signal comes."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from pneumoscan.daemon import Notifier
from pneumoscan.errors import NeverReady
from pneumoscan.model_store import MODEL_NAME, Archive
from pneumoscan.processes import STDERR, Child, StopRequest, adopt_orphans, write_out
from pneumoscan.resources import resource
from pneumoscan.server.capacity import Capacity
from pneumoscan.server.management_port import management_port
from pneumoscan.server.pulse import HUNG, Pulse, count_end, wait_until_stopped
from pneumoscan.server.readiness import StartCheck, wait_until_ready
from pneumoscan.server.run_folder import GRACE_S, LEFT_FOLDER, RunDir, ServerState
from pneumoscan.server.torchserve import (
    Addresses,
    effective_config,
    server_command,
    server_environment,
)

_UNKNOWN: Final = "the command that started it has ended, so nobody would know of this server"


@dataclass(frozen=True)
class Plan:
    """Everything a server is started from, checked."""

    run_dir: RunDir
    addresses: Addresses
    archives: tuple[Archive, ...]
    digests: dict[str, str]
    java: Path
    device: str
    capacity: Capacity
    heap_bytes: int
    timeout_s: float | None
    quiet: bool
    record: Path | None = None
    trust: Path | None = None


def serve(plan: Plan, notifier: Notifier, lock: int) -> int:
    """Serve until a signal comes; give the exit code.

    Parameters
    ----------
    lock
        That of the run folder, held.
    """
    stop = StopRequest()
    stop.listen()
    adopt_orphans()
    run_dir = plan.run_dir
    run_dir.clean_leftovers()
    temp = run_dir.create_temp()
    try:
        return _serve(plan, temp, lock, stop, notifier)
    finally:
        run_dir.clean(temp)


def _serve(plan: Plan, temp: Path, lock: int, stop: StopRequest, notifier: Notifier) -> int:
    run_dir, url = plan.run_dir, plan.addresses.url
    archives = plan.archives
    versions, store = [archive.version.text for archive in archives], archives[0].path.parent
    state = ServerState(
        os.getpid(),
        0,
        url,
        plan.addresses.metrics_url,
        str(temp),
        versions,
        plan.digests,
        str(store),
        plan.capacity,
        "" if plan.trust is None else str(plan.trust),
    )
    run_dir.write_state(state)
    (temp / "no-workflows").mkdir(mode=0o500)
    (temp / LEFT_FOLDER).mkdir(mode=0o700)
    base = resource("config.properties").read_text()
    config = effective_config(base, run_dir, temp, plan.addresses, archives, plan.device, plan.capacity)
    run_dir.config.write_text(config)
    marks = run_dir.log_marks()
    server = Child(
        server_command(plan.java, run_dir, temp, store, plan.heap_bytes),
        environment=server_environment(os.environ, run_dir, temp, plan.device, plan.capacity, plan.record),
        folder=run_dir.path,
        show=partial(write_out, STDERR),
        keep_open=(lock,),  # shows a JVM whose supervisor was killed
    )
    ports, is_hung = contextlib.ExitStack(), False
    try:
        if plan.addresses.management_port is not None:
            ports.enter_context(management_port(plan.addresses.management_port, run_dir.socket, run_dir.token))
        state = state.with_jvm(server.pid)
        run_dir.write_state(state)
        start = StartCheck(run_dir, url, versions)

        def why_not_ready() -> str | None:
            if notifier.starter_has_gone:
                raise NeverReady(_UNKNOWN)
            return start.why_not_ready()

        why = wait_until_ready(server, stop, why_not_ready, plan.timeout_s, notifier.starting)
        if why is None and not stop.requested.is_set():
            run_dir.socket.chmod(0o600)  # until then its folder alone keeps others out
            if notifier.ready(f"ready: {url}/predictions/{MODEL_NAME} ({', '.join(versions)})"):
                if notifier.is_detached or plan.quiet:
                    server.quiet()
                ended = wait_until_stopped(server, stop, Pulse(run_dir, state), notifier.beat)
                if ended is not None:
                    count_end(run_dir, ended[0])
                    is_hung, why = ended[0] == HUNG, ended[1]
            else:
                why = _UNKNOWN
    finally:
        ports.close()
        server.end(0.0 if is_hung else GRACE_S, stop.hurry.is_set)
    if why is None:
        return 0
    log = run_dir.last_lines(marks) or server.last_output()
    notifier.failed(f"{log}pneumoscan serve: {why}; logs are in {run_dir.logs}")
    return 1
