"""Predictions for many films, with a progress bar, through the one path there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tqdm import tqdm

from cxr.films.film import Pixels
from cxr.predict import Prediction, Predictor
from training.data import Record

_BATCH = 8


def score(
    predictor: Predictor,
    records: Sequence[Record],
    *,
    change: Callable[[Pixels], Pixels] | None = None,
    progress: bool = True,
    what: str = "",
) -> list[Prediction]:
    """One prediction for each film, in their order.

    Parameters
    ----------
    change
        What is done to each film before the model sees it.
    what
        Name of the progress bar; the split by default.

    Raises
    ------
    TrainingError
        If a film cannot be decoded.
    """
    predictions: list[Prediction] = []
    with tqdm(total=len(records), desc=what or records[0].split, unit="film", disable=not progress, leave=False) as bar:
        for start in range(0, len(records), _BATCH):
            chosen = records[start : start + _BATCH]
            films = [record.read(predictor.spec.preprocessing.least_side) for record in chosen]
            predictions += predictor.predict(films if change is None else [change(film) for film in films])
            bar.update(len(chosen))
    return predictions
