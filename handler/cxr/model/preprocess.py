"""From a grey film to the tensor a network sees, and back."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from cxr.films.film import Pixels
from cxr.model.spec import Preprocessing


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
    return normalise(torch.from_numpy(np.array(resize(pixels, preprocessing)))[None], preprocessing)[0]


def normalise(grey: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Films at the network's size as it sees them: (B, size, size) uint8 → (B, 3, size, size) float32, same device."""
    mean = torch.tensor(preprocessing.mean, device=grey.device)[:, None, None]
    std = torch.tensor(preprocessing.std, device=grey.device)[:, None, None]
    return (grey[:, None].float() / 255.0 - mean) / std


def to_film(tensor: torch.Tensor, preprocessing: Preprocessing) -> Pixels:
    """The inverse of `to_tensor` at the network's size: (size, size) uint8, equal to the resized film."""
    grey = tensor[0] * preprocessing.std[0] + preprocessing.mean[0]
    return (grey * 255.0).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
