"""PNG and JPEG files: headers walked before a library reads them, and samples brought to grey, to their last bit.

The walk comes first since libraries build an object for each of a million empty parts.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from cxr.errors import InputError
from cxr.films.film import UNSURE_DEPTH, Pixels, significant_bits, unit_to_uint8
from cxr.films.greys import LUMINANCE, check_distance, check_grey, own_range

JPEG_START: Final = b"\xff\xd8\xff"  # and the first byte of the marker that has to follow
PNG_START: Final = b"\x89PNG\r\n\x1a\n"
_MOST_SEGMENTS: Final = 1000  # a large colour profile takes a few dozen
_MOST_CHUNKS: Final = 100_000  # 48 MiB of pixels in the smallest chunks writers use, 8 kB, take 6,000
_JPEG_SCAN: Final = b"\xff\xda"  # cannot occur in coded data: ITU-T T.81 section B.1.1.5
_MOST_SCANS: Final = 100
MOST_BESIDE: Final = 4_000_000  # bytes; colour profiles take up to 2 MB, the rest of Exif and XMP 64 kB
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


def check_segments(data: bytes) -> None:
    """Refuse a JPEG with more beside its pixels than a film can need, or such a code stream.

    Raises
    ------
    InputError
        DAMAGED_IMAGE.
    """
    beside = 0
    for _, at in jpeg_segments(data):
        beside += int.from_bytes(data[at + 2 : at + 4], "big")
        _check_beside(beside)


def check_jpeg(data: bytes) -> None:
    """Refuse a JPEG that would take minutes: each scan of a progressive one goes over the whole film again.

    Raises
    ------
    InputError
        DAMAGED_IMAGE.
    """
    check_segments(data)
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


def _check_beside(size: int) -> None:
    """Refuse a file before a library puts what stands beside its pixels together, which it does piece by piece."""
    if size > MOST_BESIDE:
        raise InputError(
            "DAMAGED_IMAGE", f"more than {MOST_BESIDE:,} bytes beside the pixels. Export the film without them."
        )


def check_png(data: bytes) -> None:
    """Refuse a PNG with more chunks than a film can need: PNG specification, section 5.

    Raises
    ------
    InputError
        DAMAGED_IMAGE.
    """
    at, chunks, others, beside = len(PNG_START), 0, 0, 0
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks += 1
        if data[at + 4 : at + 8] != b"IDAT":
            others += 1
            beside += length
            _check_beside(beside)
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


ORIENTATION: Final = 0x0112  # Exif 2.3, section 4.6.4
TRANSPOSED: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HEADER: Final = slice(12, 29)  # of a PNG: the name and the body of IHDR
_GREY_ALPHA, _COLOUR, _COLOUR_ALPHA = 4, 2, 6  # PNG specification, section 11.2.2
_SIDE: Final = 64  # of the sample whose colours are looked at
_FULL: Final = 0.6  # of a depth that the brightest value has to reach to leave no doubt about it
_OFFSET: Final = 0.25  # of the depth: a film that begins above it and spans less has had something added

Deep = npt.NDArray[np.uint16]


def to_grey(picture: Image.Image, data: bytes) -> tuple[Pixels, int, tuple[str, ...]]:
    """Upright grey pixels, the significant bits of the stored values, and flags.

    Parameters
    ----------
    picture
        As Pillow opened it, not yet loaded.
    data
        The file it was opened from.
    """
    if data.startswith(PNG_START) and data[24] == 16:
        stored, bits = _deep_png(picture, data), png_significant_bits(data)
    elif picture.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion to 8 bits clips instead of scaling
        stored, bits = np.asarray(picture), None
    else:
        return _shallow(ImageOps.exif_transpose(picture)), 8, ()
    pixels, bits, flags = from_16_bits(stored, bits, picture.info.get("transparency"))
    turn = TRANSPOSED.get(picture.getexif().get(ORIENTATION, 1))
    if turn is not None:
        pixels = np.asarray(Image.fromarray(pixels).transpose(turn))
    return pixels, bits, flags


def _shallow(picture: Image.Image) -> Pixels:
    if picture.mode in ("L", "1"):
        return np.asarray(picture.convert("L"))
    if "A" in picture.mode or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        if len(set(rgba.getchannel("A").getextrema())) > 1:  # one value all over says nothing
            picture = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
        else:
            picture = rgba
    colour = picture.convert("RGB")
    check_grey(colour)
    return np.asarray(colour.convert("L"))


def _deep_png(picture: Image.Image, data: bytes) -> npt.NDArray[Any]:
    """The grey of a PNG of 16 bits a sample, which Pillow 13 cuts to 8 unless it is grey alone."""
    kind = data[25]
    if kind == _GREY_ALPHA:
        # The same rows are those of four samples of 8 bits, and the filters work on bytes.
        header = bytearray(data[_HEADER])
        header[4 + 8 : 4 + 10] = bytes([8, _COLOUR_ALPHA])
        read_so = b"".join([data[:12], header, struct.pack(">I", zlib.crc32(header)), data[33:]])
        with Image.open(io.BytesIO(read_so), formats=("PNG",)) as parts:
            high, low, alpha_high, alpha_low = (np.asarray(part) for part in parts.convert("RGBA").split())
        return over_black(_joined(high, low), _joined(alpha_high, alpha_low))
    if kind not in (_COLOUR, _COLOUR_ALPHA):
        return np.asarray(picture)
    bands = "RGB" if kind == _COLOUR else "RGBA"
    picture.load()
    with Image.open(io.BytesIO(data), formats=("PNG",)) as lows:
        # Pillow's unpacker for the other byte order takes the low bytes.
        lows.tile = [tile._replace(args=f"{bands};16L") for tile in lows.tile]
        lows.load()
        grey = _grey_of_channels(picture, lows)
        if kind == _COLOUR:
            return grey
        return over_black(grey, _joined(np.asarray(picture.getchannel("A")), np.asarray(lows.getchannel("A"))))


def _joined(high: Pixels, low: Pixels) -> Deep:
    return np.asarray(high.astype(np.uint16) << 8 | low)


def _grey_of_channels(highs: Image.Image, lows: Image.Image) -> Deep:
    grey = np.zeros(highs.size[::-1], dtype=np.float32)
    samples = []
    for band, weight in zip("RGB", LUMINANCE, strict=True):
        channel = _joined(np.asarray(highs.getchannel(band)), np.asarray(lows.getchannel(band)))
        grey += channel * np.float32(weight)
        samples.append(
            channel[:: max(1, len(channel) // _SIDE), :: max(1, channel.shape[1] // _SIDE)].astype(np.float32)
        )
    sample = np.stack(samples)
    check_distance(float((sample.max(axis=0) - sample.min(axis=0)).mean() * 255 / max(float(sample.max()), 1.0)))
    return np.rint(grey).astype(np.uint16)


def over_black(grey: Deep, alpha: Deep) -> Deep:
    """Greys over black, by how opaque each is, beside the most opaque one."""
    most, least = int(alpha.max()), int(alpha.min())
    if most == least:  # one value all over says nothing
        return grey
    return np.asarray(np.rint(grey * (alpha / np.float32(most)))).astype(np.uint16)


def from_16_bits(
    stored: npt.NDArray[Any], said: int | None, transparent: object
) -> tuple[Pixels, int, tuple[str, ...]]:
    """Grey, bits and flags of values that may use only some of 16 bits.

    Parameters
    ----------
    stored
        (H, W), 0 to 65,535.
    said
        The significant bits that the file gives.
    transparent
        The value that stands for transparent, None without one.
    """
    # By a table and in bands: numpy counts and looks up in 64-bit numbers, which would be four times the film at once.
    bands = np.array_split(stored, max(1, stored.size >> 20))
    counts = np.asarray(sum(np.bincount(band.ravel(), minlength=1 << 16) for band in bands), dtype=np.int64)
    if isinstance(transparent, int) and 0 <= transparent < 1 << 16:
        counts[transparent] = 0
    levels = np.flatnonzero(counts)
    levels = levels if len(levels) else np.array([0])
    low, top, bits, flags = _range_of(levels, counts[levels], said)
    table = unit_to_uint8((np.arange(1 << 16) - low) / max(top - low, 1e-6))
    if isinstance(transparent, int) and 0 <= transparent < 1 << 16:
        table[transparent] = 0
    return np.concatenate([table[band] for band in bands]), bits, flags


def _range_of(
    levels: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], said: int | None
) -> tuple[float, float, int, tuple[str, ...]]:
    """The values that are black and white, the bits, and flags."""
    highest = int(levels[-1])
    if said is not None and 8 <= said < 16 and highest < 1 << said:
        return 0.0, float((1 << said) - 1), said, ()
    low, high, is_guessed = own_range(levels, counts)
    bits = significant_bits(int(high))
    if highest in (1023, 4095, 16383):  # white of a usual depth, however few pixels have it
        bits = significant_bits(highest)
    top = (1 << bits) - 1
    if low > _OFFSET * top and high - low < _OFFSET * top:  # as signed values with 32,768 added are
        return low, high, significant_bits(int(high - low)), (UNSURE_DEPTH,)
    # Detectors have an even number of bits; a film that seems to have an odd one may be a dim one of the next.
    is_sure = not is_guessed and (bits in (8, 16) or (bits % 2 == 0 and high >= _FULL * top))
    return 0.0, float(top), bits, () if is_sure else (UNSURE_DEPTH,)
