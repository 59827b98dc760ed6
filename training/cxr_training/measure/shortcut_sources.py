"""How well a model's features tell the source of a film, and how a head does on a source it was not trained on.

A head is a linear layer on pooled features. If a linear model can tell the sources apart in those features, and the
sources differ in how many of their films show PNEUMONIA, a head can go by the source.

References
----------
Zech, Badgeley, Liu, Costa, Titano, Oermann (2018): Variable generalization performance of a deep learning model to
detect pneumonia in chest radiographs. PLoS Medicine 15(11):e1002683. The hospital could be told from the film, and
figures fell at hospitals that were not trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr.model.classes import STANDARD, Scheme
from cxr.predict import softmax
from cxr_training.data.records import Record
from cxr_training.fit.feature_rows import Features
from cxr_training.fit.head import train_head
from cxr_training.fit.settings import HeadSettings
from cxr_training.measure.intervals import Bootstrap, exact_interval
from cxr_training.measure.metrics import Floats, Targets
from cxr_training.measure.records import Figure, NoFigures, SourceFigures, SourceLeftOut, SourceNotLeftOut
from cxr_training.measure.shortcut_readings import fit_linear
from cxr_training.measure.shortcuts import Texts, auroc_figures, balanced_accuracy_figures

THRESHOLD = 0.5  # of a head that is not calibrated
NO_SOURCES = "the films name no source: a manifest.csv with a column source is needed"

Rows = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class FilmFeatures:
    """Films of one split with the model's pooled features of them, (N, C), under the plain view."""

    records: tuple[Record, ...]
    features: Features

    @property
    def targets(self) -> Targets:
        """(N,), class indices."""
        return np.array([record.target for record in self.records], dtype=np.int64)

    @property
    def positives(self) -> Targets:
        """(N,), 1 for a film of the positive group."""
        return np.array([record.is_positive for record in self.records], dtype=np.int64)

    @property
    def scheme(self) -> Scheme:
        """The classes and the positive group."""
        return self.records[0].scheme if self.records else STANDARD

    @property
    def sources(self) -> Texts:
        """(N,), empty where a film names none."""
        return sources_of(self.records)

    @property
    def patients(self) -> list[str]:
        """(N,), whose film each is."""
        return [record.patient_id for record in self.records]

    def where(self, rows: Rows) -> FilmFeatures:
        """Some of the films."""
        return FilmFeatures(
            tuple(record for record, keep in zip(self.records, rows, strict=True) if keep), self.features[rows]
        )


def sources_of(records: tuple[Record, ...]) -> Texts:
    """What each film says of its source, (N,); empty where it says nothing."""
    return np.array([record.extra.get("source") or "" for record in records], dtype=np.str_)


def source_alone(train: tuple[Record, ...], split: tuple[Record, ...]) -> Floats | None:
    """What a reader would say who knows a film's source and nothing of the film: (N,), or None with fewer than two.

    It is how many of that source's training films show PNEUMONIA; of all training films where the source is unknown.
    """
    known, scored = sources_of(train), sources_of(split)
    if len(set(scored.tolist()) - {""}) < 2:
        return None
    targets = np.array([record.is_positive for record in train])
    shares = {name: float(targets[known == name].mean()) for name in set(known.tolist()) - {""}}
    return np.array([shares.get(name, float(targets.mean())) for name in scored.tolist()])


def source_from_features(
    train: FilmFeatures, val: FilmFeatures, split: FilmFeatures, bootstrap: Bootstrap
) -> dict[str, SourceFigures | NoFigures]:
    """How well a linear model tells the source from the features, among ``all`` films and within each class.

    The model is fitted, and its strength chosen, among the same kind of films as it is measured on, so that within a
    class nothing of the label helps. Each source counts the same. Where the split lacks a source of the training films,
    the choice is among those that are there.

    Returns
    -------
    By ``all`` and by each class.
    """
    found: dict[str, SourceFigures | NoFigures] = {}
    for name, target in (("all", None), *((label, i) for i, label in enumerate(train.scheme.classes))):
        chosen = [
            part.where((part.sources != "") & (True if target is None else part.targets == target))
            for part in (train, val, split)
        ]
        found[name] = _source_among(*chosen, bootstrap=bootstrap, name=f"source, {name}")
    return found


def _source_among(
    train: FilmFeatures, val: FilmFeatures, split: FilmFeatures, *, bootstrap: Bootstrap, name: str
) -> SourceFigures | NoFigures:
    known = np.unique(train.sources)
    val = val.where(np.isin(val.sources, known))
    split = split.where(np.isin(split.sources, known))
    there = np.unique(split.sources)
    if len(there) < 2 or not val.records:
        lacking = f"{len(there)} of the sources of the training films" if len(there) < 2 else "no validation film"
        return NoFigures(f"{lacking} in question: two sources to tell apart and validation films are needed")
    fitted = fit_linear((train.features, train.sources), (val.features, val.sources), balanced=True, name=name)
    columns = np.flatnonzero(np.isin(fitted.classes, there))
    called = fitted.classes[columns][fitted.probabilities(split.features)[:, columns].argmax(axis=1)]
    return balanced_accuracy_figures(called, split.sources, split.patients, bootstrap, fitted.strength)


def leave_one_out(
    train: FilmFeatures, val: FilmFeatures, split: FilmFeatures, settings: HeadSettings, bootstrap: Bootstrap
) -> tuple[SourceLeftOut | SourceNotLeftOut, ...]:
    """For each source of the split, how a head does on it that was trained without it, beside one trained with it.

    Both heads are trained alike, on the plain view, each film counting the same. The best epoch of the first is picked
    on the other sources' validation films. Films that name no source could be of any, so the first head is not trained
    on them either.
    """
    found: list[SourceLeftOut | SourceNotLeftOut] = []
    everyone: Floats | None = None
    for source in sorted(set(split.sources.tolist()) - {""}):
        left_out = split.where(split.sources == source)
        counts = len(left_out.records), int(left_out.positives.sum()), len(set(left_out.patients))
        reason = _lacking(train, val, source)
        if reason is not None:
            found.append(SourceNotLeftOut(source, *counts, reason))
            continue
        if everyone is None:
            everyone = _trained(train, val, split, settings)
        others = [part.where(_not_of(part, source)) for part in (train, val)]
        alone = _trained(others[0], others[1], left_out, settings)
        with_it = everyone[split.sources == source]
        name, one, two, difference = _compared(left_out, alone, with_it, bootstrap)
        found.append(
            SourceLeftOut(
                source,
                *counts,
                reason=None,
                trained_on=tuple(sorted(set(others[0].sources.tolist()))),
                training_films_without=len(others[0].records),
                training_films_with=len(train.records),
                figure=name,
                without=one.value,
                without_ci=one.interval,
                with_=two.value,
                with_ci=two.interval,
                difference=difference.value,
                difference_ci=difference.interval,
            )
        )
    return tuple(found)


def _not_of(part: FilmFeatures, source: str) -> Rows:
    return np.asarray((part.sources != source) & (part.sources != ""))


def _lacking(train: FilmFeatures, val: FilmFeatures, source: str) -> str | None:
    if source not in train.sources:
        return "no training film is from it, so the model itself never saw it"
    for part, films in ((train, "training"), (val, "validation")):
        others = part.targets[_not_of(part, source)]
        for target, label in enumerate(train.scheme.classes):
            if target not in others:
                return f"the {films} films of other sources have none of {label}"
    return None


def _trained(train: FilmFeatures, val: FilmFeatures, scored: FilmFeatures, settings: HeadSettings) -> Floats:
    """Probabilities of the positive group, (N,), of the films scored by a head of these training films."""
    head = train_head([train.features], train.targets, val.features, val.targets, settings)
    weight, bias = head.weight.double().numpy(), head.bias.double().numpy()
    probabilities = softmax(scored.features.astype(np.float64) @ weight.T + bias, 1.0)
    return train.scheme.probability(probabilities)


def _compared(
    films: FilmFeatures, without: Floats, everyone: Floats, bootstrap: Bootstrap
) -> tuple[str, Figure, Figure, Figure]:
    """The name of what could be measured, what either head comes to, and the difference."""
    targets = films.positives
    if 0 < targets.sum() < len(targets):
        readings = {"without": without, "with": everyone}
        found = auroc_figures(readings, targets, films.patients, bootstrap, "with")
        one, two = (found[key].named("auroc") for key in readings)
        return "auroc", one, two, found["without"].named("difference")
    patients = len(set(films.patients))
    shares = [float(((p >= THRESHOLD) == targets).mean()) for p in (without, everyone)]
    one, two = (Figure(share, exact_interval(share, patients), exact=True) for share in shares)
    return "sensitivity" if targets.all() else "specificity", one, two, Figure(shares[0] - shares[1], None)
