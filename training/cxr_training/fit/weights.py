"""What the backbone starts from: ImageNet, a file, or random numbers."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn
from torchvision.models import get_model_weights
from torchvision.models.resnet import ResNet

from cxr.errors import ModelError
from cxr.model.classes import CLASSES
from cxr.model.network import StateDict, build, read_state_dict, use_exact_float32
from cxr.model.preprocess import to_tensor
from cxr.model.spec import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, sha256_of
from cxr_training.data.progress import progress_bar
from cxr_training.data.records import Record
from cxr_training.errors import TrainingError

NORMALISATIONS: Final[dict[str, Preprocessing]] = {
    "imagenet": Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "unit": Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
}
THREE_WAYS: Final = (
    "WEIGHTS=imagenet on a machine that reaches download.pytorch.org, WEIGHTS=FILE.pth (or .safetensors) with a state "
    "dict copied here, or WEIGHTS=random"
)
_BATCHNORM_FILMS: Final = 128  # enough for statistics of one number a channel
_DOWNLOAD_TIMEOUT_S: Final = 60.0  # without bytes; urllib's own default waits for ever


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """A network to start from and the name of where it came from (`ModelSpec.pretrained`)."""

    network: ResNet
    pretrained: str


def ready_to_train(
    weights: str,
    arch: str,
    seed: int,
    records: Sequence[Record],
    preprocessing: Preprocessing,
    device: torch.device,
) -> StartingPoint:
    """The starting point; random weights get the BatchNorm statistics of some of the training films.

    Raises
    ------
    TrainingError
        As `starting_point`, or if a film cannot be decoded.
    """
    start = starting_point(weights, arch, seed, len(records[0].scheme.classes))
    if start.pretrained == "random":
        chosen = np.random.default_rng(seed).permutation(len(records))[:_BATCHNORM_FILMS]
        some = [records[i] for i in chosen]
        reestimate_batchnorm(start.network, some, preprocessing, device)
    return start


def starting_point(weights: str, arch: str, seed: int, classes: int = len(CLASSES)) -> StartingPoint:
    """A network with the requested starting weights and a new head.

    Parameters
    ----------
    weights
        ``imagenet``, ``random``, or the path of a state dict.
    arch
        A key of `cxr.model.network.ARCHITECTURES`.
    seed
        Of the head, and of everything where weights are random.
    classes
        How many the head tells apart.

    Raises
    ------
    TrainingError
        If the download fails, the file is missing, or the tensors are of another network.
    """
    torch.manual_seed(seed)
    network = build(arch, classes)
    if weights == "random":
        return StartingPoint(network, "random")
    if weights == "imagenet":
        _fit(network, _imagenet_state(arch), "the ImageNet weights")
        return StartingPoint(network, "imagenet")
    path = Path(weights)
    try:
        _fit(network, read_state_dict(path), str(path))
    except ModelError as error:
        raise TrainingError(f"starting weights: {error}. The three ways are {THREE_WAYS}.") from error
    return StartingPoint(network, f"file:{path.name}")


def _imagenet_state(arch: str) -> StateDict:
    """torchvision's best ImageNet weights of an architecture; for ResNet-152 `IMAGENET1K_V2`."""
    try:
        choice = get_model_weights(arch).DEFAULT
    except ValueError as error:
        raise TrainingError(f"torchvision has no ImageNet weights for {arch}: use WEIGHTS=random or a file") from error
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_S)
    try:
        state: StateDict = choice.get_state_dict(progress=True, check_hash=True)
        _check_kept(Path(torch.hub.get_dir()) / "checkpoints" / Path(choice.url).name)
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: the digest did not fit
        raise TrainingError(
            f"the ImageNet weights {choice} could not be downloaded ({error}). The three ways are {THREE_WAYS}."
        ) from error
    finally:
        socket.setdefaulttimeout(patience)
    return state


def _check_kept(path: Path) -> None:
    """Hold the file that torchvision keeps against the digest in its name, which it does only after a download."""
    beginning = path.stem.rpartition("-")[2]
    if path.is_file() and not sha256_of(path).startswith(beginning):
        raise TrainingError(f"{path} is damaged, its sha256 does not begin with {beginning}: remove it and start again")


def _fit(network: ResNet, state: StateDict, name: str) -> None:
    """Load everything but the head, whose classes are others; nothing may be missing or left over."""
    backbone = {key: value for key, value in state.items() if not key.startswith("fc.")}
    try:
        result = network.load_state_dict(backbone, strict=False)
    except RuntimeError as error:
        raise TrainingError(f"{name}: tensors of another network ({' '.join(str(error).split())[:300]})") from error
    missing = [key for key in result.missing_keys if not key.startswith("fc.")]
    if missing or result.unexpected_keys:
        wrong = [*missing[:3], *result.unexpected_keys[:3]]
        raise TrainingError(f"{name}: not a state dict of this network, see {', '.join(wrong)}")


def reestimate_batchnorm(
    network: ResNet,
    records: Sequence[Record],
    preprocessing: Preprocessing,
    device: torch.device,
    *,
    batch_size: int = 16,
) -> None:
    """Set the running statistics of every BatchNorm to those of some films.

    Random weights come with statistics of nothing (mean 0, variance 1), under which 50 residual blocks blow up or die
    out. The statistics become the plain average over the batches; no weight is changed, and the network is left in
    evaluation mode.
    """
    use_exact_float32()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # average over all batches
    network.to(device).train()
    starts = range(0, len(records), batch_size)
    try:
        with torch.no_grad():
            for start in progress_bar(starts, "BatchNorm statistics", "batch"):
                chosen = records[start : start + batch_size]
                films = [record.read(preprocessing.least_side) for record in chosen]
                network(torch.stack([to_tensor(film, preprocessing) for film in films]).to(device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        network.eval()
