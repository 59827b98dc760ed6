from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pneumoscan.files import locked
from tests.commands import run_command
from tests.conformance.archives import Asked, pack, unpack, working, write_fixed_model
from tests.films import dicom, encoded, film
from tests.pneumoscan.score.archives import parts_in, rows_in, start, workers_of, write_archive, write_films


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "stub.mar")


def score(out: Path, archive: Path, *words: str | Path) -> int:
    return run_command("score", [*map(str, words), "--archive", str(archive), "--out", str(out), "--workers", "2"])


def summary_of(out: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((out / "_summary.json").read_text(encoding="utf-8"))
    return summary


# --- rows ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    write_fixed_model(folder / "run")
    return pack(folder / "run", folder / "store")


def mixed_films(folder: Path) -> Path:
    folder.mkdir()
    good = film(4, 300, 280)
    files = {
        "a.png": encoded(good),
        "b.jpg": encoded(film(5), "JPEG", quality=95),
        "c.dcm": dicom(good, bits=8),
        "d.dcm": dicom(good, bits=8, ViewPosition="LATERAL"),
        "e.png": b"no film",
        "f.png": b"",
        "g.png": encoded(good)[:2000],
        "h.png": encoded(film(6, 32, 32)),
        "i.dcm": dicom(255 - good, bits=8, PhotometricInterpretation="MONOCHROME1"),
        "j": encoded(film(7)),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_rows_are_the_replies_of_the_archives_own_service(real_archive: Path, tmp_path: Path) -> None:
    films, out = mixed_films(tmp_path / "films"), tmp_path / "out"
    assert score(out, real_archive, films, "--part", "4") == 0
    rows = rows_in(out)
    assert [row["file"] for row in rows] == sorted(str(path) for path in films.iterdir())
    assert {row["outcome"] for row in rows} == {"answered", "refused"}
    folder = unpack(real_archive, tmp_path / "archive")
    with working(folder) as worker:
        for row in rows:
            data = Path(row["file"]).read_bytes()
            (reply,), _ = worker.ask([Asked({"body": data}, {"Cxr-Cam": "none"})])
            body = json.loads(reply.body)
            assert row["file_sha256"] == hashlib.sha256(data).hexdigest()
            assert (row["engine"], row["version"]) == ("torch-float32", "1.2.3")
            if reply.status != 200:
                assert (row["outcome"], row["code"], row["detail"]) == ("refused", body["code"], body["detail"])
                assert row["label"] is row["probability"] is row["flags"] is None
                continue
            assert (row["outcome"], row["code"], row["detail"]) == ("answered", None, None)
            assert row["label"] == body["label"]
            assert row["probability"] == body["probabilities"]["PNEUMONIA"]
            assert row["weights_sha256"] == body["model"]["weights_sha256"]
            assert (row["threshold"], row["indeterminate"]) == tuple(
                body["decision"][name] for name in ("threshold", "indeterminate")
            )
            assert body["image"] == {name: row[name] for name in body["image"]}


def test_an_archive_that_is_not_what_it_claims_is_refused_in_one_line(
    real_archive: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    films, changed = mixed_films(tmp_path / "films"), tmp_path / "changed.mar"
    with zipfile.ZipFile(real_archive) as old, zipfile.ZipFile(changed, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry, data.replace(b'"temperature": 1.5', b'"temperature": 1.6'))
    assert score(tmp_path / "out", changed, films) == 2
    assert "model.json is damaged" in capfd.readouterr().err
    assert parts_in(tmp_path / "out") == {}


def test_each_outcome_is_a_row_in_the_order_of_the_list(archive: Path, tmp_path: Path) -> None:
    """A film that hangs and one that ends its process are tried again, are a row each, and cost no other film."""
    once = tmp_path / "died"
    texts = ["fine 0.25", "hang", "fine 0.75", "die", "bad", "raise x", "full", f"once {once}", "odd", "fine 0.5"]
    films, out = write_films(tmp_path / "films", texts), tmp_path / "out"
    (films / "missing").symlink_to(tmp_path / "nowhere")
    os.mkfifo(films / "pipe.png")
    assert score(out, archive, films, films / "pipe.png", films / "0000.png", "--timeout", "1", "--part", "5") == 1
    rows = rows_in(out)
    seen = [(Path(row["file"]).name, row["outcome"], row["code"], row["probability"]) for row in rows]
    assert seen == [
        ("0001.png", "failed", "NO_ANSWER", None),
        ("0002.png", "answered", None, 0.75),
        ("0003.png", "failed", "WORKER_LOST", None),
        ("0004.png", "refused", "UNKNOWN_FORMAT", None),
        ("0005.png", "failed", "INTERNAL", None),
        ("0006.png", "failed", "OUT_OF_MEMORY", None),
        ("0007.png", "answered", None, 0.5),
        ("0008.png", "answered", None, 0.5),
        ("0009.png", "answered", None, 0.5),
        ("pipe.png", "failed", "UNREADABLE", None),
        ("0000.png", "answered", None, 0.25),
    ]
    assert once.read_text(encoding="utf-8") == "died"
    details = {Path(row["file"]).name: row["detail"] for row in rows}
    assert details["0001.png"] == (
        "the process that scored it did not answer within 1 s, and again when it was tried alone."
    )
    assert "ended by SIGSEGV, and again when" in details["0003.png"]
    assert details["0005.png"] == "RuntimeError in the archive's handler; the workers' log says where."
    for row in rows:
        path = Path(row["file"])
        known = None if path.name == "pipe.png" else hashlib.sha256(path.read_bytes()).hexdigest()
        assert row["file_sha256"] == known, path
    summary = summary_of(out)
    assert summary["answered"] == {"NORMAL": 1, "PNEUMONIA": 4}
    assert (summary["films"], summary["refused"], summary["failed"]) == (11, 1, 5)
    assert (summary["indeterminate"], summary["flags"], summary["scored"]) == (3, {"inverted": 1}, 11)
    assert sum(reason["films"] for reason in summary["reasons"]) == 6
    assert not (out / ".archive").exists()


def test_a_film_is_tried_again_with_no_other_beside_it(tmp_path: Path) -> None:
    """All of many films that end their process are found, and none of their neighbours is lost."""
    texts = ["die" if number % 4 == 0 else f"fine 0.{number}" for number in range(1, 21)]
    films, out = write_films(tmp_path / "films", texts), tmp_path / "out"
    assert score(out, write_archive(tmp_path / "stub.mar"), films) == 1
    assert [row["code"] for row in rows_in(out)] == ["WORKER_LOST" if text == "die" else None for text in texts]


def test_a_view_is_passed_to_the_handler(archive: Path, tmp_path: Path) -> None:
    films, out = write_films(tmp_path / "films", ["fine 0.1"]), tmp_path / "out"
    assert score(out, archive, films, "--view", "PA") == 0
    assert rows_in(out)[0]["view_position"] == "PA"


def test_a_file_that_looks_like_a_request_is_a_film(archive: Path, tmp_path: Path) -> None:
    """The stub's handler would fail on the request that a server makes of it: it gets the film as base64."""
    films, out = write_films(tmp_path / "films", ['{"instances": []}']), tmp_path / "out"
    assert score(out, archive, films) == 1
    assert rows_in(out)[0]["detail"].startswith("AttributeError")  # a dict has no decode


def test_a_file_larger_than_the_server_takes_is_refused_with_its_size(archive: Path, tmp_path: Path) -> None:
    films, out = write_films(tmp_path / "films", ["fine 0.1"]), tmp_path / "out"
    with (films / "0000.png").open("r+b") as stream:
        stream.truncate(64 * 1024 * 1024 + 1)
    assert score(out, archive, films) == 0
    row = rows_in(out)[0]
    assert (row["outcome"], row["code"]) == ("refused", "TOO_MANY_BYTES")
    assert row["detail"].startswith("67,108,865 bytes; at most 67,108,864 are read.")


def test_the_summary_is_printed_for_people_and_for_programs(
    archive: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    films, out = write_films(tmp_path / "films", ["fine 0.1", "fine 0.9", "bad", "bad"]), tmp_path / "out"
    assert score(out, archive, films) == 0
    text = capfd.readouterr().out
    assert re.search(r"answered +2  NORMAL 1, PNEUMONIA 1, indeterminate 0", text)
    assert "  refused  UNKNOWN_FORMAT  2\n" in text
    assert f"    {films / '0003.png'}: a reason.\n" in text
    assert "4 scored now" in text
    assert text.endswith("Research use only. Not a diagnosis.\n")
    assert score(out, archive, films, "--json") == 0
    printed = json.loads(capfd.readouterr().out)
    assert printed == summary_of(out)
    assert (printed["films"], printed["scored"], printed["films_per_s"]) == (4, 0, None)


# --- through kills ------------------------------------------------------------------------------------------------


def words_of(out: Path, archive: Path, films: Path, *more: str) -> list[str]:
    return [str(films), "--archive", str(archive), "--out", str(out), "--workers", "2", *more]


def finish(words: list[str]) -> None:
    process = start(words)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def kill_at_random_moments(words: list[str], out: Path, parts: int, seed: int) -> None:
    """SIGKILL the job three times when it has so many more parts, and one of its workers before each."""
    rng = random.Random(seed)
    for moment in sorted(rng.sample(range(parts - 1), 3)):
        process = start(words)
        deadline = time.monotonic() + 60
        while len(parts_in(out)) < moment or not (out / "_job.json").exists() or not workers_of(process):
            assert process.poll() is None, process.stderr
            assert time.monotonic() < deadline
        workers = workers_of(process)
        os.kill(rng.choice(workers), signal.SIGKILL)
        time.sleep(rng.random() * 0.2)
        assert process.poll() is None, "the job goes on without the worker"
        workers = workers_of(process)
        process.kill()
        process.communicate()
        while any(Path(f"/proc/{pid}/cmdline").exists() and _is_ours(pid) for pid in workers):
            assert time.monotonic() < deadline, "workers outlive the job"


def _is_ours(pid: int) -> bool:
    try:
        return b"worker.py" in Path(f"/proc/{pid}/cmdline").read_bytes()  # empty for one that waits to be looked at
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_job_killed_at_random_moments_leaves_the_rows_of_one_run(tmp_path: Path, seed: int) -> None:
    archive = write_archive(tmp_path / "stub.mar", slow_s=0.01)
    texts = ["bad" if number % 7 == 0 else f"fine {number / 300}" for number in range(299)]
    films, out, once = write_films(tmp_path / "films", texts), tmp_path / "out", tmp_path / "once"
    words = words_of(out, archive, films, "--part", "20")
    kill_at_random_moments(words, out, 15, seed)
    (films / "another.png").write_text("fine 0.9", encoding="utf-8")  # the list that was begun with stands
    finish(words)
    (films / "another.png").unlink()
    finish(words_of(once, archive, films, "--part", "20"))
    assert len(parts_in(once)) == 15
    assert parts_in(out) == parts_in(once)
    assert len(rows_in(out)) == 299
    assert not list(out.glob(".*.partial"))
    assert summary_of(out)["answered"] == summary_of(once)["answered"]


@pytest.mark.slow
def test_a_real_archives_job_killed_at_random_moments_leaves_the_rows_of_one_run(
    real_archive: Path, tmp_path: Path
) -> None:
    films = mixed_films(tmp_path / "films")
    for number in range(110):
        (films / f"n{number:03}.png").write_bytes(encoded(film(number, 256, 256)))
    out, once = tmp_path / "out", tmp_path / "once"
    words = words_of(out, real_archive, films, "--part", "8")
    kill_at_random_moments(words, out, 15, 3)
    finish(words)
    finish(words_of(once, real_archive, films, "--part", "8"))
    assert len(parts_in(once)) == 15
    assert parts_in(out) == parts_in(once)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_job_says_so_and_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    archive = write_archive(tmp_path / "stub.mar", slow_s=0.02)
    films, out = write_films(tmp_path / "films", ["fine 0.5"] * 100), tmp_path / "out"
    words = words_of(out, archive, films, "--part", "10")
    process = start(words)
    while not parts_in(out):
        assert process.poll() is None
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"interrupted; whole parts are in {out}, and the same command goes on" in errors
    assert "Traceback" not in errors
    assert not (out / ".archive").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert 0 < len(kept) < 10
    finish(words)
    assert len(rows_in(out)) == 100
    assert kept.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}.items()


def test_a_damaged_part_is_scored_again(archive: Path, tmp_path: Path) -> None:
    films, out = write_films(tmp_path / "films", [f"fine 0.{n}" for n in range(6)]), tmp_path / "out"
    assert score(out, archive, films, "--part", "2") == 0
    whole = parts_in(out)
    (out / "part-00001.parquet").write_bytes(whole["part-00001.parquet"][:200])
    assert score(out, archive, films, "--part", "2") == 0
    assert parts_in(out) == whole
    assert summary_of(out)["scored"] == 2


# --- what cannot be done ------------------------------------------------------------------------------------------


def test_another_job_never_replaces_results_unasked(
    archive: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    films, out = write_films(tmp_path / "films", ["fine 0.1"] * 3), tmp_path / "out"
    other = write_archive(tmp_path / "other.mar", slow_s=0.001)
    assert score(out, archive, films, "--part", "2") == 0
    whole = parts_in(out)
    for words, message in (
        ((archive, films, "--part", "3"), "holds a job in parts of 2"),
        ((archive, films, films / "x.zip", "--part", "2"), "holds a job of other paths"),
        ((archive, films, "--part", "2", "--view", "AP"), "holds a job without --view"),
        ((archive, films, "--part", "2", "--formats", "tiff"), "holds a job without --formats"),
        ((other, films, "--part", "2"), "holds a job by another archive"),
    ):
        capfd.readouterr()
        assert score(out, *words) == 2
        error = capfd.readouterr().err
        assert message in error
        assert "another --out, or --force" in error
        assert parts_in(out) == whole
    (out / "_films.jsonl").write_text('["/other"]\n', encoding="utf-8")
    assert score(out, archive, films, "--part", "2") == 2
    assert "is not the list that the job began with" in capfd.readouterr().err
    assert score(out, other, films, "--part", "5", "--force") == 0
    assert list(parts_in(out)) == ["part-00000.parquet"]
    assert len(rows_in(out)) == 3


def test_a_folder_with_something_else_is_not_written_to(
    archive: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    films, out = write_films(tmp_path / "films", ["fine 0.1"]), tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine", encoding="utf-8")
    assert score(out, archive, films) == 2
    assert f"{out} holds thesis.txt and no job of pneumoscan score" in capfd.readouterr().err
    assert score(out, archive, films, "--force") == 0
    assert (out / "thesis.txt").read_text(encoding="utf-8") == "mine"
    with locked(out / ".lock"):
        assert score(out, archive, films) == 2
    assert "another pneumoscan score writes" in capfd.readouterr().err


def test_what_cannot_be_used_is_one_line_and_nothing_is_begun(
    archive: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    films = write_films(tmp_path / "films", ["fine 0.1"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.csv").write_text("name\nx.png\n", encoding="utf-8")
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    for words, message in (
        ((archive, tmp_path / "nowhere"), "nowhere does not exist"),
        ((archive, tmp_path / "empty"), "no film in"),
        ((archive, tmp_path / "list.csv"), "has no column 'file'"),
        ((archive, tmp_path / "bad.zip"), "is no ZIP that can be read"),
        ((tmp_path / "none.mar", films), "No such file"),
        ((tmp_path / "list.csv", films), "is no model archive"),
        ((archive, films, "--part", "0"), "0 is not 1 or more"),
        ((archive, films, "--workers", "0"), "0 is not 1 or more"),
        ((archive, films, "--timeout", "0"), "0.0 is not 0.1 or more"),
        ((archive,), "the following arguments are required: PATH"),
    ):
        capfd.readouterr()
        assert score(tmp_path / "out", *words) == 2, message
        assert message in capfd.readouterr().err
        assert not list(tmp_path.glob("out/part-*"))


@pytest.mark.parametrize(
    ("how", "status", "message"),
    [
        ("refuse", 2, "the archive cannot be used: ValueError: the golden films get other answers"),
        ("die", 1, "while it loaded the archive a worker ended by SIGKILL, 3 times in a row"),
    ],
)
def test_an_archive_that_does_not_load_ends_the_job(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], how: str, status: int, message: str
) -> None:
    films, out = write_films(tmp_path / "films", ["fine 0.1"]), tmp_path / "out"
    assert score(out, write_archive(tmp_path / "stub.mar", start=how), films) == status
    assert message in capfd.readouterr().err
    assert score(out, write_archive(tmp_path / "stub.mar"), films) == 0, "no row was there that could be lost"
    assert len(rows_in(out)) == 1


def test_where_no_film_at_all_has_a_reply_it_is_not_the_films(
    archive: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    films, out = write_films(tmp_path / "films", ["die"] * 12), tmp_path / "out"
    assert score(out, archive, films, "--part", "100") == 1
    assert "no film has a reply: each time the process that scored it ended by SIGSEGV" in capfd.readouterr().err
    assert parts_in(out) == {}
