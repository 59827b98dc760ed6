"""The groups of films an evaluation looks at: by the manifest's columns and by the patient's age."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from cxr_training.data.records import Record

COLUMNS: Final = ("source", "label_source", "view", "age", "sex")  # what a page says of a single film
_GROUPS: Final = (("source",), ("label_source",), ("source", "label_source"), ("view",), ("age",), ("sex",))
_BANDS: Final = ((0, 5), (6, 17), (18, 39), (40, 64), (65, 120))
_OLDEST: Final = 120  # public data sets hold ages such as 412
_YEARS: Final = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
# A number with a unit as in DICOM (PS3.5 section 6.2, value representation AS), or a range of years: 062Y, 58.0, 1-5y
_AGE: Final = re.compile(r"(\d{1,3}(?:\.\d+)?)(?:-(\d{1,3}))?\s*([DWMY]?)\b\s*(?:\(.*\))?", re.IGNORECASE)


def age_band(age: str) -> str:
    """The band an age lies in: ``0-5``, ``6-17``, ``18-39``, ``40-64`` or ``65+``; empty where it cannot be told.

    Parameters
    ----------
    age
        Years as a number (``62``, ``58.0``), as DICOM writes it (``062Y``, ``011M``), or a range inside one band
        (``1-5y``); a remark in brackets may follow.
    """
    found = _AGE.fullmatch(age.strip())
    if not found:
        return ""
    low, high, unit = found.groups()
    years = [int(float(number) * _YEARS[unit.upper()]) for number in (low, high or low)]
    if max(years) > _OLDEST:
        return ""
    for first, last in _BANDS:
        if first <= years[0] <= years[1] <= last:
            return f"{first}+" if last == _OLDEST else f"{first}-{last}"
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
