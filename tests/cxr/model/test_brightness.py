"""Brightness of films beside that of training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cxr.errors import ModelError
from cxr.films.film import Film, ImageInfo
from cxr.model.brightness import FIGURES, UNUSUAL, Brightness, brightness_of, check_brightness
from cxr.model.preprocess import network_film
from cxr.model.spec import ModelSpec, Preprocessing
from cxr.serving.card import model_card
from cxr.serving.reply import ModelIdentity
from cxr.serving.service import BatchService, IncomingRequest
from tests.cxr.networks import predictor, save_model
from tests.films import Grey, encoded, film

STORED, FIELD = Preprocessing(size=64), Preprocessing(size=64, greys="field")


def grainy(seed: int) -> Grey:
    """A film with noise, of one contrast or another."""
    rng = np.random.default_rng(seed)
    low, high = 30, rng.integers(80, 230)
    smooth = low + (high - low) * (film(seed, 200, 200) / 255.0)
    return np.asarray(np.clip(smooth + rng.normal(scale=3, size=smooth.shape), 0, 255).astype(np.uint8))


def brightness(preprocessing: Preprocessing, films: int = 200) -> Brightness:
    return Brightness.of([brightness_of(network_film(grainy(seed), preprocessing)) for seed in range(films)])


def test_the_figures_are_those_of_the_exposed_field() -> None:
    pixels = np.zeros((100, 100), dtype=np.uint8)
    pixels[10:90, 10:90] = np.repeat(np.arange(100, 180, dtype=np.uint8), 80).reshape(80, 80)
    pixels[10:14, 10:14] = 255  # a letter: the highest grey, with the frame no part of the exposed field
    figures = brightness_of(pixels)
    assert figures["p50"] == pytest.approx(140 / 255, abs=0.005)
    assert figures["p05"] == pytest.approx(104 / 255, abs=0.005)
    assert figures["p95"] == pytest.approx(175 / 255, abs=0.005)
    assert figures["levels"] == 80
    assert tuple(figures) == FIGURES


def test_limits_hold_all_training_films_but_two_in_a_thousand_and_a_tenth_more() -> None:
    figures = [dict.fromkeys(FIGURES, value / 1000) for value in range(1001)]
    limits = Brightness.of(figures).limits["p50"]
    assert limits == (pytest.approx(0.001 - 0.0998, abs=2e-4), pytest.approx(0.999 + 0.0998, abs=2e-4))


def test_with_stored_greys_a_film_a_quarter_as_bright_is_unusual_and_an_unseen_one_is_not() -> None:
    known = brightness(STORED)
    unseen = [network_film(grainy(seed), STORED) for seed in range(1000, 1050)]
    assert sum(bool(known.outside(one)) for one in unseen) <= 1
    assert all(known.outside(one // 4) for one in unseen)


def test_with_standard_greys_three_quarters_as_bright_is_as_usual_and_sixteen_greys_are_not() -> None:
    known = brightness(FIELD)
    for seed in range(1000, 1020):
        one = grainy(seed)
        assert known.outside(network_film(one - one // 4 + 40, FIELD)) == known.outside(network_film(one, FIELD)) == ()
        assert "levels" in known.outside(network_film(one // 16, FIELD))


def test_the_flag_is_added_to_those_that_are_there() -> None:
    info = ImageInfo(format="PNG", width=200, height=200, bits=8, flags=("clipped",))
    known, one = brightness(STORED, 40), grainy(1000)
    assert check_brightness(Film(one, info), network_film(one, STORED), known).info.flags == ("clipped",)
    dark = check_brightness(Film(one // 4, info), network_film(one // 4, STORED), known)
    assert dark.info.flags == ("clipped", UNUSUAL)


def test_brightness_goes_through_the_spec_and_a_spec_of_before_has_none() -> None:
    spec = ModelSpec("resnet10", "random", "w.pth", "0", brightness=brightness(STORED, 40))
    assert ModelSpec.from_json(spec.to_json()) == spec
    older = json.loads(replace(spec, brightness=None).to_json())
    del older["brightness"], older["content_sha256"]
    assert ModelSpec.from_json(json.dumps(older)).brightness is None


@pytest.mark.parametrize(
    "limits", [{}, dict.fromkeys(FIGURES[1:], (0.0, 1.0)), dict.fromkeys(FIGURES, (1.0, 0.0))], ids=len
)
def test_limits_that_are_none_are_refused(limits: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(ModelError, match="brightness"):
        Brightness(limits, 30)


def test_the_reply_carries_the_flag_and_one_of_a_model_without_brightness_is_as_before(tmp_path: Path) -> None:
    spec = save_model(tmp_path)
    scorer = predictor(tmp_path)
    dark = encoded(grainy(1000) // 16)
    batch = [IncomingRequest({"body": dark}, {}, "id")]
    identity = ModelIdentity.of(spec, "pneumonia", "1.0.0")
    before = json.loads(BatchService(scorer, identity).answer(batch)[0].body)
    assert before["image"]["flags"] == []
    assert UNUSUAL not in model_card(spec, {}, None)["flags"]
    scorer.spec = replace(spec, brightness=brightness(spec.preprocessing, 40))
    after = json.loads(BatchService(scorer, identity).answer(batch)[0].body)
    assert after["image"].pop("flags") == [UNUSUAL]
    assert UNUSUAL in model_card(scorer.spec, {}, None)["flags"]
    before["image"].pop("flags")
    assert after == before
