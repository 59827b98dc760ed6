"""Even out the channels of a network before its activations are rounded to 8 bits.

All channels of an activation share one step of rounding, which the widest of them sets; the narrow ones would be left
with a few of the 256 levels. So each channel is divided by a factor of its own, and the weights that read it, which
have a step for each output channel and bits to spare, are multiplied by it: the network computes the same.

References
----------
Nagel, van Baalen, Blankevoort, Welling (2019): Data-Free Quantization Through Weight Equalization and Bias Correction.
ICCV, section 4.1: factors that pass through a ReLU. Xiao, Lin, Seznec, Wu, Demouth, Han (2023): SmoothQuant. ICML,
equation 4: how much of the unevenness goes into the weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from cxr.model.network import features

SHARE: Final = 0.65  # of the unevenness that goes into the weights; 0.5 and 0.75 were tried too and are little worse
_LEAST: Final = 1e-3  # of the widest channel: narrower ones count as this

Ranges = Mapping[str, torch.Tensor]


def ranges_of(plain: ResNet, tensors: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The largest size of each channel that a convolution in a block reads, or that a block gives, over some films.

    Parameters
    ----------
    plain
        As `cxr.model.network.folded` gives it, on the CPU.
    tensors
        Each (1, 3, S, S) float32.

    Returns
    -------
    (C,) for each, by the name of the convolution or the block.
    """
    found: dict[str, torch.Tensor] = {}

    def note(name: str, x: torch.Tensor) -> None:
        widest = x.abs().amax((0, 2, 3))
        found[name] = torch.maximum(found[name], widest) if name in found else widest

    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output, name=name: note(name, inputs[0] if isinstance(module, nn.Conv2d) else output)
        )
        for name, module in plain.named_modules()
        if "." in name and isinstance(module, nn.Conv2d | BasicBlock | Bottleneck)
    ]
    with torch.inference_mode():
        for tensor in tensors:
            features(plain, tensor)
    for hook in hooks:
        hook.remove()
    return found


def equalise(plain: ResNet, ranges: Ranges, keep: Collection[str] = ()) -> dict[str, torch.Tensor]:
    """Change the weights of a folded network in place, so that its channels are more even.

    Parameters
    ----------
    plain
        As for `ranges_of`; afterwards it computes what it did only with the factors that are given back.
    ranges
        Of `ranges_of`.
    keep
        Stages that are left as they are: ``layer1`` to ``layer4``.

    Returns
    -------
    By name of the block, the factors its input has to be multiplied by before `conv1` and `downsample` read it, (C,);
    the shortcut takes it as it is. Inside a block no factor is left over.
    """
    left: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for name, block in plain.named_modules():
            if not isinstance(block, BasicBlock | Bottleneck) or name.partition(".")[0] in keep:
                continue
            parts = ["conv1", "conv2", *(["conv3"] if isinstance(block, Bottleneck) else [])]
            chain = [getattr(block, part) for part in parts]
            for writer, reader, part in zip(chain, chain[1:], parts[1:], strict=False):
                factors = _factors(ranges[f"{name}.{part}"], [reader])
                writer.weight *= factors[:, None, None, None]
                writer.bias *= factors
            readers = [chain[0]] if block.downsample is None else [chain[0], block.downsample]
            left[name] = _factors(ranges[f"{name}.conv1"], readers)
    return left


def _factors(widths: torch.Tensor, readers: Collection[nn.Conv2d]) -> torch.Tensor:
    """What the channels are multiplied by, (C,), once the weights that read them have been divided by it."""
    weights = torch.stack([reader.weight.abs().amax((0, 2, 3)) for reader in readers]).amax(0)
    factors = _bounded(weights) ** (1 - SHARE) / _bounded(widths) ** SHARE
    factors /= factors.log().mean().exp()
    for reader in readers:
        reader.weight /= factors[None, :, None, None]
    return factors


def _bounded(widths: torch.Tensor) -> torch.Tensor:
    return widths.clamp_min(max(float(widths.max()) * _LEAST, torch.finfo(torch.float32).tiny))
