"""The boxes of a data folder on the films that are used, in pixels of the film."""

from __future__ import annotations

from dataclasses import dataclass

from cxr_training.data.boxes import BOXES, COLUMN, KeptBoxes, kept_boxes
from cxr_training.data.collections.candidates import Box
from cxr_training.data.records import Films, Record
from cxr_training.errors import TrainingError


@dataclass(frozen=True, slots=True)
class Marked:
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


def on_film(kept: KeptBoxes, record: Record, height: int, width: int) -> Marked | None:
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
    return Marked(record, height, width, tuple(box.scaled(width / (side or width)) for box in boxes))
