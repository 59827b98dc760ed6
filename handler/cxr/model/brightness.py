"""Brightness: the distribution of a film's greys in its exposed field, as a network sees them.

A network answers a film that is darker, flatter or coarser than all it was trained on as surely as any other. So its
spec has the limits of a few figures over the training films, and a film beyond one of them is flagged. The figures are
those of the network's own input: with standard greys (`cxr.model.preprocess.standard_greys`) a straight-line change
of a film leaves them as they are, since it changes no answer either, and what such greys cannot make good stays seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cxr.errors import ModelError
from cxr.films.film import Film, Pixels

UNUSUAL: Final = "unusual_greys"
_SHARES: Final = {"p05": 5.0, "p25": 25.0, "p50": 50.0, "p75": 75.0, "p95": 95.0}
FIGURES: Final = (*_SHARES, "levels")
_OUTSIDE: Final = 0.1  # % of the training films that may lie beyond either limit, before it is moved outward
_MARGIN: Final = 0.1  # of the distance between the limits, by which each is moved outward
_DIGITS: Final = 4


def exposed_field(pixels: Pixels) -> npt.NDArray[np.int64]:
    """The greys of the exposed field, (N,): those of the middle four fifths of each side.

    Collimator, letters and dead pixels are left out as far as they are the lowest and the highest grey of the film,
    unless hardly anything else is there.
    """
    height, width = pixels.shape
    middle = pixels[height // 10 : height - height // 10, width // 10 : width - width // 10].astype(np.int64).ravel()
    exposed = middle[(middle > pixels.min()) & (middle < pixels.max())]
    return middle if len(exposed) < len(middle) // 10 else exposed


def brightness_of(film: Pixels) -> dict[str, float]:
    """The figures of a film by name.

    Parameters
    ----------
    film
        As a network sees it, (size, size) uint8: `cxr.model.preprocess.network_film`.

    Returns
    -------
    ``p05`` to ``p95``, percentiles of the greys in the exposed field, 0-1; ``levels``, how many different greys are in
    it, of 256: few where a film was stretched from a dim one.
    """
    exposed = exposed_field(film)
    percentiles = np.percentile(exposed, [*_SHARES.values()]) / 255.0
    levels = float(np.count_nonzero(np.bincount(exposed, minlength=256)))
    return {**dict(zip(_SHARES, map(float, percentiles), strict=True)), "levels": levels}


@dataclass(frozen=True, slots=True)
class Brightness:
    """The brightness of a model's training films.

    Parameters
    ----------
    limits
        The lowest and the highest value of each of `FIGURES` that is still one of theirs.
    films
        How many films they come from.
    """

    limits: dict[str, tuple[float, float]]
    films: int

    def __post_init__(self) -> None:
        if set(self.limits) != set(FIGURES):
            raise ModelError(f"brightness has limits of {sorted(self.limits)}: {', '.join(FIGURES)} are needed")
        for name, (low, high) in self.limits.items():
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ModelError(f"brightness {name} is {low} to {high}: two rising numbers are needed")

    @classmethod
    def of(cls, figures: Sequence[dict[str, float]]) -> Brightness:
        """The brightness of training films, from `brightness_of` each.

        Two films in a thousand may lie outside before the limits are moved outward by a tenth of their distance, so
        that neither one odd training film nor the chance of the draw sets them.
        """
        limits: dict[str, tuple[float, float]] = {}
        for name in FIGURES:
            low, high = np.percentile([one[name] for one in figures], [_OUTSIDE, 100.0 - _OUTSIDE])
            margin = _MARGIN * (high - low)
            limits[name] = (round(float(low - margin), _DIGITS), round(float(high + margin), _DIGITS))
        return cls(limits, len(figures))

    def outside(self, film: Pixels) -> tuple[str, ...]:
        """The figures of a film, as a network sees it, that lie beyond the limits."""
        figures = brightness_of(film)
        return tuple(name for name, (low, high) in self.limits.items() if not low <= figures[name] <= high)


def check_brightness(film: Film, seen: Pixels, brightness: Brightness) -> Film:
    """The film, flagged where it lies beyond the brightness of the training films.

    Parameters
    ----------
    seen
        The film as the network sees it.
    """
    return film.flagged(UNUSUAL) if brightness.outside(seen) else film
