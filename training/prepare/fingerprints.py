"""What identifies a film: digests of its file and of its pixels, and a thumbnail that survives re-encoding."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from cxr.errors import InputError
from cxr.films.decode import decode
from cxr.films.film import MAX_BYTES, Pixels

THUMBNAIL: Final = 64  # pixels a side, whatever the film's aspect


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprint:
    """A decoded film without its pixels.

    Parameters
    ----------
    sha256, pixels_sha256
        Of the file, and of the decoded grey pixels with their shape.
    thumbnail
        (64, 64) uint8, each pixel the mean of its part of the film.
    format, view
        As the file says; the view is empty where it does not.
    size_bytes
        Of the file.
    """

    sha256: str
    pixels_sha256: str
    thumbnail: Pixels
    format: str
    width: int
    height: int
    view: str
    size_bytes: int


def fingerprint(path: Path) -> Fingerprint:
    """Decode a film as the server would.

    Raises
    ------
    InputError
        With the code that says what is wrong with it.
    """
    if path.stat().st_size > MAX_BYTES:
        raise InputError("TOO_MANY_BYTES", f"more than {MAX_BYTES:,} bytes")
    data = path.read_bytes()
    film = decode(data)
    height, width = film.pixels.shape
    pixels = hashlib.sha256(f"{height} {width} ".encode())
    pixels.update(np.ascontiguousarray(film.pixels).data)
    small = Image.fromarray(film.pixels).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return Fingerprint(
        sha256=hashlib.sha256(data).hexdigest(),
        pixels_sha256=pixels.hexdigest(),
        thumbnail=np.asarray(small),
        format=film.info.format,
        width=width,
        height=height,
        view=film.info.view_position or "",
        size_bytes=len(data),
    )
