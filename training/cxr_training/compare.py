"""Compare two models on the same test films: is one better, and by how much?

Takes the predictions.csv that training.evaluate leaves, and the data folder for the patients. Differences are the
second model's figure minus the first's. Prints the comparison, or writes comparison.md and comparison.json to --out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxr.json_records import to_json
from cxr.model.spec import CLASSES
from cxr_training.command import run_command
from cxr_training.data.records import Record, load_films
from cxr_training.measure.intervals import LEVEL, STANDARD, Bootstrap
from cxr_training.measure.metrics import Floats
from cxr_training.measure.paired import (
    FIGURES,
    Calls,
    DeLong,
    Difference,
    McNemar,
    delong,
    figures_of,
    mcnemar,
    paired_differences,
)
from cxr_training.measure.predictions import PREDICTIONS, Scored, read_predictions, same_films
from cxr_training.measure.records import Resampling
from cxr_training.pages.page import Table, between, number, render, signed
from cxr_training.pages.report import TITLES
from pneumoscan.files import write_text


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """What one of the models comes to; None where a class is missing."""

    name: str
    auroc: float | None
    sensitivity: float | None
    specificity: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """`comparison.json`: figures of both, paired differences, DeLong's test, McNemar's test by label."""

    films: int
    patients: int
    positive: int
    synthetic: bool
    bootstrap: Resampling
    first: ModelFigures
    second: ModelFigures
    differences: dict[str, Difference]
    delong: DeLong | None
    mcnemar: dict[str, McNemar]


def compare(first: Scored, second: Scored, records: Sequence[Record], bootstrap: Bootstrap = STANDARD) -> Comparison:
    """Two models on the films both scored.

    Raises
    ------
    TrainingError
        As `same_films`.
    """
    films = same_films(first, second, records)
    names = [record.name for record in films]
    targets = np.array([record.target for record in films], dtype=np.int64)
    patients = [record.patient_id for record in films]
    one, two = first.ordered(names), second.ordered(names)

    def figures(scored: Scored, values: tuple[Floats, Calls]) -> ModelFigures:
        found = figures_of(targets, *values, np.ones((1, len(films))))
        points = {name: float(found[name][0]) for name in FIGURES}
        return ModelFigures(scored.name, **{name: None if np.isnan(value) else value for name, value in points.items()})

    return Comparison(
        films=len(films),
        patients=len(set(patients)),
        positive=int(targets.sum()),
        synthetic=all(record.extra.get("source") == "synthetic" for record in films),
        bootstrap=bootstrap.record,
        first=figures(first, one),
        second=figures(second, two),
        differences=paired_differences(targets, one, two, patients, bootstrap),
        delong=delong(targets, one[0], two[0]),
        mcnemar={
            name: mcnemar(targets[rows], one[1][rows], two[1][rows])
            for name, rows in (("all", targets >= 0), *((label, targets == i) for i, label in enumerate(CLASSES)))
        },
    )


def _page(found: Comparison) -> str:
    rows = [
        (
            *(TITLES[name], number(getattr(found.first, name)), number(getattr(found.second, name))),
            *(signed(one.difference), between(one.ci)),
        )
        for name, one in found.differences.items()
    ]
    split = [
        (films, str(test.only_first_right), str(test.only_second_right), _p(test.p))
        for films, test in found.mcnemar.items()
    ]
    header = ("figure", "first", "second", "second - first", f"{100 * LEVEL:g} % interval")
    test = found.delong
    return render(
        "comparison.md.j2",
        found=found,
        differences=Table(header, tuple(rows)),
        left_out=max(one.undefined_resamples for one in found.differences.values()),
        delong=test,
        standard_error=test and f"{test.standard_error:.4f}",
        delong_p=test and _p(test.p),
        mcnemar=Table(("films", "only first right", "only second right", "p (two-sided)"), tuple(split)),
    )


def _p(value: float | None) -> str:
    return "-" if value is None else "below 0.0001" if value < 0.0001 else f"{value:.4f}"


def _command(arguments: argparse.Namespace) -> None:
    bootstrap = Bootstrap(arguments.bootstrap, arguments.seed)
    first, second = read_predictions(arguments.first), read_predictions(arguments.second)
    found = compare(first, second, load_films(arguments.data).records, bootstrap)
    page = _page(found)
    if arguments.out is None:
        print(page, end="")
        return
    write_text(arguments.out / "comparison.md", page)
    write_text(arguments.out / "comparison.json", to_json(found))
    auroc = found.differences["auroc"]
    said = f"{signed(auroc.difference)} ({between(auroc.ci)})"
    print(f"{arguments.out / 'comparison.md'}: {found.films} films, AUROC second - first {said}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="training.compare", description=__doc__)
    parser.add_argument("--first", type=Path, required=True, help=f"an evaluated run folder, or a {PREDICTIONS}")
    parser.add_argument("--second", type=Path, required=True, help="the other")
    parser.add_argument("--data", type=Path, required=True, help="the data folder both were evaluated on")
    parser.add_argument("--out", type=Path, help="folder for the results (default: printed)")
    parser.add_argument(
        "--bootstrap", type=int, default=STANDARD.resamples, metavar="N", help="resamples (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=STANDARD.seed, help="of the resamples (default: %(default)s)")
    return run_command(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
