"""Measure an exported model, or a packed archive, on films it has not seen.

Scores with the same `Predictor` that serves. With --archive the archive is unpacked and its own code does the scoring.
Leaves metrics.json, predictions.csv, report.html (one file that opens anywhere), report.md, errors.md and pictures.
Every figure has a 95 % interval by a bootstrap over patients. Where the data folder has boxes around opacities, the
heat maps are held against them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

import cxr
from cxr.films.film import Pixels
from cxr.films.frontal import Verdict
from cxr.json_records import to_json
from cxr.model.classes import Scheme
from cxr.model.spec import ModelSpec
from cxr.predict import Prediction, Predictor
from cxr_training.data.boxes import NO_BOXES, BoxedFilm, KeptBoxes, boxed_film, load_boxes
from cxr_training.data.groups import groups_of
from cxr_training.data.records import IGNORED_LABEL, Record, all_synthetic, load_films
from cxr_training.errors import TrainingError
from cxr_training.fit.screen import verdict_counts
from cxr_training.measure.curves import bands, reliability
from cxr_training.measure.intervals import STANDARD, Bootstrap, class_figures, group_figures
from cxr_training.measure.localisation import evidence_in_boxes, localisation_figures, maps_on_boxes
from cxr_training.measure.metrics import Floats, Targets
from cxr_training.measure.records import PREVALENCES, GroupFigures, Metrics, Screened
from cxr_training.measure.scoring import KeptFilms, ScoredFilm, score, scored_films
from cxr_training.pages.figures import plot_confusion, plot_precision, plot_reliability, plot_roc
from cxr_training.pages.films import MOST_ERRORS, MOST_ON_BOXES, at_shown_size, draw_errors, draw_localisation
from cxr_training.pages.page import figure
from cxr_training.pages.report import TITLES, write_report
from cxr_training.runs import PREDICTIONS
from pneumoscan.files import write_bytes, write_text

POSITIVE: Final = "probability_positive"  # of the group, in predictions.csv
_ARCHIVE_CODE: Final = "PNEUMOSCAN_ARCHIVE_CODE"  # set for the process that runs an archive's own code


def evaluate(
    predictor: Predictor,
    records: Sequence[Record],
    out: Path,
    *,
    boxes: KeptBoxes = NO_BOXES,
    others: Sequence[Record] = (),
    bootstrap: Bootstrap = STANDARD,
    prevalences: Sequence[float] = PREVALENCES,
) -> Metrics:
    """Score films and write `metrics.json`, `predictions.csv`, the report, the pages with films and figures.

    Parameters
    ----------
    boxes
        Of the films' data folder, as `cxr_training.data.boxes.load_boxes` gives them.
    others
        Films labelled OTHER, which count as negative in a comparison of their own.

    Returns
    -------
    The content of `metrics.json`.

    Raises
    ------
    TrainingError
        If a prevalence is none, a film cannot be decoded, or its boxes do not lie on it.
    """
    for prevalence in prevalences:
        if not 0.0 < prevalence < 1.0:
            raise TrainingError(f"prevalence is {prevalence:g}: a share above 0 and below 1")
    spec = predictor.spec
    predictions: list[Prediction] = []
    boxed: list[BoxedFilm | None] = []
    verdicts: list[Verdict] = []
    shown = _ShownFilms(spec.threshold)
    for place, film in enumerate(scored_films(predictor, records)):
        predictions.append(film.prediction)
        boxed.append(boxed_film(boxes, film.record, *film.pixels.shape))
        if spec.screen:
            verdicts.append(spec.screen.judge(film.pixels))
        shown.add(place, film, boxed[-1])
    scheme = spec.scheme
    targets = np.array([record.is_positive for record in records], dtype=np.int64)
    probabilities = np.array([prediction.probability for prediction in predictions])
    classes = np.array([record.target for record in records], dtype=np.int64)
    called = np.array([scheme.classes.index(prediction.label) for prediction in predictions], dtype=np.int64)
    patients = [record.patient_id for record in records]
    metrics = summarise(spec, records, targets, probabilities, bootstrap, prevalences)
    on_boxes = maps_on_boxes(boxed, predictions)
    metrics = replace(
        metrics,
        screen=Screened(**verdict_counts(verdicts)) if spec.screen else None,
        localisation=localisation_figures(on_boxes, boxed, records, boxes.kept_in, bootstrap),
        everything_else=against_everything_else(
            [*records, *others],
            np.append(probabilities, [one.probability for one in score(predictor, others)] if others else []),
            spec.threshold,
            bootstrap,
            prevalences,
        ),
        classes=None
        if scheme.is_standard
        else class_figures(
            classes, called, np.stack([one.probabilities for one in predictions]), patients, scheme, bootstrap
        ),
    )
    table = _predictions(records, predictions, scheme)
    metrics = replace(metrics, predictions_sha256=hashlib.sha256(table).hexdigest())
    write_bytes(out / PREDICTIONS, table)
    _draw(out, targets, probabilities, patients, spec, bootstrap, metrics.overall)
    plot_confusion(out / "confusion.png", classes, called, spec.threshold, scheme)
    errors = draw_errors(out, records, predictions, spec.threshold, spec.cam_scale, shown.by_name())
    constant = predictions[0].explain("contrast").bias
    extremes = draw_localisation(out, on_boxes, spec.cam_scale, shown.by_name())
    write_report(out, spec, metrics, constant, errors, extremes)
    write_text(out / "metrics.json", to_json(metrics))
    return metrics


class _ShownFilms:
    """The films of a pass that the pages may show: errors by their confidence, films with boxes by their evidence."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._missed, self._alarmed = (KeptFilms(MOST_ERRORS, at_shown_size) for _ in range(2))
        self._highest, self._lowest = (KeptFilms(MOST_ON_BOXES, at_shown_size) for _ in range(2))

    def add(self, place: int, film: ScoredFilm, boxed: BoxedFilm | None) -> None:
        """A film with its place in the pass, by which those alike are ordered."""
        probability = film.prediction.probability
        called = probability >= self._threshold
        if film.record.is_positive and not called:
            self._missed.offer((math.inf if math.isnan(probability) else probability, place), film)
        elif called and not film.record.is_positive:
            self._alarmed.offer((-probability, -place), film)
        if boxed and film.record.is_positive:
            evidence = evidence_in_boxes(boxed, film.prediction)
            self._highest.offer((-evidence, -place), film)
            self._lowest.offer((evidence, place), film)

    def by_name(self) -> dict[str, Pixels]:
        """The films at the size they are shown with."""
        kept = (self._missed, self._alarmed, self._highest, self._lowest)
        return {name: pixels for films in kept for name, pixels in films.by_name().items()}


def _draw(
    out: Path,
    targets: Targets,
    probabilities: Floats,
    patients: Sequence[str],
    spec: ModelSpec,
    bootstrap: Bootstrap,
    overall: GroupFigures,
) -> None:
    threshold = spec.threshold
    roc, precision = bands(targets, probabilities, patients, bootstrap) or (None, None)
    labels = {name: f"{TITLES[name]} {figure(overall.named(name))}" for name in ("auroc", "auprc")}
    plot_roc(out / "roc.png", targets, probabilities, threshold, labels["auroc"], roc)
    plot_precision(out / "pr.png", targets, probabilities, threshold, labels["auprc"], precision)
    bins = reliability(targets, probabilities, patients, bootstrap.weights(patients))
    plot_reliability(out / "reliability.png", targets, probabilities, threshold, bins, spec.scheme)


def summarise(
    spec: ModelSpec,
    records: Sequence[Record],
    targets: Targets,
    probabilities: Floats,
    bootstrap: Bootstrap = STANDARD,
    prevalences: Sequence[float] = PREVALENCES,
) -> Metrics:
    """The figures over all films and for each group the manifest's columns make, with their intervals."""
    patients = np.array([record.patient_id for record in records])

    def figures(rows: npt.NDArray[np.bool_]) -> GroupFigures:
        chosen = targets[rows], probabilities[rows], patients[rows].tolist()
        return group_figures(*chosen, spec.threshold, bootstrap, prevalences)

    return Metrics(
        split=records[0].split,
        arch=spec.arch,
        pretrained=spec.pretrained,
        weights_sha256=spec.weights_sha256,
        threshold=spec.threshold,
        operating_point=spec.operating_point,
        synthetic=all_synthetic(records),
        bootstrap=bootstrap.record,
        overall=figures(np.ones(len(records), dtype=np.bool_)),
        groups={name: figures(rows) for name, rows in groups_of(records).items()},
    )


def against_everything_else(
    records: Sequence[Record],
    probabilities: Floats,
    threshold: float,
    bootstrap: Bootstrap = STANDARD,
    prevalences: Sequence[float] = PREVALENCES,
) -> dict[str, GroupFigures]:
    """The positive group against the rest and OTHER together, in every group that has films labelled OTHER.

    Parameters
    ----------
    records, probabilities
        (N,), of all films.
    """
    is_other = np.array([record.label == IGNORED_LABEL for record in records])
    targets = np.array([record.is_positive for record in records], dtype=np.int64)
    patients = np.array([record.patient_id for record in records])
    groups = {"all": np.ones(len(records), dtype=np.bool_), **groups_of(records)}
    return {
        name: group_figures(
            targets[rows], probabilities[rows], patients[rows].tolist(), threshold, bootstrap, prevalences
        )
        for name, rows in groups.items()
        if (rows & is_other).any() and name.split("=")[0] in ("all", "source", "label_source")
    }


def _predictions(records: Iterable[Record], predictions: Iterable[Prediction], scheme: Scheme) -> bytes:
    """The table `predictions.csv`; where there are others than NORMAL and PNEUMONIA, of every class."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    logits = [f"logit_{name}" for name in scheme.classes]
    each = () if scheme.is_standard else scheme.classes
    stated = ["probability_PNEUMONIA"] if scheme.is_standard else [f"probability_{name}" for name in each] + [POSITIVE]
    groups = [] if scheme.is_standard else ["is_positive", "called_positive"]
    writer.writerow(["file", "label", *logits, *stated, "predicted", "indeterminate", *groups])
    for record, one in zip(records, predictions, strict=True):
        values = (*one.logits, *(one.probabilities if each else ()), one.probability)
        answers = [one.indeterminate, *([record.is_positive, one.is_positive] if groups else [])]
        numbers = [f"{value:.6f}" for value in values]
        writer.writerow([record.name, record.label, *numbers, one.label, *(str(answer).lower() for answer in answers)])
    return stream.getvalue().encode()


def evaluate_run(
    run: Path,
    data: Path,
    split: str,
    out: Path,
    *,
    device: str = "auto",
    bootstrap: Bootstrap = STANDARD,
    prevalences: Sequence[float] = PREVALENCES,
) -> Metrics:
    """Evaluate the model in a folder, a run's or an unpacked archive's, on a split of a data folder.

    Raises
    ------
    TrainingError, ModelError
        If the model or the films cannot be used, or other code than that of the archive would score them.
    """
    expected = os.environ.get(_ARCHIVE_CODE)
    if expected and not Path(str(cxr.__file__)).is_relative_to(expected):
        raise TrainingError(f"cxr came from {cxr.__file__}, not from the archive")
    predictor = Predictor.load(run, device)
    films = load_films(data, predictor.spec.scheme)
    boxes = load_boxes(films)
    return evaluate(
        predictor,
        films.of(split),
        out,
        boxes=boxes,
        others=[record for record in films.others if record.split == split],
        bootstrap=bootstrap,
        prevalences=prevalences,
    )


def with_archive_code(archive: Path, words: Callable[[Path], Sequence[str]]) -> None:
    """Unpack an archive and run a command with its folder first on the path, so that its `cxr` is the one that runs.

    Parameters
    ----------
    words
        From the folder to the words of the command, as ``pneumoscan`` takes them.

    Raises
    ------
    TrainingError
        If the file is no archive, or the command fails.
    """
    if not zipfile.is_zipfile(archive):
        raise TrainingError(f"{archive} is not a model archive: give a .mar file made by pneumoscan pack")
    with tempfile.TemporaryDirectory(prefix="cxr-") as folder:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
        command = [sys.executable, "-m", "pneumoscan", *words(Path(folder))]
        environment = {**os.environ, "PYTHONPATH": folder, _ARCHIVE_CODE: folder}
        if subprocess.run(command, env=environment, check=False).returncode:
            raise TrainingError(f"{archive}: its own code could not score the films, see above")
