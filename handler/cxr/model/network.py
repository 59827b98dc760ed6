"""The network: a torchvision ResNet with a head of an output for each class, split where the map is read off.

The state dict has torchvision's own keys and nothing else, so that weights go in and out of any other program.
"""

from __future__ import annotations

import copy
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import resnet
from torchvision.models.resnet import BasicBlock, ResNet

from cxr.errors import ModelError

StateDict = dict[str, torch.Tensor]


def _resnet10(num_classes: int) -> ResNet:
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=num_classes)


ARCHITECTURES: Final[dict[str, Callable[..., ResNet]]] = {
    "resnet10": _resnet10,  # one block a stage: for tests and first tries
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "resnet152": resnet.resnet152,
}


def build(arch: str, num_classes: int) -> ResNet:
    """A ResNet with random weights, in evaluation mode.

    Raises
    ------
    ModelError
        If `arch` is not one of `ARCHITECTURES`.
    """
    if arch not in ARCHITECTURES:
        raise ModelError(f"arch is {arch!r}: known are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[arch](num_classes=num_classes).eval()


def features(network: ResNet, tensors: torch.Tensor) -> torch.Tensor:
    """The output of layer4.

    Parameters
    ----------
    tensors
        (B, 3, H, W) float32.

    Returns
    -------
    (B, C, H/32, W/32): C is 2048 for ResNet-50 and deeper, 512 below; 7 x 7 cells at 224 pixels.
    """
    x = network.layer4(trunk(network, tensors))
    assert isinstance(x, torch.Tensor)
    return x


def trunk(network: ResNet, tensors: torch.Tensor) -> torch.Tensor:
    """The output of layer3, the input of layer4.

    Parameters
    ----------
    tensors
        (B, 3, H, W) float32.

    Returns
    -------
    (B, C, H/16, W/16): C is 1024 for ResNet-50 and deeper, 256 below.
    """
    x = network.maxpool(network.relu(network.bn1(network.conv1(tensors))))
    x = network.layer3(network.layer2(network.layer1(x)))
    assert isinstance(x, torch.Tensor)
    return x


def folded(network: ResNet) -> ResNet:
    """A copy that computes the same with less: each BatchNorm folded into the convolution before it, channels last.

    In evaluation mode a BatchNorm is one factor and one summand for each channel, which a convolution can take over.
    The features differ by rounding (1e-5 of their size); the copy is for inference alone.
    """
    copied = copy.deepcopy(network).eval()
    for module in copied.modules():
        for number in (1, 2, 3):
            norm = getattr(module, f"bn{number}", None)
            if isinstance(norm, nn.BatchNorm2d):
                setattr(module, f"conv{number}", _fold(getattr(module, f"conv{number}"), norm))
                setattr(module, f"bn{number}", nn.Identity())
        shortcut = getattr(module, "downsample", None)
        if isinstance(shortcut, nn.Sequential):
            convolution, norm = shortcut
            module.downsample = _fold(convolution, norm)
    return copied.to(memory_format=torch.channels_last)


def _fold(convolution: nn.Module, norm: nn.Module) -> nn.Module:
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return fuse_conv_bn_eval(convolution, norm)


def use_exact_float32() -> None:
    """Multiply float32 numbers as float32 on every device, in this process.

    TF32 would keep ten bits of the mantissa. Whoever imports TorchServe 0.12's BaseHandler switches it on, so every
    forward pass asks for this first.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def backbone_digest(network: ResNet) -> str:
    """SHA-256 of all weights but the head's."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        if not name.startswith("fc."):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def pool(feature_map: torch.Tensor) -> torch.Tensor:
    """Global average of each channel, the input of the head: (B, C, h, w) → (B, C)."""
    return feature_map.mean(dim=(2, 3))


def read_state_dict(path: Path) -> StateDict:
    """The tensors of a ``.pth`` or ``.safetensors`` file, on the CPU. Runs no code from the file.

    Raises
    ------
    ModelError
        If the file is missing, is no such file, or holds something other than tensors by name.
    """
    if not path.is_file():
        raise ModelError(f"{path} is missing: a .pth or .safetensors file with a state dict is needed")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = load_checked(path)
    except OSError:
        raise
    except Exception as error:  # torch 2.12 raises whatever the damage leads to
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"{path} is not a readable state dict ({reason}): save model.state_dict() again") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"{path} holds something other than tensors by name: save model.state_dict(), not the model")
    return state


def load_checked(path: Path) -> Any:
    """What `torch.save` wrote, on the CPU, after the checksums of its parts were found right. Runs no code from it.

    torch 2.12 writes a zip file and does not look at the CRC-32 of what it reads.

    Raises
    ------
    ValueError
        If a part is damaged; torch and zipfile raise more.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as parts:
            if (damaged := parts.testzip()) is not None:
                raise ValueError(f"{damaged.rpartition('/')[2]} is damaged")
    return torch.load(path, map_location="cpu", weights_only=True)


def load_strictly(network: ResNet, state: StateDict) -> None:
    """Put a state dict into a network: every key there, none beside it, every shape right.

    Raises
    ------
    ModelError
        Naming the keys that do not fit.
    """
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"the weights do not fit the network: {reason[:400]}") from error
