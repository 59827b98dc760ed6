"""``pneumoscan models``: change the versions of a running server without one failed request."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final

from pneumoscan.errors import StoreError, UsageError, VersionError
from pneumoscan.film_files import find_films
from pneumoscan.model_store import MODEL_NAME, Version
from pneumoscan.options import Option, at_least, between
from pneumoscan.server.run_folder import RunDir
from pneumoscan.signatures import Trust, trust_of
from pneumoscan.versions import changes
from pneumoscan.versions.compare import Limits, compare
from pneumoscan.versions.declared import read_declared
from pneumoscan.versions.live_server import LiveServer, live_server
from pneumoscan.versions.registry import export_archive, import_archive
from pneumoscan.versions.tables import comparison_table, overview, overview_table


def _semantic(text: str) -> str:
    if Version.parse(text) is None:
        raise ValueError(f"{text!r} is no version like 1.0.0 (Semantic Versioning)")
    return text


@dataclass(frozen=True, kw_only=True)
class Common:
    """What all commands on versions take."""

    run_dir: Annotated[Path, Option("the server's run folder", "DIR")] = Path("run")
    store: Annotated[
        Path | None, Option("model store, where no server runs (default: the server's, else model_store)", "DIR")
    ] = None
    json: Annotated[bool, Option("print JSON")] = False


@dataclass(frozen=True, kw_only=True)
class _OfVersion(Common):
    version: Annotated[str, Option("such as 1.1.0", "VERSION", positional=True, read=_semantic)]


@dataclass(frozen=True, kw_only=True)
class _OfTrusted(_OfVersion):
    trust: Annotated[
        Path | None,
        Option("the archive must be signed with a key of this file (default: the server's --trust)", "FILE"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class List(Common):
    """Show what is declared, served and in the store."""


@dataclass(frozen=True, kw_only=True)
class Register(_OfTrusted):
    """Load an archive of the store beside the versions that are served."""

    workers: Annotated[
        int | None, Option("its workers (default: as many as the others have)", "N", check=at_least(1))
    ] = None
    timeout: Annotated[
        float,
        Option(
            "how long to wait until its workers are READY, have given the golden answers and answer a film", "SECONDS"
        ),
    ] = 300.0


@dataclass(frozen=True, kw_only=True)
class Verify(_OfTrusted):
    """Score films on a version and on the default one: label flips and score shifts."""

    films: Annotated[Path, Option("folder of films", "DIR")]
    max_flips: Annotated[float, Option("share of films whose label may flip", "SHARE", check=between(0.0, 1.0))] = (
        Limits.flips
    )
    max_shift: Annotated[
        float,
        Option("mean shift of the probability of PNEUMONIA that is allowed", "SHIFT", check=between(0.0, 1.0)),
    ] = Limits.shift
    jobs: Annotated[int, Option("films asked about at once", "N", check=at_least(1))] = 2


@dataclass(frozen=True, kw_only=True)
class Promote(_OfVersion):
    """Make a verified version the default."""

    force: Annotated[bool, Option("also one that was not verified, or did not pass")] = False


@dataclass(frozen=True, kw_only=True)
class Rollback(Common):
    """Make the previous default the default again."""


@dataclass(frozen=True, kw_only=True)
class Retire(_OfVersion):
    """Take a version off the server once it has answered all it was asked."""

    timeout: Annotated[float, Option("how long to wait until nobody asks for it any more", "SECONDS")] = 120.0


@dataclass(frozen=True, kw_only=True)
class Export(_OfVersion):
    """Put an archive of the store into an MLflow registry."""

    registry: Annotated[str, Option("MLflow tracking server with a model registry, http://host:5000", "URI")]


@dataclass(frozen=True, kw_only=True)
class Import(_OfVersion):
    """Put a version of an MLflow registry into the store, to be registered then."""

    registry: Annotated[str, Option("MLflow tracking server with a model registry, http://host:5000", "URI")]
    force: Annotated[bool, Option("replace another archive of this version in the store")] = False


def list_versions(options: Common) -> int:
    """Show what is declared, what is on the server, what lies in the store."""
    run_dir = RunDir(options.run_dir.absolute())
    try:
        with live_server(run_dir) as live:
            found = overview(live.store, live.look())
    except VersionError as error:
        print(f"note: {error}", file=sys.stderr)
        found = overview(_store(options), None)
    print(json.dumps(found, indent=2) if options.json else overview_table(found))
    return 0


def register(options: Register) -> int:
    """Load a version beside the others."""
    with _live(options) as live:
        print(f"Loading {options.version} and waiting for its workers (some seconds) ...", file=sys.stderr, flush=True)
        digest = changes.register(live, options.version, options.workers, options.timeout, _trust(options, live))
        default = live.default()
    _say(
        options, f"registered: {options.version} (sha256 {digest[:12]}…); the default is still {default}", sha256=digest
    )
    return 0


def verify(options: Verify) -> int:
    """Compare a version with the default one on films."""
    try:
        films = find_films([options.films]).films
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error
    if not films:
        raise UsageError(f"no film in {options.films}: PNG, JPEG or DICOM files are looked for")
    with _live(options) as live:
        declared = changes.current(live)
        if options.version == declared.default:
            raise VersionError(f"{options.version} is the default itself: verify another version against it")
        if options.version not in declared.versions:
            raise VersionError(f"{options.version} is not registered: run pneumoscan models register {options.version}")
        if (trust := _trust(options, live)) is not None:
            trust.check(changes.find_archive(live.store, options.version))
        old = declared.default
        limits = Limits(options.max_flips, options.max_shift)
        comparison = compare(live.state.url, old, options.version, films, limits, options.jobs)
        verified = comparison.verified(declared.versions[old].sha256)
        changes.record(live, options.version, declared.versions[options.version].sha256, verified)
    print(json.dumps(comparison.to_dict(), indent=2) if options.json else comparison_table(comparison))
    return 1 if comparison.failures else 0


def promote(options: Promote) -> int:
    """Make a version the default."""
    with _live(options) as live:
        declared = changes.promote(live, options.version, unverified=options.force)
    before = f", before it {declared.previous[-1]}" if declared.previous else ""
    _say(options, f"promoted: the default is {declared.default}{before}")
    return 0


def rollback(options: Common) -> int:
    """Make the previous default the default again."""
    if _runs(options):
        with _live(options) as live:
            declared = changes.rollback(live)
    else:
        declared = changes.rollback_declared(_store(options))
    _say(options, f"rolled back: the default is {declared.default}")
    return 0


def retire(options: Retire) -> int:
    """Take a version off the server."""
    if _runs(options):
        with _live(options) as live:
            print(f"Waiting until {options.version} has answered what it was asked ...", file=sys.stderr, flush=True)
            changes.retire(live, options.version, options.timeout)
    else:
        changes.retire_declared(_store(options), options.version)
    _say(options, f"retired: {options.version}; its archive stays in the store")
    return 0


def export(options: Export) -> int:
    """Put an archive into a registry."""
    archive = changes.find_archive(_store(options), options.version)
    number = export_archive(archive, options.registry)
    _say(options, f"exported: {options.version} is {MODEL_NAME} version {number} of {options.registry}", number=number)
    return 0


def import_(options: Import) -> int:
    """Put a version of a registry into the store."""
    path = import_archive(options.version, _store(options), options.registry, force=options.force)
    _say(options, f"imported: {path}; next: pneumoscan models register {options.version}")
    return 0


@contextmanager
def _live(options: Common) -> Iterator[LiveServer]:
    with live_server(RunDir(options.run_dir.absolute())) as live:
        store = options.store and options.store.absolute()
        if store and store.resolve() != live.store.resolve():
            raise VersionError(
                f"the server of {options.run_dir} serves {live.store} and not {store}: leave --store out"
            )
        yield live


def _trust(options: _OfTrusted, live: LiveServer) -> Trust | None:
    """The keys that an archive must be signed with: those named here, else those the server was started with."""
    return trust_of(live.store, options.trust or (Path(live.state.trust) if live.state.trust else None))


def _runs(options: Common) -> bool:
    return RunDir(options.run_dir.absolute()).is_locked()


def _store(options: Common) -> Path:
    """The store that was named, the running server's, or the usual one."""
    state = RunDir(options.run_dir.absolute()).read_state() if options.store is None and _runs(options) else None
    return Path(state.store) if state is not None else (options.store or Path("model_store")).absolute()


def _say(options: Common, text: str, **more: str) -> None:
    """Say what was done; as JSON with the declared state, for programs."""
    if not options.json:
        print(text)
        return
    declared = read_declared(_store(options))
    state = {} if declared is None else {"default": declared.default, "versions": declared.in_order()}
    print(json.dumps({"done": text, **state, **more}, indent=2))


_COMMANDS: Final[dict[str, tuple[type[Common], Callable[[Any], int]]]] = {
    "list": (List, list_versions),
    "register": (Register, register),
    "verify": (Verify, verify),
    "promote": (Promote, promote),
    "rollback": (Rollback, rollback),
    "retire": (Retire, retire),
    "export": (Export, export),
    "import": (Import, import_),
}
OPTIONS: Final = {name: options for name, (options, _) in _COMMANDS.items()}
_RUN: Final = dict(_COMMANDS.values())


def run(options: Common) -> int:
    """Do one change, whole or not at all; 1 if it was refused or failed and everything is as before."""
    old = signal.signal(signal.SIGTERM, _interrupt)  # what Ctrl-C puts back, a service manager's stop puts back too
    try:
        return _RUN[type(options)](options)
    except StoreError as error:  # the change had begun
        raise VersionError(str(error)) from error
    except KeyboardInterrupt:
        print("pneumoscan models: interrupted; what was begun was put back", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, old)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
