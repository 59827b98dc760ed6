"""Wait until a version has answered everything that was sent to it, so that taking it away loses nothing.

TorchServe 0.12.0 kills the workers of a version that is unregistered: the request each of them is answering gets 500,
and those that wait in its queue are never answered at all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cxr_client import ManagementClient
from scripts.model_store import MODEL_NAME

# TorchServe tells how many requests wait, but not which worker is busy. One that computes uses its processor, one that
# waits for work uses none at all.
QUIET_S: Final = 1.5
_POLL_S: Final = 0.25
_PROC: Final = Path("/proc")


class StillBusy(Exception):
    """A version was asked again and again until the time was over."""


def wait_until_idle(management: ManagementClient, version: str, timeout_s: float) -> None:
    """Wait until no request waits for a version and none of its workers has done anything for a while.

    Raises
    ------
    StillBusy
        It was never idle within the time limit: clients ask for this version by name.
    ClientError
        The server does not say.
    """
    deadline = time.monotonic() + timeout_s
    last: object = None
    quiet_since = time.monotonic()
    while True:
        state = next((each for each in management.ready(MODEL_NAME).versions if each.version == version), None)
        if state is None:
            return
        used = processor_ticks([worker.pid for worker in state.workers if worker.pid > 0])
        if state.waiting or used != last:
            last, quiet_since = used, time.monotonic()
        elif time.monotonic() - quiet_since >= QUIET_S:
            return
        if time.monotonic() > deadline:
            raise StillBusy(
                f"{MODEL_NAME} {version} was not idle for {QUIET_S:g} s within {timeout_s:g} s: clients still "
                f"ask for /predictions/{MODEL_NAME}/{version} by name; have them ask without a version, or give a "
                "longer --timeout"
            )
        time.sleep(_POLL_S)


def processor_ticks(pids: Sequence[int], proc: Path = _PROC) -> dict[int, int]:
    """Give the processor time that processes and their descendants have used, in the kernel's ticks.

    References
    ----------
    proc(5), ``/proc/pid/stat``: fields 4 (ppid), 14 (utime) and 15 (stime).
    """
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for path in proc.glob("[0-9]*/stat"):
        try:
            # The second field is the command in parentheses, and may hold spaces and parentheses itself.
            fields = path.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:  # it ended while we looked
            continue
        pid = int(path.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    wanted = set(pids)
    while grown := {pid for pid, parent in parents.items() if parent in wanted} - wanted:
        wanted |= grown
    return {pid: ticks[pid] for pid in wanted if pid in ticks}
