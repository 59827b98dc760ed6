"""Intervals against plain resampling, hand-worked values and the truth of simulated data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, norm
from sklearn.metrics import roc_auc_score

from cxr.json_records import parse, read, to_json
from cxr_training.errors import TrainingError
from cxr_training.measure.intervals import Bootstrap, exact_interval, group_figures, percentiles, share_interval
from cxr_training.measure.metrics import Floats, Targets
from cxr_training.measure.records import GroupFigures, Interval

NAMES = ("auroc", "auprc", "sensitivity", "specificity", "accuracy", "brier", "log_loss", "ece")


def films(n: int, seed: int = 0) -> tuple[Targets, Floats]:
    """Labels and probabilities of a fair model."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, n)
    return targets, 1 / (1 + np.exp(-rng.normal(2.0 * targets - 1.0, 1.5)))


def ids(n: int) -> list[str]:
    """A patient of its own for each film, in the order of their names."""
    return [f"{i:05}" for i in range(n)]


def width(interval: Interval | None) -> float:
    assert interval is not None
    return interval[1] - interval[0]


def test_with_one_film_a_patient_it_is_the_plain_bootstrap_of_films() -> None:
    targets, probabilities = films(80)
    figures = group_figures(targets, probabilities, ids(80), 0.5, Bootstrap(400, seed=7))
    draws = np.random.default_rng(7).integers(0, 80, (400, 80))
    areas = [roc_auc_score(targets[draw], probabilities[draw]) for draw in draws]
    np.testing.assert_allclose(figures.auroc_ci, np.percentile(areas, [2.5, 97.5]), atol=1e-12)
    right = [np.mean((probabilities[draw] >= 0.5) == targets[draw]) for draw in draws]
    np.testing.assert_allclose(figures.accuracy_ci, np.percentile(right, [2.5, 97.5]), atol=1e-12)


def test_it_agrees_with_the_bootstrap_of_scipy() -> None:
    targets, probabilities = films(300)
    figures = group_figures(targets, probabilities, ids(300), 0.5, Bootstrap(4000))
    sample = ((probabilities - targets) ** 2,)
    other = bootstrap(sample, np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(3))
    np.testing.assert_allclose(figures.brier_ci, list(other.confidence_interval), atol=0.002)


def test_copies_of_a_patients_films_add_nothing() -> None:
    targets, probabilities = films(90)
    plain = group_figures(targets, probabilities, ids(90), 0.5, Bootstrap(300))
    four = np.repeat(targets, 4), np.repeat(probabilities, 4)
    copied = group_figures(*four, np.repeat(ids(90), 4).tolist(), 0.5, Bootstrap(300))
    for name in NAMES:
        np.testing.assert_allclose(copied.named(name).interval, plain.named(name).interval, atol=1e-12)
    assert (copied.films, copied.patients) == (360, 90)
    taken_for_patients = group_figures(*four, ids(360), 0.5, Bootstrap(300))
    for name in ("auroc", "accuracy", "brier"):  # four times the patients, half the width
        assert width(taken_for_patients.named(name).interval) == pytest.approx(
            width(plain.named(name).interval) / 2, rel=0.3
        )


def test_films_of_a_patient_that_resemble_each_other_widen_the_interval() -> None:
    rng = np.random.default_rng(2)
    targets = np.repeat(rng.integers(0, 2, 60), 5)
    logits = 2.0 * targets - 1.0 + np.repeat(rng.normal(0, 1.5, 60), 5) + rng.normal(0, 0.5, 300)
    probabilities = 1 / (1 + np.exp(-logits))
    clustered = group_figures(targets, probabilities, np.repeat(ids(60), 5).tolist(), 0.5, Bootstrap(1000))
    apart = group_figures(targets, probabilities, ids(300), 0.5, Bootstrap(1000))
    for name in ("auroc", "sensitivity", "specificity", "accuracy", "brier"):
        assert clustered.named(name).value == apart.named(name).value
        assert width(clustered.named(name).interval) > 1.5 * width(apart.named(name).interval), name


def test_the_order_of_the_films_does_not_matter() -> None:
    targets, probabilities = films(100)
    patients = np.array(ids(100))
    patients[50:] = patients[:50]
    order = np.random.default_rng(1).permutation(100)
    one = group_figures(targets, probabilities, patients.tolist(), 0.5, Bootstrap(200))
    two = group_figures(targets[order], probabilities[order], patients[order].tolist(), 0.5, Bootstrap(200))
    for name in NAMES:
        np.testing.assert_allclose(one.named(name).interval, two.named(name).interval, atol=1e-12)


def test_many_films_are_resampled_in_blocks_of_the_same_size() -> None:
    blocks = list(Bootstrap(150).weights(ids(20_000)))
    assert [len(block) for block in blocks] == [100, 50]
    assert all((block.sum(axis=1) == 20_000).all() for block in blocks)
    assert not np.array_equal(blocks[0][:50], blocks[1])


def test_resamples_without_a_class_are_left_out_and_counted() -> None:
    targets = np.array([1] * 4 + [0] * 26)
    probabilities = np.linspace(0.9, 0.1, 30)[np.random.default_rng(0).permutation(30)]
    figures = group_figures(targets, probabilities, ids(30), 0.5, Bootstrap(1000, seed=5))
    draws = np.random.default_rng(5).integers(0, 30, (1000, 30))
    both = [draw for draw in draws if 0 < targets[draw].sum() < 30]
    assert 0 < 1000 - len(both) <= 50
    assert figures.undefined_resamples["auroc"] == 1000 - len(both)
    areas = [roc_auc_score(targets[draw], probabilities[draw]) for draw in both]
    np.testing.assert_allclose(figures.auroc_ci, np.percentile(areas, [2.5, 97.5]), atol=1e-12)


def test_where_too_many_resamples_lack_a_class_there_is_no_interval() -> None:
    targets = np.array([1] + [0] * 29)  # the one patient is not drawn in a third of the resamples
    figures = group_figures(targets, films(30)[1], ids(30), 0.5, Bootstrap(300))
    assert figures.auroc is not None
    assert figures.auroc_ci is None
    assert figures.undefined_resamples["auroc"] > 60
    assert figures.brier_ci is not None


def test_a_share_of_one_has_the_exact_interval_over_patients() -> None:
    targets = np.repeat([1, 0], 20)
    patients = np.repeat(ids(20), 2).tolist()  # two films each: ten patients of each class
    figures = group_figures(targets, np.repeat([0.9, 0.2], 20), patients, 0.5, Bootstrap(100))
    assert figures.exact_ci == ("sensitivity", "specificity", "accuracy")
    np.testing.assert_allclose(figures.sensitivity_ci, [0.025 ** (1 / 10), 1.0])
    np.testing.assert_allclose(figures.accuracy_ci, [0.025 ** (1 / 20), 1.0])
    assert (figures.auroc, figures.auroc_ci) == (1.0, None)  # every resample says 1, which is no interval


def test_the_exact_interval_is_the_one_of_clopper_and_pearson() -> None:
    for found, patients in ((0, 7), (1, 9), (5, 9), (9, 9)):
        known = binomtest(found, patients).proportion_ci(method="exact")
        np.testing.assert_allclose(exact_interval(found / patients, patients), [known.low, known.high], atol=1e-12)


def test_a_share_of_few_patients_has_the_exact_interval_too() -> None:
    sample = np.linspace(0, 1, 100)
    assert share_interval(0.5, sample, 9) == (exact_interval(0.5, 9), True)
    interval, exact = share_interval(0.5, sample, 10)
    np.testing.assert_allclose(interval or [], [0.025, 0.975])
    assert not exact
    assert share_interval(None, sample, 0) == (None, False)


def test_other_figures_of_few_patients_have_no_interval() -> None:
    assert percentiles(np.linspace(0, 1, 100), 9) is None
    assert percentiles(np.full(100, 0.3), 50) is None


def test_predictive_values_stand_at_the_prevalences_asked_for() -> None:
    targets = np.repeat([1, 0], [20, 30])
    probabilities = np.r_[np.repeat([0.9, 0.1], [18, 2]), np.repeat([0.1, 0.9], [24, 6])]  # 0.9 found, 0.8 cleared
    values = group_figures(targets, probabilities, ids(50), 0.5, Bootstrap(2000), [0.1]).predictive_values
    assert [(one.prevalence, one.own) for one in values] == [(0.4, True), (0.1, False)]
    assert values[0].ppv == pytest.approx(18 / 24)
    assert values[0].npv == pytest.approx(24 / 26)
    assert values[1].ppv == pytest.approx(90 / 270)
    assert values[1].npv == pytest.approx(720 / 730)
    for one in values:
        assert one.ppv_ci[0] < one.ppv < one.ppv_ci[1]
        assert one.npv_ci[0] < one.npv < one.npv_ci[1]


def test_the_interval_at_the_own_prevalence_is_that_of_true_calls_among_calls() -> None:
    targets, probabilities = films(60)
    own = group_figures(targets, probabilities, ids(60), 0.5, Bootstrap(300, 4), []).predictive_values[0]
    draws = np.random.default_rng(4).integers(0, 60, (300, 60))
    shares = [targets[draw][probabilities[draw] >= 0.5].mean() for draw in draws]
    np.testing.assert_allclose(own.ppv_ci, np.percentile(shares, [2.5, 97.5]), atol=1e-12)


def test_figures_of_any_group_are_strict_json() -> None:
    for targets in ([1], [0], [1, 1, 1], [1, 0], [0] * 30):
        probabilities = np.linspace(0, 1, len(targets))
        figures = group_figures(np.array(targets), probabilities, ids(len(targets)), 0.5, Bootstrap(100))
        assert read(GroupFigures, parse(to_json(figures))) == figures


def test_too_few_resamples_and_a_negative_seed_are_refused() -> None:
    with pytest.raises(TrainingError, match="99 resamples are too few"):
        Bootstrap(99)
    with pytest.raises(TrainingError, match="seed is -1"):
        Bootstrap(100, -1)


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Patients with 1 to 4 films, a shared part in each patient's logits; the truth is that of a normal model."""
    separation, shared, own, threshold = 1.6, 0.8, 0.6, 0.5
    spread = np.hypot(shared, own)
    truth = {
        "auroc": norm.cdf(separation / (spread * np.sqrt(2))),
        "sensitivity": norm.cdf(separation / 2 / spread),
        "specificity": norm.cdf(separation / 2 / spread),
    }
    rng = np.random.default_rng(11)
    held = dict.fromkeys(truth, 0)
    too_sure = dict.fromkeys(truth, 0)
    times = 300
    for _ in range(times):
        owner = np.repeat(np.arange(120), rng.integers(1, 5, 120))
        targets = rng.integers(0, 2, 120)[owner]
        logits = separation * (targets - 0.5) + shared * rng.normal(size=120)[owner] + own * rng.normal(size=len(owner))
        probabilities = 1 / (1 + np.exp(-logits))
        seed = int(rng.integers(1 << 30))
        for counts, patients in ((held, owner), (too_sure, np.arange(len(owner)))):
            found = group_figures(targets, probabilities, [str(i) for i in patients], threshold, Bootstrap(400, seed))
            for name, value in truth.items():
                low, high = found.named(name).interval
                counts[name] += low <= value <= high
    for name in truth:
        # Percentile intervals of 60 patients a class truly hold 93 to 95 % (long runs); 300 trials add 4 either way.
        assert 0.90 <= held[name] / times <= 0.98, (name, held)
        assert too_sure[name] < held[name], name  # films taken for patients of their own
    assert too_sure["auroc"] / times < 0.9
