"""CSV files as collections publish them: headers with stray spaces and capitals, short rows, boxes one a row."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from cxr_training.data.collections.candidates import Box
from cxr_training.errors import TrainingError


def read_table(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file, keyed by its header in lower case with ``_`` for spaces; a cell that is missing is empty.

    Raises
    ------
    TrainingError
        If the file is missing, is no CSV in UTF-8, or has none of a column that is `needed`.
    """
    if not path.is_file():
        raise TrainingError(f"{path} is missing: give the collection's folder as it was published")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            header = [name.strip().lower().replace(" ", "_") for name in next(reader, [])]
            rows = [dict.fromkeys(header, "") | dict(zip(header, _cells(row), strict=False)) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"{path} is not CSV in UTF-8 ({error}): save it again") from error
    if missing := [name for name in needed if name not in header]:
        raise TrainingError(f"{path} has no column {', '.join(missing)}: give the table as it was published")
    return rows


def _cells(row: Sequence[str]) -> list[str]:
    return [cell.strip() for cell in row]


def boxes_by(key: str, rows: Sequence[Mapping[str, str]], path: Path) -> dict[str, tuple[Box, ...]]:
    """The boxes of each film, sorted, from rows with `key`, x, y, width and height; a row without numbers has none.

    Raises
    ------
    TrainingError
        If a row holds something that is no number.
    """
    found: dict[str, set[Box]] = defaultdict(set)
    for row in rows:
        texts = [row[name] for name in ("x", "y", "width", "height")]
        if not any(texts):
            continue
        try:
            numbers = [float(text) for text in texts]
        except ValueError:
            numbers = [math.nan]
        if not all(map(math.isfinite, numbers)):
            raise TrainingError(f"{path}: the box of {row[key]!r} is {', '.join(texts)}: four numbers are needed")
        found[row[key]].add(Box(*numbers))
    return {
        name: tuple(sorted(boxes, key=lambda box: (box.x, box.y, box.width, box.height)))
        for name, boxes in found.items()
    }


def inside(folder: Path, name: str) -> Path | None:
    """The file a table names, None where there is none or the name leads out of the folder."""
    parts = PurePosixPath(name)
    if not name or parts.is_absolute() or ".." in parts.parts:
        return None
    path = folder / parts
    return path if path.is_file() else None
