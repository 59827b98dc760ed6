"""The class activation map, exactly: a re-ordering of the sum that makes the logit.

The head is linear and the pooling is a mean, so they can be swapped: applying the head to every cell first gives one
map for each class, whose mean plus the bias *is* the logit. Nothing is approximated and no second pass is made.

Where the bias stays beside the map, the map's zero is arbitrary: a head with a bias of +20 calls films PNEUMONIA whose
map is below zero all over. So the bias is spread over the cells, but for what the decision needs: then a map has a mean
above zero where the film is called PNEUMONIA and nowhere else. With more classes than two the contrast is above zero
where the film is called positive, and the map of a class where it is the label.

References
----------
Zhou, Khosla, Lapedriza, Oliva, Torralba (2016): Learning Deep Features for Discriminative Localization. CVPR,
equations 1 and 2.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from cxr.model.classes import STANDARD, Scheme

Cam = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]

CAM_CELLS: Final = "centres"  # where a grid's values lie on the film: on the centres of its cells, not corner to corner


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


def about_decision(
    maps: Cam, bias: Vector, neutral: float, scheme: Scheme = STANDARD, temperature: float = 1.0
) -> tuple[Cam, Vector]:
    """The same maps with the decision's neutral point at zero, and the bias that is left beside them.

    Parameters
    ----------
    maps
        (K, h, w), in logits.
    bias
        (K,), of the head.
    neutral
        Temperature times the log-odds of the positive group from which on a film is called positive; of two classes
        the positive one's logit minus the other's.

    Returns
    -------
    (K, h, w) and (K,): the mean of each map plus its bias is the logit as before. Of two classes the bias is the same
    for every film; of more it is the logit the class would need to be the label, the other logits as they are.
    """
    if len(scheme.classes) == 2:
        left = np.array([-neutral / 2.0, neutral / 2.0])
    else:
        left = scheme.needed(_logits(maps, bias), temperature, neutral)
    return maps + np.asarray(bias - left, dtype=np.float32)[:, None, None], left


def contrast_of(
    maps: Cam, bias: Vector, neutral: float | None, scheme: Scheme = STANDARD, temperature: float = 1.0
) -> tuple[Cam, float]:
    """The map of the positive group against the rest, and the bias beside it.

    Parameters
    ----------
    maps, bias
        (K, h, w) and (K,): the mean of each map plus its bias is the class's logit. Of two classes they are already
        where their zero is to be.
    neutral
        As in `about_decision`, where zero is to be the decision's neutral point; None leaves the biases beside the map.

    Returns
    -------
    (h, w) and its bias: the mean of the map plus the bias is the temperature times the log-odds of the positive group;
    of two classes the difference of their logits, which is the same.
    """
    if len(scheme.classes) == 2:
        return maps[1] - maps[0], float(bias[1] - bias[0])
    weights, constant = scheme.contrast(_logits(maps, bias), temperature)
    grid = np.einsum("k,khw->hw", weights, maps)
    beside = float(weights @ bias) + constant
    if neutral is not None:
        grid, beside = grid + (beside - neutral), neutral
    return grid.astype(np.float32), beside


def _logits(maps: Cam, bias: Vector) -> Vector:
    return np.asarray(maps.mean(axis=(1, 2), dtype=np.float64) + bias)


def upsample(grid: Cam, height: int, width: int) -> Cam:
    """The grid at image size, bilinearly between the centres of the cells; beyond the outer centres it stays level.

    A cell is an equal share of the network's input: of seven cells on 448 pixels the first covers 0 to 64.

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
    return F.interpolate(tensor, size=(height, width), mode="bilinear", align_corners=False)[0, 0].numpy()
