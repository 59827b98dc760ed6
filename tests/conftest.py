"""How the suite is spread over processes, that no process outlives it, and what fails a run of CI."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest

from cxr.films.sandbox import SANDBOX
from tests.programs import MISSING

# In the environment of every process that a test starts, so that those a killed test left are found.
_MARK: Final = "PNEUMOSCAN_TEST_RUN"
_RUN: Final = pytest.StashKey[str]()
_ENDING_S: Final = 45.0  # a supervisor gives TorchServe 30 s
# How xdist starts its processes, and Python the one that looks after what processes share.
_OURS: Final = ("import sys;exec(eval(sys.stdin.readline()))", "multiprocessing.resource_tracker")
_WORKER_BYTES: Final = 4e9  # of memory for one process of tests with the server it may have started


def pytest_configure(config: pytest.Config) -> None:
    """Mark the processes of this run; a SIGTERM ends it as Ctrl-C does, with everything it started."""
    if _MARK not in os.environ:
        os.environ[_MARK] = config.stash[_RUN] = f"{os.getpid()}.{time.time_ns()}"
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one must not end the tidying up
    raise KeyboardInterrupt


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process for each core, as far as the memory holds them."""
    del config
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), int(memory / _WORKER_BYTES)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with servers first: they take longest, and processes that end together end soonest."""
    weights: dict[Path, int] = {}
    for item in items:
        cost = 100 * (item.get_closest_marker("e2e") is not None) + 10 * (item.get_closest_marker("slow") is not None)
        weights[item.path] = max(weights.get(item.path, 0), cost)
    items.sort(key=lambda item: -weights[item.path])  # stable: files and their tests keep their order


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what tests left behind, and in CI fail where a test was skipped for a missing program."""
    run = session.config.stash.get(_RUN, None)
    if run is None:  # a process of xdist: the one that started it looks
        return
    SANDBOX.close()  # the helper of this process, which ends with it
    terminal: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    for command in _end_all(run):
        terminal.write_line(f"left behind by a test and ended now: {command}")
    complaints: list[str] = []
    if os.environ.get("CI"):
        skipped = [report.longrepr for report in terminal.stats.get("skipped", [])]
        reasons = {reason for *_, reason in skipped if MISSING in reason}
        complaints = [f"skipped in CI: {reason.removeprefix('Skipped: ')}" for reason in sorted(reasons)]
    for complaint in complaints:
        terminal.write_line(complaint, red=True)
    if complaints and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _end_all(run: str) -> list[str]:
    """End every process that carries the mark of a run but this one; their command lines."""
    found = {pid: command for pid, command in _marked(run).items() if pid != os.getpid()}
    for number, patience_s in ((signal.SIGTERM, _ENDING_S), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + patience_s
        left = _marked(run).keys() & found.keys()
        for pid in left:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        while (left := _marked(run).keys() & found.keys()) and time.monotonic() < deadline:
            time.sleep(0.1)
        if not left:
            break
    return sorted(found.values())


def _marked(run: str) -> dict[int, str]:
    """The command lines of the processes that carry the mark of a run, by process id."""
    mark, found = f"{_MARK}={run}".encode(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if command and not any(word in command for word in _OURS):
                    found[int(folder.name)] = command[:200]
        except OSError:  # it ended while we looked, or is another user's
            continue
    return found
