"""From film to tensor and back."""

from __future__ import annotations

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from cxr.model.preprocess import resize, to_film, to_tensor
from cxr.model.spec import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from tests.films import film


def test_denormalising_gives_the_film_back_exactly() -> None:
    pixels = film(height=64, width=64)
    for preprocessing in (Preprocessing(size=64), Preprocessing(size=64, mean=(0, 0, 0), std=(1, 1, 1))):
        np.testing.assert_array_equal(to_film(to_tensor(pixels, preprocessing), preprocessing), pixels)


def test_the_tensor_is_what_torchvision_makes_of_the_film() -> None:
    pixels = film(height=224, width=224)
    grey = torch.from_numpy(pixels).expand(3, -1, -1).float() / 255
    expected = functional.normalize(grey, list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.testing.assert_close(to_tensor(pixels, Preprocessing()), expected)


def test_resizing_is_antialiased_as_torchvisions() -> None:
    pixels = film(height=900, width=700)
    tensor = functional.resize(torch.from_numpy(pixels)[None], [224, 224], antialias=True)[0]
    assert np.abs(resize(pixels, Preprocessing()).astype(int) - tensor.numpy().astype(int)).max() <= 1


def test_the_whole_film_is_seen_whatever_its_aspect() -> None:
    pixels = film(height=400, width=100)
    pixels[:20] = 255
    pixels[-20:] = 255
    seen = resize(pixels, Preprocessing())
    assert seen.shape == (224, 224)
    assert seen[0].min() > 250
    assert seen[-1].min() > 250
