"""From the bytes of a file to a film. The format is found from the bytes, never from a name or a header."""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from cxr.errors import InputError
from cxr.films.dicom import is_dicom, read_dicom
from cxr.films.film import (
    MAX_BYTES,
    MAX_PIXELS,
    Film,
    ImageInfo,
    Pixels,
    check_contrast,
    check_size,
    is_clipped,
    significant_bits,
    unit_to_uint8,
)
from cxr.films.picture_headers import JPEG_START, PNG_START, check_jpeg, check_png

_USUAL: Final = 0.999  # share of the pixels that should need the bit depth of the brightest
_ORIENTATION: Final = 0x0112  # Exif 2.3, section 4.6.4
_TURNED: Final = (5, 6, 7, 8)  # orientations that exchange rows and columns
_MAX_COLOUR: Final = 12.0  # mean distance of the channels, 0-255; grey films saved as colour stay below 2


def decode(data: bytes, least_side: int | None = None) -> Film:
    """The film in a JPEG, PNG or DICOM file.

    Parameters
    ----------
    data
        The whole file.
    least_side
        Pixels that the caller needs each side to have: a JPEG with more may come at a half, a quarter or an eighth of
        its size, which its coding in blocks of 8 x 8 gives several times as fast. None for every pixel.

    Raises
    ------
    InputError
        With the code that says what is wrong with it.
    """
    if not data:
        raise InputError("EMPTY_BODY", "0 bytes; one JPEG, PNG or DICOM file is needed. Send it as the body.")
    if len(data) > MAX_BYTES:
        raise InputError("TOO_MANY_BYTES", f"{len(data):,} bytes; at most {MAX_BYTES:,} are read. Compress the film.")
    if data.startswith((JPEG_START, PNG_START)):
        film = _read_picture(data, least_side)
    elif is_dicom(data):
        film = read_dicom(data)
    else:
        raise InputError(
            "UNKNOWN_FORMAT", "the first bytes are of no JPEG, PNG or DICOM file; send the file itself, unchanged."
        )
    check_contrast(film.pixels)
    return film.flagged("clipped") if is_clipped(film.pixels) else film


def _read_picture(data: bytes, least_side: int | None) -> Film:
    try:
        (check_png if data.startswith(PNG_START) else check_jpeg)(data)
        picture = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
        check_size(*picture.size)
        width, height = picture.size[::-1] if picture.getexif().get(_ORIENTATION) in _TURNED else picture.size
        if least_side is not None:
            picture.draft(None, (least_side, least_side))  # does nothing but to a JPEG
        pixels, bits, flags = _to_grey(ImageOps.exif_transpose(picture))
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise InputError(
            "TOO_MANY_PIXELS", f"the header announces more than {MAX_PIXELS:,} pixels. Send a smaller rendering."
        ) from error
    except Exception as error:  # Pillow 13 raises whatever the damage leads to
        raise InputError("DAMAGED_IMAGE", "the picture ends early or is damaged. Export it again.") from error
    form = "PNG" if picture.format == "PNG" else "JPEG"  # Pillow calls a JPEG with further pictures in it MPO
    return Film(pixels, ImageInfo(format=form, width=width, height=height, bits=bits, flags=flags))


def _to_grey(picture: Image.Image) -> tuple[Pixels, int, tuple[str, ...]]:
    """Grey uint8 pixels, the significant bits of the stored values, and flags."""
    if picture.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion to 8 bits clips instead of scaling
        return _from_16_bits(np.asarray(picture))
    if picture.mode in ("L", "1"):
        return np.asarray(picture.convert("L")), 8, ()
    if "A" in picture.mode or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    colour = picture.convert("RGB")
    _check_grey(colour)
    return np.asarray(colour.convert("L")), 8, ()


def _from_16_bits(stored: npt.NDArray[Any]) -> tuple[Pixels, int, tuple[str, ...]]:
    # By a table and in bands: numpy counts and looks up in 64-bit numbers, which would be four times the film at once.
    bands = np.array_split(stored, max(1, stored.size >> 20))
    counts = sum(np.bincount(band.ravel(), minlength=1 << 16) for band in bands)
    bits = significant_bits(int(np.flatnonzero(counts)[-1]))
    usual = significant_bits(int(np.searchsorted(np.cumsum(counts), _USUAL * stored.size)))
    table = unit_to_uint8(np.arange(1 << bits) / ((1 << bits) - 1))
    pixels = np.concatenate([table[band] for band in bands])
    return pixels, bits, ("bit_depth_unsure",) if usual < bits else ()


def _check_grey(colour: Image.Image) -> None:
    sample = np.asarray(colour.resize((64, 64), Image.Resampling.BOX), dtype=np.float32)
    distance = float((sample.max(axis=2) - sample.min(axis=2)).mean())
    if distance > _MAX_COLOUR:
        raise InputError(
            "NOT_A_RADIOGRAPH",
            f"colour channels differ by {distance:.0f} of 255 on average, at most {_MAX_COLOUR:.0f} in a grey film. "
            "Send the film itself, not a photograph or a coloured rendering.",
        )
