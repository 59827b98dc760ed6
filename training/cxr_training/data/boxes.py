"""The boxes readers drew around opacities, wherever a data folder keeps them.

A folder keeps them in one of three places:

- the manifest's column ``boxes``: ``x y width height`` in pixels of the film, ``;`` between boxes;
- ``boxes.csv``: file, x, y, width, height in pixels of the film, as `pneumoscan prepare` writes it;
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

from cxr_training.data.collections.candidates import Box, boxes_by, inside, read_table
from cxr_training.data.records import MANIFEST, Films, Record
from cxr_training.errors import TrainingError

COLUMN: Final = "boxes"
BOXES: Final = "boxes.csv"
RSNA_BOXES: Final = "boxes_rsna.csv"
RSNA_SIDE: Final = 1024
_NEEDED: Final = ("file", "x", "y", "width", "height")
_RSNA_MARK: Final = ("patientid", "target")  # read_table gives headers in lower case
_TARGETS: Final = {"0": False, "0.0": False, "1": True, "1.0": True}


@dataclass(frozen=True, slots=True)
class KeptBoxes:
    """The boxes of a data folder as they are written down.

    Parameters
    ----------
    kept_in
        The file they come from, empty where the folder has none.
    by_name
        The boxes of each film, by its path in the folder.
    side
        Of the square films whose pixels the boxes count; None where these are the films' own.
    """

    kept_in: str = ""
    by_name: Mapping[str, tuple[Box, ...]] = field(default_factory=dict)
    side: int | None = None

    def of(self, name: str) -> tuple[Box, ...]:
        """The boxes of a film, by its path in the folder."""
        return self.by_name.get(_plain(name), ())


NO_BOXES: Final = KeptBoxes()


def kept_boxes(folder: Path, column: Mapping[str, str]) -> KeptBoxes:
    """The boxes of a data folder, none where it has none.

    Parameters
    ----------
    column
        What the manifest's column ``boxes`` says of each film, by its path in the folder.

    Raises
    ------
    TrainingError
        If boxes are kept in two places, are no boxes, or are of a film that is not there.
    """
    found = [kept for kept in (_manifest(folder, column), _own(folder), _rsna(folder)) if kept.by_name]
    if len(found) > 1:
        places = " and in ".join(kept.kept_in for kept in found)
        raise TrainingError(f"{folder} has boxes in {places}: keep them in one place, so that all of them count")
    return found[0] if found else NO_BOXES


def _manifest(folder: Path, column: Mapping[str, str]) -> KeptBoxes:
    by_name = {
        _plain(name): tuple(_parsed(part, f"{folder / MANIFEST}: {name}") for part in text.split(";"))
        for name, text in column.items()
        if text.strip()
    }
    return KeptBoxes(MANIFEST, by_name)


def _parsed(text: str, where: str) -> Box:
    try:
        numbers = [float(one) for one in text.split()]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise TrainingError(f"{where}: the box is {text.strip()!r}: write x y width height, and ; between boxes")
    return Box(*numbers)


def _own(folder: Path) -> KeptBoxes:
    path = folder / BOXES
    if not path.is_file():
        return NO_BOXES
    rows = read_table(path, _NEEDED)
    if rows and all(name in rows[0] for name in _RSNA_MARK):
        raise TrainingError(
            f"{path} has RSNA's columns patientId and Target. If its boxes count {RSNA_SIDE}x{RSNA_SIDE} pixels, name "
            f"it {RSNA_BOXES}; if they count the films' own, take the two columns out."
        )
    return KeptBoxes(path.name, _by_name(folder, rows, path))


def _rsna(folder: Path) -> KeptBoxes:
    path = folder / RSNA_BOXES
    if not path.is_file():
        return NO_BOXES
    rows = read_table(path, (*_NEEDED, *_RSNA_MARK))
    for row in rows:
        if _TARGETS.get(row["target"]) != any(row[name] for name in _NEEDED[1:]):
            raise TrainingError(
                f"{path}: Target of {row['file']} is {row['target']!r}: a row has 1 and a box, or 0 and no box; mend it"
            )
    return KeptBoxes(path.name, _by_name(folder, rows, path), RSNA_SIDE)


def _by_name(folder: Path, rows: Sequence[Mapping[str, str]], path: Path) -> dict[str, tuple[Box, ...]]:
    plain = [{**row, "file": _plain(row["file"])} for row in rows]
    by_name = boxes_by("file", plain, path)
    for name in by_name:
        if inside(folder, name) is None:
            raise TrainingError(
                f"{path}: there is a box of {name!r}, which is not in the folder: mend the name or take it out"
            )
    return by_name


def _plain(name: str) -> str:
    """``./a.png`` is ``a.png``."""
    return PurePosixPath(name).as_posix()


@dataclass(frozen=True, slots=True)
class BoxedFilm:
    """A film with its boxes, in pixels of the film."""

    record: Record
    height: int
    width: int
    boxes: tuple[Box, ...]


def load_boxes(films: Films) -> KeptBoxes:
    """The boxes of a data folder, none where it has none. Boxes of films that are not used stay unused.

    Raises
    ------
    TrainingError
        As `cxr_training.data.boxes.kept_boxes`.
    """
    return kept_boxes(films.folder, {record.name: record.extra.get(COLUMN) or "" for record in films.records})


def boxed_film(kept: KeptBoxes, record: Record, height: int, width: int) -> BoxedFilm | None:
    """A film of this size with its boxes, or None where it has none.

    Raises
    ------
    TrainingError
        If a box does not lie on the film, or the boxes cannot be scaled to it.
    """
    boxes = kept.of(record.name)
    if not boxes:
        return None
    side = kept.side
    if side and height != width:
        raise TrainingError(
            f"{kept.kept_in}: {record.name} is {width}x{height}, its boxes are drawn on {side}x{side}: a film that is "
            f"not square was cropped or squeezed since. Put their pixels into {BOXES} instead."
        )
    for box in boxes:
        if not box.fits(side or width, side or height):
            raise TrainingError(
                f"{kept.kept_in}: a box of {record.name} is x {box.x:g}, y {box.y:g}, width {box.width:g}, height "
                f"{box.height:g}: it has to have an area and lie on {side or width}x{side or height} pixels. "
                "Mend it or take it out."
            )
    return BoxedFilm(record, height, width, tuple(box.scaled(width / (side or width)) for box in boxes))
