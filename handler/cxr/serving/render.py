"""The heat map as pictures, on one fixed scale.

Colour means the same on every film of a model: red is evidence for PNEUMONIA, blue evidence for NORMAL (with other
classes: for the positive group, and for the rest), in logits, and full colour is reached at the spec's `cam_scale`. No
film is stretched to its own maximum, so a NORMAL film stays cold beside a PNEUMONIA film, and where there is no
evidence either way the film is left as it is. Where the spec says so (`cam_zero`), zero is the decision's neutral
point: the evidence of a film called PNEUMONIA is above it on the whole, that of a NORMAL film below.
"""

from __future__ import annotations

import io
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from cxr.films.film import Pixels
from cxr.model.cam import Cam, upsample
from cxr.model.classes import STANDARD, Scheme

MAX_SIDE: Final = 1024  # longest side of a rendered film; a full CR film as PNG would be 10 MB and more
_MAX_OPACITY: Final = 0.6
_OPACITY_POWER: Final = 0.6  # below 1, so that half the scale can be seen on a bright film
_BAR_WIDTH: Final = 96
# Evidence from -1 (full NORMAL) to +1 (full PNEUMONIA): blue and red-yellow differ for every kind of colour vision.
_STOPS: Final = (-1.0, -0.5, 0.0, 0.5, 1.0)
_COLOURS: Final = ((30, 80, 255), (90, 190, 255), (235, 235, 235), (255, 205, 60), (255, 50, 10))

RGB = npt.NDArray[np.uint8]


def display_film(pixels: Pixels) -> Pixels:
    """The film at display size: its own aspect ratio, untouched where no side is over `MAX_SIDE`."""
    height, width = pixels.shape
    factor = MAX_SIDE / max(height, width)
    if factor >= 1:
        return pixels
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def scale_of(target: str, cam_scale: float) -> float:
    """Logits of full colour: the spec's scale is that of the contrast, of which each class's own map holds half."""
    return cam_scale if target == "contrast" else cam_scale / 2.0


def evidence_map(grid: Cam, target: str, cam_scale: float, height: int, width: int, scheme: Scheme = STANDARD) -> Cam:
    """Signed evidence at image size: (height, width) float32 in -1 to 1, above 0 for the positive group.

    Parameters
    ----------
    grid
        (h, w) map of `target` in logits.
    target
        A class or ``contrast``; evidence for a class outside the positive group counts below 0.
    cam_scale
        `ModelSpec.cam_scale`.
    """
    factor = scheme.sign(target) / scale_of(target, cam_scale)
    return np.asarray(np.clip(upsample(grid, height, width) * np.float32(factor), -1.0, 1.0))


def heat_map(evidence: Cam) -> Pixels:
    """The evidence as a grey picture: (H, W) uint8, 128 where there is none, 255 full PNEUMONIA, 1 full NORMAL."""
    return np.asarray(np.rint(evidence * 127.0) + 128.0, dtype=np.uint8)


def colours(evidence: Cam) -> RGB:
    """The colour of each evidence value: (..., 3) uint8."""
    table = np.asarray(_COLOURS, dtype=np.float32)
    return np.stack([np.rint(np.interp(evidence, _STOPS, table[:, c])) for c in range(3)], axis=-1).astype(np.uint8)


def blend(pixels: Pixels, evidence: Cam) -> RGB:
    """The evidence over the film, the more opaque the stronger: (H, W, 3) uint8, the film itself where it is 0."""
    opacity = (_MAX_OPACITY * np.abs(evidence) ** _OPACITY_POWER)[..., None]
    film = np.repeat(pixels[..., None], 3, axis=2).astype(np.float32)
    return np.rint(film * (1.0 - opacity) + colours(evidence) * opacity).astype(np.uint8)


def overlay(pixels: Pixels, grid: Cam, target: str, cam_scale: float, scheme: Scheme = STANDARD) -> RGB:
    """Film, heat map and colour bar in one picture.

    Parameters
    ----------
    pixels
        Grey film, (H, W) uint8.
    grid, target, cam_scale, scheme
        As in `evidence_map`.

    Returns
    -------
    (H', W' + bar, 3) uint8: the film at display size on the left, on the right the colour bar with its unit, 96 pixels
    wide up to a height of 512 and 192 at 1024.
    """
    film = display_film(pixels)
    height, width = film.shape
    picture = blend(film, evidence_map(grid, target, cam_scale, height, width, scheme))
    return np.concatenate([picture, _colour_bar(height, scale_of(target, cam_scale), scheme.ends(target))], axis=1)


def _colour_bar(height: int, scale: float, ends: tuple[str, str]) -> RGB:
    """The fixed scale, drawn over mid-grey as the overlay draws it over the film; wider on a higher picture."""
    zoom = min(max(height / 512, 1.0), 2.0)

    def px(length: float) -> int:
        return round(length * zoom)

    margin = min(px(28), height // 4)
    rows = np.linspace(1.0, -1.0, max(height - 2 * margin, 1), dtype=np.float32)
    ramp = np.repeat(rows[:, None], px(14), axis=1)
    bar = Image.new("RGB", (px(_BAR_WIDTH), height), (16, 16, 16))
    bar.paste(Image.fromarray(blend(np.full(ramp.shape, 128, np.uint8), ramp)), (px(8), margin))
    draw = ImageDraw.Draw(bar)
    font = ImageFont.load_default(size=px(11))
    for share, word in ((1.0, ends[0]), (0.5, ""), (0.0, "logit"), (-0.5, ""), (-1.0, ends[1])):
        y = margin + (1.0 - share) / 2.0 * (len(rows) - 1)
        draw.line([(px(22), y), (px(25), y)], fill=(200, 200, 200), width=px(1))
        draw.text((px(28), y), f"{share * scale:+.2g}" if share else "0", fill=(230, 230, 230), font=font, anchor="lm")
        if word:
            beside = (px(28) if share == 0 else px(8), y + (px(-13) if share > 0 else px(13)))
            narrow = min(1.0, px(_BAR_WIDTH - 12) / draw.textlength(word, font=font))
            fitting = font if narrow == 1.0 else ImageFont.load_default(size=max(px(11) * narrow, 6.0))
            draw.text(beside, word, fill=(160, 160, 160), font=fitting, anchor="lm")
    return np.asarray(bar)


def png(picture: npt.NDArray[np.uint8]) -> bytes:
    """A picture as PNG: (H, W) grey or (H, W, 3) colour."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()
