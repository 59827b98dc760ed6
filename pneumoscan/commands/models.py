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

from pneumoscan.edge import trials
from pneumoscan.errors import StoreError, UsageError, VersionError
from pneumoscan.film_files import find_films
from pneumoscan.model_store import MODEL_NAME, Version
from pneumoscan.options import Option, at_least, between
from pneumoscan.server.run_folder import RunDir
from pneumoscan.signatures import Trust, trust_of
from pneumoscan.versions import changes
from pneumoscan.versions.compare import compare
from pneumoscan.versions.declared import find_archive, now_exactly, read_declared, registered_archive
from pneumoscan.versions.limits import Limits
from pneumoscan.versions.registry import CHAMPION, export_archive, import_archive
from pneumoscan.versions.servers import Fleet, fleet_of, store_of
from pneumoscan.versions.tables import comparison_table, overview, overview_table
from pneumoscan.versions.trial import Kind, Trial, TrialLimits


def _semantic(text: str) -> str:
    if Version.parse(text) is None:
        raise ValueError(f"{text!r} is no version like 1.0.0 (Semantic Versioning)")
    return text


@dataclass(frozen=True, kw_only=True)
class Common:
    """What all commands on versions take."""

    run_dir: Annotated[Path, Option("the server's run folder", "DIR")] = Path("run")
    store: Annotated[
        Path | None, Option("model store, with all servers of it (default: that of the server of --run-dir)", "DIR")
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
    """Put an archive of the store into an MLflow registry, with its figures and its model card."""

    registry: Annotated[str, Option("MLflow tracking server with a model registry, http://host:5000", "URI")]
    alias: Annotated[
        tuple[str, ...],
        Option(
            "a name that it has there; give it again for more (default: champion for the declared default)",
            "NAME",
            repeated=True,
        ),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class Import(_OfVersion):
    """Put a version of an MLflow registry into the store, to be registered then."""

    registry: Annotated[str, Option("MLflow tracking server with a model registry, http://host:5000", "URI")]
    force: Annotated[bool, Option("replace another archive of this version in the store")] = False


_EDGE: Final = Option("run folder of the edge", "DIR")


@dataclass(frozen=True, kw_only=True)
class _Trial(_OfVersion):
    edge: Annotated[Path, _EDGE] = Path("run/edge")
    max_flips: Annotated[float, Option("share of labels that may flip", "SHARE", check=between(0.0, 1.0))] = (
        TrialLimits.flips
    )
    max_shift: Annotated[float, Option("mean shift that is allowed", "SHIFT", check=between(0.0, 1.0))] = (
        TrialLimits.shift
    )
    max_errors: Annotated[float, Option("share that may not be answered alike", "SHARE", check=between(0.0, 1.0))] = (
        TrialLimits.errors
    )
    max_slower: Annotated[float, Option("how many times as long it may take", "TIMES", check=between(0.0, 1e6))] = (
        TrialLimits.slower
    )

    @property
    def limits(self) -> TrialLimits:
        """When the trial ends by itself."""
        return TrialLimits(self.max_flips, self.max_shift, self.max_errors, self.max_slower)


@dataclass(frozen=True, kw_only=True)
class Canary(_Trial):
    """Let a version answer a share of an edge's requests; rolled back by itself where a limit is passed."""

    share: Annotated[float, Option("of the requests that name no version", "SHARE", check=between(0.0, 1.0))] = 0.1


@dataclass(frozen=True, kw_only=True)
class Shadow(_Trial):
    """Ask a version about a share of an edge's requests as well, and compare its answers alone."""

    share: Annotated[float, Option("of the requests that name no version", "SHARE", check=between(0.0, 1.0))] = 1.0


@dataclass(frozen=True, kw_only=True)
class Compare(Common):
    """Show what the pairs of an edge's canary or shadow come to; exit 1 if a limit is passed."""

    edge: Annotated[Path, _EDGE] = Path("run/edge")


@dataclass(frozen=True, kw_only=True)
class End(Common):
    """End an edge's canary or shadow."""

    edge: Annotated[Path, _EDGE] = Path("run/edge")


def list_versions(options: Common) -> int:
    """Show what is declared, what is on each server, what lies in the store."""
    run_dir = RunDir(options.run_dir.absolute())
    found = overview(store_of(run_dir, options.store), run_dir)
    print(json.dumps(found, indent=2) if options.json else overview_table(found))
    return 0


def register(options: Register) -> int:
    """Load a version beside the others."""
    with _fleet(options) as fleet:
        print(f"Loading {options.version} and waiting for its workers (some seconds) ...", file=sys.stderr, flush=True)
        digest = changes.register(fleet, options.version, options.workers, options.timeout, _trust(options, fleet))
        declared = read_declared(fleet.store)
    default = "none" if declared is None else declared.default
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
    with _fleet(options) as fleet:
        declared = fleet.current()
        if declared is None or not fleet.live:
            raise VersionError(f"no server of {fleet.store} runs on this machine: verify where one does")
        if options.version == declared.default:
            raise VersionError(f"{options.version} is the default itself: verify another version against it")
        if options.version not in declared.versions:
            raise VersionError(f"{options.version} is not registered: run pneumoscan models register {options.version}")
        if (trust := _trust(options, fleet)) is not None:
            trust.check(find_archive(fleet.store, options.version))
        old = declared.default
        for version in (old, options.version):
            registered_archive(fleet.store, version, declared.versions[version])
        live = fleet.live[0]
        live.check_ready(options.version)
        limits = Limits(options.max_flips, options.max_shift)
        comparison = compare(live.state.url, old, options.version, films, limits, options.jobs)
        verified = comparison.verified(declared.versions[old].sha256)
        kept = changes.record(fleet, options.version, declared.versions[options.version].sha256, verified)
    print(json.dumps(comparison.to_dict(), indent=2) if options.json else comparison_table(comparison))
    if kept != verified:
        print(f"note: what was found at {kept.at} on {kept.films} films stays, it outweighs this", file=sys.stderr)
    return 0 if comparison.is_passed else 1


def promote(options: Promote) -> int:
    """Make a version the default."""
    with _fleet(options) as fleet:
        declared = changes.promote(fleet, options.version, unverified=options.force)
    before = f", before it {declared.previous[-1]}" if declared.previous else ""
    _say(options, f"promoted: the default is {declared.default}{before}")
    return 0


def rollback(options: Common) -> int:
    """Make the previous default the default again."""
    with _fleet(options, needed=False) as fleet:
        declared = changes.rollback(fleet)
    _say(options, f"rolled back: the default is {declared.default}")
    return 0


def retire(options: Retire) -> int:
    """Take a version off the servers."""
    with _fleet(options, needed=False) as fleet:
        if fleet.live:
            print(f"Waiting until {options.version} has answered what it was asked ...", file=sys.stderr, flush=True)
        changes.retire(fleet, options.version, options.timeout)
    _say(options, f"retired: {options.version}; its archive stays in the store")
    return 0


def export(options: Export) -> int:
    """Put an archive into a registry."""
    store = _store(options)
    archive, declared = find_archive(store, options.version), read_declared(store)
    if declared is not None and options.version in declared.versions:
        registered_archive(store, options.version, declared.versions[options.version])
    is_default = declared is not None and declared.default == options.version
    aliases = options.alias or ((CHAMPION,) if is_default else ())
    number = export_archive(archive, options.registry, aliases)
    _say(options, f"exported: {options.version} is {MODEL_NAME} version {number} of {options.registry}", number=number)
    return 0


def import_(options: Import) -> int:
    """Put a version of a registry into the store."""
    path = import_archive(options.version, _store(options), options.registry, force=options.force)
    _say(options, f"imported: {path}; next: pneumoscan models register {options.version}")
    return 0


def begin_trial(options: Canary | Shadow) -> int:
    """Put a version on trial at an edge."""
    kind: Kind = "canary" if isinstance(options, Canary) else "shadow"
    trials.begin(_edge(options), Trial(options.version, kind, options.share, now_exactly(), options.limits))
    _say(options, f"{kind}: {options.version} on {options.share:.1%} of the requests; see pneumoscan models compare")
    return 0


def compare_trial(options: Compare) -> int:
    """Show what the pairs of a trial come to."""
    found = trials.look(_edge(options))
    print(json.dumps(found, indent=2) if options.json else trials.table(found))
    return 1 if found["failures"] else 0


def end_trial(options: End) -> int:
    """End a trial."""
    ended = trials.end(_edge(options))
    _say(options, f"ended: the {ended.kind} of {ended.version}")
    return 0


def _edge(options: Canary | Shadow | Compare | End) -> RunDir:
    return RunDir(options.edge.absolute())


@contextmanager
def _fleet(options: Common, *, needed: bool = True) -> Iterator[Fleet]:
    """The servers of the store that is meant; one at least, if it is needed."""
    run_dir, store = RunDir(options.run_dir.absolute()), _store(options)
    with fleet_of(store, run_dir) as fleet:
        if needed and not fleet.live and not fleet.elsewhere:
            raise VersionError(
                f"no server runs from {run_dir.path}, nor any other of {store}: start one with pneumoscan serve"
            )
        yield fleet


def _trust(options: _OfTrusted, fleet: Fleet) -> Trust | None:
    """The keys that an archive must be signed with: those named here, else those that a server was started with."""
    started_with = next((Path(live.state.trust) for live in fleet.live if live.state.trust), None)
    return trust_of(fleet.store, options.trust or started_with)


def _store(options: Common) -> Path:
    return store_of(RunDir(options.run_dir.absolute()), options.store)


def _say(options: Common, text: str, **more: str) -> None:
    """Say what was done; as JSON with the declared state, for programs."""
    if not options.json:
        print(text)
        return
    try:
        declared = read_declared(_store(options))
    except VersionError:  # of a trial at an edge: no store is known here
        declared = None
    state = {} if declared is None else {"default": declared.default, "versions": declared.in_order()}
    print(json.dumps({"done": text, **state, **more}, indent=2))


_COMMANDS: Final[dict[str, tuple[type[Common], Callable[[Any], int]]]] = {
    "list": (List, list_versions),
    "register": (Register, register),
    "verify": (Verify, verify),
    "promote": (Promote, promote),
    "rollback": (Rollback, rollback),
    "retire": (Retire, retire),
    "canary": (Canary, begin_trial),
    "shadow": (Shadow, begin_trial),
    "compare": (Compare, compare_trial),
    "end": (End, end_trial),
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
