"""Small networks of the class that is served, for tests."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models.resnet import ResNet

from cxr.model.network import build
from cxr.model.spec import SPEC_FILE, ModelSpec, Preprocessing, sha256_of
from cxr.predict import Predictor

SMALL = Preprocessing(size=64)


def lively(network: ResNet, seed: int = 0) -> ResNet:
    """The network with BatchNorm statistics and a head that are not trivial."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    with torch.no_grad():
        network.fc.bias.copy_(torch.tensor([0.25, -0.5, 0.125, 0.75])[: network.fc.out_features])
    return network


def small_network(seed: int = 0, classes: int = 2) -> ResNet:
    """A ResNet-10 with weights of its own."""
    torch.manual_seed(seed)
    return lively(build("resnet10", classes), seed)


def save_model(folder: Path, network: ResNet | None = None, **fields: Any) -> ModelSpec:
    """Write `model.pth` and `model.json` as `pneumoscan export` does; the spec written."""
    folder.mkdir(parents=True, exist_ok=True)
    network = network or small_network()
    torch.save(network.state_dict(), folder / "model.pth")
    spec = ModelSpec(
        arch="resnet10",
        pretrained="random",
        weights_file="model.pth",
        weights_sha256=sha256_of(folder / "model.pth"),
        preprocessing=SMALL,
        operating_points={"youden": 0.5},
        operating_point="youden",
        indeterminate=(0.4, 0.6),
        cam_scale=2.0,
    )
    spec = dataclasses.replace(spec, **fields)
    (folder / SPEC_FILE).write_text(spec.to_json(), encoding="utf-8")
    return spec


def predictor(folder: Path) -> Predictor:
    """A predictor on the CPU from a folder made by `save_model`."""
    return Predictor.load(folder, "cpu")
