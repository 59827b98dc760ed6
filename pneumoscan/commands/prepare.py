"""Make a data folder for training from public collections and own films.

Every film is decoded as the server would; each exposure is kept once, also across sources; splits are by patient. The
same arguments give the same bytes. OUT gets manifest.csv, images/, boxes.csv, report.md and report.json, which say
what was left out and why. Images are copied unchanged, with all their tags.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final, NoReturn

from cxr_training.command import run_command
from cxr_training.data.collections.covid import read_covid
from cxr_training.data.collections.own import read_folder
from cxr_training.data.collections.rsna import read_rsna
from cxr_training.data.prepare.films import FRACTIONS, OTHER_CHOICES, Settings, prepare_films
from cxr_training.data.prepare.output import Report, check_out, write_output
from cxr_training.data.prepare.splits import Fractions
from cxr_training.data.records import SPLITS
from cxr_training.errors import TrainingError

_READERS: Final = {"rsna": read_rsna, "covid": read_covid, "folder": read_folder}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit status: 0 done or done before, 2 told in one line why not."""
    try:
        return run_command(_parser(), _command, argv)
    except SystemExit as stop:
        return int(stop.code or 0)


def _command(arguments: argparse.Namespace) -> None:
    sources = {name: folder for name in _READERS if (folder := getattr(arguments, name))}
    if not sources:
        raise TrainingError("nothing to prepare: give --rsna, --covid or --folder")
    check_out(arguments.out, sources.values())
    settings = Settings(arguments.seed, arguments.fractions, arguments.other, arguments.resplit)
    collected = [_READERS[name](folder) for name, folder in sources.items()]
    report, new = write_output(prepare_films(collected, settings), arguments.out)
    if arguments.json:
        print(json.dumps({"out": str(arguments.out), "new": new, **asdict(report)}))
    else:
        print(_sentence(arguments.out, report, new))


def _sentence(out: Path, report: Report, new: bool) -> str:
    films = dict.fromkeys(SPLITS, 0)
    for entry in report.counts:
        films[entry.split] += entry.films
    splits = ", ".join(f"{split} {count}" for split, count in films.items())
    before = "" if new else " is there already and identical"
    return (
        f"{out}{before}: {report.films} films of {report.patients} patients ({splits}), "
        f"{report.films_dropped} left out; see {out / 'report.md'}"
    )


def _fractions(text: str) -> Fractions:
    try:
        train, val, test = (float(part) for part in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers such as 0.7/0.15/0.15") from None
    if min(train, val, test) < 0 or not math.isclose(train + val + test, 1.0, abs_tol=1e-6):
        raise argparse.ArgumentTypeError(f"{text!r} must be three shares that add up to 1")
    return train, val, test


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="scripts.prepare_data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "out", metavar="OUT", type=Path, help="folder to make; must be empty, absent, or an identical earlier result"
    )
    parser.add_argument(
        "--rsna", metavar="DIR", type=Path, help="RSNA Pneumonia Detection Challenge, unpacked (stage_2_train_images/…)"
    )
    parser.add_argument(
        "--covid", metavar="DIR", type=Path, help="ieee8023/covid-chestxray-dataset (metadata.csv, images/)"
    )
    parser.add_argument(
        "--folder", metavar="DIR", type=Path, help="own films: manifest.csv, or train|val|test/CLASS/*, or CLASS/*"
    )
    parser.add_argument(
        "--other",
        choices=OTHER_CHOICES,
        default="keep",
        help="films that are abnormal without pneumonia: keep as OTHER, which training leaves out, or count as NORMAL",
    )
    shares = "/".join(map(str, FRACTIONS))
    parser.add_argument(
        "--fractions", type=_fractions, default=FRACTIONS, help=f"of train/val/test, by patient (default {shares})"
    )
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="of the split (default 0)")
    parser.add_argument("--resplit", action="store_true", help="split anew what has a split")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
