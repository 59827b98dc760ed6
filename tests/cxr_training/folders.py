"""Small data folders for tests: films whose class a tiny network can learn."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from cxr.model.classes import CLASSES
from tests.films import Grey, film


def labelled_film(label: str, seed: int) -> Grey:
    """A film; one of PNEUMONIA has a fine chequered patch, one of NORMAL has none."""
    pixels = film(seed, 72, 64).copy()
    if label == "PNEUMONIA":
        rng = np.random.default_rng(seed)
        top, left = rng.integers(8, 30, 2)
        chequers = (np.indices((28, 28)).sum(axis=0) // 3 % 2 * 110).astype(np.int16)
        patch = pixels[top : top + 28, left : left + 28]
        pixels[top : top + 28, left : left + 28] = np.clip(patch // 2 + chequers, 0, 255)
    return pixels


def write_manifest(folder: Path, per_class: int = 8, splits: tuple[str, ...] = ("train", "val", "test")) -> Path:
    """A data folder with a `manifest.csv`, `per_class` films of each class in each split, two films a patient."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for s, split in enumerate(splits):
        for c, label in enumerate(CLASSES):
            for i in range(per_class):
                name = f"{split}-{label}-{i}.png"
                Image.fromarray(labelled_film(label, 1000 * s + 100 * c + i)).save(folder / name)
                source = "one" if i % 2 else "two"
                rows.append([name, label, f"{split}-{label}-{i // 2}", split, source])
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "patient_id", "split", "source"])
        writer.writerows(rows)
    return folder


def write_tree(folder: Path, per_class: int = 4) -> Path:
    """The tutorial's tree: train|val|test/CLASS/*."""
    for s, split in enumerate(("train", "val", "test")):
        for c, label in enumerate(CLASSES):
            (folder / split / label).mkdir(parents=True)
            for i in range(per_class):
                pixels = labelled_film(label, 1000 * s + 100 * c + i)
                Image.fromarray(pixels).save(folder / split / label / f"{i}.png")
    return folder
