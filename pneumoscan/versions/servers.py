"""The servers of a model store: each says in the store where it runs, and follows what the store declares.

A server writes ``.servers/<name>.json`` before it reads ``versions.json``. A change that was written before that is
read by it; one that is made after it finds its name there. What a change that was killed left undone, and what a
server on another machine has to do by itself, its `follower` does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cxr_client import ClientError
from pneumoscan.errors import StoreError, VersionError
from pneumoscan.files import write_text
from pneumoscan.model_store import archive_digest, check_archive
from pneumoscan.processes import STDERR, write_out
from pneumoscan.server.run_folder import RunDir
from pneumoscan.versions.declared import Declared, find_archive, locked, read_declared, registered_archive
from pneumoscan.versions.live_server import LiveServer, live_server

_FOLDER: Final = ".servers"
_POLL_S: Final = 1.0
_LOOK_S: Final = 10.0  # how often a server looks at itself, whatever the file says
_SILENT_S: Final = 60.0  # a server of another machine that did not say a word for so long is gone
_FORGOTTEN_S: Final = 24 * 3600.0  # after which what it left is cleared away
_LOAD_S: Final = 300.0


@dataclass(frozen=True)
class Announced:
    """What a server says in its store.

    Parameters
    ----------
    host, run_dir
        Where it runs.
    at
        When it said so, in seconds since 1970.
    default, versions
        What it served then; empty while it starts.
    """

    host: str
    run_dir: str
    at: float
    default: str = ""
    versions: tuple[str, ...] = ()

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine."""
        return self.host == socket.gethostname()

    @property
    def runs(self) -> bool:
        """Whether it is still there."""
        if self.is_here:
            return RunDir(Path(self.run_dir)).is_locked()
        return time.time() - self.at < _SILENT_S

    @property
    def name(self) -> str:
        """The server for people."""
        return self.run_dir if self.is_here else f"{self.run_dir} on {self.host}"


def announce(store: Path, run_dir: Path, default: str = "", versions: tuple[str, ...] = ()) -> None:
    """Say in a store that a server of it runs; a store that cannot be written cannot be changed either."""
    said = Announced(socket.gethostname(), str(run_dir), time.time(), default, versions)
    if store.is_dir():
        with contextlib.suppress(OSError):
            write_text(_path(store, said), json.dumps(asdict(said)) + "\n")


def withdraw(store: Path, run_dir: Path) -> None:
    """Take back what a server said that ends."""
    with contextlib.suppress(OSError):
        _path(store, Announced(socket.gethostname(), str(run_dir), 0.0)).unlink(missing_ok=True)


def servers_of(store: Path) -> list[Announced]:
    """The servers of a store that run, by name; what those that ended left is cleared away."""
    found: list[Announced] = []
    for path in sorted((store / _FOLDER).glob("*.json")):
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            said = Announced(**read | {"versions": tuple(read["versions"])})
        except (OSError, ValueError, TypeError, KeyError):  # it ended while we looked, or somebody's own file
            continue
        if said.runs:
            found.append(said)
        elif said.is_here or said.at < time.time() - _FORGOTTEN_S:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    return sorted(found, key=lambda said: said.name)


def _path(store: Path, said: Announced) -> Path:
    name = hashlib.sha256(f"{said.host}\0{said.run_dir}".encode()).hexdigest()[:16]
    return store / _FOLDER / f"{name}.json"


@contextmanager
def follower(store: Path, run_dir: RunDir) -> Iterator[None]:
    """Have a server follow its store's declared state while it runs; in a thread of its supervisor."""
    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(store, run_dir, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=5.0)
        withdraw(store, run_dir.path)


def _follow(store: Path, run_dir: RunDir, ended: threading.Event) -> None:
    seen: tuple[int, int] | None = None
    looked, said = -_LOOK_S, ""
    while not ended.wait(_POLL_S):
        stamp = _stamp(store)
        if stamp == seen and time.monotonic() < looked + _LOOK_S:
            continue
        looked = time.monotonic()
        try:
            with live_server(run_dir) as live:
                why = _settled(live)
                there = live.look().versions
        except (ClientError, VersionError):  # it loads, stops, or hangs, which its supervisor sees as well
            continue
        default = next((each.version for each in there if each.is_default), "")
        announce(store, run_dir.path, default, tuple(each.version for each in there))
        if why and why != said:
            write_out(STDERR, f"pneumoscan serve: does not serve yet what {store} declares: {why}\n")
        said = why
        seen = None if why else stamp


def _settled(live: LiveServer) -> str:
    """Why a server cannot be brought to what is declared; empty where it serves that."""
    try:
        settle(live)
    except (ClientError, VersionError, StoreError) as error:
        return str(error)
    return ""


def _stamp(store: Path) -> tuple[int, int] | None:
    try:
        found = (store / "versions.json").stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def settle(live: LiveServer) -> None:
    """Bring a server to its store's declared default and versions.

    A version that it serves and that is not declared stays: somebody may be registering it.

    Raises
    ------
    ClientError, VersionError, StoreError
        It does not answer, or cannot be brought there.
    """
    declared = read_declared(live.store)
    if declared is None:
        return
    there = live.versions()
    missing = [version for version in declared.in_order() if version not in there]
    if not missing and live.default() == declared.default:
        return
    if not all(state.is_ready for state in there.values()):
        raise VersionError("its workers are not READY yet")
    with locked(live.store, patience_s=0.0):  # who holds it brings all servers there itself
        declared = read_declared(live.store)
        if declared is None:
            return
        for version in declared.in_order():
            if version not in live.versions():
                archive = registered_archive(live.store, version, declared.versions[version])
                check_archive(archive)
                live.load(archive, live.capacity.workers, _LOAD_S)
        if live.default() != declared.default:
            live.check_ready(declared.default)
            live.make_default(declared.default)


@dataclass(frozen=True)
class Fleet:
    """All servers of one store, which stay together.

    Parameters
    ----------
    live
        Those of this machine, asked and found to answer.
    elsewhere
        Those of other machines, which follow what is declared by themselves.
    """

    store: Path
    live: tuple[LiveServer, ...]
    elsewhere: tuple[Announced, ...]

    def current(self) -> Declared | None:
        """The declared state, or what the servers were started with where nothing is declared yet; None without both.

        Raises
        ------
        StoreError, VersionError
            The file cannot be read, or without one the servers do not serve the same.
        """
        if (declared := read_declared(self.store)) is not None or not self.live:
            return declared
        found = [self._started_with(live) for live in self.live]
        for live, each in zip(self.live, found, strict=True):
            if (each.default, {*each.versions}) != (found[0].default, {*found[0].versions}):
                raise VersionError(
                    f"nothing is declared, and the servers of {self.live[0].run_dir.path} and {live.run_dir.path} do "
                    "not serve the same: start one of them again"
                )
        return found[0]

    def _started_with(self, live: LiveServer) -> Declared:
        default, there = live.default(), live.versions()
        # What else is there was left by a registration that was killed, unless somebody made it the default by hand.
        wanted = [version for version in {*live.state.versions, default} if version in there]
        digests = live.state.digests
        return Declared.first(
            default,
            {each: digests.get(each) or archive_digest(find_archive(self.store, each)) for each in wanted},
        )

    def wait_for_others(self, version: str, *, default: bool, patience_s: float = _SILENT_S) -> None:
        """Wait until the servers of other machines serve a version.

        Parameters
        ----------
        default
            As their default.

        Raises
        ------
        VersionError
            One of them does not; it is named.
        """
        deadline = time.monotonic() + patience_s
        wanted = {(said.host, said.run_dir): said.name for said in self.elsewhere}
        while wanted:
            for said in servers_of(self.store):
                if said.default == version or (not default and version in said.versions):
                    wanted.pop((said.host, said.run_dir), None)
            if wanted and time.monotonic() > deadline:
                raise VersionError(
                    f"the server of {min(wanted.values())} does not serve {version}{' by default' if default else ''}"
                )
            if wanted:
                time.sleep(_POLL_S)


def store_of(run_dir: RunDir, store: Path | None) -> Path:
    """The store that was named, or the one of the server of a run folder; never a guessed one.

    Raises
    ------
    VersionError
        Neither is there, or the server has another store than the one that was named.
    """
    state = run_dir.read_state() if run_dir.is_locked() else None
    if state is None or not state.store:
        if store is None:
            older = "" if state is None else "one that was started by an older pneumoscan serve: start it again; or "
            raise VersionError(
                f"no server runs from {run_dir.path}: {older}start one with pneumoscan serve, give its --run-dir, or "
                "the store with --store"
            )
        return store.absolute()
    served = Path(state.store)
    if store is not None and store.resolve() != served.resolve():
        raise VersionError(
            f"the server of {run_dir.path} serves {served} and not {store}: leave --store out, or give the --run-dir "
            "of a server of that store"
        )
    return served


@contextmanager
def fleet_of(store: Path, run_dir: RunDir) -> Iterator[Fleet]:
    """The servers of a store, and the one of a run folder if it is of that store.

    Raises
    ------
    VersionError
        One of them runs and does not answer; it is named.
    """
    said = servers_of(store)
    # By where it really is: one server under two names would be changed twice.
    folders = {Path(each.run_dir).resolve(): Path(each.run_dir) for each in said if each.is_here}
    if run_dir.is_locked():
        folders[run_dir.path.resolve()] = run_dir.path
    with contextlib.ExitStack() as held:
        live = tuple(held.enter_context(live_server(RunDir(folders[each]))) for each in sorted(folders))
        yield Fleet(store, live, tuple(each for each in said if not each.is_here))
