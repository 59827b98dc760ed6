"""Make, list and revoke the keys that open the edge: ``python -m scripts.edge_keys``.

Exit codes: 0 done, 1 it could not be done, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pneumoscan.edge import keys as key_file
from pneumoscan.edge.keys import Key
from pneumoscan.errors import KeyFileError


def build_parser() -> argparse.ArgumentParser:
    """Give the parser of this command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.edge_keys",
        description="Make, list and revoke the keys that open the edge. A running edge follows at once. To change a "
        "client's key without a refused request: add a second one, give it to the client, revoke the first.",
        epilog="Exit codes: 0 done, 1 it could not be done, 2 wrong usage.",
    )
    parser.add_argument(
        "--keys",
        type=Path,
        default=Path("run/edge/keys"),
        metavar="FILE",
        help="file of the edge that holds the keys' SHA-256, for its user only (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="say it as JSON")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    adding = commands.add_parser("add", help="make a key and show it, this once")
    adding.add_argument("name", help="who uses it; stands in the access log")
    adding.add_argument("--days", type=_days, metavar="N", help="it ends after so many days (default: never)")
    commands.add_parser("list", help="names and ends of the keys")
    revoking = commands.add_parser("revoke", help="take a key away")
    revoking.add_argument("name", help="its name")
    return parser


def _days(text: str) -> int:
    days = int(text)
    if not 1 <= days <= 36_500:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 36500")
    return days


def _described(key: Key, now: datetime) -> dict[str, object]:
    return {
        "name": key.name,
        "expires": key.expires.isoformat() if key.expires else None,
        "valid": key.is_valid(now),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    args = build_parser().parse_args(argv)
    now = datetime.now(UTC)
    try:
        if args.command == "add":
            expires = (now + timedelta(days=args.days)).replace(microsecond=0) if args.days else None
            text = key_file.add(args.keys, args.name, expires)
            print(json.dumps({"name": args.name, "key": text}) if args.json else text)
            print(f"key {args.name!r} was added; it is kept as SHA-256 only and not shown again", file=sys.stderr)
        elif args.command == "revoke":
            key_file.revoke(args.keys, args.name)
            print(json.dumps({"name": args.name, "revoked": True}) if args.json else f"revoked: {args.name}")
        else:
            rows = [_described(key, now) for key in key_file.read(args.keys)]
            if args.json:
                print(json.dumps(rows))
            for row in rows if not args.json else []:
                print(f"{row['name']:<32} {row['expires'] or 'never ends'}{'' if row['valid'] else '  (ended)'}")
    except KeyFileError as error:
        print(f"scripts.edge_keys: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
