"""Parts of DICOM, JPEG and PNG files, to put together what no writer writes."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset, dcmread, uid
from pydicom.encaps import generate_fragments

SEQUENCE: Final = (0x0028, 0x3010)  # VOI LUT Sequence, which is looked at
PRIVATE: Final = (0x0029, 0x1010)
IMPLICIT: Final = b"1.2.840.10008.1.2"
EXPLICIT: Final = b"1.2.840.10008.1.2.1"
_DEFLATED: Final = b"1.2.840.10008.1.2.1.99"
_BASELINE: Final = b"1.2.840.10008.1.2.4.50"
_ROWS, _COLUMNS = 300, 260
_LONG: Final = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC")  # VRs with lengths of four bytes: PS3.5 7.1.2


@cache
def grey() -> npt.NDArray[np.uint8]:
    """A film of one seed, (300, 260)."""
    rng = np.random.default_rng(1)
    ramp = np.add.outer(np.arange(_ROWS), np.arange(_COLUMNS)) * 0.4
    return np.clip(ramp + rng.normal(0, 6, (_ROWS, _COLUMNS)), 0, 255).astype(np.uint8)


def element(group: int, number: int, value: bytes) -> bytes:
    """Of an implicit little endian data set."""
    return struct.pack("<HHL", group, number, len(value)) + value


def explicit(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """Of an explicit little endian data set."""
    if vr in _LONG:
        return struct.pack("<HH2sHL", group, number, vr, 0, len(value)) + value
    value = value[:65_534]
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


def words(group: int, number: int, value: int) -> bytes:
    """An element of one 16-bit word."""
    return element(group, number, struct.pack("<H", value))


def undefined(group: int, number: int, items: bytes) -> bytes:
    """A sequence of undefined length."""
    return struct.pack("<HHL", group, number, 0xFFFFFFFF) + items + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


def item(value: bytes = b"") -> bytes:
    """An item of a sequence, or a fragment."""
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(value)) + value


def nested(tag: tuple[int, int], depth: int, value: bytes, *, closed: bool) -> bytes:
    """A sequence in a sequence, and so on, put together in one go: each of them inside would be copied."""
    start = struct.pack("<HHL", *tag, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return start * depth + value + (end * depth if closed else b"")


def of_syntax(syntax: bytes) -> bytes:
    """Preamble and meta group of a file."""
    syntax += b"\0" * (len(syntax) % 2)
    body = b"\x02\x00\x10\x00UI" + struct.pack("<H", len(syntax)) + syntax
    return bytes(128) + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00" + struct.pack("<L", len(body)) + body


def _as_explicit(data: bytes) -> bytes:
    """An element of `element` with its VR: that of a word or of a text."""
    group, number, length = struct.unpack_from("<HHL", data)
    vr = b"OW" if group == 0x7FE0 else b"US" if length == 2 and group == 0x28 else b"CS"
    return explicit(group, number, vr, data[8:])


def dicom_with(
    *more: bytes,
    rows: int = _ROWS,
    columns: int = _COLUMNS,
    bits: int = 8,
    pixels: bytes | None = None,
    syntax: bytes = IMPLICIT,
    deflated: bool = False,
) -> bytes:
    """A good film with elements more, which are `explicit` where its syntax is."""
    needed = [
        *(element(0x08, 0x60, b"DX"), words(0x28, 0x02, 1), element(0x28, 0x04, b"MONOCHROME2 ")),
        *(words(0x28, 0x10, rows), words(0x28, 0x11, columns), words(0x28, 0x100, bits), words(0x28, 0x101, bits)),
        *(words(0x28, 0x102, bits - 1), words(0x28, 0x103, 0)),
    ]
    last = element(0x7FE0, 0x10, grey().tobytes() if pixels is None else pixels)
    if syntax == EXPLICIT or deflated:
        needed, last = [_as_explicit(one) for one in needed], _as_explicit(last)
    parts = sorted((*needed, *more), key=lambda part: struct.unpack_from("<HH", part))
    body = b"".join([*parts, last])
    if deflated:
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        return of_syntax(_DEFLATED) + packer.compress(body) + packer.flush()
    return of_syntax(syntax) + body


def encapsulated(fragments: bytes, syntax: bytes = _BASELINE, rows: int = _ROWS, columns: int = _COLUMNS) -> bytes:
    """A film in fragments."""
    numbers = (*((0x02, 1), (0x10, rows), (0x11, columns)), *((0x100, 8), (0x101, 8), (0x102, 7), (0x103, 0)))
    head = explicit(0x08, 0x60, b"CS", b"DX") + explicit(0x28, 0x04, b"CS", b"MONOCHROME2 ")
    head += b"".join(explicit(0x28, number, b"US", struct.pack("<H", value)) for number, value in sorted(numbers))
    pixels = struct.pack("<HH", 0x7FE0, 0x10) + b"OB\0\0\xff\xff\xff\xff" + fragments
    return of_syntax(syntax) + head + pixels + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


def segment(marker: int, value: bytes) -> bytes:
    """Of a JPEG."""
    value = value[:65_533]
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(value) + 2) + value


@cache
def pictures() -> dict[str, bytes]:
    """The film as JPEG, progressive JPEG and PNG."""
    made = {}
    for name, form, is_progressive in (
        ("JPEG", "JPEG", False),
        ("progressive", "JPEG", True),
        ("PNG", "PNG", False),
    ):
        stream = io.BytesIO()
        Image.fromarray(grey()).save(stream, form, quality=90, progressive=is_progressive)
        made[name] = stream.getvalue()
    return made


def jpeg_with(*segments: bytes) -> bytes:
    """The film as a JPEG with segments more."""
    jpeg = pictures()["JPEG"]
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def chunk(name: bytes, value: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(value)) + name + value + struct.pack(">I", zlib.crc32(name + value))


def png_with(*chunks: bytes) -> bytes:
    """The film as a PNG with chunks more, behind its header."""
    png = pictures()["PNG"]
    return png[:33] + b"".join(chunks) + png[33:]


def exif(entries: int) -> bytes:
    """The body of an Exif segment."""
    directory = b"".join(struct.pack("<HHLL", number, 4, 1, 1) for number in range(entries))
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", entries) + directory + bytes(4)


@cache
def _coded(syntax: uid.UID) -> bytes:
    dataset: Dataset = dcmread(io.BytesIO(dicom_with(syntax=EXPLICIT)))
    dataset.compress(syntax, generate_instance_uid=False)
    return next(iter([*generate_fragments(dataset.PixelData)][1:]))


def _jpeg() -> bytes:
    return pictures()["JPEG"]


STREAMS: Final[dict[bytes, Callable[[], bytes]]] = {
    _BASELINE: _jpeg,
    b"1.2.840.10008.1.2.4.51": _jpeg,
    b"1.2.840.10008.1.2.4.80": lambda: _coded(uid.JPEGLSLossless),
    b"1.2.840.10008.1.2.4.90": lambda: _coded(uid.JPEG2000Lossless),
}
