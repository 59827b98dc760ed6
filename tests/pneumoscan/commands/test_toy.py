from __future__ import annotations

import json
from pathlib import Path

import pytest

from cxr_training.data.toy import files as toy_files
from tests.commands import run_command

QUICK = ["--patients", "6", "--size", "64"]


def test_it_writes_the_folder_and_prints_a_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a" / "films"

    assert run_command("toy", [str(out), *QUICK, "--json"]) == 0

    summary = json.loads(capsys.readouterr().out)
    assert summary["films"] == len(list((out / "films").iterdir()))
    assert summary["films"] == sum(sum(split.values()) for split in summary["splits"].values())
    assert summary["films"] == sum(summary["forms"].values())
    assert "synthetic" in (out / "README.txt").read_text(encoding="utf-8").lower()


def test_a_folder_that_holds_something_is_kept_without_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "mine.txt").write_text("mine", encoding="utf-8")

    assert run_command("toy", [str(tmp_path / "films"), *QUICK]) == 2

    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in (tmp_path / "films").iterdir()] == ["mine.txt"]


def test_force_replaces_the_folder_and_an_empty_one_needs_none(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()

    assert run_command("toy", [str(tmp_path / "films"), *QUICK]) == 0
    assert run_command("toy", [str(tmp_path / "films"), *QUICK, "--seed", "1", "--force"]) == 0

    assert [path.name for path in tmp_path.iterdir()] == ["films"]
    assert "--seed 1 " in (tmp_path / "films" / "README.txt").read_text(encoding="utf-8")


def test_force_never_replaces_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    assert run_command("toy", [".", *QUICK, "--force"]) == 2
    assert (tmp_path / "mine.txt").exists()


@pytest.mark.parametrize(
    "wrong", [["--patients", "5"], ["--patients", "five"], ["--seed", "-1"], ["--size", "10"], ["--sizes", "100"]]
)
def test_a_wrong_argument_is_one_line_and_status_2(
    wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("toy", [str(tmp_path / "films"), *wrong]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")

    assert run_command("toy", [str(tmp_path / "file"), *QUICK]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert run_command("toy", [str(tmp_path / "file" / "films"), *QUICK]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_full_disk_is_status_1_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(toy_files, "_write_manifest", fail)

    assert run_command("toy", [str(tmp_path / "films"), *QUICK, "--json"]) == 1

    assert capsys.readouterr().err == "pneumoscan toy: disk full\n"
    assert list(tmp_path.iterdir()) == []
