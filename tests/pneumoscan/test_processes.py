from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pneumoscan.errors import NeverReady
from pneumoscan.processes import Child, Console, StopRequest, adopt_orphans, write_out
from pneumoscan.server import readiness
from pneumoscan.server.pulse import ENDED, wait_until_stopped
from pneumoscan.server.readiness import wait_until_ready
from tests.places import REPOSITORY

# Stands in for the JVM: starts a worker in its process group, says so, and ends on SIGTERM as the JVM does, or not.
JVM = """
import signal, subprocess, sys
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print("worker", worker.pid, flush=True)
if "crash" in sys.argv:
    sys.exit(3)
signal.pause()
"""

Start = Callable[..., Child]


class Lines(io.StringIO):
    """A text stream on whose lines one can wait."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def write(self, text: str) -> int:
        count = super().write(text)
        self.written.set()
        return count


@pytest.fixture
def output() -> Lines:
    return Lines()


@pytest.fixture
def start(tmp_path: Path, output: Lines) -> Iterator[Start]:
    adopt_orphans()  # as the supervisor does; otherwise each test waits for process 1 to look after the worker
    started: list[Child] = []

    def start_one(*how: str) -> Child:
        with (tmp_path / "lock").open("w") as lock:
            command = [sys.executable, "-c", JVM, *how]
            server = Child(command, folder=tmp_path, show=output.write, keep_open=[lock.fileno()])
        started.append(server)
        assert output.written.wait(10)
        return server

    yield start_one
    for server in started:
        server.end(0.0)


def worker_of(output: Lines) -> int:
    return int(output.getvalue().split()[1])


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie, whose parent has not looked yet, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while is_alive(pid):
        assert time.monotonic() < deadline
        os.sched_yield()


def test_ending_the_server_ends_its_workers(start: Start, output: Lines) -> None:
    server = start()
    server.end(30.0)
    assert server.exit_status == -signal.SIGTERM
    wait_until_gone(worker_of(output))


def test_a_server_that_does_not_listen_is_killed_after_its_grace(start: Start, output: Lines) -> None:
    server = start("stubborn")
    server.end(0.1)
    assert server.exit_status == -signal.SIGKILL
    wait_until_gone(worker_of(output))


def test_a_second_signal_does_not_wait_for_the_grace(start: Start) -> None:
    server = start("stubborn")
    before = time.monotonic()
    server.end(30.0, hurry=lambda: True)
    assert time.monotonic() - before < 15.0


def test_a_server_that_crashed_leaves_no_worker_and_its_last_words(start: Start, output: Lines) -> None:
    server = start("crash")
    why = wait_until_stopped(server, StopRequest())
    assert why == (ENDED, "TorchServe ended by itself (exit status 3)")
    server.end(30.0)
    wait_until_gone(worker_of(output))
    assert server.last_output() == output.getvalue() != ""


def test_a_server_that_crashes_while_it_starts_is_not_waited_for(start: Start) -> None:
    server = start("crash")
    why = wait_until_ready(server, StopRequest(), lambda: "no worker yet", timeout_s=60)
    assert why == "TorchServe ended while starting (exit status 3)"


def test_a_server_is_asked_until_it_is_ready(start: Start) -> None:
    answers = iter(["no socket", "0/1 READY", None])
    assert wait_until_ready(start(), StopRequest(), lambda: next(answers), timeout_s=60) is None
    assert next(answers, "asked no more") == "asked no more"


def test_after_the_time_limit_the_last_reason_is_given(start: Start) -> None:
    why = wait_until_ready(start(), StopRequest(), lambda: "0/1 READY", timeout_s=0.1)
    assert why == "not ready within 0.1 s: 0/1 READY"


def test_without_a_limit_a_start_may_take_as_long_as_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"START_S": 0.2, "LONGEST_START_S": 60.0, "_WINDOW_S": 1.0}.items():
        monkeypatch.setattr(readiness, name, seconds)
    began = time.monotonic()
    busy = Child([sys.executable, "-c", "import time\nwhile time.process_time() < 3: pass\ntime.sleep(600)"])
    why = wait_until_ready(busy, StopRequest(), lambda: "0/1 READY", timeout_s=None)
    busy.end(0.0)
    assert why is not None
    assert why.startswith("not ready within ")
    assert 3 < time.monotonic() - began < 60  # it computed for three seconds, and was given up when it slept


def test_how_a_start_comes_along_is_reported_now_and_then(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_REPORT_EVERY_S", 0.0)
    answers, said = iter(["no socket", "0/1 READY", None]), list[str]()
    assert wait_until_ready(start(), StopRequest(), lambda: next(answers), 60, said.append) is None
    assert [text.partition(": ")[2] for text in said] == ["no socket", "0/1 READY"]


def test_a_server_that_will_never_be_ready_is_not_waited_for(start: Start) -> None:
    def refuse() -> str | None:
        raise NeverReady("the canary film is refused")

    assert wait_until_ready(start(), StopRequest(), refuse, timeout_s=60) == "the canary film is refused"


def test_a_child_that_is_not_read_writes_where_its_parent_does_and_ends_in_time(
    capfd: pytest.CaptureFixture[str],
) -> None:
    child = Child([sys.executable, "-c", "print('to the terminal')"])
    assert child.ends_within(10)
    child.end(0.0)
    assert (child.exit_status, child.last_output(), capfd.readouterr().out) == (0, "", "to the terminal\n")


def test_what_a_child_shows_can_be_its_answers_alone(capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    code = "import sys; print('answer'); print('error', file=sys.stderr)"
    child = Child([sys.executable, "-c", code], show=lines.append, errors_too=False)
    assert child.wait() == 0
    child.end(0.0)
    assert lines == ["answer\n"]
    assert capfd.readouterr().err == "error\n"


CHATTER = """
import sys
for number in range(20_000):
    print("line", number, "x" * 80)
print("last", flush=True)
"""


def test_a_child_is_read_to_its_end_while_nobody_reads_what_is_shown() -> None:
    """A terminal that Ctrl-S halted, or a pager: its pipe is full after 64 KiB."""
    reading, writing = os.pipe()
    child = Child([sys.executable, "-c", CHATTER], show=partial(write_out, writing))
    try:
        assert child.ends_within(20)
        assert child.last_output().endswith("last\n")
        before = time.monotonic()
        child.end(0.0)
        assert time.monotonic() - before < 10
    finally:
        os.close(reading)
        os.close(writing)


def test_a_child_is_read_to_its_end_after_its_reader_has_gone() -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as "2>&1 | head -3" does
    child = Child([sys.executable, "-c", CHATTER], show=partial(write_out, writing))
    assert child.ends_within(20)
    assert child.last_output().endswith("last\n")
    child.end(0.0)
    os.close(writing)


def test_a_full_disk_costs_lines_which_are_counted_and_room_on_it_helps() -> None:
    shown: list[str] = []
    disk = {"is_full": True}

    def show(text: str) -> None:
        if disk["is_full"]:
            raise OSError(errno.ENOSPC, "No space left on device")
        shown.append(text)

    console = Console(show)
    for number in range(3):
        console.write(f"line {number}\n")
    assert console.finish(10)
    disk["is_full"] = False
    console.write("room again\n")
    assert console.finish(10)
    assert shown == ["(3 lines were not shown)\n", "room again\n"]


def test_what_waits_to_be_shown_is_bounded() -> None:
    go_on, shown = threading.Event(), Lines()

    def show(text: str) -> None:
        shown.write(text)
        go_on.wait(20)

    console = Console(show)
    console.write("first\n")
    assert shown.written.wait(10)
    for number in range(5000):
        console.write(f"{number}\n")
    go_on.set()
    assert console.finish(10)
    lines = shown.getvalue().splitlines()
    assert lines[:3] == ["first", "(4000 lines were not shown)", "0"]
    assert len(lines) == 1002


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_asks_to_stop_and_a_second_one_to_hurry(start: Start, number: signal.Signals) -> None:
    old = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    stop = StopRequest()
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        stop.listen()
        os.kill(os.getpid(), number)
        assert wait_until_stopped(start(), stop) is None
        assert not stop.hurry.is_set()
        os.kill(os.getpid(), number)
        assert stop.hurry.wait(5)
    finally:
        for each, handler in old.items():
            signal.signal(each, handler)


def test_a_server_started_with_nohup_outlives_its_terminal() -> None:
    code = (
        "import os, signal; from pneumoscan.processes import StopRequest\n"
        "stop = StopRequest(); stop.listen(); os.kill(os.getpid(), signal.SIGHUP); print(stop.requested.is_set())"
    )
    said = subprocess.run(
        ["nohup", sys.executable, "-c", code], cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert (said.returncode, said.stdout) == (0, "False\n")


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_killed_supervisor_takes_its_server_along(tmp_path: Path) -> None:
    code = (
        "import pathlib, signal, sys\n"
        "from pneumoscan.processes import Child\n"
        "command = [sys.executable, '-c', 'import signal; signal.pause()']\n"
        "server = Child(command, folder=pathlib.Path(sys.argv[1]))\n"
        "print(server.pid, flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as supervisor:
        assert supervisor.stdout is not None
        server = int(supervisor.stdout.readline())
        assert is_alive(server)
        supervisor.kill()
        supervisor.wait()
    wait_until_gone(server)
