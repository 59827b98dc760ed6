"""Drift: the index by hand, its noise, and which films raise it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from cxr.errors import ModelError
from cxr.films.film import Pixels, unit_to_uint8
from cxr.model.classes import CLASSES
from cxr.model.preprocess import resize
from cxr.predict import Predictor
from cxr.serving.drift import (
    DRIFT_FILE,
    EVERY,
    FEWEST,
    SHIFT,
    WINDOW,
    DriftWindow,
    Reference,
    film_signals,
    psi,
    psi_limit,
    read_reference,
)
from cxr.serving.metrics import SIGNALS, BatchMetrics
from cxr_training.data.toy.anatomy import draw_anatomy
from cxr_training.data.toy.films import draw_film
from cxr_training.drift import histogram_of
from tests.cxr.networks import predictor, save_model
from tests.cxr.references import reference_for


def small_film(rng: np.random.Generator, brightness: float = 0.0) -> Pixels:
    """A noisy film, (32, 32) uint8, brighter or darker as a whole."""
    level, spread = rng.normal(110, 15) + brightness, rng.uniform(15, 30)
    return np.clip(rng.normal(level, spread, (32, 32)), 0, 255).astype(np.uint8)


def reference_from(rng: np.random.Generator, count: int) -> Reference:
    found = [{"score": rng.random(), **film_signals(small_film(rng), 80, 96)} for _ in range(count)]
    signals = {name: histogram_of(np.array([one[name] for one in found])) for name in SIGNALS}
    return Reference("a" * 64, "a" * 64, 1.5, count, signals)


def chest_films(seed: int, count: int) -> list[Pixels]:
    """Synthetic films, half of each class, as the demo's validation films are."""
    rng = np.random.default_rng(seed)
    drawn = (draw_film(rng, draw_anatomy(rng), CLASSES[i % 2], (256, 224)) for i in range(count))
    return [unit_to_uint8(one.pixels) for one in drawn]


def squeezed(film: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(film).filter(ImageFilter.GaussianBlur(3)))


CHANGES: dict[str, tuple[Callable[[Pixels], Pixels], set[str]]] = {
    "darker": (lambda film: (film * 0.7).astype(np.uint8), {"mean_grey", "contrast"}),
    "inverted": (lambda film: 255 - film, {"mean_grey", "border"}),
    "blurred": (squeezed, {"sharpness"}),
    "framed": (lambda film: np.pad(film, ((0, 0), (28, 28))), {"border", "aspect"}),
}


def values_of(measured: BatchMetrics, name: str) -> dict[str, float]:
    return {labels[0] if labels else "": value for (found, labels), value in measured.values if found == name}


def test_the_index_is_the_one_computed_by_hand() -> None:
    # Shares with half a film added to each bin: (10.5, 20.5)/31 and (20.5, 10.5)/31.
    p, q = 10.5 / 31, 20.5 / 31
    expected = (q - p) * math.log(q / p) + (p - q) * math.log(p / q)
    assert psi([10, 20], [20, 10]) == pytest.approx(expected)
    assert psi([10, 20], [20, 10]) == pytest.approx(0.4317, abs=1e-4)
    assert psi([10, 20], [100, 200]) == pytest.approx(0.0, abs=1e-3)
    assert psi([7, 7, 7], [7, 7, 7]) == 0.0
    assert math.isfinite(psi([30, 0], [0, 30]))


@pytest.mark.parametrize(("reference_films", "films"), [(50, 50), (100, 500), (1000, 100), (300, 500)])
def test_without_a_shift_the_index_has_the_mean_that_theory_says_and_stays_below_its_limit(
    reference_films: int, films: int
) -> None:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(300):
        histogram = histogram_of(rng.normal(size=reference_films))
        bins = np.searchsorted(histogram.edges, rng.normal(size=films), side="right")
        found.append(psi(histogram.counts, np.bincount(bins, minlength=len(histogram.counts)).tolist()))
    bias = len(histogram.edges) * (1 / reference_films + 1 / films)
    assert np.mean(found) == pytest.approx(bias, rel=0.2)
    assert max(found) < psi_limit(histogram.chi_square, reference_films, films)


def test_the_limit_is_the_customary_one_where_films_are_many() -> None:
    chi_square = histogram_of(np.random.default_rng(0).normal(size=1000)).chi_square
    assert psi_limit(chi_square, 1000, 500) == SHIFT == 0.25
    assert psi_limit(chi_square, 50, 50) > 1


@pytest.mark.parametrize("spread", [1.0, 1e-6])
def test_one_value_that_all_films_share_has_a_bin_of_its_own(spread: float) -> None:
    values = np.full(200, 0.8)
    values[:3] += spread * np.arange(1, 4)
    histogram = histogram_of(values)
    at = int(np.searchsorted(histogram.edges, 0.8, side="right"))
    assert histogram.counts[at] >= 197
    moved = [0] * len(histogram.counts)
    for value in np.full(100, 0.7):
        moved[int(np.searchsorted(histogram.edges, value, side="right"))] += 1
    assert psi(histogram.counts, moved) > 2


def test_bins_hold_about_as_many_films_each_and_no_edge_lies_on_a_film() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=500)
    histogram = histogram_of(values)
    assert len(histogram.counts) == 10
    assert max(histogram.counts) - min(histogram.counts) <= 2
    assert np.abs(np.array(histogram.edges)[:, None] - values).min() > 1e-7


def test_the_properties_of_a_film_are_those_its_pixels_have() -> None:
    film = np.zeros((4, 4), dtype=np.uint8)
    film[:, 2:] = 200
    signals = film_signals(film, 300, 200)
    assert signals == pytest.approx(
        {
            "mean_grey": 100 / 255,
            "contrast": 100 / 255,
            "sharpness": (0 + 200 / 3) / 2 / 100,
            "border": 0.5,
            "aspect": 1.5,
        }
    )
    rng = np.random.default_rng(3)
    noisy = small_film(rng)
    assert film_signals(noisy, 1, 1)["contrast"] == pytest.approx(noisy.std() / 255)


def test_nothing_is_published_before_there_are_enough_films_and_then_now_and_again() -> None:
    rng = np.random.default_rng(2)
    window = DriftWindow(reference_from(rng, 100))
    published = []
    for number in range(1, FEWEST + 3 * EVERY + 1):
        window.add(small_film(rng), 80, 96, rng.random())
        measured = BatchMetrics()
        window.publish(measured)
        if measured.values:
            published.append(number)
            assert set(values_of(measured, "cxr_drift_psi")) == set(SIGNALS)
            assert set(values_of(measured, "cxr_drift_psi_limit")) == set(SIGNALS)
            assert values_of(measured, "cxr_drift_films") == {"": number}
    assert published == [FEWEST, FEWEST + EVERY, FEWEST + 2 * EVERY, FEWEST + 3 * EVERY]


def test_an_unshifted_stream_stays_below_the_limit_and_a_shifted_one_goes_above_and_comes_back() -> None:
    rng = np.random.default_rng(4)
    window = DriftWindow(reference_from(rng, 300))

    def shifted(count: int, brightness: float) -> set[str]:
        for _ in range(count):
            window.add(small_film(rng, brightness), 80, 96, rng.random())
        measured = BatchMetrics()
        window._until_published = 0
        window.publish(measured)
        limits = values_of(measured, "cxr_drift_psi_limit")
        return {name for name, value in values_of(measured, "cxr_drift_psi").items() if value > limits[name]}

    assert shifted(WINDOW, 0.0) == set()
    assert shifted(WINDOW // 2, 40.0) == {"mean_grey"}
    assert shifted(WINDOW, 0.0) == set()


@pytest.fixture(scope="module")
def chests(tmp_path_factory: pytest.TempPathFactory) -> tuple[Predictor, Reference, list[Pixels]]:
    """A model, its reference of 40 synthetic films, and 100 others of the same kind."""
    folder = tmp_path_factory.mktemp("model")
    save_model(folder)
    loaded = predictor(folder)
    return loaded, reference_for(loaded, chest_films(0, 40)), chest_films(1, 100)


def has_shifted(chests: tuple[Predictor, Reference, list[Pixels]], change: Callable[[Pixels], Pixels]) -> set[str]:
    loaded, reference, films = chests
    window = DriftWindow(reference)
    changed = [np.ascontiguousarray(change(one)) for one in films]
    for one, said in zip(changed, loaded.predict(changed), strict=True):
        height, width = one.shape
        window.add(resize(one, loaded.spec.preprocessing), width, height, float(said.probabilities[1]))
    return {
        name
        for name, index in window.indices().items()
        if index > psi_limit(reference.signals[name].chi_square, reference.films, len(films))
    }


def test_other_films_of_the_same_kind_have_not_shifted(chests: tuple[Predictor, Reference, list[Pixels]]) -> None:
    assert has_shifted(chests, lambda film: film) == set()


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_at_the_machine_shifts_the_signals_that_see_it(
    chests: tuple[Predictor, Reference, list[Pixels]], name: str
) -> None:
    change, signals = CHANGES[name]
    assert signals <= has_shifted(chests, change)


def test_the_window_holds_the_last_films_alone() -> None:
    rng = np.random.default_rng(6)
    reference = reference_from(rng, 100)
    films = [(small_film(rng), float(rng.random())) for _ in range(WINDOW + 40)]
    long, short = DriftWindow(reference), DriftWindow(reference)
    for film, score in films:
        long.add(film, 80, 96, score)
    for film, score in films[-WINDOW:]:
        short.add(film, 80, 96, score)
    assert long.indices() == short.indices()


def test_the_same_film_again_counts_once() -> None:
    rng = np.random.default_rng(7)
    window = DriftWindow(reference_from(rng, 100))
    for _ in range(FEWEST):
        window.add(small_film(rng), 80, 96, 0.5)
    before = window.indices()
    probe = small_film(rng, 60.0)
    window.add(probe, 80, 96, 0.9)
    once = window.indices()
    assert once != before
    for _ in range(300):
        window.add(probe.copy(), 80, 96, 0.9)
    assert window.indices() == once


def test_a_reference_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    spec = save_model(tmp_path, temperature=1.5)
    assert read_reference(tmp_path, spec) is None
    reference = reference_from(np.random.default_rng(8), 100)
    own = dataclasses.replace(reference, weights_sha256=spec.weights_sha256)
    (tmp_path / DRIFT_FILE).write_text(own.to_json(), encoding="utf-8")
    assert read_reference(tmp_path, spec) == own


@pytest.mark.parametrize("other", [{"weights_sha256": "b" * 64}, {"temperature": 1.25}])
def test_a_reference_of_another_model_is_not_used(tmp_path: Path, other: dict[str, str | float]) -> None:
    spec = save_model(tmp_path, temperature=1.5)
    reference = reference_from(np.random.default_rng(8), 100)
    own = dataclasses.replace(reference, weights_sha256=spec.weights_sha256)
    (tmp_path / DRIFT_FILE).write_text(dataclasses.replace(own, **other).to_json(), encoding="utf-8")
    assert read_reference(tmp_path, spec) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"films": 100', '"films": 99'),
        ('"films": 100', '"films": NaN'),
        ('"score"', '"other"'),
        ('"edges": [', '"edges": [9e99, '),
        ('"chi_square": ', '"chi_square": -'),
        ('"temperature"', '"warmth"'),
        ("}", ""),
        ("{", "[1]"),
    ],
)
def test_a_damaged_reference_is_refused(tmp_path: Path, old: str, new: str) -> None:
    spec = save_model(tmp_path)
    text = reference_from(np.random.default_rng(8), 100).to_json()
    assert old in text
    (tmp_path / DRIFT_FILE).write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ModelError, match=DRIFT_FILE):
        read_reference(tmp_path, spec)
