"""The `predictions.csv` of an evaluation, read back."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from cxr.model.spec import CLASSES
from cxr_training.data.records import Record
from cxr_training.errors import TrainingError
from cxr_training.measure.metrics import Floats
from cxr_training.measure.paired import Calls

PREDICTIONS: Final = "predictions.csv"
_COLUMNS: Final = ("file", "label", "probability_PNEUMONIA", "predicted")


@dataclass(frozen=True, slots=True)
class Scored:
    """What one model said of some films, as `predictions.csv` holds it.

    Parameters
    ----------
    name
        The folder the predictions lie in.
    labels, probabilities, called
        By film, in the order of the file.
    """

    name: str
    labels: Mapping[str, str]
    probabilities: Floats
    called: Calls

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
    if not file.is_file():
        raise TrainingError(f"{file} is missing: run pneumoscan evaluate first, or give a {PREDICTIONS}")
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows = [(f"{file}, line {reader.line_num}", row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"{file} is no table of predictions ({error})") from error
    missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise TrainingError(f"{file} has no column {', '.join(missing)}: give one written by pneumoscan evaluate")
    labels: dict[str, str] = {}
    probabilities: list[float] = []
    called: list[bool] = []
    for where, row in rows:
        film, label, stated, predicted = (row[column] or "" for column in _COLUMNS)  # None where the line is short
        if film in labels:
            raise TrainingError(f"{where}: {film} is there twice")
        probability = _number(stated, file)
        if not 0.0 <= probability <= 1.0 or predicted not in CLASSES or label not in CLASSES:
            raise TrainingError(f"{where}: no probability of 0 to 1 with a label and a call of {CLASSES}")
        labels[film] = label
        probabilities.append(probability)
        called.append(predicted == CLASSES[1])
    if not labels:
        raise TrainingError(f"{file} holds no film")
    return Scored(file.resolve().parent.name, labels, np.array(probabilities), np.array(called))


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
    apart = sorted(first.labels.keys() ^ second.labels.keys())
    if apart:
        raise TrainingError(
            f"the models scored different films: {len(apart)} are in one of the two alone, {apart[0]} for one. "
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
