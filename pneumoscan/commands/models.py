"""Change the versions of a running server without one failed request: ``python -m scripts.models``.

Exit codes: 0 done, 1 refused or failed and everything is as before, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from cxr_client import ClientError
from pneumoscan.errors import RegistryError, StillBusy, StoreError, VersionError
from pneumoscan.film_files import find_films
from pneumoscan.model_store import MODEL_NAME
from pneumoscan.server.run_folder import RunDir
from pneumoscan.versions import changes
from pneumoscan.versions.compare import Limits, compare
from pneumoscan.versions.declared import read_declared
from pneumoscan.versions.live_server import LiveServer, live_server
from pneumoscan.versions.options import build_parser
from pneumoscan.versions.registry import export_archive, import_archive
from pneumoscan.versions.tables import comparison_table, overview, overview_table


class UsageError(Exception):
    """Something was asked that cannot be done; the message says what to ask instead."""


def list_versions(args: argparse.Namespace) -> int:
    """Show what is declared, what is on the server, what lies in the store."""
    run_dir = RunDir(args.run_dir.absolute())
    try:
        with live_server(run_dir) as live:
            found = overview(live.store, live.look())
    except VersionError as error:
        print(f"note: {error}", file=sys.stderr)
        found = overview(_store(args), None)
    print(json.dumps(found, indent=2) if args.json else overview_table(found))
    return 0


def register(args: argparse.Namespace) -> int:
    """Load a version beside the others."""
    with _live(args) as live:
        print(f"Loading {args.version} and waiting for its workers (some seconds) ...", file=sys.stderr, flush=True)
        digest = changes.register(live, args.version, args.workers, args.timeout)
        default = live.default()
    _say(args, f"registered: {args.version} (sha256 {digest[:12]}…); the default is still {default}", sha256=digest)
    return 0


def verify(args: argparse.Namespace) -> int:
    """Compare a version with the default one on films."""
    try:
        films = find_films([args.films])
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error
    if not films:
        raise UsageError(f"no film in {args.films}: PNG, JPEG or DICOM files are looked for")
    with _live(args) as live:
        declared = changes.current(live)
        if args.version == declared.default:
            raise VersionError(f"{args.version} is the default itself: verify another version against it")
        if args.version not in declared.versions:
            raise VersionError(f"{args.version} is not registered: run scripts.models register {args.version}")
        old = declared.default
        limits = Limits(args.max_flips, args.max_shift)
        comparison = compare(live.state.url, old, args.version, films, limits, args.jobs)
        verified = comparison.verified(declared.versions[old].sha256)
        changes.record(live, args.version, declared.versions[args.version].sha256, verified)
    print(json.dumps(comparison.to_dict(), indent=2) if args.json else comparison_table(comparison))
    return 1 if comparison.failures else 0


def promote(args: argparse.Namespace) -> int:
    """Make a version the default."""
    with _live(args) as live:
        declared = changes.promote(live, args.version, unverified=args.force)
    before = f", before it {declared.previous[-1]}" if declared.previous else ""
    _say(args, f"promoted: the default is {declared.default}{before}")
    return 0


def rollback(args: argparse.Namespace) -> int:
    """Make the previous default the default again."""
    if _runs(args):
        with _live(args) as live:
            declared = changes.rollback(live)
    else:
        declared = changes.rollback_declared(_store(args))
    _say(args, f"rolled back: the default is {declared.default}")
    return 0


def retire(args: argparse.Namespace) -> int:
    """Take a version off the server."""
    if _runs(args):
        with _live(args) as live:
            print(f"Waiting until {args.version} has answered what it was asked ...", file=sys.stderr, flush=True)
            changes.retire(live, args.version, args.timeout)
    else:
        changes.retire_declared(_store(args), args.version)
    _say(args, f"retired: {args.version}; its archive stays in the store")
    return 0


def export(args: argparse.Namespace) -> int:
    """Put an archive into a registry."""
    archive = changes.find_archive(_store(args), args.version)
    number = export_archive(archive, args.registry)
    _say(args, f"exported: {args.version} is {MODEL_NAME} version {number} of {args.registry}", number=number)
    return 0


def import_(args: argparse.Namespace) -> int:
    """Put a version of a registry into the store."""
    path = import_archive(args.version, _store(args), args.registry, force=args.force)
    _say(args, f"imported: {path}; next: scripts.models register {args.version}")
    return 0


@contextmanager
def _live(args: argparse.Namespace) -> Iterator[LiveServer]:
    with live_server(RunDir(args.run_dir.absolute())) as live:
        store = args.store and args.store.absolute()
        if store and store.resolve() != live.store.resolve():
            raise VersionError(f"the server of {args.run_dir} serves {live.store} and not {store}: leave --store out")
        yield live


def _runs(args: argparse.Namespace) -> bool:
    return RunDir(args.run_dir.absolute()).is_locked()


def _store(args: argparse.Namespace) -> Path:
    """The store that was named, the running server's, or the usual one."""
    state = RunDir(args.run_dir.absolute()).read_state() if args.store is None and _runs(args) else None
    return Path(state.store) if state is not None else (args.store or Path("model_store")).absolute()


def _say(args: argparse.Namespace, text: str, **more: str) -> None:
    """Say what was done; as JSON with the declared state, for programs."""
    if not args.json:
        print(text)
        return
    declared = read_declared(_store(args))
    said = {} if declared is None else {"default": declared.default, "versions": declared.in_order()}
    print(json.dumps({"done": text, **said, **more}, indent=2))


COMMANDS: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "list": list_versions,
    "register": register,
    "verify": verify,
    "promote": promote,
    "rollback": rollback,
    "retire": retire,
    "export": export,
    "import": import_,
}


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    args = build_parser().parse_args(argv)
    old = signal.signal(signal.SIGTERM, _interrupt)  # what Ctrl-C puts back, a service manager's stop puts back too
    try:
        return COMMANDS[args.command](args)
    except UsageError as error:
        print(f"scripts.models: {error}", file=sys.stderr)
        return 2
    except (VersionError, StoreError, StillBusy, RegistryError, ClientError, OSError) as error:
        print(f"scripts.models: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("scripts.models: interrupted; what was begun was put back", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, old)


if __name__ == "__main__":
    sys.exit(main())
