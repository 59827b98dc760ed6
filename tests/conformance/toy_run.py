"""The whole way on toy films: data, training, calibration, export, evaluation, audit, card, archive."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, Final

from tests.conformance.archives import FIXED_VERSION
from tests.conformance.masks import Masks, run

_TRAINING: Final = ("--arch", "resnet10", "--weights", "random", "--size", "64", "--epochs", "12", "--seed", "3")
_KEPT: Final = {
    "run": (
        *("run.json", "history.csv", "calibration.json", "drift.json", "model.json", "metrics.json", "predictions.csv"),
        *("report.md", "errors.md", "localisation.md", "audit.json", "audit.md", "audit-readings.csv", "model-card.md"),
    ),
    "of-archive": ("metrics.json", "predictions.csv"),
    "compared": ("comparison.json", "comparison.md"),
    "prepared": ("report.json", "report.md", "manifest.csv", "boxes.csv"),
    "films": ("manifest.csv", "README.txt"),
}


def data_of(work: Path) -> Path:
    """The folder of toy films."""
    return work / "films"


def archive_of(work: Path) -> Path:
    """The archive that the run was packed into."""
    return work / "store" / f"pneumonia-{FIXED_VERSION}.mar"


def run_all(work: Path, masks: Masks) -> dict[str, dict[str, Any]]:
    """Run each step in a folder, and keep what it says and leaves.

    Returns
    -------
    ``steps``, and each kept file as FOLDER-FILE: entries by name.

    Raises
    ------
    RuntimeError
        If a step fails.
    """
    films, folder, archive = str(data_of(work)), str(work / "run"), str(archive_of(work))
    common = ["--run", folder, "--data", films]
    cpu = [*common, "--device", "cpu"]
    steps: dict[str, tuple[str, list[str]]] = {
        "make_toy_data": (
            "scripts.make_toy_data",
            [films, "--patients", "100", "--seed", "7", "--size", "256", "--json"],
        ),
        "prepare_data": ("scripts.prepare_data", [str(work / "prepared"), "--folder", films, "--json"]),
        "train": ("training.train", [*cpu, *_TRAINING]),
        "calibrate": ("training.calibrate", cpu),
        "export": ("training.export", ["--run", folder]),
        "evaluate": ("training.evaluate", [*cpu, "--bootstrap", "300"]),
        "audit": ("training.audit", [*cpu, "--bootstrap", "300"]),
        "model_card": ("training.model_card", ["--run", folder]),
        "package_mar": (
            "scripts.package_mar",
            ["--run", folder, "--version", FIXED_VERSION, "--store", str(work / "store")],
        ),
        "drift": ("training.drift", [*cpu, "--split", "test"]),
        "compare": (
            "training.compare",
            ["--first", folder, "--second", folder, "--data", films, "--out", str(work / "compared")],
        ),
        "evaluate_archive": (
            "training.evaluate",
            ["--archive", archive, "--data", films, "--out", str(work / "of-archive"), "--bootstrap", "300"],
        ),
    }
    said: dict[str, Any] = {}
    for name, (module, arguments) in steps.items():
        said[name] = run(module, arguments, masks)
        if said[name]["exit"] != 0:
            raise RuntimeError(f"{module} failed: {said[name]}")
    kept: dict[str, dict[str, Any]] = {"steps": said}
    for place, names in _KEPT.items():
        for name in names:
            path = work / place / name
            kept[f"{place}-{name}"] = _entries(path, masks) if path.is_file() else {"missing": True}
        kept["files"] = kept.get("files", {}) | {
            place: sorted(path.relative_to(work / place).as_posix() for path in (work / place).rglob("*"))
        }
    return kept


def _entries(path: Path, masks: Masks) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        parsed = masks.value(json.loads(text))
        return parsed if isinstance(parsed, dict) else {"all": parsed}
    if path.suffix == ".csv":
        return {f"row {i:04}": _numbers(row) for i, row in enumerate(csv.DictReader(text.splitlines()))}
    return {f"line {i:04}": line for i, line in enumerate(masks.text(text))}


def _numbers(row: dict[str, str]) -> dict[str, Any]:
    return {name: _number(value) for name, value in row.items()}


def _number(text: str) -> Any:
    try:
        return float(text)
    except (TypeError, ValueError):
        return text
