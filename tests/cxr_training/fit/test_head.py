"""The head: what the well-known tutorial gets wrong, right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from cxr_training.errors import TrainingError
from cxr_training.fit.features import Features
from cxr_training.fit.head import Targets, format_elapsed, train_head
from cxr_training.fit.settings import HeadSettings


def problem(films: int = 300, seed: int = 0) -> tuple[Features, Targets]:
    """Two overlapping classes in twenty features on very different scales."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, films)
    features = rng.normal(size=(films, 20))
    features[:, :5] += 0.7 * targets[:, None]
    return (features * np.logspace(-2, 2, 20) + 3).astype(np.float32), targets


TRAIN, TRAIN_TARGETS = problem()
VAL, VAL_TARGETS = problem(200, seed=1)


def probabilities(weight: torch.Tensor, bias: torch.Tensor, features: Features) -> np.ndarray:
    return torch.softmax(torch.from_numpy(features) @ weight.T + bias, dim=1)[:, 1].numpy()


def test_the_head_is_as_good_as_logistic_regression() -> None:
    head = train_head([TRAIN], TRAIN_TARGETS, VAL, VAL_TARGETS, HeadSettings())
    scaler = StandardScaler().fit(TRAIN)
    floor = LogisticRegression(C=0.1).fit(scaler.transform(TRAIN), TRAIN_TARGETS)
    floor_loss = log_loss(VAL_TARGETS, floor.predict_proba(scaler.transform(VAL))[:, 1])
    assert log_loss(VAL_TARGETS, probabilities(head.weight, head.bias, VAL)) < floor_loss + 0.01


def test_the_epoch_with_the_best_validation_loss_is_kept() -> None:
    settings = HeadSettings(epochs=60, learning_rate=0.05, weight_decay=0)
    head = train_head([TRAIN[:40]], TRAIN_TARGETS[:40], VAL, VAL_TARGETS, settings)
    losses = [epoch.val_loss for epoch in head.history]
    assert head.best_epoch == int(np.argmin(losses)) + 1 < len(losses)
    kept = log_loss(VAL_TARGETS, probabilities(head.weight, head.bias, VAL))
    assert kept == pytest.approx(min(losses), abs=1e-4)


def test_the_learning_rate_is_whole_for_a_third_of_the_epochs() -> None:
    settings = HeadSettings(epochs=30)
    history = train_head([TRAIN], TRAIN_TARGETS, VAL, VAL_TARGETS, settings).history
    rates = [epoch.learning_rate / settings.learning_rate for epoch in history]
    assert rates[:10] == [1.0] * 10
    assert rates[3] == 1.0  # the tutorial's is gone after a tenth of the epochs
    assert rates[10] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.01)


def test_the_scheduler_steps_after_the_optimizer_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def noting(cls: type, name: str) -> Callable[..., Any]:
        step = cls.step  # type: ignore[attr-defined]
        return lambda self, *given, **named: (calls.append(name), step(self, *given, **named))[1]

    for cls in (torch.optim.Adam, torch.optim.lr_scheduler.StepLR):
        monkeypatch.setattr(cls, "step", noting(cls, cls.__name__))
    train_head([TRAIN], TRAIN_TARGETS, VAL, VAL_TARGETS, HeadSettings(epochs=3))
    after_start = calls[1:] if calls[0] == "StepLR" else calls  # a scheduler steps once when it is made
    steps = len([name for name in after_start if name == "Adam"]) // 3
    assert after_start == (["Adam"] * steps + ["StepLR"]) * 3


def test_accuracy_on_train_is_measured_on_unaugmented_films() -> None:
    noise = np.random.default_rng(0).normal(size=TRAIN.shape).astype(np.float32)
    with_view = train_head([TRAIN, noise], TRAIN_TARGETS, VAL, VAL_TARGETS, HeadSettings())
    last = with_view.history[-1]
    final = train_head([TRAIN, noise], TRAIN_TARGETS, TRAIN, TRAIN_TARGETS, HeadSettings()).history[-1]
    assert last.train_accuracy == final.train_accuracy == final.val_accuracy
    assert last.train_loss == pytest.approx(final.val_loss)


def test_the_same_seed_gives_the_same_head_and_another_seed_another() -> None:
    heads = [
        train_head([TRAIN], TRAIN_TARGETS, VAL, VAL_TARGETS, HeadSettings(epochs=5, seed=seed)) for seed in (1, 1, 2)
    ]
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert heads[0].history == heads[1].history
    assert not torch.equal(heads[0].weight, heads[2].weight)


def test_features_that_are_no_numbers_do_not_make_a_head() -> None:
    broken = TRAIN.copy()
    broken[7, 3] = np.inf
    with pytest.raises(TrainingError, match="never a number"):
        train_head([broken], TRAIN_TARGETS, VAL, VAL_TARGETS, HeadSettings(epochs=2))


def test_a_feature_that_never_changes_does_no_harm() -> None:
    dead = np.concatenate([TRAIN, np.zeros((len(TRAIN), 1), np.float32)], axis=1)
    dead_val = np.concatenate([VAL, np.ones((len(VAL), 1), np.float32)], axis=1)
    head = train_head([dead], TRAIN_TARGETS, dead_val, VAL_TARGETS, HeadSettings(epochs=5))
    assert torch.isfinite(head.weight).all()
    assert head.weight[:, -1].abs().max() < 0.1


def test_training_gives_back_the_threads_it_took() -> None:
    before = torch.get_num_threads()
    train_head([TRAIN], TRAIN_TARGETS, VAL, VAL_TARGETS, HeadSettings(epochs=1))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (7.44, "7.4 s"),
        (59.99, "60.0 s"),
        (125, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (3725, "1 h 02 min"),
    ],
)
def test_elapsed_time_is_in_minutes_and_seconds(seconds: float, text: str) -> None:
    assert format_elapsed(seconds) == text
