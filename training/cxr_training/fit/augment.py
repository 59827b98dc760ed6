"""Changes to a training film that leave its label true."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from cxr.films.film import Pixels


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What may happen to a training film.

    Parameters
    ----------
    max_degrees
        The film is turned by an angle drawn evenly from ±this; what comes in from outside is black.
    flip
        Mirror every second film. Off by default: a mirrored chest has its heart on the wrong side.
    """

    max_degrees: float = 20.0
    flip: bool = False

    def apply(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """One changed film: (H, W) uint8, the size of the one given."""
        picture = Image.fromarray(pixels)
        angle = rng.uniform(-self.max_degrees, self.max_degrees)
        picture = picture.rotate(angle, Image.Resampling.BILINEAR)
        if self.flip and rng.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(picture)
