"""From the pixel data of a DICOM file to its stored values, with one decoder for each transfer syntax.

Which decoders happen to be installed never changes a value: a syntax is read by the one named here or not at all. What
a compressed stream announces is compared with the tags first, because decoders allocate by what the stream says.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset, uid
from pydicom.encaps import generate_fragments, parse_basic_offsets

from cxr.errors import InputError
from cxr.films.dicom_header import plain_text
from cxr.films.pictures import JPEG_START, jpeg_segments
from cxr.films.sandbox import decode_in_sandbox, is_installed
from cxr.films.stream_codecs import Coded

Stored = npt.NDArray[np.int32]

GREY: Final = ("MONOCHROME1", "MONOCHROME2")
PALETTE: Final = "PALETTE COLOR"
_HALVED: Final = ("YBR_FULL_422", "YBR_PARTIAL_422")
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
_STARTS: Final = (JPEG_START, _JP2_START, _CODESTREAM_START)
_LOSSY_OUTSIDE: Final = 0.001  # share of the pixels that lossy coding may push beyond the range
_CLEARLY: Final = 2.0  # times as large are the steps that an overlay makes as those of the film under it
_ROWS_LOOKED_AT: Final = 256
_SIDE_BY_SIDE: Final = 0.5  # share of them
_FEWEST_STEPS: Final = 20  # tell nothing
_MAX_TILES: Final = 4096  # OpenJPEG takes 6 kB for each before it reads one; 50 million pixels in 128 x 128 have 3,052


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


def read_stored(dataset: Dataset) -> Frame:
    """The stored values of a file with one frame, with what lies in unused bits taken out.

    Parameters
    ----------
    dataset
        With all of the Image Pixel module's tags; its size is one the caller will accept.

    Raises
    ------
    InputError
        UNSUPPORTED_TRANSFER_SYNTAX, or DAMAGED_IMAGE where the pixel data is not what the tags say.
    """
    syntax = _actual_syntax(dataset)
    if not _can_decode(syntax):
        raise InputError("UNSUPPORTED_TRANSFER_SYNTAX", "no decoder for it; send it as Explicit VR Little Endian.")
    allocated, tags = _layout_of_tags(dataset)
    if syntax in _NATIVE:
        return _fit(_native(dataset, allocated, tags), tags, tags, dataset)
    frame = _only_frame(dataset)
    if syntax == uid.RLELossless:
        return _fit(_unpack_rle(frame, allocated, tags), tags, tags, dataset)
    if syntax in _FRAME_MARKERS:
        stream = _read_jpeg_header(frame, _FRAME_MARKERS[syntax])
    else:
        if frame.startswith(_JP2_START):  # boxes, which PS3.5 A.4.4 does not allow and some writers add
            frame = frame[frame.find(_CODESTREAM_START) :]
        stream = _read_jpeg_2000_header(frame)
    _check_stream(stream, tags, allocated)
    return _fit(_decode(frame, syntax, stream), stream, tags, dataset, lossy=syntax in _LOSSY)


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


def _actual_syntax(dataset: Dataset) -> uid.UID:
    """The transfer syntax, by the stream itself where pixels lie in fragments and the file says they do not."""
    syntax = uid.UID(dataset.file_meta.TransferSyntaxUID)
    if syntax not in _NATIVE or not dataset.PixelData.startswith(_ITEM):
        return syntax
    try:
        frame = _only_frame(dataset)
    except Exception:  # pixels that begin as fragments would
        return syntax
    if frame.startswith((_JP2_START, _CODESTREAM_START)):
        return uid.JPEG2000
    if not frame.startswith(JPEG_START):
        return syntax
    marker = next((marker for marker, _ in jpeg_segments(frame) if marker in _ALL_FRAME_MARKERS), None)
    bits = _read_jpeg_header(frame, (marker,)).bits if marker is not None else 0
    if marker in (0xC0, 0xC1):
        return uid.JPEGBaseline8Bit if bits == 8 else uid.JPEGExtended12Bit
    return {0xC3: uid.JPEGLossless, 0xF7: uid.JPEGLSLossless}.get(marker or 0, syntax)


def _can_decode(syntax: uid.UID | None) -> bool:
    if syntax in _SANDBOXED:
        return is_installed(_SANDBOXED[syntax])
    return syntax in _NATIVE or syntax in (uid.RLELossless, uid.JPEGBaseline8Bit)


def _damaged(what: str) -> InputError:
    return InputError("DAMAGED_IMAGE", f"{what}. Export the file again.")


def _layout_of_tags(dataset: Dataset) -> tuple[int, Layout]:
    allocated, bits = int(dataset.BitsAllocated), int(dataset.BitsStored)
    samples, representation = int(dataset.SamplesPerPixel), int(dataset.PixelRepresentation)
    if samples != (1 if _is_grey(dataset) else 3):
        raise _damaged(f"SamplesPerPixel is {samples}; a grey film has 1, a coloured one 3")
    if allocated not in (8, 16):  # PS3.3 C.8.11.3.1 and the other IODs for projection images
        raise _damaged(f"BitsAllocated is {allocated}; a radiograph has 8 or 16")
    if not 1 <= bits <= allocated or representation not in (0, 1):
        raise _damaged(
            f"BitsStored is {bits} and PixelRepresentation {representation}; 1 to {allocated} and 0 or 1 are possible"
        )
    return allocated, Layout(int(dataset.Columns), int(dataset.Rows), samples, bits, representation == 1)


def _is_grey(dataset: Dataset) -> bool:
    return plain_text(dataset, "PhotometricInterpretation") in (*GREY, PALETTE)


def _native(dataset: Dataset, allocated: int, tags: Layout) -> npt.NDArray[Any]:
    pixels, there = tags.width * tags.height, len(dataset.PixelData)
    if tags.components == 1 and allocated == 16 and tags.bits <= 8 and there in (pixels, pixels + 1):
        # One byte a pixel, whatever is allocated: as converters write that copied the tags of a compressed film
        return np.frombuffer(dataset.PixelData[:pixels], np.uint8).reshape(tags.height, tags.width)
    if (halved := plain_text(dataset, "PhotometricInterpretation") in _HALVED) and tags.width % 2:
        raise _damaged(f"{tags.width} columns; colours of two columns each need an even number")
    needed = pixels * 2 if halved else pixels * tags.components * allocated // 8
    if not needed <= there < 2 * needed:
        raise _damaged(f"{there:,} bytes of pixels; the tags call for {needed:,}")
    if halved:  # PS3.3 C.7.6.3.1.2: two Y, one Cb, one Cr
        pairs = np.frombuffer(dataset.PixelData[:needed], np.uint8).reshape(tags.height, tags.width // 2, 4)
        colours = np.repeat(pairs[..., 2:], 2, axis=1)
        return np.dstack([pairs[..., :2].reshape(tags.height, tags.width), colours])
    data = dataset.PixelData[:needed]
    is_big = dataset.file_meta.TransferSyntaxUID == uid.ExplicitVRBigEndian
    if is_big and allocated == 8 and dataset["PixelData"].VR == "OW":  # bytes in words: PS3.5 8.1.1
        data = np.frombuffer(dataset.PixelData[: needed + needed % 2], "u2").byteswap().tobytes()[:needed]
    values = np.frombuffer(data, f"{'>' if is_big else '<'}{'i' if tags.signed else 'u'}{allocated // 8}")
    if tags.components == 1:
        return values.reshape(tags.height, tags.width)
    if int(dataset.get("PlanarConfiguration") or 0) == 1:
        return np.moveaxis(values.reshape(tags.components, tags.height, tags.width), 0, -1)
    return values.reshape(tags.height, tags.width, tags.components)


def _only_frame(dataset: Dataset) -> bytes:
    """The fragments of a frame, joined. One offset for each fragment is not what PS3.5 A.4 says; some writers do."""
    pixels = dataset.PixelData
    if pixels.count(_ITEM) > _MAX_FRAGMENTS:
        raise _damaged(f"the frame is in more than {_MAX_FRAGMENTS:,} parts")
    offsets = parse_basic_offsets(pixels)
    fragments = [*islice(generate_fragments(pixels), 1, None)]
    if not fragments:
        raise _damaged("the frame has no parts")
    others = [part for part in fragments[1:] if part.startswith(_STARTS) or not fragments[0].startswith(_STARTS)]
    if len(offsets) > 1 and others:
        raise _damaged(f"the tags say 1 frame, the offset table {len(offsets)}")
    return fragments[0] if len(fragments) == 1 else b"".join(fragments)


def _unpack_rle(frame: bytes, allocated: int, tags: Layout) -> npt.NDArray[Any]:
    """Values of an RLE frame (PS3.5 annex G); pydicom 3.0 would unpack a segment to 64 times its bytes unasked."""
    count, *starts = struct.unpack_from("<16L", frame)
    a_sample = allocated // 8
    if count != a_sample * tags.components:
        raise _damaged(f"{count} RLE segments; the tags call for {a_sample * tags.components}")
    pixels = tags.width * tags.height
    planes: list[npt.NDArray[Any]] = []
    for place, (start, end) in enumerate(pairwise([*starts[:count], len(frame)])):
        plane = np.frombuffer(_unpack_segment(frame[start : min(end, start + 2 * pixels)], pixels), dtype=np.uint8)
        if place % a_sample:  # the most significant byte first: G.2
            planes[-1] = planes[-1] << 8 | plane
        else:
            planes.append(plane.astype(np.uint16))
    shaped = [plane.reshape(tags.height, tags.width) for plane in planes]
    return shaped[0] if len(shaped) == 1 else np.dstack(shaped)


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
    coded = Coded(_SANDBOXED[syntax], stream.width, stream.height, stream.bits, stream.components)
    try:
        pixels = decode_in_sandbox(coded, frame)
    except TimeoutError as error:
        raise InputError("OVERLOADED", "no processor was free to decode the film; send it again later.") from error
    except ConnectionError as error:
        raise InputError("OVERLOADED", "the film's decoder was stopped from outside; send it again.") from error
    kind = f"<{'i' if stream.signed else 'u'}{1 if stream.bits <= 8 else 2}"
    shape = (stream.height, stream.width) if stream.components == 1 else (stream.height, stream.width, 3)
    return np.frombuffer(pixels, kind).reshape(shape)


def _fit(values: npt.NDArray[Any], stream: Layout, tags: Layout, dataset: Dataset, *, lossy: bool = False) -> Frame:
    """Values in the range of the tags, by what the values themselves say where they lie outside it.

    Lossy coding pushes a few beyond. Others are there by what is in unused bits, overlays of old files above all; or
    because the tags are wrong, and then taking bits out of the film would draw contour lines on it.
    """
    fitted = _shifted(values.astype(np.int32), stream, tags, dataset)
    low = -(1 << (tags.bits - 1)) if tags.signed else 0
    high = low + (1 << tags.bits) - 1
    limits = padding_limits(dataset) if fitted.ndim == 2 else None
    if low <= fitted.min() and fitted.max() <= high:
        return _signed(fitted, tags)
    outside = (fitted < low) | (fitted > high)
    padding = (fitted >= limits[0]) & (fitted <= limits[1]) & outside if limits else None
    if padding is not None and np.array_equal(padding, outside):
        return Frame(fitted, tags.bits)
    if lossy and stream.signed == tags.signed and np.count_nonzero(outside) <= _LOSSY_OUTSIDE * outside.size:
        return Frame(np.clip(fitted, low, high, out=fitted), tags.bits)
    is_everywhere = bool(outside.all())  # as upper bits that are the same all over
    del outside
    bits = min(tags.bits, stream.bits)
    taken_out = fitted & ((1 << bits) - 1)
    if tags.signed:  # two's complement; JPEG and JPEG-LS know no sign (PS3.5 8.2.1, 8.2.3)
        taken_out -= taken_out >> (bits - 1) << bits
    as_they_are, without = _steps(fitted, taken_out)
    if as_they_are < without:
        depth = max(int(fitted.max()).bit_length(), int(-1 - fitted.min()).bit_length()) + (fitted.min() < 0)
        return Frame(fitted, int(depth), ("bit_depth_unsure",))
    if padding is not None:
        taken_out[padding] = fitted[padding]
    frame = _signed(taken_out, tags)
    is_sure = is_everywhere or as_they_are > _CLEARLY * without
    return frame if is_sure else replace(frame, flags=("bit_depth_unsure",))


def _signed(values: Stored, tags: Layout) -> Frame:
    """The values with the sign that they have, should Pixel Representation be wrong.

    With the wrong sign, values on either side of zero or of half the range lie at opposite ends of it.
    """
    whole = 1 << tags.bits
    low, high = int(values.min()), int(values.max())
    if values.ndim == 2 and (low < 0 if tags.signed else high >= whole // 2) and _is_in_areas(values, tags):
        other = np.where(values < 0, values + whole, values) if tags.signed else values - (values >= whole // 2) * whole
        is_extreme = (values == -1) | (values == whole - 1)  # markers and frames are no neighbours of the film
        step, other_step = _steps(values, other, ~is_extreme)
        if step > _CLEARLY * other_step > 0:
            return Frame(other.astype(np.int32), tags.bits, ("bit_depth_unsure",))
    return Frame(values, tags.bits)


def _is_in_areas(values: Stored, tags: Layout) -> bool:
    """Whether the values that the sign is about lie side by side, as those of a film do and dead pixels do not."""
    rows = values[:: max(1, len(values) // _ROWS_LOOKED_AT)]
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
