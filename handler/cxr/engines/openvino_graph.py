"""A ResNet as an OpenVINO graph, up to the output of layer4.

Written out layer by layer from the weights. OpenVINO's own converter would trace the network in seconds and report its
use to its maker; this takes a tenth of one and does neither. Its constants are copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from openvino import Model
from openvino import opset13 as ops
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from cxr.model.network import folded

Node = Any  # the nodes of OpenVINO 2026.4 have no types


def graph_of(network: ResNet, size: int) -> Model:
    """The graph of a network, for one film.

    Parameters
    ----------
    network
        In evaluation mode, on the CPU; it is left as it is.
    size
        Height and width of the tensor, pixels.

    Returns
    -------
    A model from ``films``, (1, 3, size, size) float32, to ``features``, (1, C, size/32, size/32) float32.
    """
    return graph_of_folded(folded(network), size, {})


def graph_of_folded(plain: ResNet, size: int, factors: Mapping[str, torch.Tensor]) -> Model:
    """As `graph_of`, of a network as `cxr.model.network.folded` gives it.

    Parameters
    ----------
    factors
        By name of a block, what the channels of its input are multiplied by before its convolutions read it, (C,); its
        shortcut takes the input as it is.
    """
    films = ops.parameter([1, 3, size, size], np.float32, name="films")
    x = ops.relu(_convolution(films, plain.conv1, "conv1"))
    pooling = plain.maxpool
    kernel, stride, padding = (_pair(value) for value in (pooling.kernel_size, pooling.stride, pooling.padding))
    x = ops.max_pool(x, stride, [1, 1], padding, padding, kernel).output(0)
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for number, block in enumerate(getattr(plain, stage)):
            name = f"{stage}.{number}"
            x = _block(x, block, name, factors.get(name))
    features = ops.result(x)
    features.set_friendly_name("features")
    return Model([features], [films], "resnet")


def watch(model: Model, limits: Mapping[str, float]) -> None:
    """Add the output ``reach`` to a graph: the largest activation at some places, as a share of what is let pass there.

    Parameters
    ----------
    limits
        By name of a block, the largest output it may give.
    """
    outputs = {node.get_friendly_name(): node.output(0) for node in model.get_ops()}
    axes = ops.constant(np.arange(4))
    shares = [
        ops.divide(ops.reduce_max(outputs[f"{name}.output"], axes, keep_dims=True), ops.constant(np.float32(limit)))
        for name, limit in limits.items()
    ]
    reach = ops.reduce_max(ops.concat(shares, 0), axes, keep_dims=False)
    reach.output(0).set_names({"reach"})
    model.add_results([ops.result(reach)])


def _block(x: Node, block: nn.Module, name: str, factors: torch.Tensor | None) -> Node:
    """One residual block."""
    assert isinstance(block, BasicBlock | Bottleneck)
    parts = ("conv1", "conv2", "conv3") if isinstance(block, Bottleneck) else ("conv1", "conv2")
    read = x
    if factors is not None:
        read = ops.multiply(x, ops.constant(factors.numpy().reshape(1, -1, 1, 1)), name=f"{name}.factors")
    y = read
    for part in parts[:-1]:
        y = ops.relu(_convolution(y, getattr(block, part), f"{name}.{part}"))
    y = _convolution(y, getattr(block, parts[-1]), f"{name}.{parts[-1]}")
    shortcut = x if block.downsample is None else _convolution(read, block.downsample, f"{name}.downsample")
    return ops.relu(ops.add(y, shortcut, name=f"{name}.add"), name=f"{name}.output")


def _convolution(x: Node, convolution: nn.Module, name: str) -> Node:
    """A convolution with its bias; both bear the name of the module."""
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.groups == 1, "no ResNet of torchvision's own kind has groups"
    assert convolution.bias is not None, "a folded BatchNorm leaves a bias"
    padding = _pair(convolution.padding)
    weight = ops.constant(convolution.weight.detach().contiguous().numpy())
    bias = ops.constant(convolution.bias.detach().numpy().reshape(1, -1, 1, 1))
    stride, dilation = _pair(convolution.stride), _pair(convolution.dilation)
    product = ops.convolution(x, weight, stride, padding, padding, dilation, name=name)
    return ops.add(product, bias, name=f"{name}.bias")


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
