"""From the bytes of a file to a film. The format is found from the bytes, never from a name or a header."""

from __future__ import annotations

import io
from collections.abc import Collection
from typing import Final

from PIL import Image

from cxr.errors import InputError
from cxr.films.dicom import read_dicom
from cxr.films.dicom_header import is_dicom
from cxr.films.film import (
    MAX_BYTES,
    MAX_PIXELS,
    Film,
    ImageInfo,
    check_contrast,
    check_size,
    is_clipped,
)
from cxr.films.pictures import JPEG_START, ORIENTATION, PNG_START, check_jpeg, check_png, to_grey
from cxr.films.scans import format_of, read_scan

_TURNED: Final = (5, 6, 7, 8)  # orientations that exchange rows and columns


def decode(data: bytes, least_side: int | None = None, formats: Collection[str] = ()) -> Film:
    """The film in a JPEG, PNG or DICOM file, or in one of another format that the operator admits.

    Parameters
    ----------
    data
        The whole file.
    least_side
        Pixels that the caller needs each side to have: a JPEG with more, or a DICOM film in JPEG or JPEG 2000, may come
        at a half, a quarter or an eighth of its size, which the coding gives several times as fast. None for every
        pixel.
    formats
        Of `cxr.films.scans.FORMATS`, those that are read too.

    Raises
    ------
    InputError
        With the code that says what is wrong with it.
    """
    if not data:
        raise InputError("EMPTY_BODY", "0 bytes; one JPEG, PNG or DICOM file is needed. Send it as the body.")
    if len(data) > MAX_BYTES:
        raise InputError("TOO_MANY_BYTES", f"{len(data):,} bytes; at most {MAX_BYTES:,} are read. Compress the film.")
    refusal = None
    if data.startswith((JPEG_START, PNG_START)):
        film = _read_picture(data, least_side)
    elif is_dicom(data):
        film, refusal = read_dicom(data, least_side)
    elif (form := format_of(data)) is not None:
        film = read_scan(data, form, formats, least_side)
    else:
        raise InputError(
            "UNKNOWN_FORMAT", "the first bytes are of no JPEG, PNG or DICOM file; send the file itself, unchanged."
        )
    check_contrast(film.pixels)
    film = film.flagged("clipped") if is_clipped(film.pixels) else film
    if refusal is not None:
        raise refusal.of(film)
    return film


def _read_picture(data: bytes, least_side: int | None) -> Film:
    try:
        (check_png if data.startswith(PNG_START) else check_jpeg)(data)
        picture = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
        check_size(*picture.size)
        width, height = picture.size[::-1] if picture.getexif().get(ORIENTATION) in _TURNED else picture.size
        if least_side is not None:
            picture.draft(None, (least_side, least_side))  # does nothing but to a JPEG
        pixels, bits, flags = to_grey(picture, data)
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
