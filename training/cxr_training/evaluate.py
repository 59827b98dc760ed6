"""Measure an exported model, or a packed archive, on films it has not seen.

Scores with the same `Predictor` that serves. With --archive the archive is unpacked and its own code does the scoring.
Leaves metrics.json, predictions.csv, report.html (one file that opens anywhere), report.md, errors.md and pictures.
Every figure has a 95 % interval by a bootstrap over patients. Where the data folder has boxes around opacities, the
heat maps are held against them.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

import cxr
from cxr.films.film import Pixels
from cxr.films.frontal import Verdict
from cxr.model.spec import CLASSES, ModelSpec
from cxr.predict import Prediction, Predictor
from cxr_training.command import run_command
from cxr_training.data.boxes import NO_BOXES, KeptBoxes
from cxr_training.data.groups import groups_of
from cxr_training.data.marked import Marked, load_boxes, on_film
from cxr_training.data.records import SPLITS, Record, load_films
from cxr_training.errors import TrainingError
from cxr_training.fit.screen import verdict_counts
from cxr_training.measure.curves import bands, reliability
from cxr_training.measure.intervals import LEVEL, PREVALENCES, STANDARD, Bootstrap, group_figures
from cxr_training.measure.localisation import evidence_in_boxes, localisation_figures, look
from cxr_training.measure.metrics import Floats, Targets
from cxr_training.measure.scoring import KeptFilms, ScoredFilm, scored_films
from cxr_training.pages.figures import plot_confusion, plot_precision, plot_reliability, plot_roc
from cxr_training.pages.localisation import MOST as MOST_WITH_BOXES
from cxr_training.pages.localisation import localisation_part
from cxr_training.pages.most_confident import MOST as MOST_ERRORS
from cxr_training.pages.most_confident import at_shown_size, errors_page
from cxr_training.pages.report import TITLES, Part, cell, write_report
from pneumoscan.files import write_text, write_whole

_ARCHIVE_CODE: Final = "PNEUMOSCAN_ARCHIVE_CODE"  # set for the process that runs an archive's own code


def evaluate(
    predictor: Predictor,
    records: Sequence[Record],
    out: Path,
    *,
    boxes: KeptBoxes = NO_BOXES,
    bootstrap: Bootstrap = STANDARD,
    prevalences: Sequence[float] = PREVALENCES,
) -> dict[str, Any]:
    """Score films and write `metrics.json`, `predictions.csv`, the report, the pages with films and figures.

    Parameters
    ----------
    boxes
        Of the films' data folder, as `cxr_training.data.marked.load_boxes` gives them.

    Returns
    -------
    The content of `metrics.json`: the model's identity, how the intervals were made, and the figures over all films and
    for each group of films, as `cxr_training.measure.intervals.group_figures` gives them; ``screen``, and
    ``localisation`` as `cxr_training.measure.localisation.localisation_figures` gives it.

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
    marked: list[Marked | None] = []
    verdicts: list[Verdict] = []
    shown = _ShownFilms(spec.threshold)
    for place, film in enumerate(scored_films(predictor, records)):
        predictions.append(film.prediction)
        marked.append(on_film(boxes, film.record, *film.pixels.shape))
        if spec.screen:
            verdicts.append(spec.screen.judge(film.pixels))
        shown.add(place, film, marked[-1])
    targets = np.array([record.target for record in records], dtype=np.int64)
    probabilities = np.array([prediction.probabilities[1] for prediction in predictions])
    metrics = summarise(spec, records, targets, probabilities, bootstrap, prevalences)
    metrics["screen"] = spec.screen and verdict_counts(verdicts)
    looks = look(marked, predictions)
    metrics["localisation"] = localisation_figures(looks, marked, records, boxes.kept_in, bootstrap)
    write_whole(out / "predictions.csv", lambda path: _write_predictions(path, records, predictions))
    patients = [record.patient_id for record in records]
    _draw(out, targets, probabilities, patients, spec.threshold, bootstrap, metrics["overall"])
    errors = errors_page(out, records, predictions, spec.threshold, spec.cam_scale, shown.by_name())
    parts = localisation_part(out, looks, metrics["localisation"], spec.cam_scale, shown.by_name())
    write_report(out, spec, metrics, [*parts, Part("The most confident errors", "errors.md", (), tuple(errors))])
    write_text(out / "metrics.json", json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    return metrics


class _ShownFilms:
    """The films of a pass that the pages may show: errors by their confidence, films with boxes by their evidence."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._missed, self._alarmed = (KeptFilms(MOST_ERRORS, at_shown_size) for _ in range(2))
        self._highest, self._lowest = (KeptFilms(MOST_WITH_BOXES, at_shown_size) for _ in range(2))

    def add(self, place: int, film: ScoredFilm, marked: Marked | None) -> None:
        """A film with its place in the pass, by which those alike are ordered."""
        probability = float(film.prediction.probabilities[1])
        called = probability >= self._threshold
        if film.record.target and not called:
            self._missed.offer((math.inf if math.isnan(probability) else probability, place), film)
        elif called and not film.record.target:
            self._alarmed.offer((-probability, -place), film)
        if marked and film.record.target:
            evidence = evidence_in_boxes(marked, film.prediction)
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
    threshold: float,
    bootstrap: Bootstrap,
    overall: dict[str, Any],
) -> None:
    roc, precision = bands(targets, probabilities, patients, bootstrap) or (None, None)
    labels = {name: f"{TITLES[name]} {cell(overall, name)}" for name in ("auroc", "auprc")}
    plot_roc(out / "roc.png", targets, probabilities, threshold, labels["auroc"], roc)
    plot_precision(out / "pr.png", targets, probabilities, threshold, labels["auprc"], precision)
    bins = reliability(targets, probabilities, patients, bootstrap.weights(patients))
    plot_reliability(out / "reliability.png", targets, probabilities, threshold, bins)
    plot_confusion(out / "confusion.png", targets, probabilities, threshold)


def summarise(
    spec: ModelSpec,
    records: Sequence[Record],
    targets: Targets,
    probabilities: Floats,
    bootstrap: Bootstrap = STANDARD,
    prevalences: Sequence[float] = PREVALENCES,
) -> dict[str, Any]:
    """The figures over all films and for each group the manifest's columns make, with their intervals."""
    patients = np.array([record.patient_id for record in records])

    def figures(rows: npt.NDArray[np.bool_]) -> dict[str, Any]:
        chosen = targets[rows], probabilities[rows], patients[rows].tolist()
        return group_figures(*chosen, spec.threshold, bootstrap, prevalences)

    return {
        "split": records[0].split,
        "arch": spec.arch,
        "pretrained": spec.pretrained,
        "weights_sha256": spec.weights_sha256,
        "threshold": spec.threshold,
        "operating_point": spec.operating_point,
        "synthetic": all(record.extra.get("source") == "synthetic" for record in records),
        "bootstrap": {"unit": "patient", "level": LEVEL, **asdict(bootstrap)},
        "overall": figures(np.ones(len(records), dtype=np.bool_)),
        "groups": {name: figures(rows) for name, rows in groups_of(records).items()},
    }


def _write_predictions(path: Path, records: Iterable[Record], predictions: Iterable[Prediction]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        logits = [f"logit_{name}" for name in CLASSES]
        writer.writerow(["file", "label", *logits, "probability_PNEUMONIA", "predicted", "indeterminate"])
        for record, one in zip(records, predictions, strict=True):
            numbers = [f"{value:.6f}" for value in (*one.logits, one.probabilities[1])]
            writer.writerow([record.name, record.label, *numbers, one.label, str(one.indeterminate).lower()])


def _evaluate_archive(archive: Path, arguments: argparse.Namespace) -> None:
    """Unpack and start again with the archive's folder first on the path, so that its `cxr` is the one that runs."""
    if not zipfile.is_zipfile(archive):
        raise TrainingError(f"{archive} is not a model archive: give a .mar file made by scripts.package_mar")
    with tempfile.TemporaryDirectory(prefix="cxr-") as folder:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
        out = arguments.out or Path("runs") / archive.stem
        command = [sys.executable, "-m", "training.evaluate", "--run", folder, "--out", str(out)]
        command += ["--data", str(arguments.data), "--split", arguments.split, "--device", arguments.device]
        command += ["--bootstrap", str(arguments.bootstrap), "--seed", str(arguments.seed)]
        command += ["--prevalence", *map(str, arguments.prevalence)]
        environment = {**os.environ, "PYTHONPATH": folder, _ARCHIVE_CODE: folder}
        if subprocess.run(command, env=environment, check=False).returncode:
            raise TrainingError(f"{archive}: its own code could not score the films, see above")


def _command(arguments: argparse.Namespace) -> None:
    if arguments.archive:
        _evaluate_archive(arguments.archive, arguments)
        return
    expected = os.environ.get(_ARCHIVE_CODE)
    if expected and not Path(str(cxr.__file__)).is_relative_to(expected):
        raise TrainingError(f"cxr came from {cxr.__file__}, not from the archive")
    predictor = Predictor.load(arguments.run, arguments.device)
    films = load_films(arguments.data)
    records, boxes = films.of(arguments.split), load_boxes(films)
    out = arguments.out or arguments.run
    bootstrap = Bootstrap(arguments.bootstrap, arguments.seed)
    metrics = evaluate(predictor, records, out, boxes=boxes, bootstrap=bootstrap, prevalences=arguments.prevalence)
    overall = metrics["overall"]
    said = ", ".join(f"{TITLES[name]} {cell(overall, name)}" for name in ("auroc", "sensitivity", "specificity"))
    print(f"{out / 'report.html'}: {overall['films']} {arguments.split} films, {said}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="training.evaluate", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", type=Path, help="a run folder that was exported")
    what.add_argument("--archive", type=Path, help="a .mar file; scored by its own code")
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--out", type=Path, help="folder for the results (default: the run; runs/NAME for an archive)")
    parser.add_argument(
        "--prevalence",
        type=float,
        nargs="+",
        default=list(PREVALENCES),
        metavar="SHARE",
        help="of PNEUMONIA where the model would be used, for PPV and NPV beside the films' own (default: %(default)s)",
    )
    parser.add_argument(
        "--bootstrap", type=int, default=STANDARD.resamples, metavar="N", help="resamples (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=STANDARD.seed, help="of the resamples (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    return run_command(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
