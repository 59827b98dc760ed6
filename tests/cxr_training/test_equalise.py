"""Evened-out networks compute what they did, with channels that lose less by being rounded."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.resnet import ResNet

from cxr.engines.openvino import core, graph_of, graph_of_folded, openvino
from cxr.model.network import build, features, folded
from cxr_training.quantise import equalise, ranges_of
from tests.cxr.networks import lively

ARCHS = ["resnet10", "resnet50"]


def tensors(number: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 3, 64, 64, generator=generator) for _ in range(number)]


def uneven(arch: str) -> ResNet:
    """A network whose channels inside the blocks differ in size by a hundred."""
    network = lively(build(arch, 2))
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, nn.BatchNorm2d) and name.endswith((".bn1", ".bn2")) and module.weight is not None:
                module.weight *= torch.logspace(-1, 1, module.num_features)
    return network


def by_openvino(model: openvino.Model, tensor: torch.Tensor) -> np.ndarray:
    compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled([tensor.numpy()])[0])


def unevenness(plain: ResNet) -> float:
    """How many times as wide the widest channel is as the median one, in the median convolution."""
    ranges = ranges_of(plain, tensors())
    inside = [widths for name, widths in ranges.items() if name.endswith((".conv2", ".conv3"))]
    return float(np.median([float(widths.max() / widths.median().clamp_min(1e-6)) for widths in inside]))


@pytest.mark.parametrize("arch", ARCHS)
def test_the_graph_computes_the_same_with_the_factors_that_are_left(arch: str) -> None:
    network = uneven(arch)
    plain = folded(network)
    factors = equalise(plain, ranges_of(plain, tensors()))
    expected = by_openvino(graph_of(network, 64), tensors(1)[0])
    got = by_openvino(graph_of_folded(plain, 64, factors), tensors(1)[0])
    assert not np.allclose(got, by_openvino(graph_of_folded(plain, 64, {}), tensors(1)[0]), rtol=1e-2)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_channels_inside_the_blocks_are_more_even() -> None:
    plain = folded(uneven("resnet50"))
    before = unevenness(plain)
    equalise(plain, ranges_of(plain, tensors()))
    assert unevenness(plain) < before / 2


def test_a_kept_stage_keeps_its_weights_and_the_network_given_is_left_alone() -> None:
    network = uneven("resnet10")
    before = copy.deepcopy(network.state_dict())
    plain = folded(network)
    own = plain.layer1[0].conv1.weight.clone()
    factors = equalise(plain, ranges_of(plain, tensors()), keep=("conv1", "layer1"))
    assert torch.equal(plain.layer1[0].conv1.weight, own)
    assert set(factors) == {"layer2.0", "layer3.0", "layer4.0"}
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())


def test_ranges_are_the_largest_sizes_over_all_films() -> None:
    plain = folded(lively(build("resnet10", 2)))
    ranges = ranges_of(plain, tensors())
    seen = []
    hook = plain.layer3[0].conv2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].abs()))
    with torch.inference_mode():
        for tensor in tensors():
            features(plain, tensor)
    hook.remove()
    torch.testing.assert_close(ranges["layer3.0.conv2"], torch.cat(seen).amax((0, 2, 3)), rtol=0, atol=0)
    assert "conv1" not in ranges


def test_a_channel_that_is_never_alive_gets_a_finite_factor() -> None:
    network = lively(build("resnet10", 2))
    with torch.no_grad():
        network.layer2[0].bn1.weight[0] = 0.0
        network.layer2[0].bn1.bias[0] = -1.0
        network.layer2[0].conv2.weight[:, 1] = 0.0
    plain = folded(network)
    factors = equalise(plain, ranges_of(plain, tensors()))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in plain.state_dict().values())
    assert all(bool((one > 0).all()) for one in factors.values())
