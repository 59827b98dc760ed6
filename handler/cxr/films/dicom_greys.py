"""From stored values to the grey that a reading room shows: PS3.3 C.11.1, C.11.2 and C.7.6.3, PS3.4 annex N.2.

Every step is worked out once for each value that a film can have, at most 65,536, and looked up for its millions of
pixels. What files get wrong, by the reports of viewers, is read from the values themselves; what remains a guess is
flagged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from pydicom import Dataset

from cxr.errors import InputError
from cxr.films.dicom_header import decimals, plain_text, word_bytes, words
from cxr.films.film import UNSURE_DEPTH, Pixels, unit_to_uint8
from cxr.films.greys import own_range
from cxr.films.stored_values import Frame, Stored, padding_limits

UNREADABLE_WINDOW: Final = "window_unreadable"
_FULL: Final = 0.75  # of a depth that a look-up table has to reach to leave no doubt about it
_FUNCTIONS: Final = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
_WINDOWS_A_RANGE: Final = 10.0  # a film spans fewer windows than this, where a width below 1 is meant

Values = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Table:
    """A look-up table: its entries, the first value mapped as an unsigned word, the bits it says it has."""

    entries: npt.NDArray[np.int64]
    first_word: int
    bits: int


class _BrokenTableError(Exception):
    """A look-up table that cannot be read."""


def greys(frame: Frame, photometric: str, dataset: Dataset) -> tuple[Pixels, tuple[str, ...]]:
    """The film as a screen shows it, and the flags of what had to be guessed.

    Parameters
    ----------
    frame
        (H, W) stored values.
    photometric
        MONOCHROME1 or MONOCHROME2.

    Returns
    -------
    (H, W) uint8, and flags.

    Raises
    ------
    InputError
        DAMAGED_IMAGE where the modality transformation cannot be read.
    """
    stored = frame.values
    lowest, highest = int(stored.min()), int(stored.max())
    values = np.arange(lowest, highest + 1, dtype=np.int32)
    modality = _modality_values(values, dataset)
    background = _background(values, dataset)
    grey, flags = _by_table_or_window(modality, dataset)
    if grey is None or background.any():
        counts = _counts(stored, lowest, highest)
        if not counts[~background].any():
            background[:] = False  # all of the film would be padding
    if grey is None:
        there = (counts > 0) & ~background
        # Films of 8 bits were rendered before they were stored: what is bright in them is meant to be.
        low, high, is_guessed = own_range(modality[there], counts[there], whole=frame.bits <= 8)
        grey = (modality - low) / max(high - low, 1e-6)
        flags = (*flags, UNSURE_DEPTH) if is_guessed else flags
    if photometric == "MONOCHROME1":  # the lowest value is white: PS3.3 C.7.6.3.1.2
        grey = 1.0 - grey
    grey[background] = 0.0
    return _looked_up(unit_to_uint8(grey), stored, lowest), tuple(dict.fromkeys(flags))


def _looked_up(table: Pixels, stored: Stored, lowest: int) -> Pixels:
    places = torch.from_numpy(np.ascontiguousarray(stored if lowest == 0 else stored - lowest))
    # Four times as fast as numpy, which looks up by 64-bit numbers alone.
    found = torch.index_select(torch.from_numpy(table), 0, places.view(-1))
    return np.asarray(found.numpy().reshape(stored.shape))


def _counts(stored: Stored, lowest: int, highest: int) -> npt.NDArray[np.int64]:
    """How many pixels have each value from the lowest to the highest."""
    # In bands: numpy counts 64-bit numbers, which would be twice the film at once.
    bands = np.array_split(stored.ravel(), max(1, stored.size >> 18))
    counts = sum(np.bincount(band - lowest, minlength=highest - lowest + 1) for band in bands)
    return np.asarray(counts, dtype=np.int64)


def _background(values: Stored, dataset: Dataset) -> Mask:
    """Where the stored values are padding (PS3.3 C.7.5.1.1.2)."""
    limits = padding_limits(dataset)
    if limits is None:
        return np.zeros(values.shape, dtype=bool)
    return np.asarray((values >= limits[0]) & (values <= limits[1]))


def _modality_values(stored: Stored, dataset: Dataset) -> Values:
    """Stored values after the modality LUT or the rescale: PS3.3 C.11.1."""
    if dataset.get("ModalityLUTSequence") and not _is_emptied(dataset.ModalityLUTSequence[0]):
        try:
            return _through(_table(dataset.ModalityLUTSequence[0]), stored)
        except _BrokenTableError as error:
            raise InputError("DAMAGED_IMAGE", f"ModalityLUTSequence: {error}. Export it again.") from error
    slope = _one_number(dataset, "RescaleSlope", 1.0)
    intercept = _one_number(dataset, "RescaleIntercept", 0.0)
    if slope == 0:
        raise InputError("DAMAGED_IMAGE", "RescaleSlope is 0, which leaves one grey. Export it again.")
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored * np.float32(slope) + np.float32(intercept)
    if not np.isfinite([values.min(), values.max()]).all():
        raise InputError("DAMAGED_IMAGE", "RescaleSlope or RescaleIntercept is no finite number. Export it again.")
    return np.asarray(values, dtype=np.float32)


def _is_emptied(item: Dataset) -> bool:
    """Whether a look-up table has elements without values only, as programs leave it that take names out of files."""
    return not word_bytes(item, "LUTDescriptor") and not word_bytes(item, "LUTData")


def _one_number(dataset: Dataset, keyword: str, absent: float) -> float:
    numbers = decimals(dataset, keyword)
    if not numbers:
        return absent
    if numbers[0] is None:
        raise InputError("DAMAGED_IMAGE", f"{keyword} is not written as a number (PS3.5, VR DS). Export it again.")
    return numbers[0]


def _table(item: Dataset) -> _Table:
    """A look-up table as it stands in the file, of whatever VR: PS3.3 C.11.1.1 and C.11.2.1.1.

    Its entries are unsigned whatever their VR says; those of 8 bits take one byte or, by some writers, two.
    """
    descriptor = words(item, "LUTDescriptor")
    data = word_bytes(item, "LUTData")
    if len(descriptor) != 3 or not data:
        raise _BrokenTableError("a look-up table without its descriptor of three numbers or without its data")
    length, first, bits = int(descriptor[0]) or 65536, int(descriptor[1]), int(descriptor[2])
    if not 1 <= bits <= 16:
        raise _BrokenTableError(f"a look-up table of {bits} bits; 1 to 16 are possible")
    is_bytes = len(data) < 2 * length if bits <= 8 else length <= len(data) <= length + 1 and length > 1
    entries = np.frombuffer(data[: len(data) // 2 * 2] if not is_bytes else data, "u1" if is_bytes else "<u2")[:length]
    if len(entries) < length - 1:  # one short is how some writers count
        raise _BrokenTableError(f"a look-up table of {len(entries):,} entries; its descriptor says {length:,}")
    return _Table(entries.astype(np.int64), first, bits)


def _through(table: _Table, values: npt.NDArray[Any]) -> Values:
    """Values through a table; the first and the last entry hold for all values before and after.

    The first value mapped is signed or unsigned as the values are, whatever its VR says; where only one of the two
    meets them, it is that one.
    """
    low, high, length = float(values.min()), float(values.max()), len(table.entries)

    def overlap(first: int) -> float:
        return min(high, first + length - 1) - max(low, first)

    signed = table.first_word - 65536 if table.first_word > 32767 else table.first_word
    firsts = (signed, table.first_word) if low < 0 else (table.first_word, signed)
    first = max(firsts, key=overlap)  # of equals the one that comes first
    places = np.clip(np.rint(values) - first, 0, length - 1).astype(np.int32)
    return np.asarray(table.entries[places], dtype=np.float32)


def _by_table_or_window(values: Values, dataset: Dataset) -> tuple[Values | None, tuple[str, ...]]:
    """The values as the file wants them shown, 0-1, None where it does not say, with flags.

    A VOI LUT and a window beside it are alternatives (PS3.3 C.11.2.1); viewers take the LUT, and of several the first.
    """
    flags: tuple[str, ...] = ()
    if dataset.get("VOILUTSequence"):
        try:
            return _by_table(values, dataset.VOILUTSequence[0])
        except _BrokenTableError:
            flags = (UNREADABLE_WINDOW,)
    grey, is_readable = _by_window(values, dataset)
    return grey, flags if is_readable else (UNREADABLE_WINDOW,)


def _by_table(values: Values, item: Dataset) -> tuple[Values, tuple[str, ...]]:
    table = _table(item)
    looked_up = _through(table, values)
    if table.entries.min() == table.entries.max() or (looked_up.min() == looked_up.max() and values.size > 1):
        raise _BrokenTableError("a look-up table that makes one grey of the film")
    highest = int(table.entries.max())
    # Agfa and others give the size of an entry for its bits. What the entries reach is what viewers go by.
    needed = max((highest - 1).bit_length(), 1)
    top = (1 << needed) - 1 if needed != table.bits else (1 << table.bits) - 1
    is_sure = needed == table.bits or highest >= _FULL * top
    return np.minimum(looked_up / top, 1.0), () if is_sure else (UNSURE_DEPTH,)


def _by_window(values: Values, dataset: Dataset) -> tuple[Values | None, bool]:
    """The values through the first whole window, None without one, and whether all of what is there can be read."""
    centres, widths = decimals(dataset, "WindowCenter"), decimals(dataset, "WindowWidth")
    function = plain_text(dataset, "VOILUTFunction") or "LINEAR"
    if not centres and not widths:
        return None, True
    is_readable = function in _FUNCTIONS
    for centre, width in zip(centres, widths, strict=False):
        if centre is None or width is None or width <= 0:
            is_readable = False
            continue
        if function == "SIGMOID":  # PS3.3 C.11.2.1.3.1, 1 / (1 + exp(-4 (x - c) / w)), without its overflow
            return np.asarray(0.5 + 0.5 * np.tanh(2.0 * (values - centre) / width)), is_readable
        if function == "LINEAR_EXACT":  # PS3.3 C.11.2.1.3.2
            return _exact(values, centre, width), is_readable
        if width >= 1:  # PS3.3 C.11.2.1.2.1
            linear = (values - (centre - 0.5)) / max(width - 1.0, 1.0) + 0.5
            return np.asarray(np.clip(linear, 0.0, 1.0)), is_readable
        # Not allowed, and meant where the slope is as small
        if float(values.max() - values.min()) < _WINDOWS_A_RANGE * width:
            return _exact(values, centre, width), is_readable
        is_readable = False
    return None, False


def _exact(values: Values, centre: float, width: float) -> Values:
    return np.asarray(np.clip((values - centre) / width + 0.5, 0.0, 1.0))
