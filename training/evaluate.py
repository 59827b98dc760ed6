"""Measure an exported model, or a packed archive, on films it has not seen.

Scores with the same `Predictor` that serves. With --archive the archive is unpacked and its own code does the scoring.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

import cxr
from cxr.predict import Prediction, Predictor
from cxr.spec import CLASSES, ModelSpec
from training.command import run_command
from training.data import SPLITS, Record, load_films
from training.errors import TrainingError
from training.figures import plot_confusion, plot_reliability, plot_roc
from training.metrics import Floats, Targets, binary_metrics
from training.report import write_report
from training.runs import write_text, write_whole
from training.score import score
from training.screen import judge

_GROUPS: Final = (("source",), ("label_source",), ("source", "label_source"), ("view",))
_ARCHIVE_CODE: Final = "PNEUMOSCAN_ARCHIVE_CODE"  # set for the process that runs an archive's own code


def evaluate(predictor: Predictor, records: Sequence[Record], out: Path, *, progress: bool = True) -> dict[str, Any]:
    """Score films and write `metrics.json`, `predictions.csv`, `report.md` and figures.

    Returns
    -------
    The content of `metrics.json`: the model's identity, the figures over all films and for each group of films.
    """
    predictions = score(predictor, records, progress=progress)
    targets = np.array([record.target for record in records], dtype=np.int64)
    probabilities = np.array([prediction.probabilities[1] for prediction in predictions])
    metrics = summarise(predictor.spec, records, targets, probabilities)
    screen = predictor.spec.screen
    metrics["screen"] = screen and judge(screen, records, progress=progress)
    write_whole(out / "predictions.csv", lambda path: _write_predictions(path, records, predictions))
    threshold = predictor.spec.threshold
    plot_roc(out / "roc.png", targets, probabilities, threshold)
    plot_reliability(out / "reliability.png", targets, probabilities)
    plot_confusion(out / "confusion.png", targets, probabilities, threshold)
    write_report(out / "report.md", predictor.spec, metrics)
    write_text(out / "metrics.json", json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    return metrics


def summarise(spec: ModelSpec, records: Sequence[Record], targets: Targets, probabilities: Floats) -> dict[str, Any]:
    """The figures over all films and for each group the manifest's columns make."""
    groups: dict[str, Any] = {}
    for columns in _GROUPS:
        keys = [tuple(record.extra.get(column, "") for column in columns) for record in records]
        found = sorted(key for key in set(keys) if all(key))
        for key in found if len(found) > 1 else []:
            rows = np.array([other == key for other in keys])
            name = ", ".join(f"{column}={value}" for column, value in zip(columns, key, strict=True))
            groups[name] = binary_metrics(targets[rows], probabilities[rows], spec.threshold)
    return {
        "split": records[0].split,
        "arch": spec.arch,
        "pretrained": spec.pretrained,
        "weights_sha256": spec.weights_sha256,
        "threshold": spec.threshold,
        "operating_point": spec.operating_point,
        "synthetic": all(record.extra.get("source") == "synthetic" for record in records),
        "overall": binary_metrics(targets, probabilities, spec.threshold),
        "groups": groups,
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
    records = load_films(arguments.data).of(arguments.split)
    out = arguments.out or arguments.run
    metrics = evaluate(predictor, records, out)
    overall = metrics["overall"]
    print(
        f"{out / 'report.md'}: {overall['films']} {arguments.split} films, AUROC {overall['auroc']:.3f}, "
        f"sensitivity {overall['sensitivity']:.3f}, specificity {overall['specificity']:.3f}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="training.evaluate", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", type=Path, help="a run folder that was exported")
    what.add_argument("--archive", type=Path, help="a .mar file; scored by its own code")
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--out", type=Path, help="folder for the results (default: the run; runs/NAME for an archive)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    return run_command(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
