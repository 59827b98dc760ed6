"""``pneumoscan keys``: make, list and revoke the keys that open the edge."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

from pneumoscan.edge import keys
from pneumoscan.options import Option, between


@dataclass(frozen=True, kw_only=True)
class Common:
    """What all commands on keys take."""

    keys: Annotated[Path, Option("file of the edge that holds the keys' SHA-256, for its user only", "FILE")] = Path(
        "run/edge/keys"
    )
    json: Annotated[bool, Option("print JSON")] = False


@dataclass(frozen=True, kw_only=True)
class Add(Common):
    """Make a key and show it, this once.

    A running edge follows at once. To change a client's key without a refused request: add a second one, give it to
    the client, revoke the first.
    """

    name: Annotated[str, Option("who uses it; stands in the access log", "NAME", positional=True)]
    days: Annotated[
        int | None, Option("it ends after so many days (default: never)", "N", check=between(1, 36_500))
    ] = None


@dataclass(frozen=True, kw_only=True)
class List(Common):
    """Show names and ends of the keys."""


@dataclass(frozen=True, kw_only=True)
class Revoke(Common):
    """Take a key away; a running edge follows at once."""

    name: Annotated[str, Option("its name", "NAME", positional=True)]


OPTIONS: Final[dict[str, type[Common]]] = {"add": Add, "list": List, "revoke": Revoke}


def run(options: Common) -> int:
    """Do what was asked with the file of keys."""
    now = datetime.now(UTC)
    match options:
        case Add():
            expires = (now + timedelta(days=options.days)).replace(microsecond=0) if options.days else None
            text = keys.add(options.keys, options.name, expires)
            print(json.dumps({"name": options.name, "key": text}) if options.json else text)
            print(f"key {options.name!r} was added; it is kept as SHA-256 only and not shown again", file=sys.stderr)
        case Revoke():
            keys.revoke(options.keys, options.name)
            print(json.dumps({"name": options.name, "revoked": True}) if options.json else f"revoked: {options.name}")
        case _:
            _show(options, now)
    return 0


def _show(options: Common, now: datetime) -> None:
    found = keys.read(options.keys)
    if options.json:
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
