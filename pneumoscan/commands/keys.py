"""``pneumoscan keys``: the keys that open the edge, and those that sign archives."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

from pneumoscan import signatures
from pneumoscan.edge import keys
from pneumoscan.options import Option, between
from pneumoscan.signatures import SIGNERS_FILE

_OF_EDGE: Final = Path("run/edge/keys")
_OF_STORE: Final = Path("model_store") / SIGNERS_FILE


@dataclass(frozen=True, kw_only=True)
class Common:
    """What all commands on keys take."""

    keys: Annotated[
        Path | None,
        Option(
            "file of keys, for its user to change alone. Of the edge it holds their SHA-256 (default: "
            f"{_OF_EDGE}), of a store the public halves of those that may sign its archives (default: {_OF_STORE})",
            "FILE",
        ),
    ] = None
    json: Annotated[bool, Option("print JSON")] = False


@dataclass(frozen=True, kw_only=True)
class Add(Common):
    """Make a key of the edge and show it, this once.

    A running edge follows at once. To change a client's key without a refused request: add a second one, give it to
    the client, revoke the first.
    """

    name: Annotated[str, Option("who uses it; stands in the access log", "NAME", positional=True)]
    days: Annotated[
        int | None, Option("it ends after so many days (default: never)", "N", check=between(1, 36_500))
    ] = None


@dataclass(frozen=True, kw_only=True)
class List(Common):
    """Show names and ends of the edge's keys."""


@dataclass(frozen=True, kw_only=True)
class Revoke(Common):
    """Take a key of the edge away; a running edge follows at once."""

    name: Annotated[str, Option("its name", "NAME", positional=True)]


@dataclass(frozen=True, kw_only=True)
class Make(Common):
    """Make a key that signs archives: FILE for pneumoscan pack --sign, FILE.pub for pneumoscan keys trust."""

    file: Annotated[Path, Option("where to; for its user alone, and not on the server", "FILE", positional=True)]


@dataclass(frozen=True, kw_only=True)
class Trust(Common):
    """Let a key sign archives, from the next start or `models register` on."""

    name: Annotated[str, Option("who holds it", "NAME", positional=True)]
    public: Annotated[Path, Option("its public half, PEM", "FILE.pub")]


@dataclass(frozen=True, kw_only=True)
class Signers(Common):
    """Show the keys that may sign archives, and those that no longer may."""


@dataclass(frozen=True, kw_only=True)
class Retire(Common):
    """Refuse what a key signed, from the next start or `models register` on."""

    name: Annotated[str, Option("its name", "NAME", positional=True)]


OPTIONS: Final[dict[str, type[Common]]] = {
    "add": Add,
    "list": List,
    "revoke": Revoke,
    "make": Make,
    "trust": Trust,
    "signers": Signers,
    "retire": Retire,
}


def run(options: Common) -> int:
    """Do what was asked with a file of keys."""
    now = datetime.now(UTC)
    of_edge, of_store = options.keys or _OF_EDGE, options.keys or _OF_STORE
    match options:
        case Add():
            expires = (now + timedelta(days=options.days)).replace(microsecond=0) if options.days else None
            text = keys.add(of_edge, options.name, expires)
            print(json.dumps({"name": options.name, "key": text}) if options.json else text)
            print(f"key {options.name!r} was added; it is kept as SHA-256 only and not shown again", file=sys.stderr)
        case Revoke():
            keys.revoke(of_edge, options.name)
            print(json.dumps({"name": options.name, "revoked": True}) if options.json else f"revoked: {options.name}")
        case Make():
            public = str(signatures.make_key(options.file))
            made = f"made: {options.file} signs and stays secret; next: pneumoscan keys trust NAME --public {public}"
            print(json.dumps({"key": str(options.file), "public": public}) if options.json else made)
        case Trust():
            signatures.trust_key(of_store, options.name, options.public)
            print(json.dumps({"name": options.name, "trusted": True}) if options.json else f"trusted: {options.name}")
        case Retire():
            signatures.retire_key(of_store, options.name)
            print(json.dumps({"name": options.name, "trusted": False}) if options.json else f"retired: {options.name}")
        case Signers():
            found = signatures.read_signers(of_store)
            lines = [f"{each.name:<32} {'retired' if each.is_retired else 'trusted'}" for each in found]
            value = [{"name": each.name, "trusted": not each.is_retired} for each in found]
            print(json.dumps(value) if options.json else "\n".join(lines))
        case _:
            _show(keys.read(of_edge), now, options.json)
    return 0


def _show(found: Sequence[keys.Key], now: datetime, as_json: bool) -> None:
    if as_json:
        print(
            json.dumps(
                [
                    {
                        "name": key.name,
                        "expires": key.expires.isoformat() if key.expires else None,
                        "valid": key.is_valid(now),
                    }
                    for key in found
                ]
            )
        )
        return
    for key in found:
        ends = key.expires.isoformat() if key.expires else "never ends"
        print(f"{key.name:<32} {ends}{'' if key.is_valid(now) else '  (ended)'}")
