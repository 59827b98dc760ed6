"""Grey films that were stored in colour: digitisers, portals and the "save as" of viewers do."""

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
