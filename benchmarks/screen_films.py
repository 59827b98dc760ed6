"""Films as they reach a screen of views, drawn from films as they are: the kinds that `benchmarks.screen` counts.

Drawn on whole films and by other code than the training's changes of small ones, so that a screen is not measured by
what it learned from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from cxr.films.film import Pixels

Picture = Image.Image
Change = Callable[[Picture, Picture, np.random.Generator], Picture]


@dataclass(frozen=True, slots=True)
class Kind:
    """Films of one kind.

    Parameters
    ----------
    change
        From a film, the next film of another patient and a generator to the picture that is judged.
    wanted
        What is right: ``answered`` (neither refused nor called a negative), ``refused`` or ``inverted``.
    """

    name: str
    change: Change
    wanted: str = "answered"

    def draw(self, film: Pixels, other: Pixels, seed: int) -> Pixels:
        """A film of this kind, (H, W) uint8."""
        rng = np.random.default_rng([seed, *self.name.encode()])
        return np.array(self.change(Image.fromarray(film), Image.fromarray(other), rng))


def _as_it_is(film: Picture, _other: Picture, _rng: np.random.Generator) -> Picture:
    return film


def _with_border(film: Picture, rng: np.random.Generator, grey: int) -> Picture:
    """A frame around the film, 3 to 20 % of it wide at each edge."""
    left, top, right, bottom = (int(share * max(film.size)) for share in rng.uniform(0.03, 0.2, 4))
    sheet = Image.new("L", (film.width + left + right, film.height + top + bottom), grey)
    sheet.paste(film, (left, top))
    return sheet


def _covered(film: Picture, rng: np.random.Generator, grey: int) -> Picture:
    """A frame over the edges of the film, 2 to 12 % wide."""
    left, top, right, bottom = rng.uniform(0.02, 0.12, 4)
    box = (
        int(left * film.width),
        int(top * film.height),
        int((1 - right) * film.width),
        int((1 - bottom) * film.height),
    )
    sheet = Image.new("L", film.size, grey)
    sheet.paste(film.crop(box), box[:2])
    return sheet


def _in_field(film: Picture, rng: np.random.Generator, grey: int) -> Picture:
    """A portable film, small and tilted by up to 15 degrees, somewhere on a larger sheet."""
    share, tilt = rng.uniform(0.45, 0.8), rng.uniform(-15, 15)
    mask = Image.new("L", film.size, 255).rotate(tilt, Image.Resampling.BICUBIC, expand=True)
    film = film.rotate(tilt, Image.Resampling.BICUBIC, expand=True)
    size = (int(film.width / share), int(film.height / share))
    sheet = Image.new("L", size, grey)
    at = (int(rng.uniform(0, size[0] - film.width)), int(rng.uniform(0, size[1] - film.height)))
    sheet.paste(film, at, mask)
    return sheet


def _upper_half(film: Picture, _other: Picture, rng: np.random.Generator) -> Picture:
    """The chest in the upper half, and below it an even grey or blurred tissue."""
    height = int(film.height * rng.uniform(1.6, 2.1))
    sheet = Image.new("L", (film.width, height), int(rng.choice((0, 255, 128))))
    if rng.random() < 0.5:
        tissue = Image.fromarray(rng.integers(90, 200, (5, 4)).astype(np.uint8))
        sheet.paste(tissue.resize(sheet.size, Image.Resampling.BICUBIC))
    sheet.paste(film)
    return sheet


def _screenshot(film: Picture, _other: Picture, rng: np.random.Generator) -> Picture:
    """A viewer's window of 1280 x 800: menu bar, tools at the left, the film as high as fits, text in its corners."""
    dark = bool(rng.random() < 0.7)
    bar, ink = (int(rng.integers(25, 70)), 210) if dark else (int(rng.integers(225, 246)), 30)
    window = Image.new("L", (1280, 800), 0)
    draw = ImageDraw.Draw(window)
    top, left, right = int(rng.integers(30, 70)), int(rng.integers(0, 200)), int(rng.integers(0, 120))
    draw.rectangle((0, 0, 1280, top), fill=bar)
    draw.rectangle((0, top, left, 800), fill=bar)
    draw.rectangle((1280 - right, top, 1280, 800), fill=bar)
    for index, word in enumerate(("File", "Edit", "View", "Image", "Series", "Tools", "Window", "Help")):
        draw.text((12 + 62 * index, top // 3), word, fill=ink)
    for y in range(top + 12, 780, 64):
        if left > 60:
            draw.rectangle((8, y, left - 8, y + 44), outline=ink)
    room = (1280 - left - right, 800 - top)
    shown = ImageOps.contain(film, room)
    at = (left + (room[0] - shown.width) // 2, top + (room[1] - shown.height) // 2)
    window.paste(shown, at)
    for x, y in ((left + 8, top + 6), (1280 - right - 150, top + 6), (left + 8, 740), (1280 - right - 150, 740)):
        draw.multiline_text((x, y), "CHEST 1 VIEW\nSE 1  IM 1/1\nW 2048 L 1024", fill=240)
    return window


def _equalised(film: Picture, _other: Picture, _rng: np.random.Generator) -> Picture:
    return ImageOps.equalize(film)


def _pair(film: Picture, second: Picture, rng: np.random.Generator) -> Picture:
    """Two views beside each other at one height, with or without a gap, in either order."""
    second = second.resize((max(int(second.width * film.height / second.height), 1), film.height))
    first, second = (film, second) if rng.random() < 0.5 else (second, film)
    gap = int(rng.choice((0, 4, 30)))
    sheet = Image.new("L", (first.width + gap + second.width, film.height), int(rng.choice((0, 255))))
    sheet.paste(first)
    sheet.paste(second, (first.width + gap, 0))
    return sheet


def _two_frontal(film: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    return _pair(film, other, rng)


def _frontal_and_side(film: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """A film beside the half of another, which has the look of a lateral view."""
    middle = int(other.width * rng.uniform(0.45, 0.58))
    half = other.crop((0, 0, middle, other.height)).resize((int(0.8 * other.width), other.height))
    return _pair(film, half, rng)


def _above_each_other(film: Picture, other: Picture, _rng: np.random.Generator) -> Picture:
    other = other.resize((film.width, max(int(other.height * film.width / other.width), 1)))
    sheet = Image.new("L", (film.width, film.height + other.height), 0)
    sheet.paste(film)
    sheet.paste(other, (0, film.height))
    return sheet


def _side_view(film: Picture, _other: Picture, rng: np.random.Generator) -> Picture:
    """Half a chest, spine on one side, as wide as 0.8 of the film: the look of a lateral view."""
    middle = int(film.width * rng.uniform(0.45, 0.58))
    left = rng.random() < 0.5
    half = film.crop((0, 0, middle, film.height) if left else (film.width - middle, 0, film.width, film.height))
    return half.resize((int(0.8 * film.width), film.height))


def _turned(film: Picture, _other: Picture, rng: np.random.Generator) -> Picture:
    return film.transpose(Image.Transpose.ROTATE_90 if rng.random() < 0.5 else Image.Transpose.ROTATE_270)


def _on_its_head(film: Picture, _other: Picture, rng: np.random.Generator) -> Picture:
    return film.transpose(Image.Transpose.ROTATE_180 if rng.random() < 0.5 else Image.Transpose.FLIP_TOP_BOTTOM)


def _swapped(film: Picture, _other: Picture, _rng: np.random.Generator) -> Picture:
    return ImageOps.invert(film)


def _mirrored(film: Picture, _other: Picture, _rng: np.random.Generator) -> Picture:
    return ImageOps.mirror(film)


KINDS: Final = (
    Kind("as they are", _as_it_is),
    Kind("white frame around", lambda film, _, rng: _with_border(film, rng, 255)),
    Kind("white frame over the edges", lambda film, _, rng: _covered(film, rng, 255)),
    Kind("black frame around", lambda film, _, rng: _with_border(film, rng, 0)),
    Kind("small and tilted in a white field", lambda film, _, rng: _in_field(film, rng, 255)),
    Kind("small and tilted in a black field", lambda film, _, rng: _in_field(film, rng, 0)),
    Kind("in the upper half", _upper_half),
    Kind("screenshot of a viewer", _screenshot),
    Kind("histogram equalised", _equalised),
    Kind("mirrored", _mirrored),
    Kind("two frontal views in one", _two_frontal, "refused"),
    Kind("frontal and side view in one", _frontal_and_side, "refused"),
    Kind("two frontal views above each other", _above_each_other, "refused"),
    Kind("half a chest", _side_view, "refused"),
    Kind("turned by 90 degrees", _turned, "refused"),
    Kind("on their heads", _on_its_head, "refused"),
    Kind("black and white swapped", _swapped, "inverted"),
    Kind("swapped, white frame around", lambda film, _, rng: _with_border(ImageOps.invert(film), rng, 255), "inverted"),
)
