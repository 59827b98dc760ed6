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
from PIL import Image, UnidentifiedImageError
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, JPEG2000TransferSyntaxes, JPEGTransferSyntaxes

from cxr.errors import InputError
from cxr.film import Film, ImageInfo, check_size, unit_to_uint8

_MAGIC_AT: Final = 128
_META_AT: Final = 132
# Computed and digital radiography, their older and secondary-capture names (PS3.3 C.7.3.1.1.1)
_MODALITIES: Final = frozenset({"CR", "DX", "RG", "DR", "SC", "OT", "XR"})
_OTHER_VIEWS: Final = ("LL", "RL", "LAT", "LLD", "RLD", "LLO", "RLO")
_CHEST_WORDS: Final = ("CHEST", "THORAX", "LUNG", "RIB", "TORSO", "TORAX")
_NEEDED: Final = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PhotometricInterpretation", "PixelData")
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
    try:
        return _read(data)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # pydicom 3.0 and its decoders raise whatever the damage leads to
        raise InputError("DAMAGED_IMAGE", "the DICOM file cannot be read. Export it again.") from error


def _read(data: bytes) -> Film:
    dataset = _read_header(data)
    photometric = _check_tags(dataset)
    values, background = _stored_values(dataset)
    values = np.asarray(apply_modality_lut(values, dataset), dtype=np.float32)
    grey = _values_of_interest(values, background, dataset)
    if photometric == "MONOCHROME1":  # the lowest value is white: PS3.3 C.7.6.3.1.2
        grey = 1.0 - grey
    grey[background] = 0.0
    view = _upper(dataset, "ViewPosition")
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
    # The meta group first: a deflated data set is unpacked whole by any attempt to read past it.
    stream = io.BytesIO(data)
    stream.seek(_META_AT)
    meta = read_dataset(stream, False, True, stop_when=_past_meta)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise InputError(
            "UNSUPPORTED_TRANSFER_SYNTAX", "the data set is deflated; send it as Explicit VR Little Endian."
        )
    return dcmread(io.BytesIO(data))


def _past_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != 2


def _upper(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword, "") or "").upper()


def _check_tags(dataset: Dataset) -> str:
    """Refuse what the tags say is no single frontal chest radiograph; the photometric interpretation of one that is."""
    missing = [keyword for keyword in _NEEDED if dataset.get(keyword) is None]
    if missing:
        raise InputError("DAMAGED_IMAGE", f"the DICOM file has no {', '.join(missing)}. Export it with its pixels.")
    modality, part = _upper(dataset, "Modality"), _upper(dataset, "BodyPartExamined")
    if modality and modality not in _MODALITIES:
        raise InputError("NOT_A_RADIOGRAPH", "Modality is not one of CR, DX, DR, RG, SC, OT. Send a chest radiograph.")
    if part and not any(word in part for word in _CHEST_WORDS):
        raise InputError("NOT_A_RADIOGRAPH", "BodyPartExamined is not the chest. Send a chest radiograph.")
    if _upper(dataset, "ViewPosition").startswith(_OTHER_VIEWS):
        raise InputError("NOT_FRONTAL", "ViewPosition is not PA or AP. Send the frontal film of the study.")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise InputError("MULTI_FRAME", f"{frames} frames; one film holds 1. Send one frame as its own file.")
    photometric = _upper(dataset, "PhotometricInterpretation")
    if photometric not in _GREY:
        raise InputError("NOT_A_RADIOGRAPH", f"colour pixels; {' or '.join(_GREY)} is needed. Send the grey original.")
    check_size(int(dataset.Columns), int(dataset.Rows))
    return photometric


def _stored_values(dataset: Dataset) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Stored values, (H, W), and where they are padding (PS3.3 C.7.5.1.1.2)."""
    if not _can_decode(dataset.file_meta.get("TransferSyntaxUID")):
        raise InputError("UNSUPPORTED_TRANSFER_SYNTAX", "no decoder for it; send it as Explicit VR Little Endian.")
    _check_announced_size(dataset)
    values = np.asarray(dataset.pixel_array)
    if values.ndim != 2:
        raise InputError("DAMAGED_IMAGE", f"pixels with {values.ndim} axes; a grey film has 2. Export the file again.")
    padding = dataset.get("PixelPaddingValue")
    if padding is None:
        return values, np.zeros(values.shape, dtype=bool)
    limit = dataset.get("PixelPaddingRangeLimit", padding)
    low, high = sorted((int(padding), int(limit)))
    background = (values >= low) & (values <= high)
    return values, background if not background.all() else np.zeros(values.shape, dtype=bool)


def _check_announced_size(dataset: Dataset) -> None:
    """Refuse a JPEG or JPEG 2000 stream whose own header tells of another size than the tags, before it is decoded."""
    if dataset.file_meta.TransferSyntaxUID not in (*JPEGTransferSyntaxes, *JPEG2000TransferSyntaxes):
        return
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    try:
        with Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as picture:
            announced = picture.size
    except UnidentifiedImageError:
        if dataset.file_meta.TransferSyntaxUID in JPEG2000TransferSyntaxes:
            raise
        return  # a lossless or 12-bit JPEG, whose header Pillow does not know
    if announced != (dataset.Columns, dataset.Rows):
        raise InputError(
            "DAMAGED_IMAGE",
            f"the tags say {dataset.Columns} x {dataset.Rows} pixels, the compressed stream {announced[0]} x "
            f"{announced[1]}. Export the file again.",
        )


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
