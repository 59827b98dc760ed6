from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pneumoscan.files import clear_drafts, is_locked, locked, write_bytes, write_text, write_whole


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_that_cannot_be_written_leaves_the_old_one_and_no_draft(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "state.json"
    write_text(path, "old", durable=durable)

    def fail(draft: Path) -> None:
        draft.write_text("half")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_whole(path, fail, durable=durable)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_whole_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "text"
    write_text(path, "Größe\n")
    assert path.read_bytes() == "Größe\n".encode()
    write_bytes(path, b"\x00\xff", durable=True)
    assert path.read_bytes() == b"\x00\xff"
    assert list(path.parent.iterdir()) == [path]


def test_a_secret_is_nobody_elses_from_its_first_byte(tmp_path: Path) -> None:
    seen: list[int] = []
    old = os.umask(0o022)
    try:
        write_text(tmp_path / "secret", "an open file that is replaced")
        assert mode(tmp_path / "secret") == 0o644

        def write(draft: Path) -> None:
            seen.append(mode(draft))
            draft.write_text("secret")
            seen.append(mode(draft))

        write_whole(tmp_path / "secret", write, mode=0o600)
    finally:
        os.umask(old)
    assert seen == [0o600, 0o600]
    assert mode(tmp_path / "secret") == 0o600


def test_a_link_is_put_in_place_of_a_file_and_leads_where_it_should(tmp_path: Path) -> None:
    write_text(tmp_path / "old", "old")
    write_text(tmp_path / "here", "here")
    write_whole(tmp_path / "here", lambda draft: draft.symlink_to(tmp_path / "old"))
    assert (tmp_path / "here").readlink() == tmp_path / "old"


def test_what_a_kill_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from pneumoscan.files import write_whole\n"
        "def die(draft):\n    draft.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_whole(Path(sys.argv[1]), die)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run.json")], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.read_text() == "half"
    others = [tmp_path / name for name in (".partial", "a.1.partial", ".a.b.partial", ".a.1.new")]
    for path in others:
        path.touch()
    clear_drafts(tmp_path)
    assert set(tmp_path.iterdir()) == set(others)


HOLD = (
    "import sys, time; from pathlib import Path; from pneumoscan.files import locked\n"
    "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
)


def test_a_second_holder_is_refused_until_the_first_was_killed(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError), locked(lock):
            pass
        with pytest.raises(ValueError, match="taken"), locked(lock, busy=ValueError("taken")):
            pass
        first.kill()
    with locked(lock, wait=True), pytest.raises(BlockingIOError), locked(lock):
        pass


def test_an_error_under_a_lock_is_not_mistaken_for_a_second_holder(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), locked(tmp_path / "lock", busy=ValueError("taken")):
        raise BlockingIOError


def test_looking_at_a_lock_takes_it_from_nobody(tmp_path: Path) -> None:
    """A probe that asks again and again must not make a start beside it fail."""
    lock = tmp_path / "lock"
    assert not is_locked(lock)
    assert not lock.exists()
    with locked(lock):
        assert is_locked(lock)
    looked = threading.Event()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            is_locked(lock)
            looked.set()

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert looked.wait(10)
        for _ in range(3000):
            with locked(lock):
                pass
    finally:
        done.set()
        for thread in threads:
            thread.join()
