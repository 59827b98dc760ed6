"""Classes and their positive group: what decides, and that maps are exact about it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import logsumexp, softmax

from cxr.errors import ModelError
from cxr.json_records import SEAL
from cxr.model.cam import about_decision, contrast_of
from cxr.model.classes import CLASSES, STANDARD, Scheme
from cxr.model.spec import ModelSpec, neutral_logit
from cxr.predict import Predictor
from tests.cxr.networks import predictor, save_model, small_network
from tests.films import film

CAUSES = Scheme(("NORMAL", "BACTERIAL", "VIRAL"), ("BACTERIAL", "VIRAL"))
RSNA = Scheme(("NORMAL", "OTHER", "PNEUMONIA"), ("PNEUMONIA",))
FOUR = Scheme(("NORMAL", "OTHER", "COVID", "PNEUMONIA"), ("COVID", "PNEUMONIA"))
SCHEMES = (STANDARD, CAUSES, RSNA, FOUR)


def logits_for(scheme: Scheme, seed: int, films: int = 200) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).normal(scale=2.0, size=(films, len(scheme.classes)))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_log_odds_of_the_group_are_those_of_its_probability(scheme: Scheme, temperature: float) -> None:
    logits = logits_for(scheme, 0)
    probabilities = softmax(logits / temperature, axis=1)
    members = [scheme.classes.index(name) for name in scheme.positive]
    expected = probabilities[:, members].sum(axis=1)
    np.testing.assert_allclose(scheme.probability(probabilities), expected)
    np.testing.assert_allclose(scheme.log_odds(logits, temperature), np.log(expected / (1 - expected)), atol=1e-9)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_contrast_is_a_sum_of_logits_and_the_log_odds_exactly(scheme: Scheme) -> None:
    for logits in logits_for(scheme, 1, 50):
        weights, constant = scheme.contrast(logits, 1.7)
        assert weights @ logits + constant == pytest.approx(1.7 * float(scheme.log_odds(logits, 1.7)), abs=1e-9)
        assert weights[: len(scheme.negative)].sum() == pytest.approx(-1)
        assert weights[len(scheme.negative) :].sum() == pytest.approx(1)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_the_label_is_the_likeliest_class_of_its_side(scheme: Scheme, threshold: float) -> None:
    for logits in logits_for(scheme, 2):
        probabilities = softmax(logits)
        by_name = dict(zip(scheme.classes, probabilities, strict=True))
        is_positive = sum(by_name[name] for name in scheme.positive) >= threshold
        side = scheme.positive if is_positive else scheme.negative
        assert scheme.label(probabilities, threshold) == max(side, key=lambda name: by_name[name])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.8])
def test_maps_about_the_decision_are_warm_where_the_label_says_so_and_nowhere_else(
    scheme: Scheme, threshold: float
) -> None:
    """The mean of a class's map is above zero for the label alone, that of the contrast where the film is positive."""
    rng = np.random.default_rng(3)
    temperature = 1.5
    neutral = neutral_logit(threshold, temperature)
    for _ in range(100):
        maps = rng.normal(scale=3.0, size=(len(scheme.classes), 5, 7)).astype(np.float32)
        bias = rng.normal(size=len(scheme.classes))
        logits = maps.mean(axis=(1, 2), dtype=np.float64) + bias
        label = scheme.label(softmax(logits / temperature), threshold)
        moved, left = about_decision(maps, bias, neutral, scheme, temperature)
        np.testing.assert_allclose(moved.mean(axis=(1, 2)) + left, logits, atol=1e-5)
        given = (moved, left) if scheme is STANDARD else (maps, bias)
        grid, beside = contrast_of(*given, neutral, scheme, temperature)
        assert beside == pytest.approx(neutral)
        groups = logits[len(scheme.negative) :], logits[: len(scheme.negative)]
        positive, rest = (logsumexp(group / temperature) for group in groups)
        assert float(grid.mean(dtype=np.float64)) + beside == pytest.approx(temperature * (positive - rest), abs=1e-5)
        assert (grid.mean() > 0) == (label in scheme.positive)
        if scheme is not STANDARD:
            assert [name for name, one in zip(scheme.classes, moved, strict=True) if one.mean() > 0] == [label]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_film_is_near_to_another_label_where_a_small_change_gives_it(scheme: Scheme) -> None:
    threshold, temperature = 0.4, 1.3
    odds = neutral_logit(threshold, 1.0)
    logits = logits_for(scheme, 4, 400)
    to_threshold = np.abs(scheme.log_odds(logits, temperature) - odds)
    nearest = np.minimum(to_threshold, scheme.lead(logits, temperature, odds))
    changes = np.random.default_rng(5).uniform(-0.5, 0.5, logits.shape)
    before, after = (
        [scheme.label(softmax(one / temperature), threshold) for one in some] for some in (logits, logits + changes)
    )
    swapped = np.array([one != other for one, other in zip(before, after, strict=True)])
    assert swapped.any()
    assert (nearest[swapped] <= 2 * np.ptp(changes / temperature, axis=1)[swapped]).all()


def test_schemes_of_labels() -> None:
    assert Scheme.of({"PNEUMONIA", "NORMAL"}) == STANDARD
    assert Scheme.of({"VIRAL", "NORMAL", "BACTERIAL"}) == CAUSES
    assert Scheme.of({"PNEUMONIA", "OTHER", "NORMAL"}) == RSNA
    assert Scheme.of({"PNEUMONIA", "COVID", "NORMAL"}, ("COVID",)).negative == ("NORMAL", "PNEUMONIA")
    for names, positive in (({"A1", "B1"}, ()), ({"NORMAL", "COVID"}, ("FLU",)), ({"NORMAL"}, ())):
        with pytest.raises(ModelError):
            Scheme.of(names, positive)


@pytest.mark.parametrize(
    ("classes", "positive", "message"),
    [
        (("NORMAL",), ("NORMAL",), "2 to 16"),
        (("NORMAL", "NORMAL"), ("NORMAL",), "different"),
        (("NORMAL", "sick"), ("sick",), "capital letters"),
        (("NORMAL", "PNEUMONIA"), ("NORMAL",), "in this order"),
        (("NORMAL", "PNEUMONIA"), ("NORMAL", "PNEUMONIA"), "not all"),
        (CLASSES, (), "in this order"),
    ],
)
def test_what_is_no_scheme_is_refused(classes: tuple[str, ...], positive: tuple[str, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Scheme(classes, positive)


@pytest.fixture
def three(tmp_path: Path) -> Predictor:
    fields = {"classes": CAUSES.classes, "positive": CAUSES.positive, "cam_zero": "decision", "temperature": 1.4}
    save_model(tmp_path, small_network(classes=3), **fields)
    return predictor(tmp_path)


def test_a_network_of_three_classes_explains_each_of_them_and_the_contrast(three: Predictor) -> None:
    for one in three.predict([film(seed, 96, 80) for seed in range(6)]):
        for target in ("predicted", *CAUSES.targets):
            explanation = one.explain(target)
            mean = float(explanation.grid.mean(dtype=np.float64)) + explanation.bias
            odds = np.log(one.probability / (1 - one.probability))
            name = one.label if target == "predicted" else target
            expected = 1.4 * odds if target == "contrast" else one.logits[CAUSES.classes.index(name)]
            assert mean == pytest.approx(expected, abs=1e-5)
        assert one.is_positive == (one.probability >= 0.5) == (one.explain("contrast").grid.mean() > 0)
        assert one.explain("predicted").grid.mean() >= 0


def test_the_contrast_of_a_film_does_not_depend_on_its_batch(three: Predictor) -> None:
    films = [film(seed, 96, 80) for seed in range(4)]
    for one, pixels in zip(three.predict(films), films, strict=True):
        (alone,) = three.predict([pixels])
        np.testing.assert_allclose(one.explain("contrast").grid, alone.explain("contrast").grid, atol=1e-4)


def test_an_archive_of_before_there_were_other_classes_is_of_normal_and_pneumonia(tmp_path: Path) -> None:
    values = json.loads(save_model(tmp_path).to_json())
    del values["positive"], values[SEAL]
    assert ModelSpec.from_json(json.dumps(values)).scheme == STANDARD
