from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pneumoscan.score.plan import ListedFilm, find_listed
from tests.commands import run_command
from tests.conformance.archives import environment
from tests.places import REPOSITORY
from tests.pneumoscan.score.archives import rows_in, write_archive, write_films

DICOM = b"\0" * 128 + b"DICM"


def listed(*paths: Path) -> list[str]:
    return [film.name for film in find_listed(paths)]


def test_a_folder_gives_its_films_by_name_and_what_is_named_twice_comes_once(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.jpg", "a.dcm", "b/.hidden/x.png", "notes.txt", "z"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(DICOM if name == "z" else b"")
    (tmp_path / "b" / "round").symlink_to(tmp_path)
    whole = [str(tmp_path / name) for name in ("a.dcm", "b/1.jpg", "b/2.png", "z")]
    assert listed(tmp_path) == whole
    assert listed(tmp_path, tmp_path / "b", tmp_path) == whole
    named = [str(tmp_path / "notes.txt"), str(tmp_path / "z")]
    assert listed(tmp_path / "notes.txt", tmp_path / "z", tmp_path) == [*named, *whole[:-1]]
    hidden = tmp_path / "b" / ".hidden"
    assert listed(tmp_path, hidden) == [*whole, str(hidden / "x.png")]


def test_a_list_gives_its_films_as_often_as_it_names_them(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    lines = ["label,file", "NORMAL,films/a.png", 'OTHER,"films/b, c.png"', "NORMAL,films/a.png", "NORMAL,/else/d.dcm"]
    (data / "manifest.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    films = [f"{data}/films/a.png", f"{data}/films/b, c.png", f"{data}/films/a.png", "/else/d.dcm"]
    assert listed(data / "manifest.csv") == films


def test_a_zip_gives_the_films_in_it_and_their_rows_are_those_of_the_files(tmp_path: Path) -> None:
    archive, out = write_archive(tmp_path / "stub.mar"), tmp_path / "out"
    with zipfile.ZipFile(tmp_path / "study.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("study/IM2.png", "fine 0.75")
        packed.writestr("study/IM1.dcm", "fine 0.25")
        packed.writestr("study/IM3", DICOM + b"fine 0.5")
        for name in ("study/notes.txt", "__MACOSX/x.png", "study/.x.png", "study/DICOMDIR"):
            packed.writestr(name, DICOM + b"1.2.840.10008.1.3.10" if name.endswith("DICOMDIR") else "no film")
    names = [f"{tmp_path}/study.zip/study/{name}" for name in ("IM2.png", "IM1.dcm", "IM3")]
    assert listed(tmp_path / "study.zip") == names
    words = [str(tmp_path / "study.zip"), "--archive", str(archive), "--out", str(out)]
    assert run_command("score", words) == 0
    assert [(row["file"], row["probability"]) for row in rows_in(out)] == list(
        zip(names, (0.75, 0.25, 0.5), strict=True)
    )


def test_a_damaged_file_in_a_zip_is_a_row_and_the_others_are_scored(tmp_path: Path) -> None:
    """Its compressed bytes, which zipfile's own libraries fail on, and the checksum behind them."""
    archive, study, out = write_archive(tmp_path / "stub.mar"), tmp_path / "study.zip", tmp_path / "out"
    with zipfile.ZipFile(study, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in ("a.png", "b", "c.png"):
            packed.writestr(name, "fine 0.25" + " " * 40)
    data = bytearray(study.read_bytes())
    for name in (b"a.png", b"b"):
        data[data.index(name) + len(name) + 2] ^= 0xFF  # of its stream, behind the local header
    study.write_bytes(data)
    assert run_command("score", [str(study), "--archive", str(archive), "--out", str(out)]) == 1
    assert [(Path(row["file"]).name, row["code"]) for row in rows_in(out)] == [
        ("a.png", "UNREADABLE"),
        ("b", "UNREADABLE"),
        ("c.png", None),
    ]


def test_a_file_that_a_list_names_and_nobody_finds_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("file\ngone.png\nlist.csv/x.png\n", encoding="utf-8")
    words = [str(tmp_path / "list.csv"), "--archive", str(write_archive(tmp_path / "stub.mar"))]
    assert run_command("score", [*words, "--out", str(tmp_path / "out")]) == 1
    assert [(row["code"], row["detail"]) for row in rows_in(tmp_path / "out")] == [
        ("UNREADABLE", "the file cannot be read: No such file or directory."),
        ("UNREADABLE", "the file cannot be read: Not a directory."),
    ]


def test_names_of_any_bytes_are_found_again(tmp_path: Path) -> None:
    films = write_films(tmp_path / "films", [])
    for name in (b"caf\xe9.png", b"two\nlines.png", "röntgen.png".encode()):
        Path(os.fsdecode(bytes(films) + b"/" + name)).write_text("fine 0.5", encoding="utf-8")
    words = [str(films), "--archive", str(write_archive(tmp_path / "stub.mar")), "--out", str(tmp_path / "out")]
    assert run_command("score", words) == 0
    names = [row["file"].removeprefix(f"{films}/") for row in rows_in(tmp_path / "out")]
    assert sorted(names) == ["caf\\xe9.png", "röntgen.png", "two\nlines.png"]
    for film in find_listed([films]):
        assert ListedFilm(*json.loads(film.to_line())) == film


MEASURED = """
import pathlib, sys
from pneumoscan import cli
assert cli.main(sys.argv[1:]) == 0
print(pathlib.Path("/proc/self/status").read_text())  # ru_maxrss is at least that of the process that started this one
"""


def peak_kb(folder: Path, films: int) -> int:
    """The most memory that the process of a job took, whose list names one film so many times."""
    (folder / "list.csv").write_text("file\n" + "film.png\n" * films, encoding="utf-8")
    words = ["score", str(folder / "list.csv"), "--archive", str(folder / "stub.mar"), "--out", str(folder / "out")]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *words, "--workers", "2", "--force"],
        cwd=REPOSITORY,
        env=environment(PYTHONPATH=f"{REPOSITORY}:{REPOSITORY / 'handler'}"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert sum(pq.read_metadata(part).num_rows for part in (folder / "out").glob("part-*")) == films
    found = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert found is not None
    return int(found[1])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_films(tmp_path: Path) -> None:
    """A list of 100,000 names takes no more than one of 1,000, but for 8 MB of what allocators keep."""
    write_archive(tmp_path / "stub.mar")
    (tmp_path / "film.png").write_text("fine 0.5", encoding="utf-8")
    assert peak_kb(tmp_path, 100_000) - peak_kb(tmp_path, 1_000) < 8_000
