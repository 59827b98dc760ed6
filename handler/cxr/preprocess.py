"""From a grey film to the tensor a network sees, and back."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from cxr.film import Pixels
from cxr.spec import Preprocessing


def resize(pixels: Pixels, preprocessing: Preprocessing) -> Pixels:
    """The film at the network's size.

    Parameters
    ----------
    pixels
        Grey film, (H, W) uint8.

    Returns
    -------
    (size, size) uint8. Bilinear with support scaled to the reduction (antialiased), as Pillow does it.
    """
    size = preprocessing.size
    if pixels.shape == (size, size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))


def to_tensor(pixels: Pixels, preprocessing: Preprocessing) -> torch.Tensor:
    """The film as a network sees it: (3, size, size) float32, three equal channels, normalised."""
    grey = torch.from_numpy(resize(pixels, preprocessing).astype(np.float32)) / 255.0
    mean = torch.tensor(preprocessing.mean)[:, None, None]
    std = torch.tensor(preprocessing.std)[:, None, None]
    return (grey[None] - mean) / std


def to_film(tensor: torch.Tensor, preprocessing: Preprocessing) -> Pixels:
    """The inverse of `to_tensor` at the network's size: (size, size) uint8, equal to the resized film."""
    grey = tensor[0] * preprocessing.std[0] + preprocessing.mean[0]
    return (grey * 255.0).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
