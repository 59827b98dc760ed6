"""One pass over films: each is read once, ahead by threads, and comes out with what the model says of it.

Whatever else needs a film (the screen, the drift reference, the readings of an audit, the films a page shows) takes it
from the pass as it goes by, so that no film is read twice and no more than a few are in memory.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from cxr.films.film import ImageInfo, Pixels
from cxr.model.preprocess import resize
from cxr.model.spec import Preprocessing
from cxr.predict import Prediction, Predictor
from cxr_training.data.prefetch import in_batches, prefetched
from cxr_training.data.progress import progress_bar
from cxr_training.data.records import Record

_BATCH: Final = 8

Change = Callable[[Pixels], Pixels]


def unchanged(pixels: Pixels) -> Pixels:
    """The film as it is."""
    return pixels


@dataclass(frozen=True, slots=True)
class ReadFilm:
    """A film as it was read.

    Parameters
    ----------
    info
        The file's facts, as `cxr.films.film.ImageInfo` has them.
    pixels
        (H, W) uint8: every pixel, or those the model reads where that was enough.
    inputs
        (size, size) uint8 each: the film at the network's size, after each change.
    """

    record: Record
    info: ImageInfo
    pixels: Pixels
    inputs: tuple[Pixels, ...]

    @property
    def input(self) -> Pixels:
        """The film at the network's size, after the first change."""
        return self.inputs[0]


@dataclass(frozen=True, slots=True)
class ScoredFilm(ReadFilm):
    """A film with what the model says of it, after each change."""

    predictions: tuple[Prediction, ...]

    @property
    def prediction(self) -> Prediction:
        """What the model says after the first change."""
        return self.predictions[0]


def read_films(
    records: Sequence[Record],
    preprocessing: Preprocessing,
    *,
    changes: Sequence[Change] = (unchanged,),
    whole: bool = True,
    name: str = "",
) -> Iterator[list[ReadFilm]]:
    """Films in batches of eight, in the order of the records, each file opened once.

    Parameters
    ----------
    changes
        What is done to each film, as the model reads it, before it is brought to the network's size.
    whole
        Decode every pixel of each film, also where the model reads a reduced one.
    name
        Of the progress bar; the split by default.

    Raises
    ------
    TrainingError
        If a film cannot be decoded.
    """

    def load(record: Record) -> ReadFilm:
        data = record.data()
        film = record.film_in(data, preprocessing.least_side)
        pixels = film.pixels if film.is_whole or not whole else record.film_in(data).pixels
        inputs = tuple(resize(change(film.pixels), preprocessing) for change in changes)
        return ReadFilm(record, film.info, pixels, inputs)

    with progress_bar(records, name or records[0].split, "film") as bar:
        for films in prefetched(in_batches(records, _BATCH), load):
            yield films
            bar.update(len(films))


def scored_films(
    predictor: Predictor, records: Sequence[Record], *, changes: Sequence[Change] = (unchanged,), whole: bool = True
) -> Iterator[ScoredFilm]:
    """Films with what the model says of them, read as `read_films` does.

    Raises
    ------
    TrainingError
        If a film cannot be decoded.
    """
    for films in read_films(records, predictor.spec.preprocessing, changes=changes, whole=whole):
        answers = [predictor.predict(inputs) for inputs in zip(*(film.inputs for film in films), strict=True)]
        for film, predictions in zip(films, zip(*answers, strict=True), strict=True):
            yield ScoredFilm(film.record, film.info, film.pixels, film.inputs, predictions)


def score(predictor: Predictor, records: Sequence[Record]) -> list[Prediction]:
    """What the model says of each film, in their order.

    Raises
    ------
    TrainingError
        If a film cannot be decoded.
    """
    return [film.prediction for film in scored_films(predictor, records, whole=False)]


class KeptFilms:
    """The few films of a pass that a page will show: those with the smallest keys.

    Parameters
    ----------
    most
        How many are kept.
    shrink
        Makes the film as small as it is shown.
    """

    def __init__(self, most: int, shrink: Change) -> None:
        self._most, self._shrink = most, shrink
        self._kept: list[tuple[tuple[float, int], str, Pixels]] = []

    def offer(self, key: tuple[float, int], film: ReadFilm) -> None:
        """Keep a film if its key is among the smallest so far; no two keys are the same."""
        if len(self._kept) < self._most or key < self._kept[-1][0]:
            insort(self._kept, (key, film.record.name, self._shrink(film.pixels)), key=itemgetter(0))
            del self._kept[self._most :]

    def by_name(self) -> dict[str, Pixels]:
        """The films that were kept, by their names in the data folder."""
        return {name: pixels for _, name, pixels in self._kept}
