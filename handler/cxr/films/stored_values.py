"""From decoded numbers to the stored values of a film: the bits, the sign and the place that they really have.

By the tags, and by the values themselves where the two disagree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from cxr.films.film import UNSURE_DEPTH

Stored = npt.NDArray[np.int32]

_LOSSY_OUTSIDE: Final = 0.001  # share of the pixels that lossy coding may push beyond the range
_CLEARLY: Final = 2.0  # times as large are the steps that an overlay makes as those of the film under it
_ROWS_LOOKED_AT: Final = 256
_SIDE_BY_SIDE: Final = 0.5  # share of them
_FEWEST_STEPS: Final = 20  # tell nothing


@dataclass(frozen=True, slots=True)
class Layout:
    """How pixels lie in a frame, by the tags or by the compressed stream itself."""

    width: int
    height: int
    components: int
    bits: int
    signed: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """The values of a frame: (H, W), or (H, W, 3) of a coloured one, with the bits they have and flags."""

    values: Stored
    bits: int
    flags: tuple[str, ...] = ()


def padding_limits(dataset: Dataset) -> tuple[int, int] | None:
    """The lowest and the highest stored value that are padding: PS3.3 C.7.5.1.1.2; None without any."""
    padding = dataset.get("PixelPaddingValue")
    if padding is None:
        return None
    # Writers give it in the wrong one of its two VRs: 63536 for -2000
    kind = "iu"[dataset.PixelRepresentation == 0] + str(int(dataset.BitsAllocated) // 8)
    limit = dataset.get("PixelPaddingRangeLimit")
    limits = np.array([int(padding), int(padding if limit is None else limit)]).astype(kind)
    return int(limits.min()), int(limits.max())


def fit(values: npt.NDArray[Any], stream: Layout, tags: Layout, dataset: Dataset, *, lossy: bool = False) -> Frame:
    """Values in the range of the tags, by what the values themselves say where they lie outside it.

    Lossy coding pushes a few beyond. Others are there by what is in unused bits, overlays of old files above all; or
    because the tags are wrong, and then taking bits out of the film would draw contour lines on it.
    """
    fitted = _shifted(values.astype(np.int32), stream, tags, dataset)
    low = -(1 << (tags.bits - 1)) if tags.signed else 0
    high = low + (1 << tags.bits) - 1
    limits = padding_limits(dataset) if fitted.ndim == 2 else None
    if low <= fitted.min() and fitted.max() <= high:
        return _signed(fitted, tags, dataset)
    outside = (fitted < low) | (fitted > high)
    padding = (fitted >= limits[0]) & (fitted <= limits[1]) & outside if limits else None
    if padding is not None and np.array_equal(padding, outside):
        return Frame(fitted, tags.bits)
    if lossy and stream.signed == tags.signed and np.count_nonzero(outside) <= _LOSSY_OUTSIDE * outside.size:
        return Frame(np.clip(fitted, low, high, out=fitted), tags.bits)
    bits = min(tags.bits, stream.bits)
    taken_out = fitted & ((1 << bits) - 1)
    if tags.signed:  # two's complement; JPEG and JPEG-LS know no sign (PS3.5 8.2.1, 8.2.3)
        taken_out -= taken_out >> (bits - 1) << bits
    among = _inner(fitted) & _inner(taken_out)
    if limits:
        is_padding = (taken_out >= limits[0]) & (taken_out <= limits[1])
        among &= ~is_padding
        outside = outside[~is_padding]
    is_even = bool(outside.all()) or not outside.any()  # as upper bits that are the same all over
    del outside
    as_they_are, without = _steps(fitted, taken_out, among)
    if as_they_are < without:
        depth = max(int(fitted.max()).bit_length(), int(-1 - fitted.min()).bit_length()) + (fitted.min() < 0)
        return Frame(fitted, int(depth), (UNSURE_DEPTH,))
    if as_they_are == without == 0.0:  # nothing else to go by than what lies on borders
        as_they_are, without = _steps(fitted, taken_out)
    if padding is not None:
        taken_out[padding] = fitted[padding]
    frame = _signed(taken_out, tags, dataset)
    is_sure = is_even or as_they_are > _CLEARLY * without
    return frame if is_sure else replace(frame, flags=(UNSURE_DEPTH,))


def fit_reduced(values: npt.NDArray[Any] | None, stream: Layout, tags: Layout, dataset: Dataset) -> Frame | None:
    """As `fit` of averages over values, None where only the values themselves could say what lies outside the range."""
    if values is None:
        return None
    low = -(1 << (tags.bits - 1)) if tags.signed else 0
    outside = np.count_nonzero((values < low) | (values >= low + (1 << tags.bits)))
    if outside > _LOSSY_OUTSIDE * values.size:
        return None
    frame = fit(values, stream, tags, dataset, lossy=True)
    return None if frame.flags else frame


def _signed(values: Stored, tags: Layout, dataset: Dataset) -> Frame:
    """The values with the sign that they have, should Pixel Representation be wrong.

    With the wrong sign, values on either side of zero or of half the range lie at opposite ends of it. A modality LUT
    was made for the values with the sign of the tags.
    """
    if dataset.get("ModalityLUTSequence"):
        return Frame(values, tags.bits)
    low, high = int(values.min()), int(values.max())
    half = 1 << (tags.bits - 1)
    if values.ndim == 2 and (low < 0 if tags.signed else high >= half):
        rows = values[:: max(1, len(values) // _ROWS_LOOKED_AT)]
        if _is_in_areas(rows, tags):
            among = _inner(rows) & (rows != -1) & (rows != 2 * half - 1)
            step, other_step = _steps(rows, _other_sign(rows, tags), among)
            if step > _CLEARLY * other_step > 0:
                return Frame(_other_sign(values, tags).astype(np.int32), tags.bits, (UNSURE_DEPTH,))
    return Frame(values, tags.bits)


def _inner(values: Stored) -> npt.NDArray[np.bool_]:
    """Where values are neither the lowest nor the highest: markers, frames and borders are no neighbours of the film.

    Of a film that is read with the wrong sign or depth these lie in its middle and are few.
    """
    return np.asarray((values != values.min()) & (values != values.max()))


def _other_sign(values: Stored, tags: Layout) -> Stored:
    whole = 1 << tags.bits
    return np.where(values < 0, values + whole, values) if tags.signed else values - (values >= whole // 2) * whole


def _is_in_areas(rows: Stored, tags: Layout) -> bool:
    """Whether the values that the sign is about lie side by side, as those of a film do and dead pixels do not."""
    top = rows < 0 if tags.signed else rows >= 1 << (tags.bits - 1)
    return bool(np.count_nonzero(top[:, 1:] & top[:, :-1]) > _SIDE_BY_SIDE * np.count_nonzero(top))


def _shifted(fitted: Stored, stream: Layout, tags: Layout, dataset: Dataset) -> Stored:
    """Values that lie at the top of what is allocated, as older CR and ACR-NEMA writers store them, moved down.

    By High Bit (PS3.5 8.1.1), unless the values say that it is wrong: they fit at the bottom and use the bits below.
    """
    high_bit = dataset.get("HighBit")
    unused = 0 if high_bit is None else int(high_bit) + 1 - tags.bits
    if unused <= 0 or int(high_bit) >= max(stream.bits, int(dataset.BitsAllocated)):
        return fitted
    low = -(1 << (tags.bits - 1)) if tags.signed else 0
    fits = low <= fitted.min() and fitted.max() < low + (1 << tags.bits)
    if fits and np.any(fitted & ((1 << unused) - 1)):
        return fitted
    return fitted >> unused


def _steps(values: Stored, others: Stored, among: npt.NDArray[np.bool_] | None = None) -> tuple[float, float]:
    """The middle step, in either reading, between neighbours that lie otherwise to each other in the other reading.

    Where upper bits are an overlay, the film goes on under its edges; where they are its own, it goes on with them.
    """
    rows = slice(None, None, max(1, len(values) // _ROWS_LOOKED_AT))
    step, other_step = (np.abs(np.diff(part[rows].astype(np.int64), axis=1)) for part in (values, others))
    differs = np.diff(values[rows] - others[rows], axis=1) != 0
    if among is not None:
        differs &= among[rows, 1:] & among[rows, :-1]
    if np.count_nonzero(differs) < _FEWEST_STEPS:
        return 0.0, 0.0
    return float(np.median(step[differs])), float(np.median(other_step[differs]))
