"""The boxes readers drew around opacities, wherever a data folder keeps them.

A folder keeps them in one of three places:

- the manifest's column ``boxes``: ``x y width height`` in pixels of the film, ``;`` between boxes;
- ``boxes.csv``: file, x, y, width, height in pixels of the film, as `scripts.prepare_data` writes it;
- ``boxes_rsna.csv``: file, patientId, x, y, width, height, Target, the table of the RSNA challenge with the film's path
  in front. The challenge's films are 1024x1024 and its boxes count their pixels, whatever size the films here have, so
  they are scaled; the columns patientId and Target are the mark of the table.

References
----------
Shih et al., Augmenting the National Institutes of Health Chest Radiograph Dataset with Expert Annotations of Possible
Pneumonia, Radiology: Artificial Intelligence 1(1), 2019, doi 10.1148/ryai.2019180041.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from training.data import MANIFEST, Films, Record
from training.errors import TrainingError
from training.sources.candidates import Box
from training.sources.folder import BOXES
from training.sources.tables import boxes_by, inside, read_table

COLUMN: Final = "boxes"
RSNA_BOXES: Final = "boxes_rsna.csv"
RSNA_SIDE: Final = 1024
_NEEDED: Final = ("file", "x", "y", "width", "height")
_RSNA_MARK: Final = ("patientid", "target")  # read_table gives headers in lower case
_TARGETS: Final = {"0": False, "0.0": False, "1": True, "1.0": True}


@dataclass(frozen=True, slots=True)
class Marked:
    """A film with its boxes, in pixels of the film."""

    record: Record
    height: int
    width: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Boxes:
    """The boxes of a data folder as they are written down.

    Parameters
    ----------
    kept_in
        The file they come from, empty where the folder has none.
    by_file
        The boxes of each film file.
    side
        Of the square films whose pixels the boxes count; None where these are the films' own.
    """

    kept_in: str = ""
    by_file: Mapping[Path, tuple[Box, ...]] = field(default_factory=dict)
    side: int | None = None

    def on(self, record: Record) -> Marked | None:
        """The film with its boxes, or None where it has none. The film is decoded, for its size.

        Raises
        ------
        TrainingError
            If the film cannot be decoded, a box does not lie on it, or the boxes cannot be scaled to it.
        """
        boxes = self.by_file.get(record.file, ())
        if not boxes:
            return None
        height, width = record.read().shape
        if self.side and height != width:
            raise TrainingError(
                f"{self.kept_in}: {record.name} is {width}x{height}, its boxes are drawn on {self.side}x{self.side}: a "
                f"film that is not square was cropped or squeezed since. Put their pixels into {BOXES} instead."
            )
        for box in boxes:
            _check(box, self.side or width, self.side or height, f"{self.kept_in}: a box of {record.name}")
        return Marked(record, height, width, tuple(_scaled(box, width / (self.side or width)) for box in boxes))


NO_BOXES: Final = Boxes()


def load_boxes(films: Films) -> Boxes:
    """The boxes of a data folder; `NO_BOXES` where it has none. Boxes of films that are not used stay unused.

    Raises
    ------
    TrainingError
        If boxes are kept in two places, are no boxes, or are of a film that is not there.
    """
    found = [boxes for boxes in (_manifest(films), _own(films.folder), _rsna(films.folder)) if boxes.by_file]
    if len(found) > 1:
        places = " and in ".join(boxes.kept_in for boxes in found)
        raise TrainingError(f"{films.folder} has boxes in {places}: keep them in one place, so that all of them count")
    return found[0] if found else NO_BOXES


def _manifest(films: Films) -> Boxes:
    by_file = {}
    for record in films.records:
        text = (record.extra.get(COLUMN) or "").strip()
        if text:
            by_file[record.file] = tuple(
                _parsed(part, f"{films.folder / MANIFEST}: {record.name}") for part in text.split(";")
            )
    return Boxes(MANIFEST, by_file)


def _parsed(text: str, where: str) -> Box:
    try:
        numbers = [float(one) for one in text.split()]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise TrainingError(f"{where}: the box is {text.strip()!r}: write x y width height, and ; between boxes")
    return Box(*numbers)


def _own(folder: Path) -> Boxes:
    path = folder / BOXES
    if not path.is_file():
        return NO_BOXES
    rows = read_table(path, _NEEDED)
    if rows and all(name in rows[0] for name in _RSNA_MARK):
        raise TrainingError(
            f"{path} has RSNA's columns patientId and Target. If its boxes count {RSNA_SIDE}x{RSNA_SIDE} pixels, name "
            f"it {RSNA_BOXES}; if they count the films' own, take the two columns out."
        )
    return Boxes(path.name, _by_file(folder, rows, path))


def _rsna(folder: Path) -> Boxes:
    path = folder / RSNA_BOXES
    if not path.is_file():
        return NO_BOXES
    rows = read_table(path, (*_NEEDED, *_RSNA_MARK))
    for row in rows:
        if _TARGETS.get(row["target"]) != any(row[name] for name in _NEEDED[1:]):
            raise TrainingError(
                f"{path}: Target of {row['file']} is {row['target']!r}: a row has 1 and a box, or 0 and no box; mend it"
            )
    return Boxes(path.name, _by_file(folder, rows, path), RSNA_SIDE)


def _by_file(folder: Path, rows: Sequence[Mapping[str, str]], path: Path) -> dict[Path, tuple[Box, ...]]:
    plain = [{**row, "file": PurePosixPath(row["file"]).as_posix()} for row in rows]  # ./a.png is a.png
    by_file = {}
    for name, boxes in boxes_by("file", plain, path).items():
        file = inside(folder, name)
        if file is None:
            raise TrainingError(
                f"{path}: there is a box of {name!r}, which is not in the folder: mend the name or take it out"
            )
        by_file[file] = boxes
    return by_file


def _check(box: Box, width: int, height: int, what: str) -> None:
    if not box.fits(width, height):
        raise TrainingError(
            f"{what} is x {box.x:g}, y {box.y:g}, width {box.width:g}, height {box.height:g}: it has to have an area "
            f"and lie on {width}x{height} pixels. Mend it or take it out."
        )


def _scaled(box: Box, factor: float) -> Box:
    return Box(box.x * factor, box.y * factor, box.width * factor, box.height * factor)
