"""The network taken apart and folded: the same numbers as torchvision's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cxr.model.network import build, features, folded, trunk
from tests.cxr.networks import lively


@pytest.mark.parametrize("arch", ["resnet10", "resnet18", "resnet50"])
def test_a_folded_copy_computes_the_same_features_without_a_batchnorm(arch: str) -> None:
    torch.manual_seed(1)
    network = lively(build(arch, 2))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    copied, films = folded(network), torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = features(network, films)
        torch.testing.assert_close(features(copied, films), expected, atol=1e-4 * float(expected.abs().max()), rtol=0)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copied.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_layer4_of_the_trunk_is_the_features() -> None:
    network, films = lively(build("resnet10", 2)), torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network.layer4(trunk(network, films)), features(network, films))
        assert trunk(network, films).shape == (2, 256, 4, 4)
