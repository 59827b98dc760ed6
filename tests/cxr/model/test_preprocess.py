"""From film to tensor and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from cxr.model.preprocess import network_film, resize, standard_greys, to_film, to_tensor
from cxr.model.spec import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from tests.films import Grey, film


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


FIELD = Preprocessing(size=224, greys="field")


def chest() -> Grey:
    """A film with a white letter, a black collimator and greys in between."""
    rng = np.random.default_rng(5)
    smooth = np.asarray(
        Image.fromarray(rng.normal(size=(8, 8)).astype(np.float32)).resize((224, 224), Image.Resampling.BICUBIC)
    )
    pixels = np.clip(120 + 40 * smooth + rng.normal(scale=4, size=smooth.shape), 30, 230).astype(np.uint8)
    pixels[:, :8] = 0
    pixels[30:40, 30:36] = 255
    return pixels


@pytest.mark.parametrize(
    ("change", "most"),
    [
        (lambda x: x, 0),
        (lambda x: x / 2, 3),
        (lambda x: 40 + 0.6 * x, 3),
        (lambda x: 255 * (x / 255) ** 0.7, 8),
        (lambda x: 255 * (x / 255) ** 1.4, 8),
        (lambda x: x / 8, 10),
    ],
)
def test_another_rendering_of_a_film_has_nearly_the_same_standard_greys(
    change: Callable[[np.ndarray], np.ndarray], most: float
) -> None:
    pixels = chest()
    rendered = np.rint(change(pixels.astype(np.float64))).astype(np.uint8)
    inside = np.s_[45:, 40:]  # the letter and the collimator are white and black in every one
    found = network_film(rendered, FIELD)[inside].astype(int)
    assert np.abs(found - network_film(pixels, FIELD)[inside]).mean() <= most


def test_standard_greys_keep_the_order_and_put_the_median_of_the_field_half_way() -> None:
    table = standard_greys(chest())
    assert (np.diff(table.astype(int)) >= 0).all()
    assert (table[0], table[255]) == (0, 255)
    field = chest()[22:202, 22:202]
    assert abs(np.median(table[field]) - 127.5) < 3


@pytest.mark.parametrize("pixels", [np.zeros((224, 224), np.uint8), np.full((224, 224), 200, np.uint8)])
def test_a_film_without_greys_stays_as_it_is(pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(network_film(pixels, FIELD), pixels)


def test_to_film_gives_back_what_the_network_sees() -> None:
    np.testing.assert_array_equal(to_film(to_tensor(chest(), FIELD), FIELD), network_film(chest(), FIELD))


def test_models_made_before_there_was_a_choice_keep_their_digest() -> None:
    settings = {"size": 224, "resize": "squash", "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "decode": "exact"}
    expected = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    assert Preprocessing().digest() == expected != FIELD.digest()
