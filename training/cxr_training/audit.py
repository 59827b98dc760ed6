"""What a model owes to anything but the lungs, and what becomes of its figures on other sources.

Reads each film as 32 x 32 grey values, by its border alone, and through the model with the centre or the border blanked
out; asks whether the model's features tell which source a film is from, and how a head does on a source it was not
trained on. Leaves audit.json, audit.md, audit.html (one file that opens anywhere), audit-readings.csv and pictures.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxr.films.film import Pixels
from cxr.json_records import to_json
from cxr.model.preprocess import to_tensor
from cxr.model.spec import ModelSpec, Preprocessing
from cxr.predict import Predictor
from cxr_training.data.records import Films, Record, all_synthetic
from cxr_training.fit.features import FeatureCache, Filling, View
from cxr_training.fit.settings import HeadSettings
from cxr_training.measure.intervals import STANDARD, Bootstrap
from cxr_training.measure.metrics import Floats, Targets
from cxr_training.measure.records import Audit
from cxr_training.measure.scoring import ReadFilm, read_films, scored_films, unchanged
from cxr_training.measure.shortcut_readings import (
    border_blanked,
    border_values,
    centre_blanked,
    coarse_values,
    fit_linear,
    squashed,
)
from cxr_training.measure.shortcut_sources import (
    NO_SOURCES,
    FilmFeatures,
    leave_one_out,
    source_alone,
    source_from_features,
    sources_of,
)
from cxr_training.measure.shortcuts import measure
from cxr_training.pages.audit_page import write_audit_page
from cxr_training.pages.audit_words import plain_words
from cxr_training.runs import Training
from pneumoscan.files import write_text, write_whole

Parts = Mapping[str, tuple[Record, ...]]  # the films by train, val and split


def audit(
    predictor: Predictor,
    films: Films,
    out: Path,
    *,
    cache: Path,
    split: str = "test",
    bootstrap: Bootstrap = STANDARD,
) -> Audit:
    """Take all readings and write `audit.json`, the page, the readings of each film and the pictures.

    Parameters
    ----------
    films
        Training films are fitted on, validation films choose; those of `split` are only measured on.
    cache
        Where the features of training lie.

    Returns
    -------
    The content of `audit.json`.

    Raises
    ------
    TrainingError
        If a split lacks a class or a film cannot be decoded.
    """
    spec = predictor.spec
    parts = {"train": films.of("train"), "val": films.of("val"), "split": films.of(split)}
    records = parts["split"]
    fillings = _fillings(predictor, parts, cache)
    grids = {part: _grids(parts[part], spec.preprocessing, fillings.get(part)) for part in ("train", "val")}
    answers = _read_split(predictor, records, fillings.get("split"))
    targets = {part: np.array([record.is_positive for record in parts[part]], dtype=np.int64) for part in grids}
    readings, strengths = _linear_readings(grids, targets, answers.grids)
    readings |= answers.readings
    alone = source_alone(parts["train"], records)
    readings |= {} if alone is None else {"source_alone": alone}
    found = Audit(
        split=split,
        arch=spec.arch,
        pretrained=spec.pretrained,
        weights_sha256=spec.weights_sha256,
        data_sha256=films.digest(),
        trained_on_sha256=spec.data_sha256,
        backbone_frozen=Training.of(spec).frozen,
        synthetic=all_synthetic(records),
        bootstrap=bootstrap.record,
        classes=spec.classes,
        positive=spec.positive,
        sources=tuple(sorted(set(sources_of(records).tolist()) - {""})),
        strengths=strengths,
        readings=measure(readings, records, bootstrap),
        **_by_source(predictor, parts, fillings, bootstrap),
    )
    found = dataclasses.replace(found, plain_words=plain_words(found))
    _write(out, found, records, readings, answers.example)
    return found


def _fillings(predictor: Predictor, parts: Parts, cache: Path) -> dict[str, Filling]:
    """The model's features of the films by train, val and split; none where there are no two sources to ask about."""
    if len(_known_sources(parts)) < 2:
        return {}
    stored = FeatureCache(cache, predictor.network, predictor.spec.preprocessing, predictor.device)
    return {part: stored.filling(records, View()) for part, records in parts.items()}


def _known_sources(parts: Parts) -> set[str]:
    return set(sources_of(parts["split"]).tolist()) - {""}


def _grids(records: Sequence[Record], preprocessing: Preprocessing, filling: Filling | None) -> Pixels:
    """Films as `squashed` gives them: (N, 64, 64) uint8; their features are completed on the way."""
    grids: list[Pixels] = []
    for films in read_films(records, preprocessing, name=f"{records[0].split}, grey values"):
        for film in films:
            grids.append(squashed(film.pixels))
            _fill(filling, film, preprocessing)
    return np.stack(grids)


def _fill(filling: Filling | None, film: ReadFilm, preprocessing: Preprocessing) -> None:
    if filling is not None and filling.lacks(film.record):
        filling.add(film.record, to_tensor(film.input, preprocessing))


@dataclass(frozen=True, slots=True)
class _SplitAnswers:
    """What one pass over the films that are measured on gives.

    Parameters
    ----------
    readings
        The model's probabilities of PNEUMONIA, (N,), on the films as they are and with a part blanked out.
    grids
        (N, 64, 64) uint8, as `squashed` gives them.
    example
        (H, W) uint8, the film that shows what each reading sees.
    """

    readings: dict[str, Floats]
    grids: Pixels
    example: Pixels


def _read_split(predictor: Predictor, records: Sequence[Record], filling: Filling | None) -> _SplitAnswers:
    changes = {"model": unchanged, "model_centre_blanked": centre_blanked, "model_border_blanked": border_blanked}
    first = min((record for record in records if record.is_positive), key=lambda record: record.name)
    readings: dict[str, list[float]] = {name: [] for name in changes}
    grids: list[Pixels] = []
    for film in scored_films(predictor, records, changes=tuple(changes.values())):
        for reading, prediction in zip(readings.values(), film.predictions, strict=True):
            reading.append(prediction.probability)
        grids.append(squashed(film.pixels))
        _fill(filling, film, predictor.spec.preprocessing)
        if film.record is first:
            example = film.pixels
    return _SplitAnswers({name: np.array(values) for name, values in readings.items()}, np.stack(grids), example)


def _linear_readings(
    grids: Mapping[str, Pixels], targets: Mapping[str, Targets], measured: Pixels
) -> tuple[dict[str, Floats], dict[str, float]]:
    """Probabilities of PNEUMONIA by linear models that see grey values, and the strength chosen for each.

    Parameters
    ----------
    grids, targets
        By train and val.
    measured
        The grids of the films that are measured on.
    """
    readings: dict[str, Floats] = {}
    strengths: dict[str, float] = {}
    for name, values_of in (("pixels", coarse_values), ("border", border_values)):
        train, val = ((values_of(grids[part]), targets[part]) for part in ("train", "val"))
        fitted = fit_linear(train, val, name=name)
        readings[name] = fitted.probabilities(values_of(measured))[:, 1]
        strengths[name] = fitted.strength
    return readings, strengths


def _by_source(
    predictor: Predictor, parts: Parts, fillings: Mapping[str, Filling], bootstrap: Bootstrap
) -> dict[str, Any]:
    """What needs the model's features and two sources; None and the reason where there are not two."""
    found: dict[str, Any] = {}
    questions = ("source_from_features", "leave_one_source_out")
    if not fillings:
        known = _known_sources(parts)
        reason = NO_SOURCES if not known else f"all films are from one source, {min(known)}"
        for question in questions:
            found |= {question: None, f"{question}_reason": reason}
        return found
    train, val, split = (FilmFeatures(records, fillings[part].finish().array()) for part, records in parts.items())
    from_features = source_from_features(train, val, split, bootstrap)
    settings = head_settings(predictor.spec)
    left_out = leave_one_out(train, val, split, settings, bootstrap)
    for question, answer in zip(questions, (from_features, left_out), strict=True):
        found |= {question: answer, f"{question}_reason": None}
    return found


def head_settings(spec: ModelSpec) -> HeadSettings:
    """How the model's own head was trained; the defaults for what the spec does not say."""
    known = {field.name for field in dataclasses.fields(HeadSettings)}
    stored = spec.training.get("head") or {}
    settings = HeadSettings(**{name: value for name, value in stored.items() if name in known})
    return dataclasses.replace(settings, seed=int(spec.training.get("seed", settings.seed)))


def _write(out: Path, found: Audit, records: Sequence[Record], readings: Mapping[str, Floats], example: Pixels) -> None:
    """The pictures first, `audit.json` last: what stands there is whole."""
    write_whole(out / "audit-readings.csv", lambda path: _write_readings(path, records, readings))
    write_audit_page(out, found, example)
    write_text(out / "audit.json", to_json(found))


def _write_readings(path: Path, records: Sequence[Record], readings: Mapping[str, Floats]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["file", "label", *readings])
        for record, *values in zip(records, *readings.values(), strict=True):
            writer.writerow([record.name, record.label, *(f"{value:.6f}" for value in values)])
