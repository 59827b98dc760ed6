"""The class activation map, exactly: a re-ordering of the sum that makes the logit.

The head is linear and the pooling is a mean, so they can be swapped: applying the head to every cell first gives one
map for each class, whose mean plus the bias *is* the logit. Nothing is approximated and no second pass is made.

References
----------
Zhou, Khosla, Lapedriza, Oliva, Torralba (2016): Learning Deep Features for Discriminative Localization. CVPR,
equations 1 and 2.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

Cam = npt.NDArray[np.float32]


def class_maps(feature_map: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """One map for each class, in logits.

    Parameters
    ----------
    feature_map
        (B, C, h, w), the output of layer4.
    weight
        (K, C), the weight of the head.

    Returns
    -------
    (B, K, h, w).
    """
    return torch.einsum("bchw,kc->bkhw", feature_map, weight)


def logits_of(maps: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The logits the maps add up to: (B, K, h, w) and (K,) → (B, K)."""
    return maps.mean(dim=(2, 3)) + bias


def upsample(grid: Cam, height: int, width: int) -> Cam:
    """The grid at image size, bilinearly, the corner cells on the corner pixels.

    Equal to ``scipy.ndimage.zoom(grid, (height / h, width / w), order=1)``.

    Parameters
    ----------
    grid
        (h, w).
    height, width
        Pixels of the image.

    Returns
    -------
    (height, width) float32.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(grid, dtype=np.float32))[None, None]
    return F.interpolate(tensor, size=(height, width), mode="bilinear", align_corners=True)[0, 0].numpy()
