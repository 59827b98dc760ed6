"""From the pixel data of a DICOM file to its stored values, with one decoder for each transfer syntax.

Which decoders happen to be installed never changes a value: a syntax is read by the one named here or not at all. What
a compressed stream announces is compared with the tags first, because decoders allocate by what the stream says.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset, uid
from pydicom.encaps import get_frame, parse_basic_offsets
from pydicom.pixels.decoders.base import get_decoder

from cxr.errors import InputError
from cxr.films.picture_headers import JPEG_START, jpeg_segments
from cxr.films.sandbox import decode_in_sandbox, is_installed

Stored = npt.NDArray[np.int32]

_NATIVE: Final = frozenset({uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian})
_SANDBOXED: Final[dict[uid.UID, str]] = {
    **dict.fromkeys((uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1), "gdcm"),
    **dict.fromkeys((uid.JPEGLSLossless, uid.JPEGLSNearLossless), "_CharLS"),
    **dict.fromkeys((uid.JPEG2000Lossless, uid.JPEG2000), "_openjpeg"),
    **dict.fromkeys((uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K), "_openjpeg"),
}
_LOSSY: Final = frozenset(
    {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless, uid.JPEG2000, uid.HTJ2K}
)
# Last byte of the frame header's marker: ITU-T T.81 table B.1 and T.87 C.1.1. Others, progressive ones above all, are
# not what the transfer syntax says (PS3.5 A.4) and may hold any number of scans.
_FRAME_MARKERS: Final[dict[uid.UID, tuple[int, ...]]] = {
    **dict.fromkeys((uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit), (0xC0, 0xC1)),
    **dict.fromkeys((uid.JPEGLossless, uid.JPEGLosslessSV1), (0xC3,)),
    **dict.fromkeys((uid.JPEGLSLossless, uid.JPEGLSNearLossless), (0xF7,)),
}
_ALL_FRAME_MARKERS: Final = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_ITEM: Final = b"\xfe\xff\x00\xe0"
_MAX_FRAGMENTS: Final = 5000
_JP2_START: Final = b"\x00\x00\x00\x0cjP  "
_CODESTREAM_START: Final = b"\xff\x4f\xff\x51"
_MAX_TILES: Final = 4096  # OpenJPEG takes 6 kB for each before it reads one; 50 million pixels in 128 x 128 have 3,052


@dataclass(frozen=True, slots=True)
class Layout:
    """How pixels lie in a frame, by the tags or by the compressed stream itself."""

    width: int
    height: int
    components: int
    bits: int
    signed: bool


def read_stored(dataset: Dataset) -> Stored:
    """The stored values of a file with one grey frame: (H, W), with what lies in unused bits taken out.

    Parameters
    ----------
    dataset
        With all of the Image Pixel module's tags; its size is one the caller will accept.

    Raises
    ------
    InputError
        UNSUPPORTED_TRANSFER_SYNTAX, or DAMAGED_IMAGE where the pixel data is not what the tags say.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if not _can_decode(syntax):
        raise InputError("UNSUPPORTED_TRANSFER_SYNTAX", "no decoder for it; send it as Explicit VR Little Endian.")
    allocated, tags = _layout_of_tags(dataset)
    if syntax in _NATIVE:
        return _fit(_native(dataset, allocated, tags), tags, tags)
    frame = _only_frame(dataset)
    if syntax == uid.RLELossless:
        return _fit(_unpack_rle(frame, allocated, tags), tags, tags)
    if syntax in _FRAME_MARKERS:
        stream = _read_jpeg_header(frame, _FRAME_MARKERS[syntax])
    else:
        if frame.startswith(_JP2_START):  # boxes, which PS3.5 A.4.4 does not allow and some writers add
            frame = frame[frame.find(_CODESTREAM_START) :]
        stream = _read_jpeg_2000_header(frame)
    _check_stream(stream, tags, allocated)
    return _fit(_decode(frame, syntax, stream), stream, tags, lossy=syntax in _LOSSY)


def _can_decode(syntax: uid.UID | None) -> bool:
    if syntax in _SANDBOXED:
        return is_installed(_SANDBOXED[syntax])
    return syntax in _NATIVE or syntax in (uid.RLELossless, uid.JPEGBaseline8Bit)


def _damaged(what: str) -> InputError:
    return InputError("DAMAGED_IMAGE", f"{what}. Export the file again.")


def _layout_of_tags(dataset: Dataset) -> tuple[int, Layout]:
    allocated, bits = int(dataset.BitsAllocated), int(dataset.BitsStored)
    samples, representation = int(dataset.SamplesPerPixel), int(dataset.PixelRepresentation)
    if samples != 1:
        raise _damaged(f"SamplesPerPixel is {samples}; a grey film has 1")
    if allocated not in (8, 16):  # PS3.3 C.8.11.3.1 and the other IODs for projection images
        raise _damaged(f"BitsAllocated is {allocated}; a radiograph has 8 or 16")
    if not 1 <= bits <= allocated or representation not in (0, 1):
        raise _damaged(
            f"BitsStored is {bits} and PixelRepresentation {representation}; 1 to {allocated} and 0 or 1 are possible"
        )
    return allocated, Layout(int(dataset.Columns), int(dataset.Rows), samples, bits, representation == 1)


def _native(dataset: Dataset, allocated: int, tags: Layout) -> npt.NDArray[Any]:
    needed, there = tags.width * tags.height * allocated // 8, len(dataset.PixelData)
    if not needed <= there < 2 * needed:
        raise _damaged(f"{there:,} bytes of pixels; the tags call for {needed:,}")
    values, _ = get_decoder(dataset.file_meta.TransferSyntaxUID).as_array(dataset, index=0, raw=True)
    return np.asarray(values)


def _only_frame(dataset: Dataset) -> bytes:
    if dataset.PixelData.count(_ITEM) > _MAX_FRAGMENTS:
        raise _damaged(f"the frame is in more than {_MAX_FRAGMENTS:,} parts")
    offsets = parse_basic_offsets(dataset.PixelData)  # PS3.5 A.4: one for each frame, or none
    if len(offsets) > 1:
        raise _damaged(f"the tags say 1 frame, the offset table {len(offsets)}")
    return get_frame(dataset.PixelData, 0, number_of_frames=1)


def _unpack_rle(frame: bytes, allocated: int, tags: Layout) -> npt.NDArray[Any]:
    """Values of an RLE frame (PS3.5 annex G); pydicom 3.0 would unpack a segment to 64 times its bytes unasked."""
    count, *starts = struct.unpack_from("<16L", frame)
    if count != allocated // 8:
        raise _damaged(f"{count} RLE segments; the tags call for {allocated // 8}")
    pixels = tags.width * tags.height
    values: npt.NDArray[Any] = np.zeros(0, dtype=np.uint16)
    for start, end in pairwise([*starts[:count], len(frame)]):  # the most significant byte first: G.2
        plane = np.frombuffer(_unpack_segment(frame[start : min(end, start + 2 * pixels)], pixels), dtype=np.uint8)
        values = values << 8 | plane if values.size else plane.astype(np.uint16)
    return values.reshape(tags.height, tags.width)


def _unpack_segment(segment: bytes, length: int) -> bytearray:
    unpacked = bytearray()
    at = 0
    while len(unpacked) < length:
        if at >= len(segment):
            raise _damaged(f"an RLE segment holds {len(unpacked):,} pixels; the tags call for {length:,}")
        head = segment[at]
        if head < 128:
            unpacked += segment[at + 1 : at + 2 + head]
            at += 2 + head
        elif head > 128:
            unpacked += segment[at + 1 : at + 2] * (257 - head)
            at += 2
        else:  # 128 stands for nothing
            at += 1
    return unpacked[:length]


def _read_jpeg_header(frame: bytes, expected: tuple[int, ...]) -> Layout:
    """What the frame header of a JPEG or JPEG-LS stream announces: ITU-T T.81 B.2.2, T.87 C.2.2."""
    if not frame.startswith(JPEG_START):
        raise _damaged("the compressed stream does not begin as JPEG")
    for marker, at in jpeg_segments(frame):
        if marker in _ALL_FRAME_MARKERS:
            if marker not in expected:
                raise _damaged(f"the stream's coding, 0x{marker:X}, is not the one its transfer syntax names")
            bits, height, width, components = struct.unpack_from(">BHHB", frame, at + 4)
            return Layout(width, height, components, bits, signed=False)
    raise _damaged("the compressed stream has no frame header")


def _read_jpeg_2000_header(codestream: bytes) -> Layout:
    """What the SIZ segment of a JPEG 2000 stream announces: ITU-T T.800 A.5.1."""
    if codestream[:4] != _CODESTREAM_START:
        raise _damaged("the compressed stream does not begin as JPEG 2000")
    right, bottom, left, top, *tile, components, depth, dx, dy = struct.unpack_from(">8LH3B", codestream, 8)
    if (dx, dy) != (1, 1):
        raise _damaged(f"the stream has {dx} x {dy} pixels for each value; a grey film has 1 x 1")
    tiles = -(-right // tile[0]) * -(-bottom // tile[1])
    if tiles > _MAX_TILES:
        raise _damaged(f"the stream has {tiles:,} tiles; at most {_MAX_TILES:,} are read")
    return Layout(right - left, bottom - top, components, (depth & 0x7F) + 1, signed=depth > 0x7F)


def _check_stream(stream: Layout, tags: Layout, allocated: int) -> None:
    """Refuse a compressed stream that announces something else than the tags."""
    if (stream.width, stream.height) != (tags.width, tags.height):
        raise _damaged(
            f"the tags say {tags.width} x {tags.height} pixels, the compressed stream {stream.width} x {stream.height}"
        )
    if stream.components != tags.components:
        raise _damaged(f"the tags say {tags.components} value for a pixel, the compressed stream {stream.components}")
    if stream.bits > allocated:
        raise _damaged(f"the tags give {allocated} bits to a pixel, the compressed stream {stream.bits}")


def _decode(frame: bytes, syntax: uid.UID, stream: Layout) -> npt.NDArray[Any]:
    if syntax == uid.JPEGBaseline8Bit:
        with Image.open(io.BytesIO(frame), formats=("JPEG",)) as picture:
            return np.asarray(picture)
    try:
        pixels = decode_in_sandbox(_SANDBOXED[syntax], frame, stream.width, stream.height, stream.bits)
    except TimeoutError as error:
        raise InputError("OVERLOADED", "no processor was free to decode the film; send it again later.") from error
    kind = f"<{'i' if stream.signed else 'u'}{1 if stream.bits <= 8 else 2}"
    return np.frombuffer(pixels, kind).reshape(stream.height, stream.width)


def _fit(values: npt.NDArray[Any], stream: Layout, tags: Layout, *, lossy: bool = False) -> Stored:
    """Values in the range of the tags. Lossy ones may lie outside it, others only by what is in unused bits."""
    fitted = values.astype(np.int32)
    if lossy and stream.signed == tags.signed:
        low = -(1 << (tags.bits - 1)) if tags.signed else 0
        return np.clip(fitted, low, low + (1 << tags.bits) - 1, out=fitted)
    bits = min(tags.bits, stream.bits)
    fitted &= (1 << bits) - 1
    if tags.signed:  # two's complement; JPEG and JPEG-LS know no sign (PS3.5 8.2.1, 8.2.3)
        fitted -= fitted >> (bits - 1) << bits
    return fitted
