"""The map adds up to the logit, and is drawn where it belongs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from cxr.model.cam import class_maps, logits_of, upsample
from cxr.model.network import build, features
from tests.cxr.networks import lively, small_network


def test_mean_of_the_map_plus_bias_is_the_logit_of_torchvisions_own_forward() -> None:
    network = small_network()
    tensors = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(tensors)
        maps = class_maps(features(network, tensors), network.fc.weight)
    assert maps.shape == (3, 2, 2, 3)
    torch.testing.assert_close(logits_of(maps, network.fc.bias), expected, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_it_is_the_logit_for_the_real_resnet152() -> None:
    torch.manual_seed(0)
    network = lively(build("resnet152", 2))
    tensors = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1)) * 0.1
    with torch.inference_mode():
        expected = network(tensors)
        maps = class_maps(features(network, tensors), network.fc.weight)
    assert maps.shape == (2, 2, 7, 7)
    scale = float(expected.abs().max().clamp(min=1))
    torch.testing.assert_close(logits_of(maps, network.fc.bias) / scale, expected / scale, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (519, 640), (7, 7), (64, 97)])
def test_upsampling_equals_scipys_zoom_of_order_1(height: int, width: int) -> None:
    grid = np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32)
    expected = ndimage.zoom(grid, (height / 7, width / 7), order=1)
    np.testing.assert_allclose(upsample(grid, height, width), expected, atol=1e-5)


def test_a_hot_corner_cell_is_hot_in_that_corner() -> None:
    grid = np.zeros((7, 7), np.float32)
    grid[0, 6] = 1.0
    assert np.unravel_index(upsample(grid, 100, 200).argmax(), (100, 200)) == (0, 199)
