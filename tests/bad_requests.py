"""Requests that cannot be answered, each with the status and code that documents it: twenty-five ways to be wrong."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from cxr.films.film import MAX_BYTES
from tests.films import dicom, encoded, film


@dataclass(frozen=True)
class BadRequest:
    """What is sent, as keyword arguments of `requests.post`, and what has to come back."""

    name: str
    status: int
    code: str
    sent: dict[str, Any] = field(default_factory=dict)


def png_header(width: int, height: int) -> bytes:
    """The start of an 8-bit grey PNG of any size, with no pixel in it."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", b"x\x9c"), (b"IEND", b"")]
    made = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        made += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return made


def jpeg_header(width: int, height: int) -> bytes:
    """The start of a baseline JPEG of any size, with no pixel in it."""
    frame = struct.pack(">BHHB", 8, height, width, 1) + bytes([1, 0x11, 0])
    return b"\xff\xd8\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame + b"\xff\xd9"


def rle_that_claims(rows: int, columns: int) -> bytes:
    """A DICOM film of 200 bytes whose tags claim any number of pixels."""
    fragment = struct.pack("<16I", 1, 64, *[0] * 14) + bytes(136)
    pixels = b"\xfe\xff\x00\xe0" + bytes(4) + b"\xfe\xff\x00\xe0" + struct.pack("<I", len(fragment)) + fragment
    return dicom(film(), bits=8, syntax=RLELossless, PixelData=pixels, Rows=rows, Columns=columns)


def deflated(megabytes: int) -> bytes:
    """A deflated DICOM data set that grows to this many MB when it is unpacked."""
    return dicom(film(), bits=8, syntax=DeflatedExplicitVRLittleEndian, PixelData=bytes(megabytes << 20))


def with_elements(elements: bytes) -> bytes:
    """An Implicit VR DICOM film with further elements before its pixels."""
    whole = dicom(film(), bits=8, syntax=ImplicitVRLittleEndian)
    at = whole.rindex(b"\xe0\x7f\x10\x00")
    return whole[:at] + elements + whole[at:]


def jpeg_2000_in_precincts_of_one_pixel(side: int) -> bytes:
    """A DICOM film of 1 kB in JPEG 2000, cut into as many precincts as it has pixels (ITU-T T.800 A.5.1, A.6.1)."""
    size = struct.pack(">HHH8LHBBB", 0xFF51, 41, 0, side, side, 0, 0, side, side, 0, 0, 1, 7, 1, 1)
    style = struct.pack(">HH", 0xFF52, 13) + bytes([1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0])
    steps = struct.pack(">HH", 0xFF5C, 4) + bytes([0x40, 8 << 3])
    data = bytes(64)
    tile = struct.pack(">HHHLBB", 0xFF90, 10, 0, 14 + len(data), 0, 1) + b"\xff\x93" + data
    stream = b"\xff\x4f" + size + style + steps + tile + b"\xff\xd9"
    pixels = np.zeros((side, side), np.uint8)
    return dicom(pixels, bits=8, syntax=JPEG2000Lossless, PixelData=encapsulate([stream]))


def photograph() -> bytes:
    """A picture with colours."""
    return encoded(np.dstack([film(1), film(2), film(3)]), "JPEG")


def bad_requests() -> list[BadRequest]:
    """All of them."""
    text = base64.b64encode(encoded(film())).decode()
    octets = {"Content-Type": "application/octet-stream"}

    def raw(name: str, status: int, code: str, data: bytes, **headers: str) -> BadRequest:
        return BadRequest(name, status, code, {"data": data, "headers": octets | headers})

    def json(name: str, status: int, code: str, body: Any) -> BadRequest:
        return BadRequest(name, status, code, {"json": body})

    unknown = rle_that_claims(96, 80).replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.9\0")
    good = encoded(film())
    return [
        raw("nothing", 400, "EMPTY_BODY", b""),
        json("no base64", 400, "BAD_BASE64", {"data": "%%%"}),
        json("a data URI without base64", 400, "BAD_BASE64", {"data": "data:image/png,abc"}),
        raw("broken JSON", 400, "BAD_JSON", b'{"data": '),
        json("JSON of another kind", 400, "BAD_JSON", {"image": text}),
        json("too many films", 400, "BAD_JSON", {"instances": [{"b64": "AAAA"}] * 33}),
        raw("an unknown map", 400, "BAD_OPTION", good, **{"Cxr-Cam": "jet"}),
        raw("an unknown target", 400, "BAD_OPTION", good, **{"Cxr-Target": "COVID"}),
        raw("an unknown view", 400, "BAD_OPTION", good, **{"Cxr-View": "oblique"}),
        raw("too many bytes", 413, "TOO_MANY_BYTES", bytes(MAX_BYTES + 1)),
        raw("a PNG of 400 megapixels", 413, "TOO_MANY_PIXELS", png_header(20_000, 20_000)),
        raw("a JPEG of 400 megapixels", 413, "TOO_MANY_PIXELS", jpeg_header(20_000, 20_000)),
        raw("RLE that claims 400 megapixels", 413, "TOO_MANY_PIXELS", rle_that_claims(20_000, 20_000)),
        raw("a GIF", 415, "UNKNOWN_FORMAT", b"GIF89a" + bytes(100)),
        raw("a DICOM of unknown coding", 415, "UNSUPPORTED_TRANSFER_SYNTAX", unknown),
        raw("a deflated DICOM of 200 MB", 413, "TOO_MANY_BYTES", deflated(200)),
        raw("half a PNG", 422, "DAMAGED_IMAGE", good[: len(good) // 2]),
        raw("half a JPEG", 422, "DAMAGED_IMAGE", encoded(film(), "JPEG")[:600]),
        raw("a DICOM without pixels", 422, "DAMAGED_IMAGE", dicom(film(), bits=8, PixelData=None)),
        raw("a CT slice", 422, "NOT_A_RADIOGRAPH", dicom(film(), bits=8, Modality="CT")),
        raw("a leg", 422, "NOT_A_RADIOGRAPH", dicom(film(), bits=8, BodyPartExamined="KNEE")),
        raw("a photograph", 422, "NOT_A_RADIOGRAPH", photograph()),
        raw("a lateral film", 422, "NOT_FRONTAL", dicom(film(), bits=8, ViewPosition="LL")),
        raw("a film said to be lateral", 422, "NOT_FRONTAL", good, **{"Cxr-View": "LATERAL"}),
        raw("two frames", 422, "MULTI_FRAME", dicom(np.stack([film(1), film(2)]), bits=8, NumberOfFrames=2)),
        raw("a thumbnail", 422, "TOO_SMALL", encoded(film(0, 40, 40))),
        raw("an even grey", 422, "NO_CONTRAST", encoded(np.full((96, 80), 90, np.uint8))),
    ]
