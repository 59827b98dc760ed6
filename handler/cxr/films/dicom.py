"""From a DICOM file to a film as a reading room shows it.

The steps are those of the grey-scale pipeline in DICOM PS3.4 annex N.2: stored values, modality transformation, values
of interest, presentation. Only single-frame projection images of the chest are read; what the tags say is something
else is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from pydicom import Dataset
from pydicom.uid import ExplicitVRBigEndian

from cxr.errors import InputError
from cxr.films.dicom_codecs import Stored, read_stored
from cxr.films.dicom_header import MAGIC_AT, META_AT, read_header
from cxr.films.film import Film, ImageInfo, Pixels, check_size, unit_to_uint8

# Computed and digital radiography, their older and secondary-capture names (PS3.3 C.7.3.1.1.1)
_MODALITIES: Final = frozenset({"CR", "DX", "RG", "DR", "SC", "OT", "XR"})
_OTHER_VIEWS: Final = ("LL", "RL", "LAT", "LLD", "RLD", "LLO", "RLO")
_CHEST_WORDS: Final = ("CHEST", "THORAX", "LUNG", "RIB", "TORSO", "TORAX")
_NEEDED: Final = (
    *("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation"),
    *("PhotometricInterpretation", "PixelData"),
)
_GREY: Final = ("MONOCHROME1", "MONOCHROME2")
_VIEWS: Final = frozenset({"PA", "AP", "AP SUPINE", "AP ERECT", "AP AXIAL", "POSTERO_ANTERIOR", "ANTERO_POSTERIOR"})

Values = npt.NDArray[np.floating]


def is_dicom(data: bytes) -> bool:
    """True for bytes that start as a DICOM file does (PS3.10 section 7.1)."""
    return data[MAGIC_AT:META_AT] == b"DICM"


def read_dicom(data: bytes) -> Film:
    """The film in a DICOM file.

    Raises
    ------
    InputError
        With the code that says what is wrong with it.
    """
    try:
        return _read(data)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # pydicom 3.0 and its decoders raise whatever the damage leads to
        raise InputError("DAMAGED_IMAGE", "the DICOM file cannot be read. Export it again.") from error


def _read(data: bytes) -> Film:
    dataset = read_header(data)
    photometric = _check_tags(dataset)
    stored = read_stored(dataset)
    is_monotone = not dataset.get("ModalityLUTSequence") and dataset.get("PixelPaddingValue") is None
    pixels = _through_table(stored, lambda values: _presented(values, photometric, dataset), is_monotone=is_monotone)
    view = _upper(dataset, "ViewPosition")
    return Film(
        pixels,
        ImageInfo(
            format="DICOM",
            width=int(dataset.Columns),
            height=int(dataset.Rows),
            bits=int(dataset.BitsStored),
            photometric_interpretation=photometric,
            view_position=view if view in _VIEWS else None,
        ),
    )


def _through_table(stored: Stored, to_grey: Callable[[Stored], Pixels], *, is_monotone: bool) -> Pixels:
    """The grey of each stored value, worked out once for each value and looked up for every pixel.

    A film has millions of pixels and at most 65,536 values.

    Parameters
    ----------
    stored
        (H, W).
    to_grey
        From values to grey, (N,) → (N,). It may look at the lowest and highest of what becomes of them.
    is_monotone
        Whether these are what becomes of the lowest and highest stored value; then values between them that no pixel
        has change nothing.
    """
    lowest, highest = int(stored.min()), int(stored.max())
    values = np.arange(lowest, highest + 1, dtype=np.int32) if is_monotone else _values_there(stored, lowest)
    first = min(lowest, 0)
    table = np.zeros(highest - first + 1, dtype=np.uint8)
    table[values - first] = to_grey(values)
    places = torch.from_numpy(np.ascontiguousarray(stored if first == 0 else stored - first))
    # Four times as fast as numpy, which looks up by 64-bit numbers alone.
    found = torch.index_select(torch.from_numpy(table), 0, places.view(-1))
    return np.asarray(found.numpy().reshape(stored.shape))


def _values_there(stored: Stored, lowest: int) -> Stored:
    """The values that pixels have, rising: (N,)."""
    # In bands: numpy counts 64-bit numbers, which would be twice the film at once.
    bands = np.array_split(stored.ravel(), max(1, stored.size >> 18))
    counts = sum(np.bincount(band - lowest, minlength=1 << 16) for band in bands)
    return np.asarray(np.flatnonzero(counts) + lowest, dtype=np.int32)


def _presented(values: Stored, photometric: str, dataset: Dataset) -> Pixels:
    """The grey of stored values, all of those that the film has: (N,) uint8."""
    background = _background(values, dataset)
    grey = _values_of_interest(_modality_values(values, dataset), background, dataset)
    if photometric == "MONOCHROME1":  # the lowest value is white: PS3.3 C.7.6.3.1.2
        grey = 1.0 - grey
    grey[background] = 0.0
    return unit_to_uint8(grey)


def _upper(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword, "") or "").upper()


def _check_tags(dataset: Dataset) -> str:
    """Refuse what the tags say is no single frontal chest radiograph; the photometric interpretation of one that is."""
    if "PixelData" not in dataset and ("FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset):
        raise InputError("DAMAGED_IMAGE", "float pixel data; a film has integers, in PixelData. Export the original.")
    missing = [keyword for keyword in _NEEDED if dataset.get(keyword) is None]
    if missing:
        raise InputError("DAMAGED_IMAGE", f"the DICOM file has no {', '.join(missing)}. Export it with its pixels.")
    modality, part = _upper(dataset, "Modality"), _upper(dataset, "BodyPartExamined")
    if modality and modality not in _MODALITIES:
        raise InputError("NOT_A_RADIOGRAPH", "Modality is not one of CR, DX, DR, RG, SC, OT. Send a chest radiograph.")
    if part and not any(word in part for word in _CHEST_WORDS):
        raise InputError("NOT_A_RADIOGRAPH", "BodyPartExamined is not the chest. Send a chest radiograph.")
    if tag := _tag_of_another_view(dataset):
        raise InputError("NOT_FRONTAL", f"{tag} is not that of a PA or AP view. Send the frontal film of the study.")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise InputError("MULTI_FRAME", f"{frames} frames; one film holds 1. Send one frame as its own file.")
    photometric = _upper(dataset, "PhotometricInterpretation")
    if photometric not in _GREY:
        raise InputError("NOT_A_RADIOGRAPH", f"colour pixels; {' or '.join(_GREY)} is needed. Send the grey original.")
    check_size(int(dataset.Columns), int(dataset.Rows))
    return photometric


def _tag_of_another_view(dataset: Dataset) -> str | None:
    """The tag that says a view is not frontal, where one does."""
    if _upper(dataset, "ViewPosition").startswith(_OTHER_VIEWS):
        return "ViewPosition"
    # The rows of a frontal film run to the patient's left or right, of a lateral one to the front or back: PS3.3
    # C.7.6.1.1.1.
    rows = dataset.get("PatientOrientation") or [""]
    if str(rows[0]).upper()[:1] in ("A", "P"):
        return "PatientOrientation"
    if any("LATERAL" in _upper(code, "CodeMeaning") for code in dataset.get("ViewCodeSequence") or ()):
        return "ViewCodeSequence"  # PS3.16 CID 4010
    return None


def _background(values: Stored, dataset: Dataset) -> npt.NDArray[np.bool_]:
    """Where the stored values are padding (PS3.3 C.7.5.1.1.2)."""
    nowhere = np.zeros(values.shape, dtype=bool)
    padding = dataset.get("PixelPaddingValue")
    if padding is None:
        return nowhere
    # Writers give it in the wrong one of its two VRs: 63536 for -2000
    kind = "iu"[dataset.PixelRepresentation == 0] + str(int(dataset.BitsAllocated) // 8)
    limits = np.array([int(padding), int(dataset.get("PixelPaddingRangeLimit", padding))]).astype(kind)
    background = np.asarray((values >= limits.min()) & (values <= limits.max()))
    return background if not background.all() else nowhere


def _modality_values(stored: Stored, dataset: Dataset) -> Values:
    """Stored values after the modality LUT or the rescale: PS3.3 C.11.1."""
    if dataset.get("ModalityLUTSequence"):
        return _look_up(stored, dataset.ModalityLUTSequence[0], dataset)[0]
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None or intercept is None:
        return stored.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored * np.float32(slope) + np.float32(intercept)
    if not np.isfinite([values.min(), values.max()]).all():
        raise InputError("DAMAGED_IMAGE", "RescaleSlope or RescaleIntercept is no finite number. Export it again.")
    return np.asarray(values, dtype=np.float32)


def _look_up(values: npt.NDArray[Any], item: Dataset, dataset: Dataset) -> tuple[Values, float]:
    """Values through a look-up table, and the highest one it can give: PS3.3 C.11.1.1 and C.11.2.1.1."""
    length, first, bits = (int(number) for number in item.LUTDescriptor)
    if not 1 <= bits <= 16:
        raise InputError("DAMAGED_IMAGE", f"a look-up table of {bits} bits; 1 to 16 are possible. Export it again.")
    length = length % 65536 or 65536  # 0 stands for 65,536; a signed VR makes long ones negative
    table = item.LUTData
    if isinstance(table, bytes):  # OW; entries of 8 bits take one byte or, by some writers, two
        order = ">" if dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian else "<"
        table = np.frombuffer(table, f"{order}u2" if len(table) >= 2 * length else "u1", count=length)
    table = np.asarray(table, dtype=np.float32)[:length]
    places = np.clip(np.rint(values) - first, 0, len(table) - 1).astype(np.int32)
    return np.asarray(table[places]), float((1 << bits) - 1)


def _values_of_interest(values: Values, background: npt.NDArray[np.bool_], dataset: Dataset) -> Values:
    """The values as a screen shows them, 0-1: by VOI LUT, by window, or by the film's own range."""
    if dataset.get("VOILUTSequence"):
        looked_up, highest = _look_up(values, dataset.VOILUTSequence[0], dataset)
        return looked_up / highest
    function = _upper(dataset, "VOILUTFunction") or "LINEAR"
    window = _window(dataset, 1.0 if function == "LINEAR" else 0.0)
    if window is not None:
        centre, width = window
        if function == "SIGMOID":  # PS3.3 C.11.2.1.3.1, 1 / (1 + exp(-4 (x - c) / w)), without its overflow
            return np.asarray(0.5 + 0.5 * np.tanh(2.0 * (values - centre) / width))
        if function == "LINEAR_EXACT":  # PS3.3 C.11.2.1.3.2
            return np.asarray(np.clip((values - centre) / width + 0.5, 0.0, 1.0))
        # PS3.3 C.11.2.1.2.1
        return np.asarray(np.clip((values - (centre - 0.5)) / max(width - 1.0, 1.0) + 0.5, 0.0, 1.0))
    foreground = values[~background]
    low, high = float(foreground.min()), float(foreground.max())
    return (values - low) / max(high - low, 1e-6)


def _window(dataset: Dataset, narrowest: float) -> tuple[float, float] | None:
    """The first window centre and width, where both are there and the width is one the standard allows."""
    centre, width = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if centre in (None, "") or width in (None, ""):
        return None
    try:
        first_centre = float(np.atleast_1d(np.asarray(centre, dtype=float))[0])
        first_width = float(np.atleast_1d(np.asarray(width, dtype=float))[0])
    except (ValueError, TypeError, IndexError):
        return None
    allowed = first_width >= narrowest and first_width > 0 and np.isfinite([first_centre, first_width]).all()
    return (first_centre, first_width) if allowed else None
