"""The difference between two models on the same test films, with its interval.

Takes the predictions.csv that pneumoscan evaluate leaves, and the data folder for the patients. Differences are the
second model's figure minus the first's. Prints the comparison, or writes comparison.md and comparison.json to --out.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from cxr.json_records import to_json
from cxr.model.classes import CLASSES, NAME, POSITIVE
from cxr_training.data.records import Record, all_synthetic
from cxr_training.errors import TrainingError
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
from cxr_training.measure.records import Resampling
from cxr_training.pages.page import Table, between, number, render, signed
from cxr_training.pages.report import TITLES
from cxr_training.runs import PREDICTIONS, check_predictions
from pneumoscan.files import write_text

# With other classes than NORMAL and PNEUMONIA the file says which films are of the positive group, and are called so.
_COLUMNS: Final = ("file", "label", "probability_PNEUMONIA", "predicted")
_OF_CLASSES: Final = ("file", "label", "probability_positive", "predicted", "is_positive", "called_positive")
_TRUTHS: Final = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Scored:
    """What one model said of some films, as `predictions.csv` holds it.

    Parameters
    ----------
    name
        The folder the predictions lie in.
    labels, probabilities, called
        By film, in the order of the file.
    positive
        The labels of the positive group.
    """

    name: str
    labels: Mapping[str, str]
    probabilities: Floats
    called: Calls
    positive: frozenset[str] = frozenset(POSITIVE)

    def ordered(self, films: Sequence[str]) -> tuple[Floats, Calls]:
        """Probabilities and calls of these films, in this order."""
        places = {film: place for place, film in enumerate(self.labels)}
        chosen = [places[film] for film in films]
        return self.probabilities[chosen], self.called[chosen]


def read_predictions(path: Path) -> Scored:
    """The predictions of a run folder or of a file.

    Raises
    ------
    TrainingError
        If there are none, a column is missing, a film is there twice, or a value is none.
    """
    file = path / PREDICTIONS if path.is_dir() else path
    check_predictions(file)
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows = [(f"{file}, line {reader.line_num}", row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"{file} is no table of predictions ({error})") from error
    columns = _OF_CLASSES if _OF_CLASSES[2] in (reader.fieldnames or ()) else _COLUMNS
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise TrainingError(f"{file} has no column {', '.join(missing)}: give one written by pneumoscan evaluate")
    labels: dict[str, str] = {}
    probabilities: list[float] = []
    called: list[bool] = []
    positive: set[str] = set(POSITIVE) if columns is _COLUMNS else set()
    for where, row in rows:
        film, label, stated, predicted, *groups = (row[column] or "" for column in columns)  # None where one is short
        if film in labels:
            raise TrainingError(f"{where}: {film} is there twice")
        probability = _number(stated, file)
        are_classes = {predicted, label} <= {*CLASSES} if not groups else all(map(NAME.fullmatch, (predicted, label)))
        if not 0.0 <= probability <= 1.0 or not are_classes or not {*groups} <= {*_TRUTHS}:
            raise TrainingError(f"{where}: no probability of 0 to 1 with a label and a call of {CLASSES}")
        labels[film] = label
        probabilities.append(probability)
        called.append(_TRUTHS[groups[1]] if groups else predicted in POSITIVE)
        positive |= {label} if groups and _TRUTHS[groups[0]] else set()
    if not labels:
        raise TrainingError(f"{file} holds no film")
    return Scored(file.resolve().parent.name, labels, np.array(probabilities), np.array(called), frozenset(positive))


def _number(text: str, file: Path) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise TrainingError(f"{file} is no table of predictions ({error})") from error


def same_films(first: Scored, second: Scored, records: Sequence[Record]) -> list[Record]:
    """The films both models scored, as the data folder knows them.

    Raises
    ------
    TrainingError
        If the models scored different films, a label differs, or a film is not in the data.
    """
    unmatched = sorted(first.labels.keys() ^ second.labels.keys())
    if unmatched:
        raise TrainingError(
            f"the models scored different films: {len(unmatched)} are in one of the two alone, {unmatched[0]} for one. "
            "Evaluate both on the same data and split."
        )
    known = {record.name: record for record in records}
    lost = [film for film in first.labels if film not in known]
    if lost:
        raise TrainingError(
            f"{len(lost)} films are not in the data, {lost[0]} for one: give the --data of the evaluation"
        )
    for film, label in first.labels.items():
        if {label, second.labels[film], known[film].label} != {label}:
            raise TrainingError(
                f"{film} is {label} to the first, {second.labels[film]} to the second and {known[film].label} in the "
                "data: evaluate both again"
            )
    return [known[film] for film in sorted(first.labels)]


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
    if first.positive != second.positive:
        raise TrainingError("the models have other positive groups: figures of one say nothing beside the other's")
    names = [record.name for record in films]
    targets = np.array([record.label in first.positive for record in films], dtype=np.int64)
    patients = [record.patient_id for record in films]
    labels = np.array([record.label for record in films])
    names_of = CLASSES if first.positive == {*POSITIVE} else sorted({*labels.tolist()})
    one, two = first.ordered(names), second.ordered(names)

    def figures(scored: Scored, values: tuple[Floats, Calls]) -> ModelFigures:
        found = figures_of(targets, *values, np.ones((1, len(films))))
        points = {name: float(found[name][0]) for name in FIGURES}
        return ModelFigures(scored.name, **{name: None if np.isnan(value) else value for name, value in points.items()})

    return Comparison(
        films=len(films),
        patients=len(set(patients)),
        positive=int(targets.sum()),
        synthetic=all_synthetic(films),
        bootstrap=bootstrap.record,
        first=figures(first, one),
        second=figures(second, two),
        differences=paired_differences(targets, one, two, patients, bootstrap),
        delong=delong(targets, one[0], two[0]),
        mcnemar={
            name: mcnemar(targets[rows], one[1][rows], two[1][rows])
            for name, rows in (("all", targets >= 0), *((label, labels == label) for label in names_of))
        },
    )


def page_of(found: Comparison) -> str:
    """The comparison as a page in Markdown."""
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


def write_comparison(found: Comparison, out: Path) -> Path:
    """Leave `comparison.md` and `comparison.json` in a folder; the page's path."""
    write_text(out / "comparison.md", page_of(found))
    write_text(out / "comparison.json", to_json(found))
    return out / "comparison.md"


def summary(found: Comparison) -> str:
    """How many films, and the difference of the AUROCs with its interval."""
    auroc = found.differences["auroc"]
    return f"{found.films} films, AUROC second - first {signed(auroc.difference)} ({between(auroc.ci)})"
