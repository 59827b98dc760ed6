"""What happens to films on their way to a reader, drawn: what the screen must see through, and what it must refuse.

Each takes a small film, (S, S) uint8, or two, and a generator, and gives a picture of the same size. What is not
frontal is made from what is: the half of a chest, with one lung between spine and ribs, has the look of a lateral view.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image

from cxr.films.film import Pixels, unit_to_uint8

_LARGEST_TILT: Final = 22  # degrees by which a film lies askew on a sheet
_FIELDS: Final = (0.32, 0.85)  # sides of a film on a sheet, as shares of the sheet's


def frontal(film: Pixels, rng: np.random.Generator) -> Pixels:
    """A frontal film of other greys, collimated, turned a little and framed otherwise; also mirrored."""
    return framed(_flipped(turned(collimated(regreyed(film, rng), rng), rng.uniform(-8, 8)), rng), rng)


def half_chest(film: Pixels, rng: np.random.Generator) -> Pixels:
    """One lung with the spine on one side, drawn out to the whole width or to a slim body on a dark ground."""
    side = len(film)
    width, margin = rng.uniform(0.44, 0.59) * side, rng.uniform(0, 0.09) * side
    left = margin if rng.random() < 0.5 else side - margin - width
    half = _flipped(resized(regreyed(film, rng), (side, side), (left, 0, left + width, side)), rng)
    if rng.random() < 0.6:
        slim = int(rng.uniform(0.56, 0.94) * side)
        half = placed(half, ground(side, rng, dark=True), (slim, side), (int(rng.integers(0, side - slim + 1)), 0))
    return half if rng.random() < 0.33 else framed(turned(half, rng.uniform(-15, 15)), rng)


def lying(film: Pixels, rng: np.random.Generator) -> Pixels:
    """A film on its side, either way."""
    return np.rot90(frontal(film, rng), rng.choice((1, 3)))


def on_its_head(film: Pixels, rng: np.random.Generator) -> Pixels:
    """A film upside down, mirrored or turned by 180 degrees."""
    return frontal(film, rng)[::-1]


def negative(film: Pixels, rng: np.random.Generator) -> Pixels:
    """A film with black and white swapped, its frame as white or as black as any."""
    if rng.random() < 0.5:
        return 255 - frontal(film, rng)
    return frontal(255 - film, rng)


def pair(film: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    """Two views in one picture, beside or above each other: two frontal ones, or one with a lateral one."""
    side = len(film)
    first = turned(collimated(regreyed(film, rng), rng), rng.uniform(-4, 4))
    second = _half_for_pair(other, rng) if rng.random() < 0.6 else _flipped(regreyed(other, rng), rng)
    if rng.random() < 0.5:
        first, second = second, first
    sheet = ground(side, rng)
    gap, share = rng.uniform(0, 0.08) * (rng.random() < 0.7), rng.uniform(0.38, 0.62)
    extents = [max(int((share - gap / 2) * side), 8), max(int((1 - share - gap / 2) * side), 8)]
    for one, extent, at in zip((first, second), extents, (0, side - extents[1]), strict=True):
        height = int(side * (rng.uniform(0.7, 1.0) if rng.random() < 0.4 else 1.0))
        sheet = placed(one, sheet, (extent, height), (at, int(rng.integers(0, side - height + 1))))
    if rng.random() < 0.4:
        sheet = _stacked(first, second, rng)
    return framed(sheet, rng) if rng.random() < 0.3 else sheet


def negative_of_pair(film: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    """Two views in one picture with black and white swapped."""
    return 255 - pair(film, other, rng)


def _stacked(first: Pixels, second: Pixels, rng: np.random.Generator) -> Pixels:
    side = len(first)
    sheet, upper = ground(side, rng), int(rng.uniform(0.4, 0.6) * side)
    sheet = placed(first, sheet, (side, upper), (0, 0))
    return placed(second, sheet, (side, side - upper), (0, upper))


def _half_for_pair(film: Pixels, rng: np.random.Generator) -> Pixels:
    side = len(film)
    width = rng.uniform(0.44, 0.59) * side
    left = 0.0 if rng.random() < 0.5 else side - width
    return _flipped(resized(regreyed(film, rng), (side, side), (left, 0, left + width, side)), rng)


def regreyed(film: Pixels, rng: np.random.Generator) -> Pixels:
    """The film under another curve: a power, a steeper window, or its histogram made even."""
    kind = rng.random()
    if kind < 0.2:
        return equalised(film)
    if kind < 0.4:
        return unit_to_uint8((film / 255.0) ** np.exp(rng.uniform(-0.8, 0.8)))
    if kind < 0.6:
        low, high = np.percentile(film, (rng.uniform(0, 12), rng.uniform(88, 100)))
        return unit_to_uint8((film - low) / max(high - low, 1.0))
    return film


def equalised(film: Pixels) -> Pixels:
    """The film with as many pixels of each grey."""
    counts = np.bincount(film.ravel(), minlength=256)
    return np.asarray(np.rint(255.0 * (np.cumsum(counts) - counts / 2) / film.size), dtype=np.uint8)[film]


def collimated(film: Pixels, rng: np.random.Generator) -> Pixels:
    """The film without up to a ninth of it at each edge."""
    side = len(film)
    left, top, right, bottom = rng.uniform(0, 0.11 * side, 4)
    return resized(film, (side, side), (left, top, side - right, side - bottom))


def framed(film: Pixels, rng: np.random.Generator) -> Pixels:
    """The film as it is, in a collimator's frame, askew on a sheet, in the upper half, or in a viewer's window."""
    kind = rng.random()
    if kind < 0.3:
        return film
    if kind < 0.55:
        return _in_frame(film, rng)
    if kind < 0.75:
        return _askew(film, rng)
    return _in_the_upper_half(film, rng) if kind < 0.87 else _in_viewer(film, rng)


def _in_frame(film: Pixels, rng: np.random.Generator) -> Pixels:
    """The film with an even frame over its edges or around it, seldom even on all sides."""
    side = len(film)
    left, top, right, bottom = (int(width) for width in rng.uniform(0, 0.2, 4) * side * (rng.random(4) < 0.75))
    sheet, size = ground(side, rng), (side - left - right, side - top - bottom)
    if rng.random() < 0.5:
        return _lettered(placed(film, sheet, size, (left, top)), rng)
    sheet = sheet.copy()
    sheet[top : side - bottom, left : side - right] = film[top : side - bottom, left : side - right]
    return _lettered(sheet, rng)


def _askew(film: Pixels, rng: np.random.Generator) -> Pixels:
    """A small film that lies tilted somewhere on an even sheet."""
    side = len(film)
    width, height = (int(length) for length in rng.uniform(*_FIELDS, 2) ** 0.8 * side)
    tilt = float(rng.uniform(-_LARGEST_TILT, _LARGEST_TILT)) if rng.random() < 0.75 else 0.0
    small = _picture(resized(film, (width, height)))
    mask = Image.new("L", small.size, 255).rotate(tilt, Image.Resampling.BILINEAR, expand=True)
    small = small.rotate(tilt, Image.Resampling.BILINEAR, expand=True)
    sheet = _picture(ground(side, rng))
    room = [side - length for length in small.size]
    at = (
        int(rng.integers(min(room[0], 0), max(room[0], 0) + 1)),
        int(rng.integers(min(room[1], 0), max(room[1], 0) + 1)),
    )
    sheet.paste(small, at, mask)
    return _lettered(np.asarray(sheet), rng)


def _in_the_upper_half(film: Pixels, rng: np.random.Generator) -> Pixels:
    """The chest above, and below it nothing, or soft tissue that goes on."""
    side = len(film)
    height = int(rng.uniform(0.45, 0.85) * side)
    below = ground(side, rng)
    if rng.random() < 0.6:
        belly = film[int(0.85 * side) :].mean(axis=0)
        waves = resized(rng.integers(0, 256, (6, 6)).astype(np.uint8), (side, side)).astype(float)
        below = np.clip(belly + rng.uniform(0.05, 0.4) * (waves - 128), 0, 255).astype(np.uint8)
    return placed(film, below, (side, height), (0, 0))


def _in_viewer(film: Pixels, rng: np.random.Generator) -> Pixels:
    """A picture of a viewer's window: bars, a column of buttons or small films, letters over the film."""
    side = len(film)
    top, left, right, bottom = (int(width) for width in rng.uniform((0.03, 0, 0, 0), (0.14, 0.22, 0.12, 0.08)) * side)
    sheet = np.full((side, side), int(rng.choice((30, 60, 200, 240)) + rng.integers(-25, 16)), dtype=np.uint8)
    inner = (side - left - right, side - top - bottom)
    sheet[top : side - bottom, left : side - right] = rng.choice((0, 0, 20, 255))
    wide = int(inner[0] * rng.uniform(0.7, 1.0))
    sheet = placed(_lettered(film, rng), sheet, (wide, inner[1]), (left + (inner[0] - wide) // 2, top))
    for _ in range(int(rng.integers(3, 14))):
        x, y = (int(rng.integers(0, side - 6)), int(rng.integers(0, max(top - 3, 1))))
        if left > 10 and rng.random() < 0.5:
            x, y = int(rng.integers(0, left - 8)), int(rng.integers(top, side - 12))
        size = int(rng.integers(2, 9))
        sheet[y : y + min(size, 4 if y < top else size), x : x + size] = rng.integers(0, 256)
    return sheet


def _lettered(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """The picture, half of the time with lines of text or a marker near its edges."""
    side, picture = len(picture), picture.copy()
    if rng.random() < 0.5:
        return picture
    for _ in range(int(rng.integers(1, 5))):
        height, width = int(rng.integers(2, 6)), int(rng.integers(4, side // 4))
        y = int(rng.choice((rng.integers(1, side // 7), rng.integers(side - side // 7, side - 6))))
        x = int(rng.choice((1, side - width - 2, int(rng.integers(0, side - width)))))
        letters = rng.random((height, width)) < 0.5
        picture[y : y + height, x : x + width][letters] = rng.choice((0, 255, 255))
    return picture


def ground(side: int, rng: np.random.Generator, *, dark: bool = False) -> Pixels:
    """An even sheet: black, white or, seldom, between."""
    kind = 0.0 if dark else rng.random()
    grey = rng.integers(0, 25) if kind < 0.45 else rng.integers(231, 256) if kind < 0.9 else rng.integers(0, 256)
    return np.full((side, side), int(grey), dtype=np.uint8)


def placed(film: Pixels, sheet: Pixels, size: tuple[int, int], at: tuple[int, int]) -> Pixels:
    """A sheet with a film on it, of a width and height, its corner at (x, y)."""
    sheet = sheet.copy()
    sheet[at[1] : at[1] + size[1], at[0] : at[0] + size[0]] = resized(film, size)
    return sheet


def turned(film: Pixels, degrees: float) -> Pixels:
    """The film turned within its own edges, black where it was not."""
    return np.asarray(_picture(film).rotate(degrees, Image.Resampling.BILINEAR))


def resized(film: Pixels, size: tuple[int, int], box: tuple[float, float, float, float] | None = None) -> Pixels:
    """A box of the film at a width and height."""
    return np.asarray(_picture(film).resize(size, Image.Resampling.BILINEAR, box=box))


def _flipped(film: Pixels, rng: np.random.Generator) -> Pixels:
    return film[:, ::-1] if rng.random() < 0.5 else film


def _picture(film: Pixels) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(film))
