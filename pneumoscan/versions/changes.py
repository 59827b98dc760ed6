"""Register, promote, roll back and retire versions, on the running server and in the store's file, or on neither.

Each change holds the store's lock, does one thing to the server and writes the file once. Whatever fails on the way, an
interrupt included, is followed by putting back what was done; a kill in between leaves a server that is as good as
before, and a file that says what the next start serves.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

from cxr_client import ClientError
from pneumoscan.errors import StoreError, VersionError
from pneumoscan.model_store import Archive, archive_digest, check_archive, list_archives
from pneumoscan.server.capacity import free_memory, workers_in_memory
from pneumoscan.server.readiness import wait_until_idle
from pneumoscan.signatures import Trust
from pneumoscan.versions.declared import Declared, Verified, locked, read_declared, write_declared
from pneumoscan.versions.live_server import LiveServer


def current(live: LiveServer) -> Declared:
    """The declared state, or what the server was started with where nothing is declared yet."""
    declared = read_declared(live.store)
    if declared is not None:
        return declared
    default, there = live.default(), live.versions()
    # What else is there was left by a registration that was killed, unless somebody made it the default by hand.
    wanted = [version for version in {*live.state.versions, default} if version in there]
    digests = live.state.digests
    return Declared.first(
        default,
        {version: digests.get(version) or archive_digest(find_archive(live.store, version)) for version in wanted},
    )


def find_archive(store: Path, version: str) -> Archive:
    """The archive of a version in a store.

    Raises
    ------
    StoreError, VersionError
        There is none.
    """
    archives, _ = list_archives(store)
    for archive in archives:
        if archive.version.text == version:
            return archive
    there = ", ".join(archive.version.text for archive in archives)
    raise VersionError(f"no archive of {version} in {store} (there: {there}): pack it with pneumoscan pack")


def register(live: LiveServer, version: str, workers: int | None, timeout_s: float, trust: Trust | None = None) -> str:
    """Load a version beside the others and declare it; the default stays what it is. Gives the archive's SHA-256.

    Raises
    ------
    StoreError
        The archive is damaged or not signed by who is trusted, or the store cannot be written.
    VersionError, ClientError
        It did not become ready, or may not be registered.
    """
    with locked(live.store):
        before = read_declared(live.store)
        declared = current(live)
        archive = find_archive(live.store, version)
        if trust is not None:
            trust.check(archive)
        check_archive(archive)
        digest = archive_digest(archive)
        known = declared.versions.get(version)
        if known is not None and known.sha256 != digest:
            raise VersionError(
                f"{archive.path} is another archive than the registered {version}: retire that one first, or pack "
                "this one under another version"
            )
        there = live.versions()
        if known is not None and version in there:
            raise VersionError(f"{version} is registered already")
        count = workers or live.capacity.workers
        if workers is None and (fitting := workers_in_memory(free_memory())) < count:
            raise VersionError(
                f"by estimate the free memory holds {fitting} more workers and not {count}: retire a version, or say "
                "how many with --workers"
            )
        default = live.default()
        if version in there:  # left by a registration that was killed
            wait_until_idle(live.management, version, timeout_s)
            live.forget(version)
        try:
            live.load(archive, count, timeout_s)
            if archive_digest(archive) != digest:
                raise VersionError(f"{archive.path} was changed while it was being registered: register it again")
            if (found := live.default()) != default:
                raise VersionError(f"the default changed from {default} to {found} meanwhile")
            write_declared(live.store, declared if known is not None else declared.registered(version, digest))
        except BaseException:
            _put_back(lambda: write_declared(live.store, before), lambda: live.forget(version))
            raise
    return digest


def promote(live: LiveServer, version: str, *, unverified: bool = False) -> Declared:
    """Make a registered version the default, on the server and in the declared state, which is given.

    Parameters
    ----------
    unverified
        Also one that `pneumoscan models verify` has not found good enough against the present default.

    Raises
    ------
    VersionError, ClientError, StoreError
        It is not registered, not verified, not ready, or a step failed.
    """
    with locked(live.store):
        declared = current(live)
        if version not in declared.versions:
            raise VersionError(f"{version} is not registered: run pneumoscan models register {version}")
        if version == declared.default and live.default() == version:
            return declared
        if version != declared.default and not unverified and (why := declared.why_unverified(version)):
            raise VersionError(f"{version} {why}: run pneumoscan models verify {version} --films DIR, or give --force")
        return _switch(live, declared.promoted(version) if version != declared.default else declared)


def rollback(live: LiveServer) -> Declared:
    """Make the previous default the default again; gives the declared state.

    Raises
    ------
    VersionError, ClientError, StoreError
        There is no previous default, it is not ready, or a step failed.
    """
    with locked(live.store):
        return _switch(live, _rolled_back(current(live)))


def retire(live: LiveServer, version: str, timeout_s: float) -> Declared:
    """Take a version off the server once it has answered all it was asked; its archive stays in the store.

    Raises
    ------
    StillBusy
        It was asked without a pause until the time was over.
    VersionError, ClientError, StoreError
        It is the default, it is not registered, or a step failed.
    """
    with locked(live.store):
        before = read_declared(live.store)
        declared = current(live)
        there = live.versions()
        if version not in declared.versions and version not in there:
            raise VersionError(f"{version} is not registered")
        _refuse_default(version, declared.default, live.default())
        # The file first: who starts the server again while this waits gets what was asked for.
        write_declared(live.store, declared.retired(version))
        try:
            if version in there:
                wait_until_idle(live.management, version, timeout_s)
                live.forget(version)
        except BaseException:
            _put_back(lambda: _declare_again(live, version, before))
            raise
    return declared.retired(version)


def record(live: LiveServer, version: str, sha256: str, verified: Verified) -> None:
    """Keep what a comparison found about a registered version.

    Raises
    ------
    VersionError
        Meanwhile it was retired, or registered again as another archive than the one of `sha256`.
    StoreError
        The store cannot be written.
    """
    with locked(live.store):
        declared = current(live)
        found = declared.versions.get(version)
        if found is None or found.sha256 != sha256:
            raise VersionError(f"{version} was retired or registered again while it was verified: verify it again")
        write_declared(live.store, declared.verified(version, verified))


def rollback_declared(store: Path) -> Declared:
    """Roll back where no server runs: the next start has the previous default."""
    with locked(store):
        declared = _rolled_back(_declared(store))
        write_declared(store, declared)
    return declared


def retire_declared(store: Path, version: str) -> Declared:
    """Retire a version where no server runs: the next start leaves it out."""
    with locked(store):
        declared = _declared(store)
        if version not in declared.versions:
            raise VersionError(f"{version} is not registered")
        _refuse_default(version, declared.default)
        write_declared(store, declared.retired(version))
    return declared.retired(version)


def _switch(live: LiveServer, wanted: Declared) -> Declared:
    live.check_ready(wanted.default)
    before, old = read_declared(live.store), live.default()
    try:
        live.make_default(wanted.default)
        write_declared(live.store, wanted)
    except BaseException:
        _put_back(lambda: write_declared(live.store, before), lambda: live.make_default(old))
        raise
    return wanted


def _rolled_back(declared: Declared) -> Declared:
    if not declared.previous:
        raise VersionError(f"{declared.default} has no previous default to roll back to: promote a version instead")
    return declared.rolled_back()


def _refuse_default(version: str, *defaults: str) -> None:
    if version in defaults:
        raise VersionError(f"{version} is the default: promote another version, or roll back, and retire it then")


def _declared(store: Path) -> Declared:
    declared = read_declared(store)
    if declared is None:
        raise VersionError(f"no server runs, and {store} declares no versions: start a server, or move an archive away")
    return declared


def _declare_again(live: LiveServer, version: str, before: Declared | None) -> None:
    """Unless the server has let it go after all: its answer alone was lost."""
    if version in live.versions():
        write_declared(live.store, before)


def _put_back(*steps: Callable[[], None]) -> None:
    """Take each step without being interrupted again; one that fails is reported and hides no other."""
    old = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for step in steps:
            try:
                step()
            except (ClientError, VersionError, StoreError) as error:
                print(f"could not be put back, see pneumoscan models list: {error}", file=sys.stderr)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
