"""Compare two models on the same test films: is one better, and by how much?

Takes the predictions.csv that training.evaluate leaves, and the data folder for the patients. Differences are the
second model's figure minus the first's. Prints the comparison, or writes comparison.md and comparison.json to --out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cxr import NOTICE
from cxr.model.spec import CLASSES
from cxr_training.command import run_command
from cxr_training.data.records import Record, load_films
from cxr_training.measure.intervals import LEVEL, STANDARD, Bootstrap
from cxr_training.measure.paired import FIGURES, delong, figures_of, mcnemar, paired_differences
from cxr_training.measure.predictions import PREDICTIONS, Scored, read_predictions, same_films
from cxr_training.pages.page import Block, Bullets, Code, Heading, Table, Text, text, to_markdown
from cxr_training.pages.report import SYNTHETIC, TITLES, between, number
from pneumoscan.files import write_text


def compare(
    first: Scored, second: Scored, records: Sequence[Record], bootstrap: Bootstrap = STANDARD
) -> dict[str, Any]:
    """The comparison as JSON values: figures of both, paired differences, DeLong's test, McNemar's test.

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
    found: dict[str, Any] = {
        "films": len(films),
        "patients": len(set(patients)),
        "positive": int(targets.sum()),
        "synthetic": all(record.extra.get("source") == "synthetic" for record in films),
        "bootstrap": {"unit": "patient", "level": LEVEL, **asdict(bootstrap)},
    }
    for key, scored, values in (("first", first, one), ("second", second, two)):
        figures = figures_of(targets, *values, np.ones((1, len(films))))
        points = {name: float(figures[name][0]) for name in FIGURES}
        found[key] = {"name": scored.name, **{k: None if np.isnan(v) else v for k, v in points.items()}}
    differences = paired_differences(targets, one, two, patients, bootstrap)
    found["differences"] = {name: asdict(value) for name, value in differences.items()}
    test = delong(targets, one[0], two[0])
    found["delong"] = test and asdict(test)
    found["mcnemar"] = {
        name: asdict(mcnemar(targets[rows], one[1][rows], two[1][rows]))
        for name, rows in (("all", targets >= 0), *((label, targets == i) for i, label in enumerate(CLASSES)))
    }
    return found


def _page(found: Mapping[str, Any]) -> list[Block]:
    first, second = found["first"], found["second"]
    rows = [
        (TITLES[name], number(first[name]), number(second[name]), _signed(values["difference"]), between(values["ci"]))
        for name, values in found["differences"].items()
    ]
    split = [
        (films, str(test["only_first_right"]), str(test["only_second_right"]), _p(test["p"]))
        for films, test in found["mcnemar"].items()
    ]
    test, bootstrap = found["delong"], found["bootstrap"]
    left_out = max(values["undefined_resamples"] for values in found["differences"].values())
    page: list[Block] = [
        Heading("Two models on the same films", 1),
        text(NOTICE),
        *([Text(SYNTHETIC)] if found["synthetic"] else []),
        Bullets(
            (
                ("First: ", Code(first["name"]), ". Second: ", Code(second["name"]), "."),
                (f"{found['films']} films of {found['patients']} patients; {found['positive']} films show PNEUMONIA.",),
            )
        ),
        Table(("figure", "first", "second", "second - first", f"{100 * LEVEL:g} % interval"), tuple(rows)),
        text(
            f"The interval is by a paired bootstrap over patients, {bootstrap['resamples']} resamples (seed "
            f"{bootstrap['seed']}), in each of which both models meet the same films; {left_out} were left out because "
            "a class was not drawn. Each model calls at its own threshold. An interval that holds 0 is no proof that "
            "the models are alike."
        ),
        Heading("AUROC, DeLong's test"),
        text("There are too few films for it.")
        if test is None
        else text(
            f"Difference {_signed(test['difference'])}, standard error {test['standard_error']:.4f}, {100 * LEVEL:g} % "
            f"interval {between(test['ci'])}, z {'-' if test['z'] is None else format(test['z'], '.3f')}, "
            f"p {_p(test['p'])} (two-sided)."
        ),
        Heading("Calls, McNemar's exact test"),
        Table(("films", "only first right", "only second right", "p (two-sided)"), tuple(split)),
    ]
    if found["patients"] < found["films"]:
        page.append(
            text(
                "Some patients have several films. DeLong's and McNemar's tests take every film for a patient of its "
                "own, so their p can be too small; the intervals of the bootstrap allow for it."
            )
        )
    return page


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _p(value: float | None) -> str:
    return "-" if value is None else "below 0.0001" if value < 0.0001 else f"{value:.4f}"


def _command(arguments: argparse.Namespace) -> None:
    bootstrap = Bootstrap(arguments.bootstrap, arguments.seed)
    first, second = read_predictions(arguments.first), read_predictions(arguments.second)
    found = compare(first, second, load_films(arguments.data).records, bootstrap)
    page = to_markdown(_page(found))
    if arguments.out is None:
        print(page, end="")
        return
    write_text(arguments.out / "comparison.md", page)
    write_text(arguments.out / "comparison.json", json.dumps(found, indent=2, allow_nan=False) + "\n")
    difference = found["differences"]["auroc"]
    said = f"{_signed(difference['difference'])} ({between(difference['ci'])})"
    print(f"{arguments.out / 'comparison.md'}: {found['films']} films, AUROC second - first {said}")


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
