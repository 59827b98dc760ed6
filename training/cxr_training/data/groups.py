"""The groups of films an evaluation looks at: by the manifest's columns and by age, and the one reader of ages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cxr_training.data.records import Record

COLUMNS: Final = ("source", "label_source", "view", "age", "sex")  # what a page says of a single film
_GROUPS: Final = (("source",), ("label_source",), ("source", "label_source"), ("view",), ("age",), ("sex",))
_BANDS: Final = ((0, 5), (6, 17), (18, 39), (40, 64), (65, None))


def age_band(age: str) -> str:
    """The band an age lies in: ``0-5``, ``6-17``, ``18-39``, ``40-64`` or ``65+``; empty where it is not known.

    Parameters
    ----------
    age
        As `cxr_training.data.groups.read_age` reads it; a range has to lie inside one band.
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


_OLDEST: Final = 120  # public data sets hold ages such as 151 and 412, slips of the keyboard
_IN_A_YEAR: Final = {"": 1, "Y": 1, "M": 12, "W": 365 / 7, "D": 365}
# A number with a unit as in DICOM (PS3.5 section 6.2, value representation AS), or a range of them; a remark may follow
_AGE: Final = re.compile(r"(\d{1,3}(?:\.\d*)?)(?:-(\d{1,3}))?\s*([DWMY]?)\s*(?:\(.*\))?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class Age:
    """Whole years, from the first to the last that a patient may have; most often both are the same."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def read_age(text: str) -> Age | None:
    """The age that a text gives, None where it gives none or more than 120 years.

    Parameters
    ----------
    text
        Years as a number (``62``, ``58.0``), as DICOM writes them (``062Y``, ``018M``), or a range (``40-64``,
        ``1-5y``); a remark in brackets may follow.
    """
    found = _AGE.fullmatch(text.strip())
    if found is None:
        return None
    low, high, unit = found.groups()
    first, last = (int(float(number) / _IN_A_YEAR[unit.upper()]) for number in (low, high or low))
    return Age(first, last) if first <= last <= _OLDEST else None
