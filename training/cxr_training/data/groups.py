"""The groups of films an evaluation looks at: by the manifest's columns and by the patient's age."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from cxr_training.data.ages import read_age
from cxr_training.data.records import Record

COLUMNS: Final = ("source", "label_source", "view", "age", "sex")  # what a page says of a single film
_GROUPS: Final = (("source",), ("label_source",), ("source", "label_source"), ("view",), ("age",), ("sex",))
_BANDS: Final = ((0, 5), (6, 17), (18, 39), (40, 64), (65, None))


def age_band(age: str) -> str:
    """The band an age lies in: ``0-5``, ``6-17``, ``18-39``, ``40-64`` or ``65+``; empty where it is not known.

    Parameters
    ----------
    age
        As `cxr_training.data.ages.read_age` reads it; a range has to lie inside one band.
    """
    years = read_age(age)
    if years is None:
        return ""
    for first, last in _BANDS:
        if first <= years.first and (last is None or years.last <= last):
            return f"{first}+" if last is None else f"{first}-{last}"
    return ""


def groups_of(records: Sequence[Record]) -> dict[str, npt.NDArray[np.bool_]]:
    """Which films are in each group, (N,), by a name such as ``source=nih-cxr14`` or ``age=40-64``.

    Columns that are missing, or say the same of every film that has them, make no groups.
    """
    groups: dict[str, npt.NDArray[np.bool_]] = {}
    for columns in _GROUPS:
        keys = [tuple(_value(record, column) for column in columns) for record in records]
        found = sorted((key for key in set(keys) if all(key)), key=lambda key: tuple(map(_in_order, key)))
        for key in found if len(found) > 1 else []:
            name = ", ".join(f"{column}={value}" for column, value in zip(columns, key, strict=True))
            groups[name] = np.array([other == key for other in keys])
    return groups


def _value(record: Record, column: str) -> str:
    value = record.extra.get(column) or ""
    return age_band(value) if column == "age" else value


def _in_order(value: str) -> tuple[int, str]:
    """Bands of age by their first year (6-17 before 18-39); all else by its text."""
    first = re.match(r"\d+(?=[-+])", value)
    return (int(first[0]) if first else 0, value)
