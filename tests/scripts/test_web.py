from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from scripts.web import answers, build_parser, environment, main, page_command


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_a_server_elsewhere_that_does_not_answer_is_not_started_here(capsys: pytest.CaptureFixture[str]) -> None:
    # .invalid resolves nowhere (RFC 2606)
    assert main(["--url", "http://films.invalid:8080"]) == 1
    assert "start the server there" in capsys.readouterr().err


def test_without_archives_no_server_is_started_and_no_page_either(
    nobody: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--store", str(tmp_path / "none"), "--run-dir", str(tmp_path / "run")]
    assert main(["--url", nobody, *where]) == 1
    assert "did not start" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--url", f"http://127.0.0.1:{port}", "--port", str(port)]) == 1
    assert f"port {port} cannot be used" in capsys.readouterr().err


def test_a_port_that_is_none_is_wrong_usage() -> None:
    assert main(["--port", "70000"]) == 2


def test_what_the_caller_set_is_kept_and_every_start_has_its_own_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PNEUMOSCAN_")]:
        monkeypatch.delenv(name)
    args = build_parser().parse_args(["--run-dir", "elsewhere"])
    first, second = environment(args), environment(args)
    assert len(first["PNEUMOSCAN_SECRET_KEY"]) >= 50
    assert first["PNEUMOSCAN_SECRET_KEY"] != second["PNEUMOSCAN_SECRET_KEY"]
    assert first["PNEUMOSCAN_SOCKET"] == str(Path("elsewhere/management.sock").absolute())
    monkeypatch.setenv("PNEUMOSCAN_SECRET_KEY", "k" * 50)
    monkeypatch.setenv("PNEUMOSCAN_HTTPS", "yes")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    kept = environment(args)
    assert (kept["PNEUMOSCAN_SECRET_KEY"], kept["PNEUMOSCAN_HTTPS"]) == ("k" * 50, "yes")
    assert "PYTHONPATH" not in kept


def test_the_page_is_shown_to_this_machine_alone(nobody: str) -> None:
    assert "127.0.0.1:8000" in page_command(8000)
    assert not answers(nobody)
