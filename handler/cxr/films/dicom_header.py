"""The tags of a DICOM file that a film needs, read within bounds; the others, those of the patient above all, never.

pydicom builds objects for every element of every nested data set, and for every value of a text with many: a file of
48 MiB can hold millions. What it reads is therefore counted, and what it reads it from is cut short.
"""

from __future__ import annotations

import io
from typing import Final

from pydicom import Dataset, dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from cxr.errors import InputError

MAGIC_AT: Final = 128
META_AT: Final = 132
_TAGS: Final = (
    *("Modality", "BodyPartExamined", "ViewPosition", "PatientOrientation", "ViewCodeSequence", "NumberOfFrames"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored"),
    *("PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept"),
    *("ModalityLUTSequence", "VOILUTSequence", "VOILUTFunction", "WindowCenter", "WindowWidth"),
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData"),
)
_PIXELS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_MOST_READS: Final = 30_000  # an element takes two or three; a large header has a few thousand elements
_LONGEST_TEXT: Final = 4096  # bytes; sixteen values of the longest VR of numbers take 272
_LONGEST_SEQUENCE: Final = 1 << 20  # a look-up table of 65,536 values takes 128 kB


class _Counted(io.BytesIO):
    """A file that gives up where it is read from too often."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > _MOST_READS:
            raise InputError("DAMAGED_IMAGE", "the DICOM file has too many elements. Export it without private ones.")
        return super().read(size)


def read_header(data: bytes) -> Dataset:
    """The data set with what a film needs of it, pixels included, not yet decoded.

    Raises
    ------
    InputError
        UNSUPPORTED_TRANSFER_SYNTAX for a deflated data set, DAMAGED_IMAGE for one beyond the bounds.
    Exception
        Whatever pydicom 3.0 raises over damage.
    """
    # The meta group first: a deflated data set is unpacked whole by any attempt to read past it.
    stream = _Counted(data)
    stream.seek(META_AT)
    meta = read_dataset(stream, False, True, stop_when=_past_meta)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise InputError(
            "UNSUPPORTED_TRANSFER_SYNTAX", "the data set is deflated; send it as Explicit VR Little Endian."
        )
    dataset = dcmread(_Counted(data), specific_tags=list(_TAGS))
    for element in dataset.values():
        _check_length(element)
    return dataset


def _past_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != 2


def _check_length(element: object) -> None:
    """Refuse a value before it is parsed, if it is longer than its kind can be."""
    if not isinstance(element, RawDataElement) or not isinstance(element.value, bytes):
        return  # a sequence of undefined length is parsed already, within the number of reads
    keyword = keyword_for_tag(element.tag)
    if keyword in _PIXELS:
        return
    most = _LONGEST_SEQUENCE if keyword.endswith("Sequence") else _LONGEST_TEXT
    if len(element.value) > most:
        raise InputError("DAMAGED_IMAGE", f"an element of {len(element.value):,} bytes; it has at most {most:,}.")
