"""Ages as tables of films and DICOM files write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

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
