"""How far films go through a frozen backbone before their features are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torchvision.models.resnet import ResNet

from cxr.model.network import features, folded, pool, trunk, use_exact_float32

Features = npt.NDArray[np.float32]

BATCH: Final = 16  # films that go through the backbone together


@dataclass(frozen=True, slots=True)
class Depth:
    """How far films go through the backbone before they are stored.

    Parameters
    ----------
    name
        Part of the key.
    compute
        From the backbone and (B, 3, H, W) to what is stored, (B, …).
    shape
        Of one film's row.
    """

    name: str
    compute: Callable[[ResNet, torch.Tensor], torch.Tensor]
    shape: Callable[[ResNet, int], tuple[int, ...]]


def _pooled_layer4(network: ResNet, tensors: torch.Tensor) -> torch.Tensor:
    return pool(features(network, tensors))


def _pooled_shape(network: ResNet, _: int) -> tuple[int, ...]:
    return (network.fc.in_features,)


def _layer3_shape(network: ResNet, size: int) -> tuple[int, ...]:
    """Channels and cells; each of the four halvings before layer4 rounds up."""
    cells = -(-size // 16)
    return (_in_channels(network.layer4), cells, cells)


def _in_channels(layer: nn.Module) -> int:
    return next(module.in_channels for module in layer.modules() if isinstance(module, nn.Conv2d))


def pooled_of(network: ResNet, maps: Features, device: torch.device, *, batch_size: int = BATCH) -> Features:
    """Pooled layer4 features from stored outputs of layer3: (N, c, h, w) → (N, C)."""
    layer4 = folded(network).layer4.to(device)
    use_exact_float32()
    with torch.inference_mode():
        parts = [
            pool(layer4(torch.from_numpy(np.array(maps[start : start + batch_size])).to(device))).cpu().numpy()
            for start in range(0, len(maps), batch_size)
        ]
    return np.concatenate(parts)


POOLED: Final = Depth("layer4, pooled", _pooled_layer4, _pooled_shape)
LAYER3: Final = Depth("layer3", trunk, _layer3_shape)
