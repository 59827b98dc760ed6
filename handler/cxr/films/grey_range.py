"""The range of grey values of a film that does not say how it is to be shown."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

_FEWEST_LEVELS: Final = 16  # with fewer there is no telling a film from what surrounds it
_MOST_CUTS: Final = 64
_GAP: Final = 0.25  # of the film's own range, empty, between it and what is no part of it
_OUTSIDE_LEVELS: Final = 0.05  # of the film's levels: a frame or a marker has a few, a film hundreds
_TAIL: Final = 0.001  # share of the pixels at either end
_LONG_TAIL: Final = 0.33  # of the range of the others


def own_range(levels: npt.NDArray[Any], counts: npt.NDArray[np.int64]) -> tuple[float, float, bool]:
    """The values that are to be black and white: the lowest and the highest of the film, without what is none of it.

    Dead pixels, burnt-in markers and the frame of a collimator have values far from those of the film. The lowest and
    highest of all would leave the film a sliver of the grey range, 16 times too dark for one pixel of 65,535.

    Parameters
    ----------
    levels, counts
        The values that pixels have, in any order, and how many pixels have each: (N,).

    Returns
    -------
    Lowest, highest, and whether anything was left out.
    """
    order = np.argsort(levels, kind="stable")
    levels, counts = np.asarray(levels, dtype=np.float64)[order], counts[order]
    first, last = 0, len(levels) - 1
    for _ in range(_MOST_CUTS):
        if last - first + 1 < _FEWEST_LEVELS:
            break
        gaps = np.diff(levels[first : last + 1])
        at = first + int(np.argmax(gaps))
        below, above = at - first + 1, last - at
        inside = levels[at] - levels[first] if below > above else levels[last] - levels[at + 1]
        is_outside = min(below, above) <= 1 + _OUTSIDE_LEVELS * max(below, above)
        if levels[at + 1] - levels[at] <= _GAP * inside or not is_outside or inside <= 0:
            break
        first, last = (first, at) if below > above else (at + 1, last)
    if last - first + 1 >= _FEWEST_LEVELS:
        first, last = _without_tails(levels, counts, first, last)
    return float(levels[first]), float(levels[last]), (first, last) != (0, len(levels) - 1)


def _without_tails(levels: npt.NDArray[Any], counts: npt.NDArray[np.int64], first: int, last: int) -> tuple[int, int]:
    """The places of the lowest and highest level, without a few pixels that are spread far beyond the others."""
    total = np.cumsum(counts[first : last + 1])
    low = first + int(np.searchsorted(total, _TAIL * total[-1], side="right"))
    high = first + int(np.searchsorted(total, (1 - _TAIL) * total[-1]))
    longest = _LONG_TAIL * (levels[high] - levels[low])
    if longest <= 0:
        return first, last
    return (
        low if levels[low] - levels[first] > longest else first,
        high if levels[last] - levels[high] > longest else last,
    )
