"""The class activation map beside the one of the grad-cam package, which gets it by another way: from gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from cxr.model.classes import CLASSES
from cxr.model.network import build
from cxr.model.preprocess import to_tensor
from cxr.model.spec import ModelSpec, Preprocessing
from cxr.predict import Predictor
from tests.cxr.networks import lively
from tests.films import film


@pytest.mark.parametrize("arch", ["resnet10", pytest.param("resnet152", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CLASSES)
def test_the_map_is_the_gradient_weighted_one_before_it_is_clipped_and_stretched(arch: str, name: str) -> None:
    """For a linear head on pooled features the gradient of a logit is the head's weight over the number of cells."""
    torch.manual_seed(1)
    network = lively(build(arch, 2))
    with torch.no_grad():
        network.fc.weight.mul_(0.01)
    spec = ModelSpec(arch=arch, pretrained="random", weights_file="w", weights_sha256="", preprocessing=Preprocessing())
    ours = Predictor(network, spec, torch.device("cpu")).predict([film(7, 260, 230)])[0].explain(name).grid
    tensors = to_tensor(film(7, 260, 230), spec.preprocessing)[None]
    layer = network.layer4[-1]
    with GradCAM(model=network, target_layers=[layer]) as package:
        targets = [ClassifierOutputTarget(CLASSES.index(name))]
        shown = package(input_tensor=tensors, targets=targets)[0]
        activations = package.activations_and_grads.activations[0].numpy()
        gradients = package.activations_and_grads.gradients[0].numpy()
        theirs = package.get_cam_image(tensors, layer, targets, activations, gradients, False)[0]
    cells = theirs.size
    assert ours.shape == theirs.shape == (7, 7)
    np.testing.assert_allclose(ours, theirs * cells, rtol=1e-3, atol=1e-4 * np.abs(ours).max())
    # What the package shows is the same map without what speaks against the class, stretched to 0-1.
    clipped = np.maximum(ours, 0)
    if clipped.max() > 0:
        strongest = np.unravel_index(clipped.argmax(), clipped.shape)
        peak = np.unravel_index(shown.argmax(), shown.shape)
        assert np.abs((np.asarray(peak) + 0.5) / 32 - 0.5 - strongest).max() <= 1.0
