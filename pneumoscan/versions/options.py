"""The command line of `scripts.models`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pneumoscan.model_store import MODEL_NAME, Version
from pneumoscan.options import positive
from pneumoscan.versions.compare import Limits


def build_parser() -> argparse.ArgumentParser:
    """Give the parser of this command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.models",
        description=f"Change which versions of {MODEL_NAME} a running server serves, and which is the default, without "
        "one failed request. What is changed is kept in versions.json in the model store and applied at every start.",
        epilog="Exit codes: 0 done, 1 refused or failed, and server and file are as before, 2 wrong usage. For one "
        "version: pack it into the store (scripts.package_mar), register, verify, promote; rollback if it disappoints; "
        "retire the old one.",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--run-dir",
        type=Path,
        default=Path("run"),
        metavar="DIR",
        help="the server's run folder (default: %(default)s)",
    )
    common.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="model store, where no server runs (default: the server's, else model_store)",
    )
    common.add_argument("--json", action="store_true", help="print JSON")
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")

    def command(name: str, text: str, version: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, parents=[common], help=text, description=text)
        if version:
            sub.add_argument("version", type=_version, metavar="VERSION", help="such as 1.1.0")
        return sub

    command("list", "show what is declared, served and in the store", version=False)
    sub = command("register", "load an archive of the store beside the versions that are served")
    sub.add_argument("--workers", type=positive, metavar="N", help="its workers (default: as many as the others have)")
    _timeout(sub, 300.0, "until its workers are READY, have given the golden answers and answer a film")
    sub = command("verify", "score films on a version and on the default one: label flips and score shifts")
    sub.add_argument("--films", type=Path, required=True, metavar="DIR", help="folder of films")
    sub.add_argument(
        "--max-flips",
        type=_share,
        default=Limits.flips,
        metavar="SHARE",
        help="share of films whose label may flip (default: %(default)g)",
    )
    sub.add_argument(
        "--max-shift",
        type=_share,
        default=Limits.shift,
        metavar="SHIFT",
        help="mean shift of the probability of PNEUMONIA that is allowed (default: %(default)g)",
    )
    sub.add_argument(
        "--jobs", type=positive, default=2, metavar="N", help="films asked about at once (default: %(default)s)"
    )
    sub = command("promote", "make a verified version the default")
    sub.add_argument("--force", action="store_true", help="also one that was not verified, or did not pass")
    command("rollback", "make the previous default the default again", version=False)
    sub = command("retire", "take a version off the server once it has answered all it was asked")
    _timeout(sub, 120.0, "until nobody asks for it any more")
    _registry(command("export", "put an archive of the store into an MLflow registry"))
    sub = command("import", "put a version of an MLflow registry into the store, to be registered then")
    _registry(sub)
    sub.add_argument("--force", action="store_true", help="replace another archive of this version in the store")
    return parser


def _registry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--registry",
        required=True,
        metavar="URI",
        help="MLflow tracking server with a model registry, http://host:5000",
    )


def _timeout(parser: argparse.ArgumentParser, seconds: float, text: str) -> None:
    parser.add_argument(
        "--timeout",
        type=float,
        default=seconds,
        metavar="SECONDS",
        help=f"how long to wait {text} (default: %(default)g)",
    )


def _version(text: str) -> str:
    if Version.parse(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no version like 1.0.0 (Semantic Versioning)")
    return text


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value
