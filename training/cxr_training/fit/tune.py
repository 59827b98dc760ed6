"""Fine-tune more than the head: layer4, or the whole network, from the head that was trained on frozen features.

The deeper a layer lies below the head, the smaller its learning rate (Howard, Ruder 2018). BatchNorm statistics stay
those of the starting weights, so that a film's features do not depend on the batch it is in and several processes see
what one would. Where nothing gets better on validation, the head on the untouched backbone is what is kept.

References
----------
Howard, Ruder (2018): Universal Language Model Fine-tuning for Text Classification. ACL, section 3.2.
Kumar, Raghunathan, Jones, Ma, Liang (2022): Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution. ICLR.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.resnet import ResNet

from cxr.model.network import pool, trunk
from cxr_training.fit.head import Epoch, Targets, Weighting
from cxr_training.fit.settings import TuneSettings

PRECISIONS: Final[dict[str, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
TUNED: Final[dict[str, tuple[tuple[str, ...], ...]]] = {  # from the head downwards
    "layer4": (("fc",), ("layer4",)),
    "all": (("fc",), ("layer4",), ("layer3",), ("layer2",), ("layer1",), ("conv1", "bn1")),
}
_WARM_UP: Final = 0.05  # of the steps
MOST_GRADIENT: Final = 1.0  # norm of the gradient of a step

Load = Callable[[int, int], torch.Tensor]  # the input of a film, by its row and the epoch; epoch 0 is not augmented


@dataclass(frozen=True, slots=True)
class Split:
    """The films of a split as the loop needs them: their inputs, class indices (N,) and weights (N,)."""

    load: Load
    targets: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came out: the best epoch, 0 for the head alone, and the history.

    Parameters
    ----------
    images_per_s
        Training films in a second of training, over all processes, since the last start.
    peak_memory_bytes
        Of the first process's GPU; None on a CPU.
    earlier_s
        Seconds that earlier tries took up to the state the last one went on from.
    """

    best_epoch: int
    history: tuple[Epoch, ...]
    images_per_s: float
    peak_memory_bytes: int | None
    earlier_s: float = 0.0


class TunedPart(nn.Module):
    """The part of a network that is trained, from its input to the logits.

    Parameters
    ----------
    whole
        Whether the input is the film, (B, 3, H, W), or else the output of layer3.
    """

    def __init__(self, network: ResNet, whole: bool) -> None:
        super().__init__()
        self.network = network
        self.whole = whole

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits, (B, K) float32."""
        x = trunk(self.network, inputs) if self.whole else inputs
        pooled = pool(self.network.layer4(x).float())
        with torch.autocast(pooled.device.type, enabled=False):
            logits: torch.Tensor = self.network.fc(pooled)
        return logits


def shared(part: TunedPart, device: torch.device) -> DistributedDataParallel:
    """The part with its gradients averaged over the processes; no buffer ever changes, so none is sent round."""
    on_gpu = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(part, on_gpu, broadcast_buffers=False, gradient_as_bucket_view=True)


def splits(
    train: Load, train_targets: Targets, val: Load, val_targets: Targets, weighting: Weighting
) -> tuple[Split, Split]:
    """Both splits from class indices and weights as arrays."""
    return (
        Split(train, torch.from_numpy(train_targets), torch.from_numpy(weighting.train)),
        Split(val, torch.from_numpy(val_targets), torch.from_numpy(weighting.val)),
    )


def parameter_groups(network: ResNet, trainable: str, settings: TuneSettings) -> list[dict[str, Any]]:
    """Groups for the optimizer: a learning rate for each stage, no decay on what has one dimension."""
    groups: list[dict[str, Any]] = []
    for depth, names in enumerate(TUNED[trainable]):
        rate = settings.learning_rate * settings.layer_decay**depth
        parameters = [parameter for name in names for parameter in network.get_submodule(name).parameters()]
        for decayed in (True, False):
            chosen = [parameter for parameter in parameters if (parameter.ndim > 1) == decayed]
            decay = settings.weight_decay if decayed else 0.0
            groups.append({"params": chosen, "lr": rate, "weight_decay": decay, "highest": rate})
    return groups


def rate_factor(step: int, steps: int) -> float:
    """What the highest learning rate is multiplied by in a step (from 0): a linear rise, then half a cosine."""
    rise = max(1, round(_WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def batches_of(films: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The rows of each step of an epoch, about equally many, in an order of the epoch's own."""
    order = np.random.default_rng([seed, epoch, 1]).permutation(films)
    return [part.tolist() for part in np.array_split(order, -(-films // batch_size))]


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The type of number meant by a precision on a device."""
    if name != "auto":
        return PRECISIONS[name]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
