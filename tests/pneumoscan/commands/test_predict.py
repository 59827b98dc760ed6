from __future__ import annotations

import csv
import io
import json
import os
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier

import pytest

from pneumoscan.errors import UsageError
from pneumoscan.film_files import find_films, picture_names
from tests.commands import run_command
from tests.film_server import PNG, Answer, Asked, FilmServer, prediction, serving


def a_dicom(preamble: bytes) -> bytes:
    """What has the first bytes of a DICOM file, and a preamble of which the server of these tests makes its answer."""
    return preamble.ljust(128, b"\0") + b"DICM"


NORMAL, PNEUMONIA, DOUBTFUL, BAD = map(a_dicom, (b"\x00", b"\xff", b"\x80", b"bad film"))


@pytest.fixture
def server() -> Iterator[FilmServer]:
    with serving(FilmServer()) as server:
        yield server


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    put(folder / "a.png", NORMAL)
    put(folder / "b.jpg", PNEUMONIA)
    put(folder / "c.dcm", BAD)
    put(folder / "d.jpeg", DOUBTFUL)
    return folder


# --- which files are films ----------------------------------------------------------------------------------------


def test_folders_are_searched_for_films_by_their_first_bytes_alone(tmp_path: Path) -> None:
    dicom = a_dicom(b"")
    bare = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" + bytes(200)
    contents = b"\0" * 128 + b"DICM\x02\x00\x00\x00UL\x04\x00" + b"1.2.840.10008.1.3.10\0"
    wanted = [
        put(tmp_path / "1.2.840.10008.5", dicom),
        put(tmp_path / "IM000001", dicom),
        put(tmp_path / "a" / "b" / "deep.DCM", bare),
        put(tmp_path / "film.bak", bare.replace(b"CS\x0a\x00", b"\x0a\0\0\0")),
        put(tmp_path / "film.JPEG", b"\x89PNG\r\n\x1a\n"),
        put(tmp_path / "noname", b"\xff\xd8\xff\xe0"),
        put(tmp_path / "notes.txt", dicom),
    ]
    others = [
        put(tmp_path / path, content)
        for path, content in (
            ("DICOMDIR", contents),
            ("README", b"DIC"),
            ("a/empty.dcm", b""),
            ("a/scan.dcm", b"a letter"),
            ("film.tif", b"II*\0"),
            ("index.1", contents),
        )
    ]
    put(tmp_path / ".hidden.png", PNG)
    put(tmp_path / ".git" / "x.png", PNG)
    found = find_films([tmp_path])
    assert found.films == sorted(wanted)
    assert sorted(found.left_out) == sorted(others)
    assert found.what_was_left_out == "6 left out, no PNG, JPEG or DICOM: 3 without a suffix, 2 .dcm, 1 .tif"
    assert find_films([tmp_path / "film.bak"]).what_was_left_out == ""


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_zip_is_searched_as_a_folder_is(tmp_path: Path) -> None:
    nested = zipped(tmp_path / "nested.zip", {"c": PNG}).read_bytes()
    (tmp_path / "nested.zip").unlink()
    members = {"S1/IM1": NORMAL, "S1/IM2": PNEUMONIA, "DICOMDIR": b"", "a.pdf": b"%PDF", "more.zip": nested}
    study = zipped(tmp_path / "study.zip", members | {"../up.png": PNG, "__MACOSX/x.png": PNG, ".DS_Store": b"x"})
    for paths in ([study], [tmp_path]):
        found = find_films(paths, zips=True)
        assert found.films == [study / "S1" / "IM1", study / "S1" / "IM2"]
        assert found.contents(study / "S1" / "IM2") == PNEUMONIA
        assert found.what_was_left_out == "3 left out, no PNG, JPEG or DICOM: 1 without a suffix, 1 .pdf, 1 .zip"
    assert find_films([tmp_path]).left_out == [study]


def test_a_zip_beyond_the_bounds_or_damaged_is_refused_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = zipped(tmp_path / "study.zip", {str(number): PNG for number in range(30)})
    monkeypatch.setattr("pneumoscan.film_files._MOST_MEMBERS", 29)
    with pytest.raises(UsageError, match="holds 30 files"):
        find_films([study], zips=True)
    assert find_films([tmp_path], zips=True).left_out == [study]
    monkeypatch.setattr("pneumoscan.film_files._MOST_MEMBERS", 30)
    monkeypatch.setattr("pneumoscan.film_files._MOST_UNPACKED", 30 * len(PNG) - 1)
    with pytest.raises(UsageError, match="Unpack it"):
        find_films([study], zips=True)
    monkeypatch.setattr("pneumoscan.film_files._MOST_UNPACKED", 10**9)
    data = bytearray(study.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 42] = 0xFF  # where the last member lies
    study.write_bytes(data)
    with pytest.raises(UsageError, match="cannot be unpacked"):
        find_films([study], zips=True)


def test_a_film_in_a_zip_that_lies_about_its_size_is_read_no_further_than_a_film_can_be_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = zipped(tmp_path / "study.zip", {"a": PNG + bytes(5_000_000)})
    data = study.read_bytes()
    study.write_bytes(data.replace((len(PNG) + 5_000_000).to_bytes(4, "little"), (4000).to_bytes(4, "little")))
    with pytest.raises((UsageError, OSError), match="unpacked"):
        find_films([study], zips=True).contents(study / "a")
    honest = zipped(tmp_path / "long.zip", {"a": PNG + bytes(5_000_000)})
    found = find_films([honest], zips=True)
    monkeypatch.setattr("pneumoscan.film_files._MOST_BYTES", 100_000)
    assert find_films([honest], zips=True).left_out == [honest / "a"]
    with pytest.raises(OSError, match="more than 100,000 bytes"):
        found.contents(honest / "a")


def test_the_films_of_a_zip_are_asked_about(
    server: FilmServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = zipped(tmp_path / "study.zip", {"S1/IM1": NORMAL, "S1/IM2": PNEUMONIA, "notes": b"x"})
    out = tmp_path / "out"
    assert run_command("predict", [str(study), "--url", server.url, "--csv", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(captured.out)))
    assert [(row["file"], row["label"]) for row in rows] == [
        (str(study / "S1" / "IM1"), "NORMAL"),
        (str(study / "S1" / "IM2"), "PNEUMONIA"),
    ]
    assert "1 left out" in captured.err
    assert (out / "IM2.overlay.png").read_bytes() == PNG + PNEUMONIA


def test_a_named_file_is_taken_whatever_it_is_called_and_only_once(tmp_path: Path) -> None:
    text = put(tmp_path / "notes.txt", b"")
    png = put(tmp_path / "a.png", b"")
    assert find_films([text, png, tmp_path, text]).films == [text, png]


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        find_films([tmp_path / "nowhere"])


def test_pictures_are_named_by_stem_and_never_alike(tmp_path: Path) -> None:
    films = [
        tmp_path / "one" / "x.png",
        tmp_path / "two" / "x.png",
        tmp_path / "two" / "X.dcm",
        tmp_path / "two" / "y.png",
        tmp_path / "one__x.png.png",
    ]
    assert picture_names(films, "overlay") == [
        "one__x.png.overlay.png",
        "two__x.png.overlay.png",
        "two__X.dcm.overlay.png",
        "y.overlay.png",
        "one__x.png-2.overlay.png",
    ]


# --- the command --------------------------------------------------------------------------------------------------


def test_a_table_has_one_line_for_each_film_and_a_refused_one_does_not_stop_the_rest(
    server: FilmServer, films: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("predict", [str(films), "--url", server.url]) == 1
    captured = capsys.readouterr()
    lines = [line.split() for line in captured.out.splitlines()]
    assert [line[1:3] for line in lines] == [
        ["NORMAL", "0.000"],
        ["PNEUMONIA", "1.000"],
        ["-", "-"],
        ["PNEUMONIA", "0.502"],
    ]
    assert lines[2][3] == "TOO_SMALL:"
    assert lines[3][-1] == "indeterminate"
    assert captured.err == "pneumoscan predict: 1 of 4 films were not answered\n"


def test_all_answered_exits_0_and_says_nothing_on_stderr(
    server: FilmServer, films: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("predict", [str(films / "a.png"), "--url", server.url]) == 0
    assert capsys.readouterr().err == ""


def test_csv_has_the_columns_that_are_promised(
    server: FilmServer, films: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("predict", [str(films), "--url", server.url, "--csv"]) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == [
        "file",
        "label",
        "probability_NORMAL",
        "probability_PNEUMONIA",
        "indeterminate",
        "flags",
        "error_code",
        "error",
    ]
    assert rows[0] == {
        "file": str(films / "a.png"),
        "label": "NORMAL",
        "probability_NORMAL": "1.0",
        "probability_PNEUMONIA": "0.0",
        "indeterminate": "false",
        "flags": "",
        "error_code": "",
        "error": "",
    }
    assert (rows[2]["label"], rows[2]["error_code"]) == ("", "TOO_SMALL")
    assert rows[2]["error"].startswith("The film is 10 x 10 pixels")


def test_json_is_one_array_of_replies_and_errors(
    server: FilmServer, films: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("predict", [str(films), "--url", server.url, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert [Path(each["file"]).name for each in said] == ["a.png", "b.jpg", "c.dcm", "d.jpeg"]
    assert said[1]["probabilities"] == {"NORMAL": 0.0, "PNEUMONIA": 1.0}
    assert said[1]["cam"]["grid"][6][6] == 0.0
    assert said[2]["error"] == {
        "code": "TOO_SMALL",
        "detail": "The film is 10 x 10 pixels; 64 is the least. Send the original.",
        "status": 422,
        "title": "Too small",
        "request_id": "request-7",
        "retryable": False,
    }


def test_options_reach_the_server(server: FilmServer, films: Path) -> None:
    options = ["--cam", "heatmap", "--target", "contrast", "--model-version", "1.2.0"]
    assert run_command("predict", [str(films / "a.png"), "--url", server.url, *options]) == 0
    (asked,) = server.asked
    assert asked.path == "/predictions/pneumonia/1.2.0"
    assert asked.query == {"cam": ["heatmap"], "target": ["contrast"]}


def test_overlays_are_written_beside_each_other_and_leave_the_reply(
    server: FilmServer, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(films / "more" / "a.png", PNEUMONIA)
    out = tmp_path / "out"
    assert run_command("predict", [str(films), "--url", server.url, "--out", str(out), "--json"]) == 1
    assert sorted(path.name for path in out.iterdir()) == [
        "a.png.overlay.png",
        "b.overlay.png",
        "d.overlay.png",
        "more__a.png.overlay.png",
    ]
    assert (out / "a.png.overlay.png").read_bytes() == PNG + NORMAL
    assert (out / "more__a.png.overlay.png").read_bytes() == PNG + PNEUMONIA
    first = json.loads(capsys.readouterr().out)[0]
    assert first["cam"]["file"] == str(out / "a.png.overlay.png")
    assert "png" not in first["cam"]


def test_a_picture_that_is_there_is_kept_unless_forced(
    server: FilmServer, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = put(tmp_path / "out" / "a.overlay.png", b"mine")
    arguments = [str(films / "a.png"), "--url", server.url, "--cam", "overlay", "--out", str(there.parent)]
    assert run_command("predict", arguments) == 2
    assert "a.overlay.png exists" in capsys.readouterr().err
    assert there.read_bytes() == b"mine"
    assert server.asked == []
    assert run_command("predict", [*arguments, "--force"]) == 0
    assert there.read_bytes() == PNG + NORMAL


def test_a_reply_without_its_picture_is_an_error_of_that_film(
    server: FilmServer, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = lambda _: Answer(body=b'{"label": "NORMAL", "cam": {"png": "%%%"}}')
    assert run_command("predict", [str(films / "a.png"), "--url", server.url, "--out", str(tmp_path / "out")]) == 1
    assert "BAD_REPLY" in capsys.readouterr().out
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "body",
    [
        *(b"[" * 100_000, b'{"label": "\\u001b[2J"}', b'{"label": 5}', b'{"probabilities": [1]}', b'{"cam": "x"}'),
        *(b'{"probabilities": {"PNEUMONIA": "x"}}', b'{"decision": true}', b'{"image": {"flags": [5]}}', b"{}{}"),
        *(b'{"image": {"flags": "x"}}', b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}", b"[]", b'{"label": 1e999}'),
    ],
)
@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_a_hostile_reply_to_one_film_costs_no_other_its_answer(
    body: bytes, form: list[str], server: FilmServer, films: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(asked: Asked) -> Answer:
        return Answer(body=body) if asked.body.startswith(b"bad") else prediction(asked)

    server.answer = answer
    assert run_command("predict", [str(films), "--url", server.url, *form]) == 1
    shown = capsys.readouterr().out
    assert shown.count("BAD_REPLY") == 1
    assert shown.count("PNEUMONIA") >= 1
    assert shown.replace("\n", "").isprintable()


def test_films_are_asked_about_at_once_and_answered_in_order(
    server: FilmServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    films = [put(tmp_path / f"{at}.png", bytes([at])) for at in range(8)]
    # Nobody is answered before four are asked: with fewer at once, the barrier breaks and the film fails.
    barrier = Barrier(4, timeout=10)

    def answer_together(asked: Asked) -> Answer:
        barrier.wait()
        return prediction(asked)

    server.answer = answer_together
    assert run_command("predict", [*map(str, films), "--url", server.url, "--jobs", "4", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(row["probability_PNEUMONIA"]) for row in rows] == [at / 255 for at in range(8)]


def test_a_server_that_is_not_there_is_one_line_and_exit_1(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    assert run_command("predict", [str(films), "--url", url]) == 1
    assert capsys.readouterr().err == f"pneumoscan predict: cannot reach {url}: [Errno 111] Connection refused\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_film_that_cannot_be_read_is_an_error_of_that_film(
    server: FilmServer, films: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (films / "a.png").chmod(0)
    assert run_command("predict", [str(films), "--url", server.url]) == 1
    assert "UNREADABLE" in capsys.readouterr().out


def test_wrong_usage_is_one_line_and_exit_2(
    server: FilmServer, tmp_path: Path, films: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, says in (
        ([str(tmp_path / "nowhere")], "does not exist"),
        ([str(empty)], "no film in"),
        ([str(films), "--cam", "grid", "--out", str(empty)], "a grid is no picture"),
        ([str(films), "--out", str(films / "a.png")], "File exists"),
    ):
        assert run_command("predict", [*arguments, "--url", server.url]) == 2
        line = capsys.readouterr().err
        assert says in line
        assert line.count("\n") == 1
    assert server.asked == []


@pytest.mark.parametrize("arguments", [[], ["x", "--jobs", "0"], ["x", "--json", "--csv"], ["x", "--cam", "all"]])
def test_what_argparse_refuses_is_exit_2(arguments: list[str]) -> None:
    assert run_command("predict", arguments) == 2
