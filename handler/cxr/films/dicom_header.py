"""The tags of a DICOM file that a film needs, read within bounds; the others, those of the patient above all, never.

pydicom builds objects for every element of every nested data set, and for every value of a text with many: a file of
48 MiB can hold millions. What it reads is therefore counted, and what it reads it from is cut short.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom import DataElement, Dataset, Sequence, dcmread
from pydicom.charset import python_encoding
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.filereader import read_dataset, read_sequence_item
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from cxr.errors import InputError
from cxr.films.film import MAX_BYTES

MAGIC_AT: Final = 128
META_AT: Final = 132
_MAGIC: Final = b"DICM"
_PALETTES: Final = tuple(
    f"{colour}PaletteColorLookupTable{part}" for colour in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")
)
_TAGS: Final = (
    *("SpecificCharacterSet", "SOPClassUID", "PresentationIntentType", "PixelIntensityRelationship"),
    *("Modality", "BodyPartExamined", "AnatomicRegionSequence", "ViewPosition", "PatientOrientation"),
    *("ViewCodeSequence", "NumberOfFrames", "PlanarConfiguration", "PresentationLUTShape"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept"),
    *("ModalityLUTSequence", "VOILUTSequence", "VOILUTFunction", "WindowCenter", "WindowWidth", *_PALETTES),
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData"),
)
_PIXELS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_MOST_READS: Final = 30_000  # an element takes two or three; a large header has a few thousand elements
_CHARSET: Final = (b"\x08\0\x05\0", b"\0\x08\0\x05")  # Specific Character Set, in either byte order
_SHORT: Final = 32  # bytes, so few that the parts of a header are told from values
_LONGEST_TEXT: Final = 4096  # bytes; sixteen values of the longest VR of numbers take 272
_LONGEST_ITEM: Final = 1 << 20  # a look-up table of 65,536 values takes 128 kB
_LONGEST_PALETTE: Final = 1 << 17
_VRS: Final = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)
_CHUNK: Final = 1 << 20
_UNDEFINED: Final = 2**32 - 1
_NUMBERS: Final = ("FD", "FL", "SL", "SS", "UL", "US")
_DECIMAL: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eEdD][+-]?\d+)?", re.ASCII)
# Tried where no character set is declared, or a wrong one
_ENCODINGS: Final = (
    *(
        "iso2022_jp",
        "utf_8",
        "gb18030",
        "big5",
        "shift_jis",
        "euc_jp",
        "euc_kr",
        "iso8859_5",
        "cp1251",
        "koi8_r",
        "cp866",
    ),
    *("iso8859_7", "iso8859_6", "cp1256", "latin_1", "cp1250", "cp437"),
)


class _Counted(io.BytesIO):
    """A file that gives up where it is read from too often, or for more character sets than there are.

    pydicom splits and looks up Specific Character Set while it reads, at any depth; everything else it only cuts out.
    """

    reads = 0
    charset_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > _MOST_READS:
            raise InputError("DAMAGED_IMAGE", "the DICOM file has too many elements. Export it without private ones.")
        value = super().read(size)
        if len(value) > _SHORT and self._follows_charset(len(value)):
            self.charset_bytes += len(value)
            if self.charset_bytes > _LONGEST_TEXT:
                raise InputError("DAMAGED_IMAGE", "more character sets than there are. Export the file again.")
        return value

    def _follows_charset(self, size: int) -> bool:
        """Whether the bytes that were just read stand behind the tag (0008,0005) and its length."""
        start = self.tell() - size
        head = self.getbuffer()[max(start - 12, 0) : start]
        return any(bytes(head[at : at + 4]) in _CHARSET for at in {len(head) - 8, 0} if at >= 0)


def is_dicom(data: bytes) -> bool:
    """Whether the bytes start as a DICOM file does (PS3.10 section 7.1), or as one without its preamble or meta group.

    Such a file starts with an element of group 2 or 8: a tag, then a VR in two letters or a length in four bytes.
    """
    if data[MAGIC_AT:META_AT] == _MAGIC or data.startswith(_MAGIC):
        return True
    if len(data) < META_AT:
        return False
    group, element, length = struct.unpack_from("<HHL", data)
    if group in (2, 8) and element <= 0x100:
        return data[4:6] in _VRS or length <= 1024
    return data[:2] == b"\x00\x08" and data[4:6] in _VRS  # big endian


def read_header(data: bytes) -> Dataset:
    """The data set with what a film needs of it, pixels included, not yet decoded.

    Its meta group has a transfer syntax: without one it is the encoding that the elements have.

    Raises
    ------
    InputError
        TOO_MANY_BYTES for a deflated data set beyond the limit of files, DAMAGED_IMAGE for one beyond other bounds.
    Exception
        Whatever pydicom 3.0 raises over damage.
    """
    if data.startswith(_MAGIC):
        data = b"\0" * MAGIC_AT + data
    # The meta group first: a deflated data set is unpacked whole by any attempt to read past it.
    stream = _Counted(data)
    stream.seek(META_AT if data[MAGIC_AT:META_AT] == _MAGIC else 0)
    meta = Dataset()
    if data[stream.tell() :][:2] == b"\x02\x00":
        meta = read_dataset(stream, False, True, stop_when=_past_meta)
        _check_length(meta.get_item("TransferSyntaxUID") if "TransferSyntaxUID" in meta else None)
    syntax = UID(str(meta.get("TransferSyntaxUID") or "").strip(" \0"))
    if syntax == DeflatedExplicitVRLittleEndian:
        data, syntax = _inflated(data, stream.tell()), ExplicitVRLittleEndian
    dataset = dcmread(_Counted(data), specific_tags=list(_TAGS), force=True)
    dataset.file_meta.update(meta)
    dataset.file_meta.TransferSyntaxUID = syntax or _syntax_of(dataset)
    for element in [*dataset.values()]:
        _check_length(element)
        _keep_first_item(dataset, element)
    return dataset


def _past_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != 2


def _syntax_of(dataset: FileDataset) -> UID:
    is_implicit, is_little = dataset.original_encoding
    if is_implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian


def _inflated(data: bytes, start: int) -> bytes:
    """A deflated data set unpacked: PS3.5 A.5. It is measured first, since a small one can grow to gigabytes."""
    size = sum(map(len, _unpacked(data, start)))
    if size > MAX_BYTES:
        raise InputError("TOO_MANY_BYTES", f"the deflated data set holds more than {MAX_BYTES:,} bytes. Compress it.")
    return b"".join(_unpacked(data, start))


def _unpacked(data: bytes, start: int) -> Iterator[bytes]:
    """The parts of what is deflated, up to the first one beyond the limit."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    rest, size = memoryview(data)[start:], 0
    while not unpacker.eof and size <= MAX_BYTES:
        part = unpacker.decompress(unpacker.unconsumed_tail or rest, _CHUNK)
        rest = rest[:0]
        if not part:
            break  # it ends early: what there is may hold the film
        size += len(part)
        yield part


def _check_length(element: object) -> None:
    """Refuse a value before it is parsed, if it is longer than its kind can be."""
    if not isinstance(element, RawDataElement) or not isinstance(element.value, bytes):
        return  # a sequence of undefined length is parsed already, within the number of reads
    keyword = keyword_for_tag(element.tag)
    if keyword in _PIXELS or keyword.endswith("Sequence"):
        return
    most = _LONGEST_PALETTE if keyword in _PALETTES else _LONGEST_TEXT
    if len(element.value) > most:
        raise InputError("DAMAGED_IMAGE", f"an element of {len(element.value):,} bytes; it has at most {most:,}.")


def _keep_first_item(dataset: Dataset, element: object) -> None:
    """Read a sequence as far as its first item, which is the one that counts; one that is damaged has none of it.

    Writers give a dozen alternative look-up tables, of 128 kB each.
    """
    if not isinstance(element, RawDataElement) or not keyword_for_tag(element.tag).endswith("Sequence"):
        return
    value = element.value or b""
    if len(value) < 8:
        dataset[element.tag] = DataElement(element.tag, "SQ", Sequence())
        return
    is_little = element.is_little_endian
    (length,) = struct.unpack_from("<L" if is_little else ">L", value, 4)
    length = len(value) if length == _UNDEFINED else length + 8
    is_implicit = element.is_implicit_VR or element.VR == "UN"  # PS3.5 6.2.2 note 2
    try:
        if length > _LONGEST_ITEM:
            raise ValueError("longer than a look-up table")
        item = read_sequence_item(_Counted(value[:length]), is_implicit, is_little, "iso8859")
    except (InputError, MemoryError):
        raise
    except Exception:  # pydicom 3.0 raises whatever the damage leads to
        item = None
    dataset[element.tag] = DataElement(element.tag, "SQ", Sequence([item or Dataset()]))


def word_bytes(dataset: Dataset, keyword: str) -> bytes:
    """The value of an element of 16-bit words, low byte first, whatever its VR is; none where there is no element."""
    if keyword not in dataset:
        return b""
    element: Any = dataset.get_item(keyword)
    value = element.value
    if isinstance(value, bytes):
        is_big = isinstance(element, RawDataElement) and not element.is_little_endian and element.VR not in ("OB", "UN")
        return np.frombuffer(value[: len(value) // 2 * 2], ">u2").astype("<u2").tobytes() if is_big else value
    if value is None:
        return b""
    numbers = np.atleast_1d(np.asarray(value, dtype=np.int64))
    return (numbers & 0xFFFF).astype("<u2").tobytes()


def words(dataset: Dataset, keyword: str) -> npt.NDArray[np.uint16]:
    """The value of an element of 16-bit words as unsigned numbers, whatever its VR says of their sign."""
    data = word_bytes(dataset, keyword)
    return np.frombuffer(data[: len(data) // 2 * 2], "<u2")


def check_whole(dataset: Dataset, keyword: str) -> None:
    """Refuse an element whose value is no whole number that 16 bits hold, whatever VR it came with.

    Raises
    ------
    InputError
        DAMAGED_IMAGE; the value, which can be a text of thousands of digits, is not in it.
    """
    try:
        value = dataset[keyword].value
        number = int(value)
        is_right = 0 <= number < 1 << 16 and float(value) == number
    except (TypeError, ValueError, OverflowError):
        is_right = False
    if not is_right:
        raise InputError("DAMAGED_IMAGE", f"{keyword} is no whole number of 0 to 65,535. Export the file again.")


def decimals(dataset: Dataset, keyword: str) -> list[float | None]:
    """The numbers in an element of VR DS, None for one that cannot be read; none where it is absent or empty.

    A decimal comma, which PS3.5 does not allow, is one: writers on systems of half of Europe use it.
    """
    if keyword not in dataset:
        return []
    element = dataset.get_item(keyword)
    value = element.value if element is not None else None
    if isinstance(value, bytes) and getattr(element, "VR", None) not in _NUMBERS:
        parts = value.decode("latin_1").split("\\")
    else:
        known = dataset[keyword].value
        parts = [str(one) for one in (known if isinstance(known, list | MultiValue) else [known]) if one is not None]
    parts = [part.strip(" \0\t\r\n") for part in parts]
    return [_decimal(part) for part in parts] if any(parts) else []


def _decimal(text: str) -> float | None:
    if "," in text and "." in text:  # the one that comes last begins the decimals
        text = text.replace("." if text.rindex(",") > text.rindex(".") else ",", "")
    text = text.replace(",", ".")
    if not _DECIMAL.fullmatch(text):
        return None
    number = float(text.upper().replace("D", "E"))
    return number if np.isfinite(number) else None


def readings(dataset: Dataset, keyword: str) -> list[str]:
    """What the first values of a text element can mean, in the character sets of hospitals, the likely ones first.

    For comparisons only; none of it belongs in a reply. Whole values, joined by backslashes, in upper case.
    """
    if keyword not in dataset:
        return []
    element = dataset.get_item(keyword)
    value = element.value if element is not None else None
    if not isinstance(value, bytes):
        many = value if isinstance(value, list | MultiValue) else [value]
        return ["\\".join(str(one) for one in many if one is not None).strip(" \0").upper()]
    if value.isascii() and b"\x1b" not in value:
        return [value.decode("ascii").strip(" \0").upper()]
    value = value.replace(b"\x1b$)C", b"")  # ISO 2022 IR 149, which is EUC-KR with this before it
    texts = []
    for encoding in dict.fromkeys((*_declared(dataset), *_ENCODINGS)):
        try:
            texts.append(value.decode(encoding).strip(" \0").upper())
        except (UnicodeDecodeError, LookupError):
            continue
    return texts


def _declared(dataset: Dataset) -> list[str]:
    names = [name.strip() for name in plain_text(dataset, "SpecificCharacterSet", whole=True).split("\\")]
    return [python_encoding[name] for name in names if name in python_encoding]


def plain_text(dataset: Dataset, keyword: str, *, whole: bool = False) -> str:
    """The first value of an element of VR CS, or all of them: in upper case, without blanks and NUL around it."""
    texts = readings(dataset, keyword)
    text = texts[0] if texts else ""
    return text if whole else text.split("\\")[0].strip(" \0\t")
