from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from pneumoscan.commands.web import Options, answers, environment, page_command
from tests.commands import run_command
from tests.places import REPOSITORY


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_a_server_elsewhere_that_does_not_answer_is_not_started_here(capsys: pytest.CaptureFixture[str]) -> None:
    # .invalid resolves nowhere (RFC 2606)
    assert run_command("web", ["--url", "http://films.invalid:8080"]) == 1
    assert "start the server there" in capsys.readouterr().err


def test_without_archives_no_server_is_started_and_no_page_either(
    nobody: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--store", str(tmp_path / "none"), "--run-dir", str(tmp_path / "run")]
    assert run_command("web", ["--url", nobody, *where]) == 1
    assert "did not start" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run_command("web", ["--url", f"http://127.0.0.1:{port}", "--port", str(port)]) == 1
    assert f"port {port} cannot be used" in capsys.readouterr().err


def test_a_port_that_is_none_is_wrong_usage() -> None:
    assert run_command("web", ["--port", "70000"]) == 2


def test_what_the_caller_set_is_kept_and_every_start_has_its_own_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PNEUMOSCAN_")]:
        monkeypatch.delenv(name)
    options = Options(run_dir=Path("elsewhere"))
    first, second = environment(options), environment(options)
    assert len(first["PNEUMOSCAN_SECRET_KEY"]) >= 50
    assert first["PNEUMOSCAN_SECRET_KEY"] != second["PNEUMOSCAN_SECRET_KEY"]
    assert first["PNEUMOSCAN_SOCKET"] == str(Path("elsewhere/management.sock").absolute())
    monkeypatch.setenv("PNEUMOSCAN_SECRET_KEY", "k" * 50)
    monkeypatch.setenv("PNEUMOSCAN_HTTPS", "yes")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    kept = environment(options)
    assert (kept["PNEUMOSCAN_SECRET_KEY"], kept["PNEUMOSCAN_HTTPS"]) == ("k" * 50, "yes")
    assert "PYTHONPATH" not in kept


def test_the_page_is_shown_to_this_machine_alone(nobody: str) -> None:
    assert "127.0.0.1:8000" in page_command(8000)
    assert not answers(nobody)


@pytest.mark.slow
@pytest.mark.parametrize("signals", [("SIGHUP",), ("SIGTERM", "SIGTERM"), ("SIGKILL",)])
def test_whatever_ends_the_command_ends_the_page_too(signals: tuple[str, ...], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as free:
        url, port = f"http://127.0.0.1:{server.getsockname()[1]}", free.getsockname()[1]
        free.close()
        command = [
            sys.executable,
            "-m",
            "pneumoscan",
            "web",
            "--url",
            url,
            "--port",
            str(port),
            "--run-dir",
            str(tmp_path),
        ]
        ours = os.environ | {"PNEUMOSCAN_HISTORY": f"sqlite:///{tmp_path}/history.db"}
        with subprocess.Popen(command, cwd=REPOSITORY, env=ours, stdout=subprocess.PIPE, start_new_session=True) as web:
            page = f"http://127.0.0.1:{port}"
            _until(lambda: answers(page))
            assert (tmp_path / "history.db").stat().st_mode & 0o077 == 0
            assert requests.get(f"{page}/healthz", headers={"Host": "10.1.2.3"}, timeout=5).text == "ok\n"
            for name in signals:
                web.send_signal(getattr(signal, name))
                time.sleep(0.1)
            web.wait(timeout=20)
            _until(lambda: not answers(page))


def _until(happened: Callable[[], bool]) -> None:
    for _ in range(300):
        if happened():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen within 30 s")


def test_a_port_beyond_all_ports_is_nobody_and_a_password_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert not answers("http://127.0.0.1:99999")
    assert run_command("web", ["--url", "http://reader:word@films.invalid"]) == 1
    said = capsys.readouterr().err
    assert "http://films.invalid" in said
    assert "word" not in said
