"""The benchmarks that start servers, on a small network; no figure is judged here."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.peer_servers import MODEL, NO_MODEL, versions_in
from benchmarks.result import read_json, read_result
from pneumoscan.archive import package
from tests.commands import run_command
from tests.cxr.networks import save_model
from tests.e2e.servers import clean_environment, fresh_server
from tests.interrupts import hear_interrupts
from tests.places import REPOSITORY
from tests.programs import NEEDS_JAVA

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.alone, NEEDS_JAVA]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    save_model(run)
    return package(run, "1.0.0", tmp_path_factory.mktemp("store"))


def descendants() -> set[int]:
    # Python keeps one process that looks after what others share, for as long as it runs itself.
    found = psutil.Process().children(recursive=True)
    return {one.pid for one in found if "resource_tracker" not in " ".join(one.cmdline())}


def test_our_server_is_measured_and_stopped(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = descendants()
    plot, out = tmp_path / "load.png", tmp_path / "serve.json"
    command = ["serve", "--archive", str(archive), "--device", "cpu", "--workers", "1", "--queue", "2"]
    command += ["--clients", "1", "4", "--rate", "0.5", "5", "--seconds", "1.5", "--pairs", "8", "--rounds", "1"]
    assert run_command("bench", [*command, "--plot", str(plot), "--out", str(out), "--json"]) == 0
    found = read_json(capsys.readouterr().out)
    assert found == read_result(out)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert found.settings["layout"]["processes"] == 1
    loads = found.rows("load")
    lone, overload = loads["closed, 1 clients"], loads["open, 5 x capacity"]
    assert lone["answered"].median == lone["sent"].median > 0
    assert lone["cpu_s_per_film"].median > 0
    assert lone["memory_peak_mb"].median > 100
    assert overload["refused"].median > 0  # five times what it can do, with room for two that wait
    assert overload["errors"].median == 0
    assert len(found.rows("lone client by film")) == 8
    assert found.rows("served over unserved")["served over service"]["ratio"].median > 0
    assert descendants() == before


def test_a_running_server_is_measured_without_being_touched(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with fresh_server() as server:
        server.store.mkdir()
        os.link(archive, server.store / archive.name)
        assert server.call("--detach", "--device", "cpu").returncode == 0
        command = ["serve", "--url", server.url, "--clients", "1", "--rate", "0.5", "--seconds", "1", "--json"]
        assert run_command("bench", command) == 0
        found = read_json(capsys.readouterr().out)
        assert found.rows("load")["closed, 1 clients"]["cpu_s_per_film"].median > 0  # found by the port it listens on
        assert not found.rows("lone client")
        assert server.call("--ready").returncode == 0


def test_an_interrupt_stops_the_server_that_was_started(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "serve.json"
    command = [sys.executable, "-m", "scripts.benchmark", "serve", "--archive", str(archive), "--out", str(out)]
    started = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=clean_environment(),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    )
    assert started.stderr is not None
    try:
        while "closed loop" not in started.stderr.readline():
            assert started.poll() is None
        family = psutil.Process(started.pid).children(recursive=True)
        assert any("ModelServer" in " ".join(one.cmdline()) for one in family)
        started.send_signal(signal.SIGINT)
        assert "interrupted" in started.stderr.read()
        assert started.wait(60) == 1
    finally:
        started.kill()
        started.wait()
    psutil.wait_procs(family, timeout=10)
    assert not [one for one in family if one.is_running()]
    assert not out.exists()


def test_a_killed_benchmark_leaves_no_server(archive: Path) -> None:
    command = [sys.executable, "-m", "scripts.benchmark", "serve", "--archive", str(archive)]
    started = subprocess.Popen(command, cwd=REPOSITORY, env=clean_environment(), stderr=subprocess.PIPE, text=True)
    assert started.stderr is not None
    while "closed loop" not in started.stderr.readline():
        assert started.poll() is None
    family = psutil.Process(started.pid).children(recursive=True)
    stores = [Path(words[words.index("--store") + 1]) for one in family if "--store" in (words := one.cmdline())]
    started.kill()
    started.wait()
    deadline = time.monotonic() + 60
    while any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family):
        assert time.monotonic() < deadline, family
        time.sleep(0.2)
    for store in stores:  # what is killed cannot tidy up
        shutil.rmtree(store.parent.parent, ignore_errors=True)


def test_every_server_that_is_installed_is_compared_and_the_others_are_named(
    archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peers = Path(sys.prefix) / "peers" / "bin" / "python"
    python = str(peers) if peers.is_file() else sys.executable
    before = descendants()
    command = ["peers", "--archive", str(archive), "--python", python, "--rounds", "1", "--seconds", "1"]
    assert run_command("bench", [*command, "--clients", "4", "--json"]) == 0
    null, model = read_json(capsys.readouterr().out).tables
    installed = versions_in(python)
    for table, peers_of in ((null, NO_MODEL), (model, MODEL)):
        for peer, row in zip(peers_of, table.rows, strict=True):
            assert row.label == peer.name
            if set(peer.needs) <= installed.keys():
                assert not row.note
                assert row.figures["films_per_s"].median > 0
                assert row.figures["unanswered"].median == 0
                if "probability_difference" in row.figures:  # the same service, served by another
                    assert row.figures["probability_difference"].median <= 1e-4
            else:
                assert row.note.startswith("skipped: ")
    assert descendants() == before
