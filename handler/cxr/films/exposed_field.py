"""The exposed field of a picture: what is left of it without the even frame around.

A collimator, a film that was copied askew onto a larger sheet, a viewer's window: each leaves the chest in a part of
the picture, with one even grey beside it. What judges the look of a film must see the chest and not the frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxr.films.film import Pixels

_SAME_GREY: Final = 8  # grey levels by which one grey differs from itself after compression
_EVEN: Final = 0.7  # share of an edge of the picture in one grey, for a frame to begin there
_THIN: Final = 3  # pixels of letters that are passed on the way through a frame
_FEW: Final = 0.12  # of the widest row or column of the field; what is thinner is a marker or some lines of text
_FRAMES: Final = 4  # inside each other, at most
_LEAST: Final = 0.2  # of the side of the picture; a smaller field is none
_RIM: Final = 1.0  # pixels inside the field that belong to its edge
_TILTS: Final = np.arange(-25, 26)  # degrees
_COS, _SIN = np.cos(np.deg2rad(_TILTS)), np.sin(np.deg2rad(_TILTS))
_TURNS: Final = np.stack([np.stack([_COS, -_SIN], axis=1), np.stack([_SIN, _COS], axis=1)])
_LEAST_TILT: Final = 2
_FILLED: Final = 0.94  # share of a tilted rectangle that the field fills; the outline of a body fills less
_UPRIGHT: Final = 0.985  # share of an upright one from which no tilted one is looked for
_GREYS: Final = np.arange(256)

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Field:
    """A rectangle in a picture.

    Parameters
    ----------
    left, top, right, bottom
        Edges in pixels of the picture after it was turned back by `tilt` around its middle.
    tilt
        Degrees by which the rectangle is turned against the picture, counter-clockwise.
    """

    left: float
    top: float
    right: float
    bottom: float
    tilt: float = 0.0


def exposed_field(picture: Pixels) -> Field:
    """The exposed field of a picture, (S, S) uint8; the whole picture where there is no frame.

    Frames inside frames, such as a film's own in a viewer's window, are taken off one after the other.
    """
    side = len(picture)
    left, top, right, bottom = 0, 0, side, side
    for _ in range(_FRAMES):
        exposed = ~frame_of(picture[top:bottom, left:right])
        if exposed.all():
            break
        exposed = _without_letters(exposed)
        if exposed.mean() < _UPRIGHT and (tilted := _tilted(exposed, top, left, side)):
            return tilted
        rows, columns = _extent(exposed.sum(axis=1)), _extent(exposed.sum(axis=0))
        height, width = rows[1] - rows[0], columns[1] - columns[0]
        if min(height, width) < _LEAST * side or (height, width) == exposed.shape:
            break
        left, right, top, bottom = left + columns[0], left + columns[1], top + rows[0], top + rows[1]
    first = (edge + _RIM * (edge > 0) for edge in (left, top))
    last = (edge - _RIM * (edge < side) for edge in (right, bottom))
    return Field(*first, *last)


def frame_of(picture: Pixels) -> Mask:
    """The pixels in the grey of an even edge of the picture, reached from there straight on through that grey.

    What is as thin as a line of text is passed on the way.
    """
    frame = np.zeros(picture.shape, dtype=np.bool_)
    for turns in range(4):
        seen = np.rot90(picture, turns)
        for line in seen[:_THIN]:
            is_other = np.abs(_GREYS - np.median(line)) > _SAME_GREY
            if is_other[line].mean() <= 1 - _EVEN:
                others = is_other[seen]
                marked = np.rot90(frame, turns)
                marked |= ~others & (np.cumsum(others, axis=0, dtype=np.uint16) <= _THIN)
                break
    return frame


def _without_letters(exposed: Mask) -> Mask:
    """The exposed pixels that are no thin thing in the frame: opened by a square of three."""
    for merge in (np.logical_and, np.logical_or):
        for _ in range(2):  # along each axis in turn
            wide = np.pad(exposed, ((0, 0), (1, 1)), mode="edge")
            exposed = merge(merge(wide[:, :-2], wide[:, 1:-1]), wide[:, 2:]).T
    return exposed


def cropped(picture: Pixels, field: Field, side: int) -> Pixels:
    """The field of a picture, upright, drawn out to (side, side) uint8."""
    image = Image.fromarray(picture)
    if field.tilt:
        image = image.rotate(-field.tilt, Image.Resampling.BILINEAR)
    box = (field.left, field.top, field.right, field.bottom)
    return np.asarray(image.resize((side, side), Image.Resampling.BOX, box=box))


def _extent(counts: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Where a field begins and ends, by its pixels in each row or column."""
    places = np.flatnonzero(counts > _FEW * max(int(counts.max()), 1))
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


def _tilted(box: Mask, top: int, left: int, side: int) -> Field | None:
    """The smallest tilted rectangle around the field, where the field fills it."""
    rows = np.flatnonzero(box.any(axis=1))
    if len(rows) < _LEAST * side:
        return None
    first, last = box[rows].argmax(axis=1), box.shape[1] - box[rows, ::-1].argmax(axis=1)
    middle = side / 2
    y = np.concatenate([rows, rows + 1, rows, rows + 1]) + top - middle
    x = np.concatenate([first, first, last, last]) + left - middle
    turned = _TURNS @ np.stack([x, y])  # (2, angles, corners)
    low, high = turned.min(axis=2), turned.max(axis=2)
    areas = np.prod(high - low, axis=0)
    best = int(areas.argmin())
    if abs(int(_TILTS[best])) < _LEAST_TILT or box.sum() < _FILLED * areas[best]:
        return None
    # Turned back, a corner may lie beyond the picture; nothing is there.
    start, upper = (float(max(edge + middle + _RIM, 0.0)) for edge in low[:, best])
    stop, lower = (float(min(edge + middle - _RIM, side)) for edge in high[:, best])
    return Field(start, upper, stop, lower, float(_TILTS[best]))
