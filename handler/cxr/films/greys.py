"""Grey values that a file does not settle: films stored in colour, and the range of a film without a window."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxr.errors import InputError

MAX_COLOUR: Final = 12.0  # mean distance of the channels, 0-255; grey films saved as colour stay below 2
LUMINANCE: Final = (0.299, 0.587, 0.114)  # ITU-R BT.601-7, 2.5.1, as Pillow has it


def colour_of(picture: Image.Image) -> float:
    """The mean distance of the channels of an RGB picture, 0-255."""
    sample = np.asarray(picture.resize((64, 64), Image.Resampling.BOX), dtype=np.float32)
    return float((sample.max(axis=2) - sample.min(axis=2)).mean())


def check_grey(picture: Image.Image) -> None:
    """Refuse an RGB picture that is no grey film.

    Raises
    ------
    InputError
        NOT_A_RADIOGRAPH.
    """
    check_distance(colour_of(picture))


def check_distance(distance: float) -> None:
    """Refuse a picture whose channels lie this far from each other on average, in 255ths of the range.

    Raises
    ------
    InputError
        NOT_A_RADIOGRAPH.
    """
    if distance > MAX_COLOUR:
        raise InputError(
            "NOT_A_RADIOGRAPH",
            f"colour channels differ by {distance:.0f} of 255 on average, at most {MAX_COLOUR:.0f} in a grey film. "
            "Send the film itself, not a photograph or a coloured rendering.",
        )


def luminance(red: npt.NDArray[Any], green: npt.NDArray[Any], blue: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The grey of three channels, in their own unit; exactly theirs where they are equal."""
    grey = red * np.float32(LUMINANCE[0]) + green * np.float32(LUMINANCE[1]) + blue * np.float32(LUMINANCE[2])
    return np.asarray(np.where((red == green) & (green == blue), green, grey), dtype=np.float32)


_FEWEST_LEVELS: Final = 16  # with fewer there is no telling a film from what surrounds it
_MOST_CUTS: Final = 64
_GAP: Final = 0.25  # of the film's own range, empty, between it and what is no part of it
_OUTSIDE_LEVELS: Final = 0.05  # of the film's levels: a frame or a marker has a few, a film hundreds
_TAIL: Final = 0.001  # share of the pixels at either end
# Shares of the pixels that dead ones can have
_TAILS: Final = (0.05, 0.04, 0.03, 0.025, 0.02, 0.015, 0.012, 0.01, 0.007, 0.005, 0.003, 0.002, 0.001)
_JUMP: Final = 1.15  # times the range so far, from one of these tails to the next
_DOUBLED: Final = 2.0


def own_range(
    levels: npt.NDArray[Any], counts: npt.NDArray[np.int64], *, whole: bool = False
) -> tuple[float, float, bool]:
    """The values that are to be black and white: the lowest and the highest of the film, without what is none of it.

    Dead pixels, burnt-in markers and the frame of a collimator have values far from those of the film. The lowest and
    highest of all would leave the film a sliver of the grey range, 16 times too dark for one pixel of 65,535.

    Parameters
    ----------
    levels, counts
        The values that pixels have, in any order, and how many pixels have each: (N,).
    whole
        Leave nothing out.

    Returns
    -------
    Lowest, highest, and whether anything was left out.
    """
    order = np.argsort(levels, kind="stable")
    levels, counts = np.asarray(levels, dtype=np.float64)[order], counts[order]
    first, last = 0, len(levels) - 1
    if whole:
        return float(levels[first]), float(levels[last]), False
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
        inside, pixels = levels[first : last + 1], counts[first : last + 1]
        low = _edge(-inside[::-1], pixels[::-1])
        first, last = last - low, first + _edge(inside, pixels)
    return float(levels[first]), float(levels[last]), (first, last) != (0, len(levels) - 1)


def _edge(levels: npt.NDArray[Any], counts: npt.NDArray[np.int64]) -> int:
    """The place of the highest level, without a few pixels that are spread far beyond the others.

    Where nearly all pixels have less than half of the range, the film ends where so many more would double its range.
    """
    total = np.cumsum(counts)
    low, *places = (
        int(np.searchsorted(total, share * total[-1], side="right")) for share in (_TAIL, *(1 - one for one in _TAILS))
    )
    places = [min(place, len(levels) - 1) for place in places]
    edge = places[0]
    for place in [*places[1:], len(levels) - 1]:
        if levels[place] - levels[low] > _JUMP * (levels[edge] - levels[low]):
            break
        edge = place
    is_doubled = levels[-1] - levels[low] > _DOUBLED * (levels[edge] - levels[low]) > 0
    return edge if is_doubled else len(levels) - 1
