"""Fit the screen that tells frontal films from others, on frontal films alone.

What is not frontal is made from what is: the half of a chest, with one lung between spine and ribs, has the look of a
lateral view; a quarter turn, a film on its head and a negative are what goes wrong at export. No lateral film is
needed, and those that are at hand stay unseen for measuring.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Final

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression

from cxr.films.film import Pixels
from cxr.films.frontal import SIDE, Screen, Verdict, edge_histograms, thumbnail
from cxr_training.data.prefetch import in_batches, prefetched
from cxr_training.data.progress import progress_bar
from cxr_training.data.records import Record, all_synthetic

FEWEST: Final = 30  # training films; with fewer there is no screen
MOST: Final = 1000  # films that are used; more take longer and change little
_REFUSED_BELOW: Final = -0.5  # log-odds: a film is refused where frontal has less than 2 in 5
_STRENGTH: Final = 3.0  # inverse of the ridge penalty
_DIGITS: Final = 4
_SEED: Final = 0
_BATCH: Final = 8  # films that are read together


def screen_of(records: Sequence[Record]) -> Screen | None:
    """The screen for a data folder's training films, or None where they are too few.

    Where all of them are drawn, the screen flags and does not refuse: real films look otherwise.
    """
    if len(records) < FEWEST:
        return None
    chosen = [records[i] for i in np.random.default_rng(_SEED).permutation(len(records))[:MOST]]
    batches = prefetched(in_batches(chosen, _BATCH), lambda record: thumbnail(record.read()))
    thumbnails = np.stack([*progress_bar(chain.from_iterable(batches), "screen", "film", total=len(chosen))])
    return fit_screen(thumbnails, refuses=not all_synthetic(records))


def verdict_counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """How many frontal films a screen takes for something else, or for negatives."""
    return {
        "films": len(verdicts),
        "unlike_frontal": sum(not verdict.is_frontal for verdict in verdicts),
        "inverted": sum(verdict.inverted for verdict in verdicts),
    }


def fit_screen(thumbnails: Pixels, *, refuses: bool = True) -> Screen:
    """The screen for films like these.

    Parameters
    ----------
    thumbnails
        (N, SIDE, SIDE) uint8, `cxr.films.frontal.thumbnail` of frontal training films.
    refuses
        `Screen.refuses`.
    """
    rng = np.random.default_rng(_SEED)
    frontal = np.concatenate([thumbnails, *([_changed(one, rng) for one in thumbnails] for _ in range(3))])
    other = np.concatenate(
        [
            *([_half_chest(one, rng) for one in thumbnails] for _ in range(3)),
            np.rot90(thumbnails[::2], 1, (1, 2)),
            np.rot90(thumbnails[1::2], -1, (1, 2)),
            thumbnails[::4, ::-1],
            255 - thumbnails[::4],
        ]
    )
    targets = np.repeat([1, 0], [len(frontal), len(other)])
    histograms = edge_histograms(np.concatenate([frontal, other]))
    fitted = LogisticRegression(C=_STRENGTH, class_weight="balanced", max_iter=1000).fit(histograms, targets)
    weights = tuple(round(float(weight), _DIGITS) for weight in fitted.coef_[0])
    return Screen(weights, round(float(fitted.intercept_[0]), _DIGITS), _REFUSED_BELOW, refuses)


def _changed(film: Pixels, rng: np.random.Generator) -> Pixels:
    """A frontal film that was collimated, turned or framed otherwise; also mirrored, which is no lateral view."""
    left, top, right, bottom = rng.uniform(0, 0.11 * SIDE, 4)
    film = _resized(film, (SIDE, SIDE), (left, top, SIDE - right, SIDE - bottom))
    if rng.random() < 0.5:
        film = film[:, ::-1]
    return _framed(_turned(film, rng.uniform(-8, 8)), rng)


def _half_chest(film: Pixels, rng: np.random.Generator) -> Pixels:
    """One lung with the spine on one side, drawn out to the whole width or to a slim body on a dark ground."""
    width, margin = rng.uniform(0.44, 0.59) * SIDE, rng.uniform(0, 0.09) * SIDE
    left = margin if rng.random() < 0.5 else SIDE - margin - width
    half = _resized(film, (SIDE, SIDE), (left, 0, left + width, SIDE))
    if rng.random() < 0.5:
        half = half[:, ::-1]
    if rng.random() < 0.6:
        slim = int(rng.uniform(0.56, 0.94) * SIDE)
        ground = _ground(rng)
        at = int(rng.integers(0, SIDE - slim + 1))
        ground[:, at : at + slim] = _resized(half, (slim, SIDE))
        half = ground
    return _framed(_turned(half, rng.uniform(-15, 15)), rng) if rng.random() < 0.67 else half


def _framed(film: Pixels, rng: np.random.Generator) -> Pixels:
    """The film, or every third time a smaller one on a dark ground."""
    if rng.random() > 0.35:
        return film
    width, height = (int(side) for side in rng.uniform(0.69, 1.0, 2) * SIDE)
    x, y = int(rng.integers(0, SIDE - width + 1)), int(rng.integers(0, SIDE - height + 1))
    ground = _ground(rng)
    ground[y : y + height, x : x + width] = _resized(film, (width, height))
    return ground


def _ground(rng: np.random.Generator) -> Pixels:
    return np.full((SIDE, SIDE), int(rng.integers(0, 25)), dtype=np.uint8)


def _turned(film: Pixels, degrees: float) -> Pixels:
    return np.asarray(_picture(film).rotate(degrees, Image.Resampling.BILINEAR))


def _resized(film: Pixels, size: tuple[int, int], box: tuple[float, float, float, float] | None = None) -> Pixels:
    return np.asarray(_picture(film).resize(size, Image.Resampling.BILINEAR, box=box))


def _picture(film: Pixels) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(film))
