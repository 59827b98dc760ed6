"""Sources in the features, and heads on sources they were not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr.model.classes import CLASSES
from cxr_training.data.records import Record
from cxr_training.fit.features import Features
from cxr_training.fit.head import TrainedHead, train_head
from cxr_training.fit.settings import HeadSettings
from cxr_training.measure import shortcut_sources as audit_sources
from cxr_training.measure.intervals import Bootstrap
from cxr_training.measure.records import NoFigures, SourceFigures, SourceNotLeftOut
from cxr_training.measure.shortcut_sources import FilmFeatures, leave_one_out, source_alone, source_from_features
from cxr_training.measure.shortcuts import ABOVE, UNCLEAR

BOOTSTRAP = Bootstrap(300, 2)
SETTINGS = HeadSettings(epochs=15)
C = 12  # features; the first is the label's, the second the source's, the third says which source to a spy


def record(split: str, number: int, label: str, source: str) -> Record:
    name = f"{split}-{number}"
    return Record(Path(name), name, label, name, split, name, {"source": source} if source else {})


def seen(split: str, counts: dict[tuple[str, str], int], *, apart: float = 0.0, signal: float = 3.0) -> FilmFeatures:
    """Films with made-up features, some of each source and label.

    The label shifts the first feature, and the source the second by `apart`.
    """
    rng = np.random.default_rng(len(split))
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    records = tuple(record(split, i, label, source) for i, (source, label) in enumerate(kinds))
    features = rng.normal(0, 1, (len(records), C)).astype(np.float32)
    features[:, 0] += signal * np.array([one.target for one in records])
    features[:, 1] += apart * np.array([one.extra.get("source") == "two" for one in records])
    return FilmFeatures(records, features)


def both(count: int, *sources: str) -> dict[tuple[str, str], int]:
    return {(source, label): count for source in sources for label in CLASSES}


def told(apart: float) -> dict[str, SourceFigures | NoFigures]:
    parts = [seen(split, both(40, "one", "two"), apart=apart) for split in ("train", "val", "test")]
    return source_from_features(*parts, BOOTSTRAP)


def test_a_source_that_shows_in_the_features_is_told_within_each_class_too() -> None:
    found = told(8.0)
    for name in ("all", *CLASSES):
        assert found[name].balanced_accuracy > 0.98
        assert found[name].verdict == ABOVE
        assert found[name].sources == ("one", "two")
    assert found["all"].films == 160
    assert found["NORMAL"].films == 80


def test_sources_alike_are_told_no_better_than_chance() -> None:
    found = told(0.0)
    assert {found[name].verdict for name in found} == {UNCLEAR}
    assert found["all"].balanced_accuracy == pytest.approx(0.5, abs=0.1)


def test_what_tells_sources_by_their_labels_alone_is_nothing_within_a_class() -> None:
    """The features know the label, source two is mostly PNEUMONIA: over all films that tells the source."""
    mixed = {("one", "NORMAL"): 80, ("one", "PNEUMONIA"): 20, ("two", "NORMAL"): 20, ("two", "PNEUMONIA"): 80}
    parts = [seen(split, mixed, signal=6.0) for split in ("train", "val", "test")]
    found = source_from_features(*parts, BOOTSTRAP)
    assert found["all"].balanced_accuracy == pytest.approx(0.8, abs=0.06)
    assert found["NORMAL"].verdict == UNCLEAR
    assert found["PNEUMONIA"].verdict == UNCLEAR


def test_a_class_of_one_source_has_a_reason_instead_of_a_figure() -> None:
    counts = both(20, "one") | {("two", "PNEUMONIA"): 20}
    parts = [seen(split, counts, apart=8.0) for split in ("train", "val", "test")]
    found = source_from_features(*parts, BOOTSTRAP)
    assert isinstance(found["NORMAL"], NoFigures)
    assert "two sources" in found["NORMAL"].reason
    assert found["PNEUMONIA"].balanced_accuracy > 0.95


def test_a_source_that_only_the_measured_films_have_is_left_out() -> None:
    train, val = (seen(split, both(30, "one", "two"), apart=8.0) for split in ("train", "val"))
    split = seen("test", both(20, "one", "two", "three"), apart=8.0)
    found = source_from_features(train, val, split, BOOTSTRAP)
    assert found["all"].sources == ("one", "two")
    assert found["all"].films == 80


class Spy:
    """Stands in for `train_head` and keeps what it was given."""

    def __init__(self, films: dict[bytes, Record]) -> None:
        self.films = films
        self.trained: list[list[Record]] = []
        self.chosen: list[list[Record]] = []

    def __call__(self, views: list[Features], *arguments: Any, **named: Any) -> TrainedHead:
        assert len(views) == 1
        self.trained.append([self.films[row.tobytes()] for row in views[0]])
        self.chosen.append([self.films[row.tobytes()] for row in arguments[1]])
        return train_head(views, *arguments, **named)


def test_a_head_is_never_trained_or_chosen_on_the_source_that_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = both(15, "one", "two", "three") | {("", "NORMAL"): 5, ("", "PNEUMONIA"): 5}
    parts = [seen(split, counts) for split in ("train", "val", "test")]
    films = {row.tobytes(): one for part in parts for one, row in zip(part.records, part.features, strict=True)}
    spy = Spy(films)
    monkeypatch.setattr(audit_sources, "train_head", spy)
    rows = leave_one_out(*parts, SETTINGS, BOOTSTRAP)
    assert [row.source for row in rows] == ["one", "three", "two"]
    assert len(spy.trained) == 4  # one head on all films, then one without each source
    assert len(spy.trained[0]) == len(parts[0].records)
    for row, trained, chosen in zip(rows, spy.trained[1:], spy.chosen[1:], strict=True):
        for split, given in (("train", trained), ("val", chosen)):
            assert {one.split for one in given} == {split}
            assert {one.extra.get("source") for one in given} == {"one", "two", "three"} - {row.source}
            assert len(given) == 60
        assert (row.training_films_without, row.training_films_with) == (60, 100)
        assert row.trained_on == tuple(sorted({"one", "two", "three"} - {row.source}))
    assert all(one.split != "test" for given in spy.trained + spy.chosen for one in given)


def test_a_head_that_goes_by_the_source_fails_on_a_source_with_the_opposite_habit() -> None:
    """The second feature is the label in sources one and two and its opposite in three, where it is the only signal."""
    parts = [seen(split, both(30, "one", "two", "three"), signal=0.0) for split in ("train", "val", "test")]
    for part in parts:
        turned = np.where(part.sources == "three", -1.0, 1.0)
        part.features[:, 1] += (6.0 * turned * (part.targets - 0.5)).astype(np.float32)
    found = {row.source: row for row in leave_one_out(*parts, SETTINGS, BOOTSTRAP)}
    assert found["three"].figure == "auroc"
    assert found["three"].without < 0.1
    row = found["three"]
    assert row.difference == pytest.approx(row.without - row.with_)


def test_a_source_of_one_class_has_its_sensitivity_with_the_exact_interval() -> None:
    counts = both(30, "one") | {("two", "PNEUMONIA"): 12}
    parts = [seen(split, counts, signal=20.0) for split in ("train", "val", "test")]
    one, two = leave_one_out(*parts, SETTINGS, BOOTSTRAP)
    assert one.reason == "the training films of other sources have none of NORMAL"
    assert isinstance(one, SourceNotLeftOut)
    assert two.figure == "sensitivity"
    assert two.without == 1.0
    assert two.without_ci == pytest.approx([0.025 ** (1 / 12), 1.0])  # Clopper and Pearson, 12 of 12
    assert two.difference == 0.0


def test_a_source_without_training_or_validation_films_to_do_without_says_so() -> None:
    train = seen("train", both(20, "one", "two"))
    val = seen("val", both(20, "one") | {("two", "NORMAL"): 20})
    split = seen("test", both(20, "one", "two", "new"))
    found = {row.source: row for row in leave_one_out(train, val, split, SETTINGS, BOOTSTRAP)}
    assert "no training film is from it" in found["new"].reason
    assert found["one"].reason == "the validation films of other sources have none of PNEUMONIA"
    assert found["two"].reason is None


def test_the_source_alone_says_the_share_of_its_training_films() -> None:
    """One in four of source one, three in four of two, half of all."""
    kinds = {("one", "NORMAL"): 3, ("one", "PNEUMONIA"): 1, ("two", "NORMAL"): 1, ("two", "PNEUMONIA"): 3}
    asked = seen("test", {("one", "NORMAL"): 1, ("two", "NORMAL"): 1, ("", "NORMAL"): 1, ("new", "NORMAL"): 1}).records
    readings = source_alone(seen("train", kinds).records, asked)
    assert readings is not None
    assert readings.tolist() == [0.25, 0.75, 0.5, 0.5]
    assert source_alone(seen("train", kinds).records, asked[:1]) is None
