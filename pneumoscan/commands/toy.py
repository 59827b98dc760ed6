"""Make a folder of synthetic chest films, to try PneumoScan out where there are no real ones.

The films are seeded: the same arguments give the same bytes. See `cxr_training.data.toy.files` for what is in the
folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from cxr_training.data.toy.files import MAX_SIZE, MIN_PATIENTS, MIN_SIZE, ToySummary, write_toy_data


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit status: 0 done, 1 failed, 2 wrong usage."""
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        summary = write_toy_data(
            arguments.out,
            arguments.patients,
            arguments.seed,
            arguments.size,
            force=arguments.force,
        )
    except (ValueError, FileExistsError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(summary) | {"out": str(summary.out)}) if arguments.json else _sentences(summary))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="scripts.make_toy_data", description="Make synthetic chest films with a manifest.csv.")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make; must not hold anything")
    parser.add_argument(
        "--patients", metavar="N", type=int, default=80, help=f"{MIN_PATIENTS} or more, 1 to 4 films each (default 80)"
    )
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="0 or more (default 0)")
    parser.add_argument(
        "--size", metavar="PIXELS", type=int, default=512, help=f"long side, {MIN_SIZE} to {MAX_SIZE} (default 512)"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT and all that it holds")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def _sentences(summary: ToySummary) -> str:
    splits = ", ".join(
        f"{name} {sum(counts.values())} ({counts['PNEUMONIA']} PNEUMONIA)" for name, counts in summary.splits.items()
    )
    forms = ", ".join(f"{count} {form}" for form, count in summary.forms.items())
    return f"{summary.out}: {summary.films} synthetic films of {summary.patients} patients\n  {splits}\n  {forms}"


if __name__ == "__main__":
    sys.exit(main())
