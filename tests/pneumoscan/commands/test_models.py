"""The command line against a management API with a memory; with a real TorchServe: e2e/test_versions.py."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pneumoscan.commands import models
from pneumoscan.commands.models import OPTIONS
from pneumoscan.errors import StoreError
from pneumoscan.model_store import Archive, Version, archive_digest
from pneumoscan.server import readiness as drain
from pneumoscan.server.capacity import Capacity
from pneumoscan.server.run_folder import RunDir, ServerState
from pneumoscan.versions import changes, servers
from pneumoscan.versions.compare import Comparison, compare
from pneumoscan.versions.declared import Declared, read_declared, write_declared
from pneumoscan.versions.servers import Fleet, announce
from tests.commands import run_command
from tests.film_server import FilmServer, problem, serving, serving_socket
from tests.pneumoscan.managed import Managed, films_of
from tests.pneumoscan.test_model_store import put_archive

OLD, NEW = "1.0.0", "1.1.0"
Run = Callable[..., int]


@contextmanager
def another_server(place: Place) -> Iterator[Managed]:
    """A second server of the same store, which has announced itself in it."""
    run_dir = RunDir(place.store.parent / "second")
    run_dir.create()
    state = place.run_dir.read_state()
    assert state is not None
    run_dir.write_state(state)
    management = Managed(OLD)
    with run_dir.locked(), serving_socket(management, run_dir.socket):
        for each in (place.run_dir, run_dir):
            announce(place.store, each.path)
        yield management


@dataclass
class Place:
    """A store, a server of its old version, and a folder of films."""

    store: Path
    management: Managed
    films: FilmServer
    run_dir: RunDir

    @property
    def declared(self) -> Declared | None:
        return read_declared(self.store)

    def digest(self, version: str) -> str:
        return archive_digest(Archive(self.store / f"pneumonia-{version}.mar", Version(version)))


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "_POLL_S", 0.01)
    monkeypatch.setattr(drain, "QUIET_S", 0.02)


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, serving(FilmServer()) as films:
        store, run_dir = Path(folder) / "store", RunDir(Path(folder) / "run")
        store.mkdir()
        for version in (OLD, NEW):
            put_archive(store, version)
        run_dir.create()
        place = Place(store, Managed(OLD), films, run_dir)
        state = ServerState(
            *(os.getpid(), 0, films.url, "", "", [OLD], {OLD: place.digest(OLD)}, str(store)),
            Capacity(3, 1, 4, 7, 96),
        )
        run_dir.write_state(state)
        films_of(films, {NEW: 0.02})
        with run_dir.locked(), serving_socket(place.management, run_dir.socket):
            yield place


@pytest.fixture
def run(place: Place) -> Run:
    return lambda *arguments: run_command("models", [*arguments, "--run-dir", str(place.run_dir.path)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(80):  # probabilities 0.02 to 0.9
        first = 5 + 25 * (number % 10)
        (tmp_path / f"{number}.png").write_bytes(bytes([first, number]).ljust(128, b"\0") + b"DICM")
    return tmp_path


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


# --- register -----------------------------------------------------------------------------------------------------


def test_a_registered_version_gets_what_the_others_have_and_is_not_the_default(place: Place, run: Run) -> None:
    assert run("register", NEW) == 0
    asked = next(asked for asked in place.management.asked if asked.method == "POST")
    assert asked.query == {
        "url": [f"pneumonia-{NEW}.mar"],
        "model_name": ["pneumonia"],
        "initial_workers": ["3"],
        "batch_size": ["4"],
        "max_batch_delay": ["7"],
        "synchronous": ["false"],
    }
    assert place.management.default == OLD
    declared = place.declared
    assert declared is not None
    assert {version: entry.sha256 for version, entry in declared.versions.items()} == {
        OLD: place.digest(OLD),
        NEW: place.digest(NEW),
    }
    assert (declared.default, declared.previous) == (OLD, ())
    assert f"/predictions/pneumonia/{NEW}" in [asked.path for asked in place.films.asked]  # the canary film


def test_what_was_served_stands_in_the_file_with_the_digest_it_was_started_with(place: Place, run: Run) -> None:
    """Not with the one of a file that was put in its place since."""
    started_with = place.digest(OLD)
    (place.store / f"pneumonia-{OLD}.mar").write_bytes(b"another")
    assert run("register", NEW) == 0
    declared = place.declared
    assert declared is not None
    assert declared.versions[OLD].sha256 == started_with


def test_a_version_that_refuses_the_canary_film_is_taken_away(
    place: Place, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    place.films.answer = lambda _: problem(422, "NOT_A_RADIOGRAPH", "No chest film.")
    assert run("register", NEW) == 1
    assert "NOT_A_RADIOGRAPH" in said(capsys)
    assert (place.management.registered.keys(), place.declared) == ({OLD}, None)


def test_a_version_that_is_never_ready_is_taken_away(
    place: Place, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    place.management.states[NEW] = "UNLOADING"
    assert run("register", NEW, "--timeout", "0.3") == 1
    assert f"{NEW} is not ready within 0.3 s: 0 of 3 workers are READY" in said(capsys)
    assert (place.management.registered.keys(), place.declared) == ({OLD}, None)


def test_a_file_that_cannot_be_written_leaves_the_server_as_it_was(
    place: Place, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(store: Path, declared: Declared | None) -> None:
        if declared is not None:
            raise StoreError("no space left on device")
        write_declared(store, declared)

    monkeypatch.setattr(changes, "write_declared", full)
    for command in (("register", NEW), ("promote", OLD)):
        run(*command)
    assert "no space left" in said(capsys)
    assert (place.management.registered.keys(), place.management.default) == ({OLD}, OLD)


def test_an_archive_that_changes_while_it_is_loaded_is_not_registered(
    place: Place, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place.store / f"pneumonia-{NEW}.mar"
    answer = place.films.answer

    def meanwhile(asked: object) -> object:
        path.write_bytes(path.read_bytes() + b"x")
        return answer(asked)  # type: ignore[arg-type]

    place.films.answer = meanwhile  # type: ignore[assignment]
    assert run("register", NEW) == 1
    assert "was changed while it was being registered" in said(capsys)
    assert (place.management.registered.keys(), place.declared) == ({OLD}, None)


def test_a_version_is_registered_once(place: Place, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("register", NEW) == 0
    assert run("register", NEW) == 1
    assert f"{NEW} is registered already" in said(capsys)
    path = place.store / f"pneumonia-{NEW}.mar"
    path.unlink()
    put_archive(place.store, NEW).write_bytes(put_archive(place.store, NEW).read_bytes()[:-2] + b"\x01\x00x")
    assert run("register", NEW) == 1
    assert "is another archive than the registered" in said(capsys)


def test_what_a_killed_registration_left_is_registered_anew(place: Place, run: Run) -> None:
    place.management.registered[NEW] = 1
    assert run("register", NEW, "--workers", "2") == 0
    assert place.management.registered == {OLD: 1, NEW: 2}


def test_more_workers_than_the_memory_holds_have_to_be_asked_for(
    place: Place, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(changes, "free_memory", lambda: 2_000_000_000)
    assert run("register", NEW) == 1
    assert "holds 1 more workers and not 3" in said(capsys)
    assert run("register", NEW, "--workers", "3") == 0
    assert place.management.registered[NEW] == 3


# --- verify, promote, roll back -----------------------------------------------------------------------------------


def test_only_a_verified_version_is_promoted(
    place: Place, run: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("register", NEW)
    assert run("promote", NEW) == 1
    assert f"{NEW} was not verified against {OLD}: run pneumoscan models verify {NEW}" in said(capsys)
    assert place.management.default == OLD
    assert run("verify", NEW, "--films", str(folder), "--max-shift", "0.03") == 0
    assert run("promote", NEW) == 0
    declared = place.declared
    assert declared is not None
    assert (place.management.default, declared.default, declared.previous) == (NEW, NEW, (OLD,))
    assert run("promote", NEW) == 0  # done is done


def test_a_version_that_did_not_pass_needs_force(
    place: Place, run: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("register", NEW)
    assert run("verify", NEW, "--films", str(folder), "--max-shift", "0.01") == 1
    assert "not passed: the mean shift is 0.02, 0.01 is allowed" in capsys.readouterr().out
    assert run("promote", NEW) == 1
    assert "did not pass its verification" in said(capsys)
    assert run("promote", NEW, "--force") == 0
    assert place.management.default == NEW


def test_a_film_is_too_few_to_promote_on_and_takes_nothing_from_many(
    run: Run, folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    one = tmp_path_factory.mktemp("one")
    for name in ("film.png", "copy.png", "another.png"):
        (one / name).write_bytes((folder / "0.png").read_bytes())
    run("register", NEW)
    assert run("verify", NEW, "--films", str(one)) == 1
    assert "too few films: after 0 of 1 labels up to 95.0% of all may flip" in capsys.readouterr().out
    assert run("promote", NEW) == 1
    assert "on too few films (1)" in said(capsys)
    assert run("verify", NEW, "--films", str(folder)) == 0
    assert run("verify", NEW, "--films", str(one)) == 1
    assert "on 80 films stays" in said(capsys)
    assert run("promote", NEW) == 0


@pytest.mark.parametrize("anew", [False, True])
def test_what_was_found_about_one_archive_is_not_believed_of_another(
    place: Place,
    run: Run,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    anew: bool,
) -> None:
    def compared(*given: Any) -> Comparison:
        found = compare(*given)
        assert run("retire", NEW) == 0
        if anew:
            path = place.store / f"pneumonia-{NEW}.mar"
            path.write_bytes(path.read_bytes()[:-2] + b"\x01\x00x")
            assert run("register", NEW) == 0
        return found

    monkeypatch.setattr(models, "compare", compared)
    run("register", NEW)
    assert run("verify", NEW, "--films", str(folder)) == 1
    assert "was retired or registered again while it was verified" in said(capsys)
    declared = place.declared
    assert declared is not None
    assert NEW not in declared.versions or declared.versions[NEW].verified is None


def test_no_file_name_of_a_film_is_kept(place: Place, run: Run, folder: Path) -> None:
    run("register", NEW)
    run("verify", NEW, "--films", str(folder))
    text = (place.store / "versions.json").read_text()
    assert '"films": 80' in text
    assert ".png" not in text
    assert str(folder) not in text


def test_a_version_that_is_not_ready_is_not_promoted(
    place: Place, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run("register", NEW)
    place.management.states[NEW] = "UNLOADING"
    assert run("promote", NEW, "--force") == 1
    assert f"{NEW} has 0 READY workers of 3" in said(capsys)
    del place.management.registered[NEW]
    assert run("promote", NEW, "--force") == 1
    assert "is not on the server" in said(capsys)
    assert place.management.default == OLD


def test_a_switch_that_fails_changes_neither_server_nor_file(place: Place, run: Run) -> None:
    run("register", NEW)
    before = place.declared
    place.management.fail = {"PUT"}
    assert run("promote", NEW, "--force") == 1
    assert (place.management.default, place.declared) == (OLD, before)


def test_a_switch_whose_file_cannot_be_written_is_switched_back(
    place: Place, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("register", NEW)
    before = place.declared

    def full(store: Path, declared: Declared | None) -> None:
        if declared is not None and declared.default == NEW:
            raise StoreError("no space left on device")
        write_declared(store, declared)

    monkeypatch.setattr(changes, "write_declared", full)
    assert run("promote", NEW, "--force") == 1
    assert f"/models/pneumonia/{NEW}/set-default" not in [asked.path for asked in place.management.asked]
    assert (place.management.default, place.declared) == (OLD, before)


def test_a_rollback_goes_to_the_previous_default_and_no_further(
    place: Place, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run("register", NEW)
    run("promote", NEW, "--force")
    assert run("rollback") == 0
    assert place.management.default == OLD
    assert run("rollback") == 1
    assert f"{OLD} has no previous default" in said(capsys)
    assert place.management.default == OLD


def test_what_cannot_be_put_back_is_told_and_the_rest_is_put_back(
    place: Place, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("register", NEW)

    def full(*_: object) -> None:
        raise StoreError("no space left on device")

    monkeypatch.setattr(changes, "write_declared", full)
    capsys.readouterr()
    assert run("promote", NEW, "--force") == 1
    assert "could not be put back, see pneumoscan models list: no space left" in said(capsys)
    assert place.management.default == OLD


# --- retire -------------------------------------------------------------------------------------------------------


def test_the_default_is_not_retired(place: Place, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("register", NEW)
    assert run("retire", OLD) == 1
    assert f"{OLD} is the default: promote another version" in said(capsys)
    assert place.management.registered.keys() == {OLD, NEW}


def test_a_retired_version_is_gone_and_its_archive_stays(place: Place, run: Run) -> None:
    run("register", NEW)
    assert run("retire", NEW) == 0
    declared = place.declared
    assert declared is not None
    assert (declared.versions.keys(), place.management.registered.keys()) == ({OLD}, {OLD})
    assert (place.store / f"pneumonia-{NEW}.mar").is_file()
    assert run("retire", NEW) == 1


def test_a_version_that_cannot_be_taken_away_stays_declared(place: Place, run: Run) -> None:
    run("register", NEW)
    before = place.declared
    place.management.fail = {"DELETE"}
    assert run("retire", NEW) == 1
    assert place.declared == before


# --- several servers of one store ---------------------------------------------------------------------------------


def test_the_servers_of_a_store_stay_together(
    place: Place, run: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with another_server(place) as second:
        second_run = lambda *arguments: run_command(  # noqa: E731
            "models", [*arguments, "--run-dir", str(place.store.parent / "second")]
        )
        assert run("register", NEW) == 0
        assert second.registered.keys() == place.management.registered.keys() == {OLD, NEW}
        assert run("verify", NEW, "--films", str(folder)) == 0
        for command, default in ((run, NEW), (second_run, OLD), (second_run, NEW), (run, OLD)):
            assert command(*(("promote", NEW, "--force") if default == NEW else ("rollback",))) == 0
            declared = place.declared
            assert declared is not None
            assert (place.management.default, second.default, declared.default) == (default, default, default)
        capsys.readouterr()
        assert run("list", "--json") == 0
        servers = json.loads(capsys.readouterr().out)["servers"]
        assert {server["server"]: server["default"] for server in servers} == {
            str(place.run_dir.path): OLD,
            str(place.store.parent / "second"): OLD,
        }
        assert run("retire", NEW) == 0
        assert second.registered.keys() == place.management.registered.keys() == {OLD}


def test_a_server_that_cannot_follow_is_named_and_the_others_stay(
    place: Place, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with another_server(place) as second:
        run("register", NEW)
        before = place.declared
        second.fail = {"PUT"}
        assert run("promote", NEW, "--force") == 1
        assert (place.management.default, second.default, place.declared) == (OLD, OLD, before)
        second.fail = {"GET"}
        capsys.readouterr()
        assert run("promote", NEW, "--force") == 1
        assert f"the server of {place.store.parent / 'second'} does not answer" in said(capsys)
        assert (place.management.default, place.declared) == (OLD, before)
        run("list")
        assert f"the server of {place.store.parent / 'second'} does not say what it serves" in capsys.readouterr().out
    assert run("promote", NEW, "--force") == 0  # it has ended


def test_a_server_follows_what_a_change_that_was_killed_has_declared(
    place: Place, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_POLL_S", 0.01)
    monkeypatch.setattr(servers, "_LOOK_S", 0.05)
    run("register", NEW)
    declared = place.declared
    assert declared is not None
    with servers.follower(place.store, place.run_dir):
        write_declared(place.store, declared.promoted(NEW))
        wait_for(lambda: place.management.default == NEW)
        del place.management.registered[OLD]  # it was started before this one was registered
        wait_for(lambda: OLD in place.management.registered)
        wait_for(lambda: [each.default for each in servers.servers_of(place.store)] == [NEW])
    assert list((place.store / ".servers").iterdir()) == []


def wait_for(state: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not state():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_of_another_machine_is_waited_for(
    place: Place, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("register", NEW)
    before = place.declared
    monkeypatch.setattr(servers.socket, "gethostname", lambda: "elsewhere")
    announce(place.store, Path("/run/theirs"), OLD, (OLD, NEW))
    monkeypatch.undo()
    monkeypatch.setattr(Fleet.wait_for_others, "__kwdefaults__", {"patience_s": 0.0})
    assert run("promote", NEW, "--force") == 1
    assert f"the server of /run/theirs on elsewhere does not serve {NEW} by default" in said(capsys)
    assert (place.management.default, place.declared) == (OLD, before)
    monkeypatch.setattr(servers.socket, "gethostname", lambda: "elsewhere")
    announce(place.store, Path("/run/theirs"), NEW, (OLD, NEW))
    monkeypatch.undo()
    assert run("promote", NEW, "--force") == 0


# --- the bytes on the disk ----------------------------------------------------------------------------------------


def test_an_archive_that_changed_on_the_disk_is_not_promoted_verified_or_rolled_back_to(
    place: Place, run: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("register", NEW)
    path = place.store / f"pneumonia-{NEW}.mar"
    registered = path.read_bytes()
    path.write_bytes(registered[:-2] + b"\x01\x00x")
    for command in (("promote", NEW, "--force"), ("verify", NEW, "--films", str(folder))):
        assert run(*command) == 1
        assert f"{path} is not the archive that was registered" in said(capsys)
    run("list")
    assert f"{NEW} is registered, but its archive has other bytes now" in capsys.readouterr().out
    path.write_bytes(registered)
    assert run("promote", NEW, "--force") == 0
    put_archive(place.store, OLD).unlink()
    assert run("rollback") == 1
    assert f"no archive of {OLD}" in said(capsys)
    assert place.management.default == NEW


# --- without a server, and what is shown --------------------------------------------------------------------------


def test_without_a_server_the_file_can_be_put_right(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = ("--run-dir", str(tmp_path / "no"), "--store", str(place.store))
    assert run_command("models", ["retire", NEW, *here]) == 1
    assert "declares no versions" in said(capsys)
    write_declared(place.store, Declared.first(OLD, {OLD: place.digest(OLD), NEW: "b"}).promoted(NEW))
    assert run_command("models", ["retire", NEW, *here]) == 1
    assert run_command("models", ["rollback", *here]) == 0
    assert run_command("models", ["retire", NEW, *here]) == 0
    declared = place.declared
    assert declared is not None
    assert (declared.default, declared.versions.keys()) == (OLD, {OLD})
    assert run_command("models", ["promote", OLD, *here]) == 1
    assert "no server runs from" in said(capsys)


@pytest.mark.parametrize("command", [["list"], ["rollback"], ["retire", NEW], ["export", NEW, "--registry", "file:x"]])
def test_without_a_server_and_a_store_nothing_is_guessed(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
) -> None:
    write_declared(place.store, Declared.first(OLD, {OLD: place.digest(OLD), NEW: "b"}))
    (tmp_path / "model_store").symlink_to(place.store)
    monkeypatch.chdir(tmp_path)
    before = place.declared
    assert run_command("models", [*command, "--run-dir", "no"]) == 1
    assert "or the store with --store" in said(capsys)
    assert place.declared == before


def test_a_server_that_did_not_say_what_it_serves_is_not_changed(
    place: Place, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    place.run_dir.write_state(ServerState(os.getpid(), 0, place.films.url, "", "", [OLD]))
    assert run("register", NEW) == 1
    assert "was started by an older pneumoscan serve: start it again" in said(capsys)


def test_a_store_that_is_not_the_servers_is_refused(
    place: Place, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("register", NEW, "--store", str(tmp_path)) == 1
    assert f"serves {place.store} and not {tmp_path}" in said(capsys)


def test_the_list_tells_declared_from_served_from_lying_about(
    place: Place, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    put_archive(place.store, "0.9.0")
    run("register", NEW)
    place.management.registered["2.0.0"] = 1
    capsys.readouterr()
    assert run("list", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    entries = {entry["version"]: entry for entry in found["versions"]}
    assert list(entries) == ["2.0.0", NEW, OLD, "0.9.0"]
    assert {version for version, entry in entries.items() if entry["registered"]} == {OLD, NEW}
    assert {version for version, entry in entries.items() if entry["default"]} == {OLD}
    assert {version: entry["on_disk"] for version, entry in entries.items()} == {
        "2.0.0": "missing",
        NEW: "registered",
        OLD: "registered",
        "0.9.0": "unregistered",
    }
    assert entries[NEW]["server"] == {"ready": 3, "workers": 3, "waiting": 0}
    assert run("list") == 0
    table = capsys.readouterr().out
    assert "2.0.0 is on the server of " in table
    assert "but not registered: register or retire it" in table
    place.management.registered = {NEW: 1}
    place.management.default = NEW
    run("list")
    table = capsys.readouterr().out
    assert f"{OLD} is registered, but not on the server" in table
    assert f"its default is {NEW}, declared is {OLD}" in table


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["register"],
        ["register", "latest"],
        ["verify", NEW],
        ["verify", NEW, "--films", ".", "--max-flips", "7"],
        ["list", "--workers", "2"],
        ["register", NEW, "--workers", "0"],
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(arguments: list[str]) -> None:
    assert run_command("models", arguments) == 2


def test_a_folder_without_films_is_wrong_usage(run: Run, tmp_path: Path) -> None:
    assert run("verify", NEW, "--films", str(tmp_path)) == 2
    assert run("verify", NEW, "--films", str(tmp_path / "no")) == 2


def test_each_command_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("models", ["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in OPTIONS)
