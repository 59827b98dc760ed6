"""Fit the screen that tells frontal films from others, on frontal films alone.

What is not frontal is made from what is (`cxr_training.fit.screen_changes`): no lateral film is needed, and those that
are at hand stay unseen for measuring.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Final

import numpy as np
from sklearn.linear_model import LogisticRegression

from cxr.films.film import Pixels
from cxr.films.frontal import Screen, Verdict, edge_histograms, field_of
from cxr_training.data.progress import progress_bar
from cxr_training.fit import screen_changes as changes

FEWEST: Final = 30  # training films; with fewer there is no screen
MOST: Final = 1000  # films that are used; more take longer and change little
_REFUSED_BELOW: Final = -0.8  # log-odds: a film is refused where frontal has less than 1 in 3
_STRENGTH: Final = 10.0  # inverse of the ridge penalty
_DIGITS: Final = 4
_SEED: Final = 0
_FRONTAL: Final = 4  # changes of each film that leave it frontal
_HALVES: Final = 4
_HALF_WEIGHT: Final = 3.0  # of half a chest, which stands for the lateral views and is the hardest to tell
_NOT_FRONTAL: Final = (*[changes.half_chest] * _HALVES, changes.lying, changes.on_its_head, changes.negative)
_PAIRS: Final = (*[changes.pair] * 3, changes.negative_of_pair)


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
        (N, SHEET, SHEET) uint8, `cxr.films.frontal.thumbnail` of frontal training films.
    refuses
        `Screen.refuses`; a screen of drawn films flags instead, since real ones look otherwise.
    """
    rng, count = np.random.default_rng(_SEED), len(thumbnails)
    frontal = (changes.frontal(film, rng) for _ in range(_FRONTAL) for film in thumbnails)
    other = (change(film, rng) for change in _NOT_FRONTAL for film in thumbnails)
    pairs = (change(film, rng.choice(thumbnails), rng) for change in _PAIRS for film in thumbnails)
    kinds = (1 + _FRONTAL, len(_NOT_FRONTAL) + len(_PAIRS))
    sheets = progress_bar(chain(thumbnails, frontal, other, pairs), "screen", "change", total=sum(kinds) * count)
    fields = np.stack([field_of(sheet) for sheet in sheets])
    histograms = np.concatenate([edge_histograms(some) for some in np.array_split(fields, sum(kinds))])
    importance = np.ones(len(histograms))
    importance[kinds[0] * count :][: _HALVES * count] = _HALF_WEIGHT
    importance[: kinds[0] * count] = importance[kinds[0] * count :].sum() / (kinds[0] * count)  # both sides alike
    fitted = LogisticRegression(C=_STRENGTH, max_iter=1000)
    fitted.fit(histograms, np.repeat([1, 0], [kind * count for kind in kinds]), importance)
    weights = tuple(round(float(weight), _DIGITS) for weight in fitted.coef_[0])
    return Screen(weights, round(float(fitted.intercept_[0]), _DIGITS), _REFUSED_BELOW, refuses, "field")
