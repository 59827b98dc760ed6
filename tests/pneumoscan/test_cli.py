"""The console command: one line and one status for whatever goes wrong, and output that nobody reads."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.commands import run_command


@pytest.mark.parametrize("words", [["--help"], ["completion", "bash"], ["train", "--help"]])
def test_output_whose_reader_has_gone_ends_in_silence(words: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "pneumoscan", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.close()
        assert command.stderr.read() == b""


def test_a_socket_that_broke_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_options: object) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("pneumoscan.commands.toy.run", broken)
    assert run_command("toy", ["out"]) == 1
    assert "Broken pipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words", "says"),
    [("lost", [], "no such command; known are demo"), ("completion", ["fish"], "give one of bash, zsh, tcsh")],
)
def test_what_is_no_command_is_one_line(
    name: str, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(name, words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"pneumoscan {name}: {says}")
    assert said.count("\n") == 1


def test_a_shell_completes_commands_and_options() -> None:
    script = subprocess.run(
        [sys.executable, "-m", "pneumoscan", "completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    for word in ("serve", "bench", "--management-port", "register"):
        assert word in script
