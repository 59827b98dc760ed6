"""From the samples of a picture file to grey: deep ones to the last bit, coloured ones where they are grey."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from cxr.films.colours import LUMINANCE, check_distance, check_grey
from cxr.films.film import Pixels, significant_bits, unit_to_uint8
from cxr.films.grey_range import own_range
from cxr.films.picture_headers import PNG_START, png_significant_bits

ORIENTATION: Final = 0x0112  # Exif 2.3, section 4.6.4
_TRANSPOSED: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HEADER: Final = slice(12, 29)  # of a PNG: the name and the body of IHDR
_GREY_ALPHA, _COLOUR, _COLOUR_ALPHA = 4, 2, 6  # PNG specification, section 11.2.2
_SIDE: Final = 64  # of the sample whose colours are looked at
_FULL: Final = 0.6  # of a depth that the brightest value has to reach to leave no doubt about it
_OFFSET: Final = 0.25  # of the depth: a film that begins above it and spans less has had something added
_UNSURE: Final = ("bit_depth_unsure",)

Deep = npt.NDArray[np.uint16]


def to_grey(picture: Image.Image, data: bytes) -> tuple[Pixels, int, tuple[str, ...]]:
    """Upright grey pixels, the significant bits of the stored values, and flags.

    Parameters
    ----------
    picture
        As Pillow opened it, not yet loaded.
    data
        The file it was opened from.
    """
    if data.startswith(PNG_START) and data[24] == 16:
        stored, bits = _deep_png(picture, data), png_significant_bits(data)
    elif picture.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion to 8 bits clips instead of scaling
        stored, bits = np.asarray(picture), None
    else:
        return _shallow(ImageOps.exif_transpose(picture)), 8, ()
    pixels, bits, flags = _from_16_bits(stored, bits, picture.info.get("transparency"))
    turn = _TRANSPOSED.get(picture.getexif().get(ORIENTATION, 1))
    if turn is not None:
        pixels = np.asarray(Image.fromarray(pixels).transpose(turn))
    return pixels, bits, flags


def _shallow(picture: Image.Image) -> Pixels:
    if picture.mode in ("L", "1"):
        return np.asarray(picture.convert("L"))
    if "A" in picture.mode or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        if len(set(rgba.getchannel("A").getextrema())) > 1:  # one value all over says nothing
            picture = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
        else:
            picture = rgba
    colour = picture.convert("RGB")
    check_grey(colour)
    return np.asarray(colour.convert("L"))


def _deep_png(picture: Image.Image, data: bytes) -> npt.NDArray[Any]:
    """The grey of a PNG of 16 bits a sample, which Pillow 13 cuts to 8 unless it is grey alone."""
    kind = data[25]
    if kind == _GREY_ALPHA:
        # The same rows are those of four samples of 8 bits, and the filters work on bytes.
        header = bytearray(data[_HEADER])
        header[4 + 8 : 4 + 10] = bytes([8, _COLOUR_ALPHA])
        read_so = b"".join([data[:12], header, struct.pack(">I", zlib.crc32(header)), data[33:]])
        with Image.open(io.BytesIO(read_so), formats=("PNG",)) as parts:
            high, low, alpha_high, alpha_low = (np.asarray(part) for part in parts.convert("RGBA").split())
        return _over_black(_joined(high, low), _joined(alpha_high, alpha_low))
    if kind not in (_COLOUR, _COLOUR_ALPHA):
        return np.asarray(picture)
    bands = "RGB" if kind == _COLOUR else "RGBA"
    picture.load()
    with Image.open(io.BytesIO(data), formats=("PNG",)) as lows:
        # Pillow's unpacker for the other byte order takes the low bytes.
        lows.tile = [tile._replace(args=f"{bands};16L") for tile in lows.tile]
        lows.load()
        grey = _grey_of_channels(picture, lows)
        if kind == _COLOUR:
            return grey
        return _over_black(grey, _joined(np.asarray(picture.getchannel("A")), np.asarray(lows.getchannel("A"))))


def _joined(high: Pixels, low: Pixels) -> Deep:
    return np.asarray(high.astype(np.uint16) << 8 | low)


def _grey_of_channels(highs: Image.Image, lows: Image.Image) -> Deep:
    grey = np.zeros(highs.size[::-1], dtype=np.float32)
    samples = []
    for band, weight in zip("RGB", LUMINANCE, strict=True):
        channel = _joined(np.asarray(highs.getchannel(band)), np.asarray(lows.getchannel(band)))
        grey += channel * np.float32(weight)
        samples.append(
            channel[:: max(1, len(channel) // _SIDE), :: max(1, channel.shape[1] // _SIDE)].astype(np.float32)
        )
    sample = np.stack(samples)
    check_distance(float((sample.max(axis=0) - sample.min(axis=0)).mean() * 255 / max(float(sample.max()), 1.0)))
    return np.rint(grey).astype(np.uint16)


def _over_black(grey: Deep, alpha: Deep) -> Deep:
    most, least = int(alpha.max()), int(alpha.min())
    if most == least:  # one value all over says nothing
        return grey
    return np.asarray(np.rint(grey * (alpha / np.float32(most)))).astype(np.uint16)


def _from_16_bits(
    stored: npt.NDArray[Any], said: int | None, transparent: object
) -> tuple[Pixels, int, tuple[str, ...]]:
    """Grey, bits and flags of values that may use only some of 16 bits.

    Parameters
    ----------
    stored
        (H, W), 0 to 65,535.
    said
        The significant bits that the file gives.
    transparent
        The value that stands for transparent, None without one.
    """
    # By a table and in bands: numpy counts and looks up in 64-bit numbers, which would be four times the film at once.
    bands = np.array_split(stored, max(1, stored.size >> 20))
    counts = np.asarray(sum(np.bincount(band.ravel(), minlength=1 << 16) for band in bands), dtype=np.int64)
    if isinstance(transparent, int) and 0 <= transparent < 1 << 16:
        counts[transparent] = 0
    levels = np.flatnonzero(counts)
    levels = levels if len(levels) else np.array([0])
    low, top, bits, flags = _range_of(levels, counts[levels], said)
    table = unit_to_uint8((np.arange(1 << 16) - low) / max(top - low, 1e-6))
    if isinstance(transparent, int) and 0 <= transparent < 1 << 16:
        table[transparent] = 0
    return np.concatenate([table[band] for band in bands]), bits, flags


def _range_of(
    levels: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], said: int | None
) -> tuple[float, float, int, tuple[str, ...]]:
    """The values that are black and white, the bits, and flags."""
    highest = int(levels[-1])
    if said is not None and 8 <= said < 16 and highest < 1 << said:
        return 0.0, float((1 << said) - 1), said, ()
    low, high, is_guessed = own_range(levels, counts)
    bits = significant_bits(int(high))
    if highest in (1023, 4095, 16383):  # white of a usual depth, however few pixels have it
        bits = significant_bits(highest)
    top = (1 << bits) - 1
    if low > _OFFSET * top and high - low < _OFFSET * top:  # as signed values with 32,768 added are
        return low, high, significant_bits(int(high - low)), _UNSURE
    # Detectors have an even number of bits; a film that seems to have an odd one may be a dim one of the next.
    is_sure = not is_guessed and (bits in (8, 16) or (bits % 2 == 0 and high >= _FULL * top))
    return 0.0, float(top), bits, () if is_sure else _UNSURE
