"""Data folders for audits: collimated films whose classes differ by a corner mark or by nothing, and so may sources."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from cxr.model.classes import CLASSES
from cxr_training.measure.shortcut_readings import border_of
from tests.films import Grey, film

Change = Callable[[Grey, str, str], Grey]  # of a film, its label and its source


def corner_mark(pixels: Grey, label: str, _source: str) -> Grey:
    """A white mark in the corner of each film that shows PNEUMONIA, well inside the border."""
    if label == "PNEUMONIA":
        pixels[1:7, 1:7] = 255
    return pixels


def brightness(pixels: Grey, _label: str, source: str) -> Grey:
    """Films of the second source are half as bright, whatever they show."""
    return pixels // 2 if source == "two" else pixels


def nothing(pixels: Grey, _label: str, _source: str) -> Grey:
    """All films are drawn alike."""
    return pixels


def write_films(
    folder: Path,
    change: Change = nothing,
    *,
    per_class: int = 24,
) -> Path:
    """A data folder of films that differ by `change` alone, one film a patient, the sources one and two in turns."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for s, split in enumerate(("train", "val", "test")):
        for c, label in enumerate(CLASSES):
            for i in range(per_class):
                source = ("one", "two")[i % 2]
                pixels = film(10_000 * s + 1000 * c + i, 72, 64).copy()
                pixels[border_of(*pixels.shape)] //= 4
                name = f"{split}-{label}-{i}.png"
                Image.fromarray(np.ascontiguousarray(change(pixels, label, source))).save(folder / name)
                rows.append([name, label, name, split, source])
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "patient_id", "split", "source"])
        writer.writerows(rows)
    return folder
