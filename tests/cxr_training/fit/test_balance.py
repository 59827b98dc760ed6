"""How much each film counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cxr_training.data.records import Record
from cxr_training.errors import TrainingError
from cxr_training.fit.head import Weighting, film_weights, train_head, weighted_loss
from cxr_training.fit.settings import HeadSettings


def film(label: str, source: str) -> Record:
    return Record(Path("none.png"), "none.png", label, "p", "train", "0" * 64, {"source": source})


# six films of one collection, two of another
FILMS = [film("NORMAL", "big")] * 2 + [film("PNEUMONIA", "big")] * 4 + [film("PNEUMONIA", "small")] * 2


def test_without_balance_every_film_counts_the_same() -> None:
    assert film_weights(FILMS, "none").tolist() == [1.0] * 8


def test_classes_weigh_the_same_together() -> None:
    assert film_weights(FILMS, "class").tolist() == pytest.approx([2.0] * 2 + [8 / 12] * 6)


def test_sources_weigh_the_same_within_a_class() -> None:
    # a half for NORMAL on 2 films; a quarter for each source's PNEUMONIA, on 4 and on 2; times 8 films
    assert film_weights(FILMS, "source").tolist() == pytest.approx([2.0] * 2 + [0.5] * 4 + [1.0] * 2)


def test_sources_cannot_be_balanced_where_no_film_has_one() -> None:
    with pytest.raises(TrainingError, match="give the manifest that column"):
        film_weights([film("NORMAL", ""), film("PNEUMONIA", "")], "source")


def test_a_film_of_weight_two_counts_as_two_films() -> None:
    rng = np.random.default_rng(0)
    logits, targets = torch.from_numpy(rng.normal(size=(6, 2))), torch.from_numpy(rng.integers(0, 2, 6))
    twice = torch.tensor([2.0, 1, 1, 2, 1, 1])
    rows = [0, 0, 1, 2, 3, 3, 4, 5]
    expected = torch.nn.functional.cross_entropy(logits[rows], targets[rows])
    assert float(weighted_loss(logits, targets, twice)) == pytest.approx(float(expected))


def test_class_weights_move_the_head_towards_the_rare_class() -> None:
    rng = np.random.default_rng(1)
    targets = (np.arange(200) < 20).astype(np.int64)
    features = (rng.normal(size=(200, 5)) + 0.8 * targets[:, None]).astype(np.float32)
    records = [film("PNEUMONIA" if target else "NORMAL", "one") for target in targets]
    found = {}
    for balance in ("none", "class"):
        weights = film_weights(records, balance)
        head = train_head([features], targets, features, targets, HeadSettings(), weights=Weighting(weights, weights))
        called = (torch.from_numpy(features) @ head.weight.T + head.bias).argmax(dim=1).numpy()
        found[balance] = float((called[targets == 1] == 1).mean())
    assert found["class"] > found["none"] + 0.2


def labelled(label: str, label_source: str) -> Record:
    return Record(Path("none.png"), "none.png", label, "p", "train", "0" * 64, {"label_source": label_source})


def test_a_label_counts_by_who_gave_it_whatever_its_class() -> None:
    sources = ("rsna-radiologist", "nih-nlp", "kermany-physician", "pcr-patient-level", "", "Text mining")
    records = [labelled(label, source) for label in ("NORMAL", "PNEUMONIA") for source in sources]
    weights = film_weights(records, "none", {"radiologist": 6.0, "text-mined": 0.5, "pcr": 2.0})
    expected = np.array([6.0, 0.5, 1.0, 2.0, 1.0, 0.5] * 2)
    np.testing.assert_allclose(weights, expected / expected.mean(), rtol=1e-6)


def test_trust_multiplies_what_balances_and_one_kind_alone_changes_nothing() -> None:
    assert film_weights(FILMS, "class", {"radiologist": 8.0}).tolist() == film_weights(FILMS, "class").tolist()
    mixed = [labelled("NORMAL", "nlp"), labelled("PNEUMONIA", "nlp"), labelled("PNEUMONIA", "radiologist")]
    assert film_weights(mixed, "class", {"radiologist": 3.0}).tolist() == pytest.approx([6 / 6, 3 / 6, 9 / 6])
