"""From the pixel data of a DICOM file to its stored values, with one decoder for each transfer syntax.

Which decoders happen to be installed never changes a value: a syntax is read by the one named here or not at all. What
a compressed stream announces is compared with the tags first, because decoders allocate by what the stream says.
"""

from __future__ import annotations

import contextlib
import io
import struct
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
from cxr.films.sandbox import OutOfTimeError, decode_in_sandbox, is_installed
from cxr.films.stored_values import Frame, Layout, fit, fit_reduced, padding_limits
from cxr.films.stream_codecs import Coded

GREY: Final = ("MONOCHROME1", "MONOCHROME2")
PALETTE: Final = "PALETTE COLOR"
_HALVED: Final = ("YBR_FULL_422", "YBR_PARTIAL_422")
_NATIVE: Final = frozenset({uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian})
_JPEG_2000: Final = (uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)
# Of two the first has a try: it is several times as fast, gives the same values, and says of less that it is no damage.
_SANDBOXED: Final[dict[uid.UID, tuple[str, ...]]] = {
    **dict.fromkeys((uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1), ("libjpeg", "gdcm")),
    **dict.fromkeys((uid.JPEGLSLossless, uid.JPEGLSNearLossless), ("_CharLS",)),
    **dict.fromkeys(_JPEG_2000, ("_openjpeg",)),
}
# Those that give a half, a quarter or an eighth of the pixels of a side for less than all of them.
_REDUCING: Final[dict[uid.UID, str]] = {uid.JPEGExtended12Bit: "libjpeg", **dict.fromkeys(_JPEG_2000, "PIL")}
_MOST_HALVINGS: Final = 3
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
_MOST_A_BYTE: Final = 64  # that RLE unpacks to: 128 from two
_MOST_RUNS: Final = 8_000_000  # of all segments together, that take a second; noise of 20 million pixels has 160,000
_ITEM: Final = b"\xfe\xff\x00\xe0"
_MAX_FRAGMENTS: Final = 5000
JP2_START: Final = b"\x00\x00\x00\x0cjP  "
CODESTREAM_START: Final = b"\xff\x4f\xff\x51"
_STARTS: Final = (JPEG_START, JP2_START, CODESTREAM_START)
_COD: Final = 0xFF52
_MOST_SEGMENTS: Final = 100  # before it
_MAX_TILES: Final = 4096  # OpenJPEG takes 6 kB for each before it reads one; 50 million pixels in 128 x 128 have 3,052


def read_stored(dataset: Dataset, least_side: int | None = None) -> Frame:
    """The stored values of a file with one frame, with what lies in unused bits taken out.

    Parameters
    ----------
    dataset
        With all of the Image Pixel module's tags; its size is one the caller will accept.
    least_side
        As in `cxr.films.decode.decode`.

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
        return fit(_native(dataset, allocated, tags), tags, tags, dataset)
    frame = _only_frame(dataset)
    if syntax == uid.RLELossless:
        return fit(_unpack_rle(frame, allocated, tags), tags, tags, dataset)
    if syntax in _FRAME_MARKERS:
        stream = _read_jpeg_header(frame, _FRAME_MARKERS[syntax])
    else:
        if frame.startswith(JP2_START):  # boxes, which PS3.5 A.4.4 does not allow and some writers add
            frame = frame[frame.find(CODESTREAM_START) :]
        stream = read_jpeg_2000_header(frame)
    _check_stream(stream, tags, allocated)
    halvings = halvings_of(frame, syntax, stream, tags, least_side)
    if halvings and _is_as_tagged(stream, tags, dataset):
        reduced = fit_reduced(_reduced(frame, syntax, stream, halvings), stream, tags, dataset)
        if reduced is not None:
            return reduced
    return fit(_decode(frame, syntax, stream), stream, tags, dataset, lossy=syntax in _LOSSY)


def _actual_syntax(dataset: Dataset) -> uid.UID:
    """The transfer syntax, by the stream itself where pixels lie in fragments and the file says they do not."""
    syntax = uid.UID(dataset.file_meta.TransferSyntaxUID)
    if syntax not in _NATIVE or not dataset.PixelData.startswith(_ITEM):
        return syntax
    try:
        frame = _only_frame(dataset)
    except Exception:  # pixels that begin as fragments would
        return syntax
    if frame.startswith((JP2_START, CODESTREAM_START)):
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
        return is_installed(_SANDBOXED[syntax][-1])
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
    parts = [frame[start : min(end, start + 2 * pixels)] for start, end in pairwise([*starts[:count], len(frame)])]
    planes = [_unpack_segment(part, pixels, _MOST_RUNS // count) for part in parts]
    values = np.empty((pixels, tags.components, a_sample), np.uint8)
    for place, plane in enumerate(planes):
        component, byte = divmod(place, a_sample)
        values[:, component, a_sample - 1 - byte] = plane  # the most significant byte first: G.2
    shape = (tags.height, tags.width) if tags.components == 1 else (tags.height, tags.width, tags.components)
    return values.view(f"<{'i' if tags.signed else 'u'}{a_sample}").reshape(shape)


def _unpack_segment(segment: bytes, length: int, most_runs: int = _MOST_RUNS) -> npt.NDArray[np.uint8]:
    """The first `length` bytes of an RLE segment: PS3.5 G.3.

    Pillow's decoder of TIFF's PackBits, which is the same coding, unpacks it as one line of a picture and leaves out
    what is beyond. It counts a last run as nothing where the segment ends in it; what it refuses is gone through here.
    """
    if _MOST_A_BYTE * len(segment) >= length:
        with contextlib.suppress(ValueError):
            line = Image.frombytes("L", (length, 1), segment, "packbits", "L")
            return np.asarray(line).reshape(length)
    unpacked = bytearray()
    at = runs = 0
    while len(unpacked) < length:
        runs += 1
        if runs > most_runs:
            raise _damaged(f"an RLE segment of more than {most_runs:,} runs")
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
    return np.frombuffer(unpacked, np.uint8)[:length]


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


def read_jpeg_2000_header(codestream: bytes) -> Layout:
    """What the SIZ segment of a JPEG 2000 stream announces: ITU-T T.800 A.5.1."""
    if codestream[:4] != CODESTREAM_START:
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
    first, *others = _SANDBOXED[syntax]
    if others and stream.components == 1:
        try:
            return sandboxed(first, frame, stream)
        except OutOfTimeError:
            raise
        except ValueError:
            pass
    return sandboxed(others[0] if others else first, frame, stream)


def _reduced(frame: bytes, syntax: uid.UID, stream: Layout, halvings: int) -> npt.NDArray[Any] | None:
    """The values of a film with a half, a quarter or an eighth of the pixels of each side; None where that fails."""
    try:
        if syntax != uid.JPEGBaseline8Bit:
            return sandboxed(_REDUCING[syntax], frame, stream, halvings)
        with Image.open(io.BytesIO(frame), formats=("JPEG",)) as picture:
            picture.draft(None, (stream.width >> halvings, stream.height >> halvings))
            return np.asarray(picture)
    except OutOfTimeError:
        raise
    except (ValueError, OSError):
        return None


def halvings_of(frame: bytes, syntax: uid.UID, stream: Layout, tags: Layout, least_side: int | None) -> int:
    """How often both sides can be halved and still have `least_side` pixels."""
    if least_side is None or tags.components > 1 or (syntax not in _REDUCING and syntax != uid.JPEGBaseline8Bit):
        return 0
    most = min(_MOST_HALVINGS, _levels(frame)) if syntax in _JPEG_2000 else _MOST_HALVINGS
    side = min(stream.width, stream.height)
    return max(halvings for halvings in range(most + 1) if halvings == 0 or side >> halvings >= least_side)


def _levels(codestream: bytes) -> int:
    """How often a JPEG 2000 stream halves the film, by its first COD segment: ITU-T T.800 A.6.1."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        marker, length = struct.unpack_from(">HH", codestream, at)
        if marker == _COD:
            return codestream[at + 9]
        at += 2 + length
    return 0


def sandboxed(library: str, frame: bytes, stream: Layout, halvings: int = 0) -> npt.NDArray[Any]:
    """The values of a stream by one of the libraries of `cxr.films.stream_codecs`, as they are in it.

    Raises
    ------
    ValueError
        The library fails on the stream.
    InputError
        OVERLOADED where the machine is too busy, or ended the process.
    MemoryError
        No process could be started.
    """
    coded = Coded(library, stream.width, stream.height, stream.bits, stream.components, stream.signed, halvings)
    try:
        pixels = decode_in_sandbox(coded, frame)
    except TimeoutError as error:
        raise InputError("OVERLOADED", "no processor was free to decode the film; send it again later.") from error
    except ConnectionError as error:
        raise InputError("OVERLOADED", "the film's decoder was stopped from outside; send it again.") from error
    kind = f"<{'i' if stream.signed else 'u'}{1 if stream.bits <= 8 else 2}"
    return np.frombuffer(pixels, kind).reshape(coded.shape)


def _is_as_tagged(stream: Layout, tags: Layout, dataset: Dataset) -> bool:
    """Whether neighbouring values can be averaged: all are greys, and all of their bits are the film's."""
    high_bit = dataset.get("HighBit")
    return (
        plain_text(dataset, "PhotometricInterpretation") in GREY
        and stream.signed == tags.signed
        and (high_bit is None or int(high_bit) == tags.bits - 1)
        and padding_limits(dataset) is None
    )
