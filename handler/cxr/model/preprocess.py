"""From a grey film to the tensor a network sees, and back."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from PIL import Image

from cxr.films.film import Pixels
from cxr.model.brightness import exposed_field
from cxr.model.spec import Preprocessing

_PERCENTILES: Final = (1.0, 50.0, 99.0)
_LEAST_RANGE: Final = 2.0  # grey values between the outer percentiles; a film with fewer shows nothing to bring out
_LEAST_MEDIAN: Final = 0.1  # of the range: a power beyond this would only bring out noise


def resize(pixels: Pixels, preprocessing: Preprocessing) -> Pixels:
    """The film at the network's size.

    Parameters
    ----------
    pixels
        Grey film, (H, W) uint8.

    Returns
    -------
    (size, size) uint8. Bilinear with support scaled to the reduction (antialiased), as Pillow does it; where films are
    decoded reduced, after averaging over whole pixels down to at least `least_side`.
    """
    size, least = preprocessing.size, preprocessing.least_side
    if pixels.shape == (size, size):
        return pixels
    gap = least and least / size
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, reducing_gap=gap))


def to_tensor(pixels: Pixels, preprocessing: Preprocessing) -> torch.Tensor:
    """The film as a network sees it: (3, size, size) float32, three equal channels, normalised."""
    return normalise(torch.from_numpy(np.array(network_film(pixels, preprocessing)))[None], preprocessing)[0]


def network_film(pixels: Pixels, preprocessing: Preprocessing) -> Pixels:
    """The film at the network's size with the greys it is to see: (H, W) uint8 → (size, size) uint8."""
    resized = resize(pixels, preprocessing)
    return standard_greys(resized)[resized] if preprocessing.greys == "field" else resized


def normalise(grey: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Films at the network's size as it sees them: (B, size, size) uint8 → (B, 3, size, size) float32, same device."""
    mean = torch.tensor(preprocessing.mean, device=grey.device)[:, None, None]
    std = torch.tensor(preprocessing.std, device=grey.device)[:, None, None]
    return (grey[:, None].float() / 255.0 - mean) / std


def standard_greys(pixels: Pixels) -> Pixels:
    """The standard grey of each of the 256 greys of a film: (256,) uint8, rising.

    By the greys of its exposed field (`cxr.model.brightness.exposed_field`): the 1st percentile becomes 0, the 99th
    255, and a power brings the median half way between. So a straight-line change of the greys changes nothing and a
    power little, as long as there are grey values enough.
    """
    low, median, high = np.percentile(exposed_field(pixels), _PERCENTILES)
    greys = np.arange(256, dtype=np.float64)
    if high - low < _LEAST_RANGE:
        return greys.astype(np.uint8)
    half = min(max((median - low) / (high - low), _LEAST_MEDIAN), 1.0 - _LEAST_MEDIAN)
    shares = np.clip((greys - low) / (high - low), 0.0, 1.0) ** (np.log(0.5) / np.log(half))
    return np.asarray(np.rint(255.0 * shares), dtype=np.uint8)


def to_film(tensor: torch.Tensor, preprocessing: Preprocessing) -> Pixels:
    """The inverse of `to_tensor` at the network's size: (size, size) uint8.

    It equals `network_film`.
    """
    grey = tensor[0] * preprocessing.std[0] + preprocessing.mean[0]
    return (grey * 255.0).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
