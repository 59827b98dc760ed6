"""A running server watched: whether it hangs, has lost what it cannot do without, and which of its workers hang."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cxr_client import ClientError, ManagementClient
from cxr_client.errors import AnswerLost
from cxr_client.management import Readiness
from pneumoscan.files import write_text
from pneumoscan.model_store import MODEL_NAME
from pneumoscan.processes import Child, StopRequest
from pneumoscan.server.readiness import processor_ticks
from pneumoscan.server.run_folder import RunDir, ServerState

_POLL_S: Final = 0.2
# A JVM that hangs is noticed within 3 + 6 + 6 seconds, so that the next scrape has it within half a minute.
_EVERY_S: Final = 3.0
_TIMEOUT_S: Final = 6.0
_MISSED: Final = 2
# A worker that does nothing although requests wait, or that was halted; TorchServe itself waits 120 s for its answer.
_WORKER_HANGS_S: Final = 15.0
HUNG, LOST, ENDED, WORKER_HUNG = "hung", "lost", "ended", "worker_hung"
WHYS: Final = (HUNG, LOST, ENDED, WORKER_HUNG)


class Pulse:
    """Looks at a server again and again, in a thread, since one that hangs makes who asks wait.

    Parameters
    ----------
    state
        What its pid file says; written again where somebody took it away or spoilt it.
    """

    def __init__(
        self, run_dir: RunDir, state: ServerState, every_s: float = _EVERY_S, timeout_s: float = _TIMEOUT_S
    ) -> None:
        self._run_dir, self._state, self._every_s, self._timeout_s = run_dir, state, every_s, timeout_s
        self._still = StillWorkers()
        self._stop = threading.Event()
        self.lost: tuple[str, str] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join(1.0)  # it writes no state of a server that has ended

    def _run(self) -> None:
        missed = 0
        while self.lost is None and not self._stop.wait(0.0 if missed else self._every_s):
            try:
                with ManagementClient(self._run_dir.socket, timeout_s=self._timeout_s) as management:
                    self._end_hung_workers(management.ready(MODEL_NAME))
                missed = 0
            except AnswerLost:
                missed += 1
            except ClientError:  # one that refuses does not hang; other checks are for that
                missed = 0
            if missed == _MISSED:
                self.lost = HUNG, "TorchServe hangs: it does not answer on its management socket"
            elif (gone := self._gone()) is not None:
                self.lost = LOST, f"{gone} was removed under the running server, which cannot go on without"

    def _gone(self) -> str | None:
        """What was taken away of the run folder that cannot be put back; what can is."""
        if not self._stop.is_set() and self._run_dir.read_state() != self._state:
            with contextlib.suppress(OSError):
                self._run_dir.write_state(self._state)
        # In the temporary folder are the unpacked archives, which the next worker starts from, and its sockets.
        temp = Path(self._state.temp)
        needed = (self._run_dir.socket, temp, temp / "models")
        return next((str(path) for path in needed if not path.exists()), None)

    def _end_hung_workers(self, state: Readiness) -> None:
        for version in state.versions:
            for pid in self._still.hung(
                [worker.pid for worker in version.workers if worker.is_ready and worker.pid > 0], version.waiting > 0
            ):
                # TorchServe misses it and starts another; the request in it gets an error that can be sent again.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
                count_end(self._run_dir, WORKER_HUNG)


class StillWorkers:
    """Finds workers that have done nothing for a while although there is something to do, or that were halted."""

    def __init__(self, patience_s: float = _WORKER_HANGS_S) -> None:
        self._patience_s = patience_s
        self._last: dict[int, tuple[object, float]] = {}

    def hung(self, pids: list[int], is_work_waiting: bool) -> list[int]:
        """Look once more; those that hang."""
        now, found = time.monotonic(), list[int]()
        for pid in pids:
            if not (is_work_waiting or _is_halted(pid)):
                self._last.pop(pid, None)
                continue
            used = processor_ticks([pid])
            before, since = self._last.get(pid, (None, now))
            if before != used:
                self._last[pid] = used, now
            elif now - since >= self._patience_s:
                found.append(pid)
                del self._last[pid]
        return found


def _is_halted(pid: int) -> bool:
    """Whether a process was stopped (proc(5), ``/proc/pid/stat``, field 3)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] in "Tt"


def wait_until_stopped(
    server: Child, stop: StopRequest, pulse: Pulse | None = None, beat: Callable[[], object] = lambda: None
) -> tuple[str, str] | None:
    """Wait for a signal; give None after one, or what happened without: one of `WHYS`, and in words.

    Parameters
    ----------
    beat
        Called again and again: it shows that this process does not hang.
    """
    try:
        while not stop.requested.wait(_POLL_S):
            if server.exit_status is not None:
                return ENDED, f"TorchServe ended by itself (exit status {server.exit_status})"
            if pulse is not None and pulse.lost is not None:
                return pulse.lost
            beat()
        return None
    finally:
        if pulse is not None:
            pulse.stop()


def count_end(run_dir: RunDir, why: str) -> None:
    """Count something that ended without being asked to, for `pneumoscan watch --export`; a full disk loses it."""
    counts = read_ends(run_dir)
    counts[why] += 1
    with contextlib.suppress(OSError):
        write_text(run_dir.ends, json.dumps(counts) + "\n")


def read_ends(run_dir: RunDir) -> Counter[str]:
    """How often something ended of a run folder, by `WHYS`, over all servers that ran from it."""
    try:
        read = json.loads(run_dir.ends.read_text(encoding="utf-8"))
        return Counter({why: int(read[why]) for why in WHYS if why in read})
    except (OSError, ValueError, TypeError):
        return Counter()
