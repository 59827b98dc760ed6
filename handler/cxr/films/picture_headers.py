"""Headers of picture files, walked before a library does: theirs build an object for each of a million empty parts."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from cxr.errors import InputError

JPEG_START: Final = b"\xff\xd8\xff"  # and the first byte of the marker that has to follow
PNG_START: Final = b"\x89PNG\r\n\x1a\n"
_MOST_SEGMENTS: Final = 1000  # a large colour profile takes a few dozen
_MOST_CHUNKS: Final = 100_000  # 48 MiB of pixels in the smallest chunks writers use, 8 kB, take 6,000
_JPEG_SCAN: Final = b"\xff\xda"  # cannot occur in coded data: ITU-T T.81 section B.1.1.5
_MOST_SCANS: Final = 100
_WITHOUT_LENGTH: Final = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})  # no segment, or one that ends the header
_START_OF_SCAN: Final = 0xDA
_SEQUENTIAL: Final = (0xC0, 0xC1)  # Huffman-coded frames that are not progressive: ITU-T T.81 table B.1


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and position of each segment of a JPEG or JPEG-LS header, up to the first scan: ITU-T T.81 B.1.1.

    Raises
    ------
    InputError
        DAMAGED_IMAGE where there is no end of them.
    """
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if at + 4 > len(data) or data[at] != 0xFF:
            return
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes: B.1.1.2
            at += 1
            continue
        if marker in _WITHOUT_LENGTH:
            return
        yield marker, at
        if marker == _START_OF_SCAN:
            return
        (length,) = struct.unpack_from(">H", data, at + 2)
        at += 2 + length
    raise InputError("DAMAGED_IMAGE", f"more than {_MOST_SEGMENTS:,} segments before the pixels. Export it again.")


def check_jpeg(data: bytes) -> None:
    """Refuse a JPEG that would take minutes: each scan of a progressive one goes over the whole film again.

    Raises
    ------
    InputError
        DAMAGED_IMAGE.
    """
    is_one_scan = False
    for marker, at in jpeg_segments(data):
        if marker in _SEQUENTIAL and data[at + 9 : at + 10] == b"\x01":  # one component: T.81 B.2.2
            is_one_scan = True
    if is_one_scan:
        return  # a second one is an error at once, so that it need not be searched for
    scans = data.count(_JPEG_SCAN)
    if scans > _MOST_SCANS:
        raise InputError(
            "DAMAGED_IMAGE", f"{scans:,} scans; a JPEG has 1, a progressive one about 10. Save it as baseline JPEG."
        )


def check_png(data: bytes) -> None:
    """Refuse a PNG with more chunks than a film can need: PNG specification, section 5.

    Raises
    ------
    InputError
        DAMAGED_IMAGE.
    """
    at, chunks, others = len(PNG_START), 0, 0
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks += 1
        others += data[at + 4 : at + 8] != b"IDAT"
        if others > _MOST_SEGMENTS or chunks > _MOST_CHUNKS:
            raise InputError("DAMAGED_IMAGE", f"more than {chunks - 1:,} chunks. Export the film again.")
        at += 12 + length


def png_significant_bits(data: bytes) -> int | None:
    """What a PNG that was checked says of its significant bits (chunk sBIT, section 11.3.2.7), None where nothing."""
    at = len(PNG_START)
    while at + 12 <= len(data) and data[at + 4 : at + 8] != b"IDAT":
        (length,) = struct.unpack_from(">I", data, at)
        if data[at + 4 : at + 8] == b"sBIT" and length:
            return data[at + 8]
        at += 12 + length
    return None
