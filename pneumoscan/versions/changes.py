"""Register, promote, roll back and retire versions, in the store's file and on every server of it, or on none.

Each change holds the store's lock, does one thing to each server and writes the file once. Whatever fails on the way,
an interrupt included, is followed by putting back what was done; a kill in between leaves servers that are as good as
before, and a file that says what they follow and what the next start serves.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial

from cxr_client import ClientError
from pneumoscan.errors import StoreError, VersionError
from pneumoscan.model_store import Archive, archive_digest, check_archive
from pneumoscan.server.capacity import free_memory, workers_in_memory
from pneumoscan.server.readiness import wait_until_idle
from pneumoscan.signatures import Trust
from pneumoscan.versions.declared import (
    Declared,
    Verified,
    find_archive,
    locked,
    read_declared,
    registered_archive,
    write_declared,
)
from pneumoscan.versions.live_server import LiveServer
from pneumoscan.versions.servers import Fleet


def register(fleet: Fleet, version: str, workers: int | None, timeout_s: float, trust: Trust | None = None) -> str:
    """Load a version beside the others and declare it; the default stays what it is. Gives the archive's SHA-256.

    Raises
    ------
    StoreError
        The archive is damaged or not signed by who is trusted, or the store cannot be written.
    VersionError, ClientError
        It did not become ready, or may not be registered.
    """
    with locked(fleet.store):
        before = read_declared(fleet.store)
        declared = _current(fleet)
        archive = find_archive(fleet.store, version)
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
        lacking = [live for live in fleet.live if known is None or version not in live.versions()]
        if known is not None and not lacking:
            raise VersionError(f"{version} is registered already")
        loaded: list[LiveServer] = []
        try:
            for live in lacking:
                _make_room(live, version, workers, timeout_s)
                loaded.append(live)
                _load(live, archive, workers, timeout_s)
            if archive_digest(archive) != digest:
                raise VersionError(f"{archive.path} was changed while it was being registered: register it again")
            write_declared(fleet.store, declared if known is not None else declared.registered(version, digest))
            _check(fleet, declared.default, version)
            fleet.wait_for_others(version, default=False, patience_s=timeout_s)
        except BaseException:
            steps = [partial(live.forget, version) for live in loaded]
            _put_back(lambda: write_declared(fleet.store, before), *steps)
            raise
    return digest


def promote(fleet: Fleet, version: str, *, unverified: bool = False) -> Declared:
    """Make a registered version the default, in the declared state, which is given, and on every server of the store.

    Parameters
    ----------
    unverified
        Also one that `pneumoscan models verify` has not found good enough against the present default.

    Raises
    ------
    VersionError, ClientError, StoreError
        It is not registered, not verified, not ready, its archive is another one by now, or a step failed.
    """
    with locked(fleet.store):
        declared = _current(fleet)
        if version not in declared.versions:
            raise VersionError(f"{version} is not registered: run pneumoscan models register {version}")
        if version != declared.default and not unverified and (why := declared.why_unverified(version)):
            raise VersionError(f"{version} {why}: run pneumoscan models verify {version} --films DIR, or give --force")
        return _switch(fleet, declared.promoted(version) if version != declared.default else declared)


def rollback(fleet: Fleet) -> Declared:
    """Make the previous default the default again; gives the declared state. Without a server, for the next start.

    Raises
    ------
    VersionError, ClientError, StoreError
        There is no previous default, it is not ready, or a step failed.
    """
    with locked(fleet.store):
        declared = _current(fleet)
        if not declared.previous:
            raise VersionError(f"{declared.default} has no previous default to roll back to: promote a version instead")
        return _switch(fleet, declared.rolled_back())


def retire(fleet: Fleet, version: str, timeout_s: float) -> Declared:
    """Take a version off the servers once they have answered all they were asked; its archive stays in the store.

    Without a server, the next start leaves it out; a server of another machine does so at its next start too.

    Raises
    ------
    StillBusy
        It was asked without a pause until the time was over.
    VersionError, ClientError, StoreError
        It is the default, it is not registered, or a step failed.
    """
    with locked(fleet.store):
        before = read_declared(fleet.store)
        declared = _current(fleet)
        serving = [live for live in fleet.live if version in live.versions()]
        if version not in declared.versions and not serving:
            raise VersionError(f"{version} is not registered")
        if version in (declared.default, *(live.default() for live in fleet.live)):
            raise VersionError(f"{version} is the default: promote another version, or roll back, and retire it then")
        # The file first: who starts a server again while this waits gets what was asked for.
        write_declared(fleet.store, declared.retired(version))
        try:
            for live in serving:
                wait_until_idle(live.management, version, timeout_s)
                live.forget(version)
            if left := [live for live in fleet.live if version in live.versions()]:
                raise VersionError(f"{version} is still on the server of {left[0].run_dir.path}")
        except BaseException:
            _put_back(lambda: _declare_again(serving, version, fleet, before))
            raise
    return declared.retired(version)


def record(fleet: Fleet, version: str, sha256: str, verified: Verified) -> Verified:
    """Keep what a comparison found about a registered version; give what is known about it now, which can be more.

    Raises
    ------
    VersionError
        Meanwhile it was retired, or registered again as another archive than the one of `sha256`.
    StoreError
        The store cannot be written.
    """
    with locked(fleet.store):
        declared = _current(fleet)
        found = declared.versions.get(version)
        if found is None or found.sha256 != sha256:
            raise VersionError(f"{version} was retired or registered again while it was verified: verify it again")
        for each in (version, verified.against):
            if each in declared.versions:
                registered_archive(fleet.store, each, declared.versions[each])
        known = declared.verified(version, verified)
        write_declared(fleet.store, known)
    return known.versions[version].verified or verified


def _current(fleet: Fleet) -> Declared:
    declared = fleet.current()
    if declared is None:
        raise VersionError(
            f"no server runs, and {fleet.store} declares no versions: start a server, or move an archive away"
        )
    return declared


def _make_room(live: LiveServer, version: str, workers: int | None, timeout_s: float) -> None:
    """Check that a server has the memory for a version, and take away what a killed registration of it left."""
    count = workers or live.capacity.workers
    if workers is None and (fitting := workers_in_memory(free_memory())) < count:
        raise VersionError(
            f"by estimate the free memory holds {fitting} more workers and not {count}: retire a version, or say "
            "how many with --workers"
        )
    if version in live.versions():
        wait_until_idle(live.management, version, timeout_s)
        live.forget(version)


def _load(live: LiveServer, archive: Archive, workers: int | None, timeout_s: float) -> None:
    default = live.default()
    live.load(archive, workers or live.capacity.workers, timeout_s)
    if (found := live.default()) != default:
        raise VersionError(f"the default changed from {default} to {found} meanwhile")


def _switch(fleet: Fleet, wanted: Declared) -> Declared:
    registered_archive(fleet.store, wanted.default, wanted.versions[wanted.default])
    for live in fleet.live:
        live.check_ready(wanted.default)
    before, old = read_declared(fleet.store), [live.default() for live in fleet.live]
    try:
        # The file first: a server that starts now reads it.
        write_declared(fleet.store, wanted)
        for live in fleet.live:
            live.make_default(wanted.default)
        _check(fleet, wanted.default)
        fleet.wait_for_others(wanted.default, default=True)
    except BaseException:
        steps = [partial(live.make_default, default) for live, default in zip(fleet.live, old, strict=True)]
        _put_back(lambda: write_declared(fleet.store, before), *steps)
        raise
    return wanted


def _check(fleet: Fleet, default: str, also: str | None = None) -> None:
    """Look once more before anything is called done."""
    for live in fleet.live:
        there = {state.version for state in live.look().versions}
        if live.default() != default or not {default, also or default} <= there:
            raise VersionError(
                f"the server of {live.run_dir.path} serves {', '.join(sorted(there))}, its default is {live.default()}"
            )


def _declare_again(serving: Sequence[LiveServer], version: str, fleet: Fleet, before: Declared | None) -> None:
    """Unless the servers have let it go after all: an answer alone was lost."""
    if any(version in live.versions() for live in serving):
        write_declared(fleet.store, before)


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
