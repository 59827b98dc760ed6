"""From a DICOM file to a film as a reading room shows it.

The steps are those of the grey-scale pipeline in DICOM PS3.4 annex N.2: stored values, modality transformation, values
of interest, presentation. Only single-frame projection images of the chest are read; what the tags say is something
else is refused.
"""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.filereader import read_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from cxr.errors import InputError
from cxr.film import Film, ImageInfo, check_size, unit_to_uint8

_MAGIC_AT: Final = 128
_META_AT: Final = 132
# Computed and digital radiography, their older and secondary-capture names (PS3.3 C.7.3.1.1.1)
_MODALITIES: Final = frozenset({"CR", "DX", "RG", "DR", "SC", "OT", "XR"})
_OTHER_VIEWS: Final = ("LL", "RL", "LAT", "LLD", "RLD", "LLO", "RLO")
_CHEST_WORDS: Final = ("CHEST", "THORAX", "LUNG", "RIB", "TORSO")
_GREY: Final = ("MONOCHROME1", "MONOCHROME2")
_VIEWS: Final = frozenset({"PA", "AP", "AP SUPINE", "AP ERECT", "AP AXIAL", "POSTERO_ANTERIOR", "ANTERO_POSTERIOR"})

Values = npt.NDArray[np.floating]


def is_dicom(data: bytes) -> bool:
    """Whether the bytes start as a DICOM file does (PS3.10 section 7.1)."""
    return data[_MAGIC_AT:_META_AT] == b"DICM"


def read_dicom(data: bytes) -> Film:
    """The film in a DICOM file.

    Raises
    ------
    InputError
        With the code that says what is wrong with it.
    """
    dataset = _read_header(data)
    _check_tags(dataset)
    values, background = _stored_values(dataset)
    values = np.asarray(apply_modality_lut(values, dataset), dtype=np.float32)
    grey = _values_of_interest(values, background, dataset)
    photometric = str(dataset.PhotometricInterpretation)
    if photometric == "MONOCHROME1":  # the lowest value is white: PS3.3 C.7.6.3.1.2
        grey = 1.0 - grey
    grey[background] = 0.0
    view = str(dataset.get("ViewPosition", "") or "").upper()
    return Film(
        unit_to_uint8(grey),
        ImageInfo(
            format="DICOM",
            width=int(dataset.Columns),
            height=int(dataset.Rows),
            bits=int(dataset.BitsStored),
            photometric_interpretation=photometric,
            view_position=view if view in _VIEWS else None,
        ),
    )


def _read_header(data: bytes) -> Dataset:
    try:
        # The meta group first: a deflated data set is unpacked whole by any attempt to read past it.
        stream = io.BytesIO(data)
        stream.seek(_META_AT)
        meta = read_dataset(stream, False, True, stop_when=_past_meta)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raise InputError(
                "UNSUPPORTED_TRANSFER_SYNTAX", "the data set is deflated; send it as Explicit VR Little Endian."
            )
        return dcmread(io.BytesIO(data))
    except InputError:
        raise
    except Exception as error:  # pydicom 3.0 raises whatever the damage leads to
        raise InputError("DAMAGED_IMAGE", "the DICOM header cannot be read. Export the file again.") from error


def _past_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != 2


def _check_tags(dataset: Dataset) -> None:
    missing = [
        k
        for k in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PhotometricInterpretation", "PixelData")
        if dataset.get(k) is None
    ]
    if missing:
        raise InputError("DAMAGED_IMAGE", f"the DICOM file has no {', '.join(missing)}. Export it with its pixels.")
    modality = str(dataset.get("Modality", "") or "").upper()
    if modality and modality not in _MODALITIES:
        raise InputError("NOT_A_RADIOGRAPH", "Modality is not one of CR, DX, DR, RG, SC, OT. Send a chest radiograph.")
    part = str(dataset.get("BodyPartExamined", "") or "").upper()
    if part and not any(word in part for word in _CHEST_WORDS):
        raise InputError("NOT_A_RADIOGRAPH", "BodyPartExamined is not the chest. Send a chest radiograph.")
    if str(dataset.get("ViewPosition", "") or "").upper().startswith(_OTHER_VIEWS):
        raise InputError("NOT_FRONTAL", "ViewPosition is not PA or AP. Send the frontal film of the study.")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise InputError("MULTI_FRAME", f"{frames} frames; one film holds 1. Send one frame as its own file.")
    if str(dataset.PhotometricInterpretation) not in _GREY:
        raise InputError("NOT_A_RADIOGRAPH", f"colour pixels; {' or '.join(_GREY)} is needed. Send the grey original.")
    check_size(int(dataset.Columns), int(dataset.Rows))


def _stored_values(dataset: Dataset) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Stored values, (H, W), and where they are padding (PS3.3 C.7.5.1.1.2)."""
    if not _can_decode(dataset.file_meta.get("TransferSyntaxUID")):
        raise InputError("UNSUPPORTED_TRANSFER_SYNTAX", "no decoder for it; send it as Explicit VR Little Endian.")
    try:
        values = np.asarray(dataset.pixel_array)
    except Exception as error:  # pydicom 3.0 and its decoders raise whatever the damage leads to
        raise InputError("DAMAGED_IMAGE", "the DICOM pixels cannot be decoded. Export the file again.") from error
    if values.ndim != 2:
        raise InputError("DAMAGED_IMAGE", f"pixels with {values.ndim} axes; a grey film has 2. Export the file again.")
    padding = dataset.get("PixelPaddingValue")
    if padding is None:
        return values, np.zeros(values.shape, dtype=bool)
    limit = dataset.get("PixelPaddingRangeLimit", padding)
    low, high = sorted((int(padding), int(limit)))
    background = (values >= low) & (values <= high)
    return values, background if not background.all() else np.zeros(values.shape, dtype=bool)


def _can_decode(syntax: UID | None) -> bool:
    if syntax is None:
        return False
    if not syntax.is_compressed:
        return True
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _values_of_interest(values: Values, background: npt.NDArray[np.bool_], dataset: Dataset) -> Values:
    """The values as a screen shows them, 0-1: by VOI LUT, by window, or by the film's own range."""
    if dataset.get("VOILUTSequence"):
        lut = dataset.VOILUTSequence[0]
        return np.asarray(apply_voi_lut(values.astype(np.int64), dataset), np.float32) / (
            (1 << int(lut.LUTDescriptor[2])) - 1
        )
    window = _window(dataset)
    if window is not None:
        centre, width = window
        if str(dataset.get("VOILUTFunction", "LINEAR") or "LINEAR") == "SIGMOID":  # PS3.3 C.11.2.1.3.1
            return np.asarray(1.0 / (1.0 + np.exp(-4.0 * (values - centre) / width)))
        # PS3.3 C.11.2.1.2.1
        return np.asarray(np.clip((values - (centre - 0.5)) / max(width - 1.0, 1.0) + 0.5, 0.0, 1.0))
    shown = values[~background]
    low, high = float(shown.min()), float(shown.max())
    return (values - low) / max(high - low, 1e-6)


def _window(dataset: Dataset) -> tuple[float, float] | None:
    """The first window centre and width, where both are there and the width is one the standard allows."""
    centre, width = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if centre in (None, "") or width in (None, ""):
        return None
    try:
        first_centre = float(np.atleast_1d(np.asarray(centre, dtype=float))[0])
        first_width = float(np.atleast_1d(np.asarray(width, dtype=float))[0])
    except (ValueError, TypeError, IndexError):
        return None
    return (first_centre, first_width) if first_width >= 1 and np.isfinite(first_centre) else None
