"""The reference that computes the feature map, and by name the engine that the spec has chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import torch
from torchvision.models.resnet import ResNet

from cxr.errors import ModelError
from cxr.model.network import features, use_exact_float32
from cxr.model.parity import REFERENCE, kind_of
from cxr.model.preprocess import normalise
from cxr.model.spec import Preprocessing

_BATCH: Final = 32  # films in one pass of the reference


class Engine(Protocol):
    """The network up to its head, ready to run.

    ``name`` is one of `cxr.model.parity.ENGINES`; ``max_batch`` is how many films it takes at once; ``sizes`` are the
    numbers of films for which it has a pass of its own.
    """

    name: str
    max_batch: int
    sizes: Sequence[int]

    def features(self, grey: torch.Tensor) -> torch.Tensor:
        """The output of layer4: (B, S, S) uint8 → (B, C, S/32, S/32) float32, where the head is computed.

        NaN for a film that the engine cannot compute.
        """
        ...


class ReferenceEngine:
    """The network as it was trained, by torch, in float32, on any device."""

    name: str = REFERENCE
    max_batch: int = _BATCH
    sizes: Sequence[int] = (1,)

    def __init__(self, network: ResNet, preprocessing: Preprocessing, device: torch.device) -> None:
        self._network = network
        self._preprocessing = preprocessing
        self._device = device

    def features(self, grey: torch.Tensor) -> torch.Tensor:
        """As `Engine.features`."""
        use_exact_float32()
        return features(self._network, normalise(grey, self._preprocessing).to(self._device))


def load_engine(
    name: str, network: ResNet, preprocessing: Preprocessing, device: torch.device, folder: Path | None = None
) -> Engine:
    """The engine of a name, on a network that is in evaluation mode on its device.

    Parameters
    ----------
    folder
        Where the files of an engine that has its own are; they stand beside `model.json`.

    Raises
    ------
    ModelError
        If there is no such engine, it does not run on the device, or what it needs is missing.
    """
    if device.type not in kind_of(name).devices:
        raise ModelError(f"engine {name!r} does not run on {device.type}: choose another")
    if name == REFERENCE:
        return ReferenceEngine(network, preprocessing, device)
    if device.type == "cuda":
        from cxr.engines.cuda import CudaEngine

        try:
            return CudaEngine(name, network, preprocessing, device)
        except RuntimeError as error:  # no memory for it, or nothing this GPU can run
            reason = str(error).partition("\n")[0]
            raise ModelError(
                f"engine {name!r} cannot be made ready on {device} ({reason}): start fewer workers, or export with "
                f"--cuda-engine {REFERENCE}"
            ) from error
    try:
        from cxr.engines.openvino import OpenVinoEngine
    except ImportError as error:
        raise ModelError(
            f"engine {name!r} needs OpenVINO ({error}): pip install 'pneumoscan[model]', or export with --cpu-engine "
            f"{REFERENCE}"
        ) from error
    return OpenVinoEngine.load(name, network, preprocessing, folder)
