"""A decoded film, and what has to hold for one before it is decoded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from cxr.errors import InputError

Pixels = npt.NDArray[np.uint8]

MAX_BYTES: Final = 48 * 1024 * 1024  # a 25 MB CR DICOM with room to spare; its base64 still fits a 64 MiB body
MAX_PIXELS: Final = 50_000_000  # the largest flat-panel detectors have about 20 million
MIN_SIDE: Final = 64  # below this a film shows no lung structure
_MOST_CLIPPED: Final = 0.1  # share of the middle of the film

UNSURE_DEPTH: Final = "bit_depth_unsure"
FLAGS: Final[dict[str, str]] = {
    "inverted": "black and white look swapped; the film was scored as it came",
    "clipped": "more than a tenth of the middle of the film is pure black or pure white",
    "unlike_frontal": "does not look like a frontal chest film; it was scored because file or request say it is one",
    UNSURE_DEPTH: "which values are black and white had to be guessed; the film may be too dark or too bright",
    "window_unreadable": "window or VOI look-up table cannot be read; the other one, or the film's own range, was used",
    "for_processing": "raw values of the detector, shown by the window beside them",
    "polarity_unsure": "tags contradict each other on black and white; PhotometricInterpretation was believed",
    "turned": "the film lay on its side or stood on its head by its PatientOrientation; it was set upright",
    "tag_overruled": "a tag says it is no chest or not frontal; it was scored because the request says it is",
    "unusual_greys": "black, middle and white lie otherwise than in the films the model was trained on",
}


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """The file's own facts about the film; no tag that could identify anyone.

    Parameters
    ----------
    format
        ``JPEG``, ``PNG`` or ``DICOM``; ``TIFF`` or ``JPEG2000`` where the operator admits them.
    width, height
        Pixels of the film as it stands upright, before any reduced decoding.
    bits
        Significant bits of a stored grey value.
    photometric_interpretation, view_position
        DICOM tags (0028,0004) and (0018,5101), None for other formats or where absent.
    flags
        Things worth knowing that did not stop the film, from `FLAGS`.
    """

    format: str
    width: int
    height: int
    bits: int
    photometric_interpretation: str | None = None
    view_position: str | None = None
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert FLAGS.keys() >= set(self.flags), f"{self.flags} has a flag that no document explains"


@dataclass(frozen=True, slots=True)
class Film:
    """A grey film, bright where the body absorbs: (H, W) uint8, with the facts of its file."""

    pixels: Pixels
    info: ImageInfo

    @property
    def is_whole(self) -> bool:
        """True where every pixel of the file is here; a large JPEG may come smaller, see `decode`."""
        return self.pixels.shape == (self.info.height, self.info.width)

    def flagged(self, *flags: str) -> Film:
        """The same film with further flags."""
        return replace(self, info=replace(self.info, flags=(*self.info.flags, *flags)))


def check_size(width: int, height: int) -> None:
    """Refuse a film by its announced size, before any pixel is decoded.

    Raises
    ------
    InputError
        TOO_MANY_PIXELS or TOO_SMALL.
    """
    if width * height > MAX_PIXELS:
        raise InputError(
            "TOO_MANY_PIXELS", f"{width} x {height} pixels; at most {MAX_PIXELS:,} are read. Send a smaller rendering."
        )
    if min(width, height) < MIN_SIDE:
        raise InputError(
            "TOO_SMALL", f"{width} x {height} pixels; each side needs at least {MIN_SIDE}. Send the original film."
        )


def check_contrast(pixels: Pixels) -> None:
    """Refuse a film that is one even grey.

    Raises
    ------
    InputError
        NO_CONTRAST.
    """
    low, high = int(pixels.min()), int(pixels.max())
    if high - low < 2:
        raise InputError(
            "NO_CONTRAST", f"grey values {low} to {high} of 0 to 255; a film has more. Check export and window."
        )


def is_clipped(pixels: Pixels) -> bool:
    """Whether the export lost the darkest or brightest parts: a tenth of the middle of the film at either end.

    The middle is the inner three quarters of each side: collimated and framed films have black or white borders.
    """
    height, width = pixels.shape
    middle = pixels[height // 8 : height - height // 8, width // 8 : width - width // 8]
    return bool(np.count_nonzero((middle == 0) | (middle == 255)) > _MOST_CLIPPED * middle.size)


def significant_bits(highest: int) -> int:
    """The fewest bits, 8 to 16, that hold a highest stored value.

    A 16-bit PNG often carries 10, 11, 12, 14 or 15 bits. Dividing by what 16 bits could hold would make such a film
    almost black; dividing by its own maximum would change the brightness of every film.
    """
    return max(8, highest.bit_length())


def unit_to_uint8(values: npt.NDArray[np.floating]) -> Pixels:
    """Grey values in 0-1 as 0-255, rounded, with what lies outside clipped."""
    return np.asarray(np.clip(np.rint(values * 255.0), 0, 255), dtype=np.uint8)
