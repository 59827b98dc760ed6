"""How films go through the frozen backbone before they are stored: how far, and by what.

On a CPU OpenVINO does it in float32, as it does when the model serves, in a third of torch's time or less; torch where
OpenVINO is not installed, or gives other features than torch on this machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torchvision.models.resnet import ResNet

from cxr.errors import ModelError
from cxr.model.network import features, folded, pool, trunk, use_exact_float32
from cxr.model.parity import REFERENCE
from cxr.model.preprocess import normalise
from cxr.model.spec import Preprocessing
from cxr_training.fit.feature_rows import Features, StoredFeatures

BATCH: Final = 16  # films that go through the backbone together
OPENVINO: Final = "openvino-float32"
_FARTHEST: Final = 1e-4  # that a feature may be from torch's, as a share of the largest; rounding comes to 1e-5
_DRAWN: Final = 2  # films that the two are compared on


@dataclass(frozen=True, slots=True)
class Depth:
    """How far films go through the backbone before they are stored.

    Parameters
    ----------
    name
        Part of the key.
    layer
        Whose output the backbone gives: ``layer3`` or ``layer4``.
    shape
        Of one film's row.
    kind
        The type of number that is stored.
    pooled
        Whether the mean of each channel is stored, not the channel.
    """

    name: str
    layer: str
    shape: Callable[[ResNet, int], tuple[int, ...]]
    kind: str = "float32"
    pooled: bool = False

    def of(self, output: torch.Tensor) -> torch.Tensor:
        """What is stored of the layer's output: (B, C, h, w) → (B, …)."""
        return pool(output) if self.pooled else output


def _pooled_shape(network: ResNet, _: int) -> tuple[int, ...]:
    return (network.fc.in_features,)


def _layer4_shape(network: ResNet, size: int) -> tuple[int, ...]:
    cells = -(-size // 32)
    return (network.fc.in_features, cells, cells)


def _layer3_shape(network: ResNet, size: int) -> tuple[int, ...]:
    """Channels and cells; each of the four halvings before layer4 rounds up."""
    cells = -(-size // 16)
    return (_in_channels(network.layer4), cells, cells)


def _in_channels(layer: nn.Module) -> int:
    return next(module.in_channels for module in layer.modules() if isinstance(module, nn.Conv2d))


POOLED: Final = Depth("layer4, pooled", "layer4", _pooled_shape, pooled=True)
LAYER4: Final = Depth("layer4, float16", "layer4", _layer4_shape, "float16")  # 0.2 MB for a film of 224 pixels
LAYER3: Final = Depth("layer3, float16", "layer3", _layer3_shape, "float16")  # 0.4 MB


def pooled_of(network: ResNet, maps: StoredFeatures, device: torch.device, *, batch_size: int = BATCH) -> Features:
    """Pooled layer4 features from stored outputs of layer3: (N, c, h, w) → (N, C)."""
    layer4 = folded(network).layer4.to(device)
    use_exact_float32()
    with torch.inference_mode():
        parts = [
            pool(layer4(torch.from_numpy(maps[start : start + batch_size]).to(device))).cpu().numpy()
            for start in range(0, len(maps), batch_size)
        ]
    return np.concatenate(parts)


class Extractor(Protocol):
    """The backbone up to a layer.

    ``name`` is part of the key that features are stored under; with `one_by_one` no film's features depend on how many
    others are given with it.
    """

    name: str
    one_by_one: bool

    def compute(self, tensors: torch.Tensor) -> npt.NDArray[np.float32]:
        """The layer's output: (B, 3, S, S) float32 → (B, C, h, w)."""
        ...


class TorchExtractor:
    """By torch in float32, on any device.

    Parameters
    ----------
    network
        As `cxr.model.network.folded` gives it, on its device.
    """

    name: str = REFERENCE
    one_by_one: bool = False

    def __init__(self, network: ResNet, layer: str, device: torch.device) -> None:
        self._network, self._device = network, device
        self._pass = trunk if layer == "layer3" else features

    def compute(self, tensors: torch.Tensor) -> npt.NDArray[np.float32]:
        """As `Extractor.compute`."""
        use_exact_float32()
        with torch.inference_mode():
            films = tensors.to(self._device, memory_format=torch.channels_last)
            return np.asarray(self._pass(self._network, films).cpu().numpy())


class OpenVinoExtractor:
    """By OpenVINO in float32, on a CPU, each film a pass of its own."""

    one_by_one: bool = True

    def __init__(self, network: ResNet, layer: str, preprocessing: Preprocessing) -> None:
        from cxr.engines.openvino import OpenVinoEngine, graph_of

        self.name = f"{OPENVINO} {version('openvino')}"
        self._engine = OpenVinoEngine(OPENVINO, graph_of(network, preprocessing.size, layer), preprocessing)

    def compute(self, tensors: torch.Tensor) -> npt.NDArray[np.float32]:
        """As `Extractor.compute`."""
        return self._engine.compute(tensors.contiguous().numpy())


def extractor_of(network: ResNet, layer: str, preprocessing: Preprocessing, device: torch.device) -> Extractor:
    """What computes a layer of a network on a device; where a CPU has to do it by torch, stderr is told why.

    Parameters
    ----------
    network
        In evaluation mode.
    """
    reference = TorchExtractor(folded(network).to(device), layer, device)
    if device.type != "cpu":
        return reference
    if not find_spec("openvino"):
        print("features by torch: OpenVINO, which takes a third of the time, is not installed", file=sys.stderr)
        return reference
    try:
        faster = OpenVinoExtractor(network, layer, preprocessing)
        apart = _apart(reference, faster, preprocessing)
    except (ModelError, RuntimeError, ImportError) as error:
        reason = str(error).partition("\n")[0]
        print(f"features by torch: OpenVINO does not run here ({reason})", file=sys.stderr)
        return reference
    if not apart <= _FARTHEST:
        print(
            f"features by torch: those of OpenVINO differ by up to {apart:.1g} of the largest here, {_FARTHEST:g} is "
            "the most",
            file=sys.stderr,
        )
        return reference
    return faster


def _apart(reference: Extractor, other: Extractor, preprocessing: Preprocessing) -> float:
    """The largest difference of any feature of drawn films, as a share of the largest feature."""
    size = preprocessing.size
    greys = np.random.default_rng(0).integers(0, 256, (_DRAWN, size, size), dtype=np.uint8)
    greys[0] = np.linspace(0, 255, size, dtype=np.uint8)  # one is noise, the other smooth
    films = normalise(torch.from_numpy(greys), preprocessing)
    ours, theirs = reference.compute(films), other.compute(films)
    return float(np.abs(ours - theirs).max() / max(float(np.abs(ours).max()), np.finfo(np.float32).tiny))
