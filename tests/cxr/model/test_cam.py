"""The map adds up to the logit, and is drawn where it belongs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from cxr.model.cam import about_decision, class_maps, logits_of, upsample
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
def test_upsampling_equals_scipys_zoom_of_order_1_on_the_grid_of_cells(height: int, width: int) -> None:
    grid = np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32)
    expected = ndimage.zoom(grid, (height / 7, width / 7), order=1, grid_mode=True, mode="nearest")
    np.testing.assert_allclose(upsample(grid, height, width), expected, atol=1e-5)


def test_the_value_of_a_cell_lies_on_the_middle_of_its_share_of_the_film() -> None:
    grid = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    large = upsample(grid, 3 * 9, 5 * 9)
    np.testing.assert_allclose(large[4::9, 4::9], grid, atol=1e-6)
    assert (large[:5, :5] == grid[0, 0]).all()


@pytest.mark.parametrize("neutral", [-3.0, 0.0, 1.5])
def test_about_the_decision_the_mean_of_a_map_has_the_sign_of_the_label_and_the_sum_stays(neutral: float) -> None:
    rng = np.random.default_rng(2)
    bias = np.array([7.0, 27.0])  # a constant such as real heads have
    for _ in range(50):
        maps = rng.normal(scale=9.0, size=(2, 7, 7)).astype(np.float32) - np.float32(10) * np.arange(2)[:, None, None]
        logits = maps.mean((1, 2), dtype=np.float64) + bias
        moved, left = about_decision(maps.astype(np.float32), bias, neutral)
        np.testing.assert_allclose(moved.mean((1, 2), dtype=np.float64) + left, logits, atol=1e-5)
        assert left[1] - left[0] == neutral
        contrast = (moved[1] - moved[0]).mean(dtype=np.float64)
        assert contrast == pytest.approx(logits[1] - logits[0] - neutral, abs=1e-5)


def test_a_hot_corner_cell_is_hot_in_that_corner() -> None:
    grid = np.zeros((7, 7), np.float32)
    grid[0, 6] = 1.0
    large = upsample(grid, 100, 200)
    assert np.unravel_index(large.argmax(), (100, 200)) == (0, 186)  # from the corner cell's middle on it stays level
    assert large[0, 199] == 1.0
