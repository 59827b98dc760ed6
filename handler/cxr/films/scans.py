"""Files of film digitisers and portals: TIFF and JPEG 2000, read where the operator admits them.

Off by default, because each is one more parser that strangers' files reach. Of a TIFF the header is read here, strictly
and without a library: the first page alone, whole samples of 8 or 16 bits. Where its strips or tiles are compressed,
libtiff undoes that in the sandbox, from a file with a header of our own that calls every byte a pixel; byte order,
predictor, sign and meaning of the samples are then undone here. JPEG 2000 goes the way it goes in DICOM.

References
----------
TIFF revision 6.0 (Adobe 1992), sections 2, 8, 14, 15 and 18; ITU-T T.800 annex I for the boxes of a JP2 file.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import uid

from cxr.errors import InputError, ModelError
from cxr.films.dicom import grey_of_colours
from cxr.films.dicom_codecs import CODESTREAM_START, JP2_START, halvings_of, read_jpeg_2000_header, sandboxed
from cxr.films.film import Film, ImageInfo, Pixels, check_size, unit_to_uint8
from cxr.films.pictures import TRANSPOSED, from_16_bits, over_black
from cxr.films.stored_values import Layout

FORMATS_VARIABLE: Final = "PNEUMOSCAN_FORMATS"
FORMATS: Final = ("tiff", "jpeg2000")  # that an operator can admit
_NAMES: Final = {"tiff": "TIFF", "jpeg2000": "JPEG 2000"}
_LITTLE, _BIG, _BIG_TIFF = b"II*\0", b"MM\0*", (b"II+\0", b"MM\0+")
_MOST_FIELDS: Final = 500  # of a page; scanners write 30
_MOST_PAGES: Final = 8  # looked at: thumbnails may follow the film
_MOST_PARTS: Final = 50_000  # strips or tiles
_MOST_A_BYTE: Final = 1500  # that LZW or Deflate, whose best is 1,032, unpack to
_KINDS: Final = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT, LONG: section 2
_NONE, _LZW, _PACK_BITS, _DEFLATES = 1, 5, 32773, (8, 32946)
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = range(3)
_ASSOCIATED, _UNASSOCIATED = 1, 2
(_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER) = (254, 256, 257, 258, 259, 262, 266)
(_STRIPS, _ORIENTATION, _SAMPLES, _STRIP_ROWS, _STRIP_SIZES) = (273, 274, 277, 278, 279)
(_HIGHEST, _PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_SIZES) = (281, 284, 317, 322, 323, 324, 325)
(_EXTRA, _SAMPLE_FORMAT) = (338, 339)
_READ: Final = frozenset(
    {
        *(_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _STRIPS, _ORIENTATION, _SAMPLES),
        *(_STRIP_ROWS, _STRIP_SIZES, _HIGHEST, _PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_SIZES),
        *(_EXTRA, _SAMPLE_FORMAT),
    }
)
_MOST_VALUES: Final = 3 * _MOST_PARTS
_MOST_BOXES: Final = 100

Values = npt.NDArray[Any]


def formats_in(text: str) -> frozenset[str]:
    """The formats that a text names, separated by commas, as the server's environment has them.

    Raises
    ------
    ModelError
        If one is not known.
    """
    named = frozenset(filter(None, (part.strip() for part in text.split(","))))
    if unknown := sorted(named - set(FORMATS)):
        raise ModelError(f"{FORMATS_VARIABLE} names {', '.join(unknown)}: known are {', '.join(FORMATS)}")
    return named


def format_of(data: bytes) -> str | None:
    """Which of `FORMATS` a file is, by its first bytes."""
    if data.startswith((_LITTLE, _BIG, *_BIG_TIFF)):
        return "tiff"
    return "jpeg2000" if data.startswith((JP2_START, CODESTREAM_START)) else None


def read_scan(data: bytes, form: str, admitted: Collection[str], least_side: int | None = None) -> Film:
    """The film in a TIFF or JPEG 2000 file.

    Parameters
    ----------
    form
        As `format_of` gives it.
    admitted
        The formats that the operator admits.
    data, least_side
        As in `cxr.films.decode.decode`.

    Raises
    ------
    InputError
        UNKNOWN_FORMAT where the operator does not admit the format, or what is wrong with the file.
    """
    if form not in admitted:
        raise InputError(
            "UNKNOWN_FORMAT",
            f"a {_NAMES[form]} file; this server reads JPEG, PNG and DICOM. Save it as PNG, or ask its operator to "
            f"admit {form} (pneumoscan serve --formats {form}).",
        )
    try:
        return _read_tiff(data) if form == "tiff" else _read_jpeg_2000(data, least_side)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # struct and numpy raise whatever the damage leads to
        raise InputError("DAMAGED_IMAGE", f"the {_NAMES[form]} file cannot be read. Export it again.") from error


def _damaged(what: str) -> InputError:
    return InputError("DAMAGED_IMAGE", f"{what}. Save it again as TIFF of 8 or 16 bits without compression, or as PNG.")


@dataclass(frozen=True, slots=True)
class _Page:
    """The first page of a TIFF file: its fields by tag, as whole numbers, and the order of its bytes."""

    fields: dict[int, tuple[int, ...]]
    order: str  # of `struct`

    def one(self, tag: int, absent: int | None = None) -> int:
        """The first value of a field."""
        values = self.fields.get(tag) or (() if absent is None else (absent,))
        if not values:
            raise _damaged(f"the TIFF file has no field {tag}")
        return values[0]

    @property
    def width(self) -> int:
        return self.one(_WIDTH)

    @property
    def height(self) -> int:
        return self.one(_HEIGHT)

    @property
    def samples(self) -> int:
        """Values of a pixel."""
        return self.one(_SAMPLES, 1)

    @property
    def sample_bytes(self) -> int:
        return self.one(_BITS, 1) // 8

    @property
    def pixel_bytes(self) -> int:
        return self.samples * self.sample_bytes

    @property
    def part(self) -> tuple[int, int]:
        """Rows and columns of a tile, or of a strip."""
        if _TILES in self.fields:
            return self.one(_TILE_HEIGHT), self.one(_TILE_WIDTH)
        return min(self.one(_STRIP_ROWS, self.height), self.height), self.width


def _pages(data: bytes) -> Iterator[_Page]:
    """The pages of a TIFF file: section 2, Image File Directory. Values of other types than whole numbers are none."""
    order = "<" if data.startswith(b"II") else ">"
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    values = 0
    for _ in range(_MOST_PAGES):
        (count,) = struct.unpack_from(f"{order}H", data, at)
        if count > _MOST_FIELDS:
            raise _damaged(f"a page of the TIFF file has {count:,} fields; at most {_MOST_FIELDS} are read")
        fields: dict[int, tuple[int, ...]] = {}
        for place in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, length = struct.unpack_from(f"{order}HHI", data, place)
            if tag not in _READ or kind not in _KINDS or length > _MOST_PARTS:
                continue
            values += length
            if values > _MOST_VALUES:
                raise _damaged("the TIFF file has more values in its header than a film can need")
            layout = f"{order}{length}{_KINDS[kind]}"
            where = place + 8
            if struct.calcsize(layout) > 4:
                (where,) = struct.unpack_from(f"{order}I", data, where)
            fields[tag] = struct.unpack_from(layout, data, where)
        yield _Page(fields, order)
        (at,) = struct.unpack_from(f"{order}I", data, at + 2 + 12 * count)
        if not at:
            return
    raise InputError("MULTI_FRAME", f"more than {_MOST_PAGES - 1} pages in the TIFF file. Send one film.")


def _read_tiff(data: bytes) -> Film:
    if data.startswith(_BIG_TIFF):
        raise InputError("UNKNOWN_FORMAT", "a BigTIFF file, which is for pictures above 4 GB. Save it as plain TIFF.")
    page, *others = _pages(data)
    if any(not other.one(_SUBFILE, 0) & 1 for other in others):  # bit 0: a smaller copy of the film
        raise InputError("MULTI_FRAME", f"{1 + len(others)} pages in the TIFF file. Send one film.")
    check_size(page.width, page.height)
    _check_tiff(page)
    values = _samples(page, data)
    pixels, bits, flags = _tiff_grey(page, values)
    turn = TRANSPOSED.get(page.one(_ORIENTATION, 1))
    if turn is not None:
        pixels = np.asarray(Image.fromarray(pixels).transpose(turn))
    height, width = pixels.shape
    return Film(pixels, ImageInfo(format="TIFF", width=width, height=height, bits=bits, flags=flags))


def _check_tiff(page: _Page) -> None:
    photometric, samples, bits = page.one(_PHOTOMETRIC), page.samples, page.fields.get(_BITS, (1,))
    colours = 3 if photometric == _RGB else 1
    if photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB) or samples not in (colours, colours + 1):
        raise _damaged(
            f"PhotometricInterpretation {photometric} with {samples} values for a pixel; grey or RGB is read"
        )
    if bits[0] not in (8, 16) or set(bits) != {bits[0]}:
        raise _damaged(f"{bits[0]} bits for a value; 8 or 16 are read")
    kinds = set(page.fields.get(_SAMPLE_FORMAT, (1,)))
    if not kinds <= ({1} if photometric == _RGB or samples > 1 or bits[0] == 8 else {1, 2}) or len(kinds) != 1:
        raise _damaged(f"SampleFormat {sorted(kinds)}; whole numbers without sign are read, and signed grey of 16 bits")
    if samples > 1 and page.one(_PLANAR, 1) != 1:
        raise _damaged("colours in planes of their own")
    if page.one(_FILL_ORDER, 1) != 1:
        raise _damaged("bits of a byte in the other order")
    if page.one(_COMPRESSION, 1) not in (_NONE, _LZW, _PACK_BITS, *_DEFLATES):
        raise _damaged(f"TIFF compression {page.one(_COMPRESSION)}; none, LZW, Deflate and PackBits are read")
    if page.one(_PREDICTOR, 1) not in (1, 2):
        raise _damaged(f"TIFF predictor {page.one(_PREDICTOR)}; 1 and 2 are read")


def _samples(page: _Page, data: bytes) -> Values:
    """The samples as they are stored: (H, W) or (H, W, samples) of the file's own type."""
    rows, columns = page.part
    is_tiled = _TILES in page.fields
    starts, sizes = (
        page.fields.get(tag, ()) for tag in ((_TILES, _TILE_SIZES) if is_tiled else (_STRIPS, _STRIP_SIZES))
    )
    if not (rows > 0 and 0 < columns <= 2 * max(page.width, 256) and rows <= 2 * max(page.height, 256)):
        raise _damaged(f"parts of {columns} x {rows} pixels in a film of {page.width} x {page.height}")
    across, down = -(-page.width // columns), -(-page.height // rows)
    if not (len(starts) == len(sizes) == across * down):
        raise _damaged(f"{len(starts):,} parts of the film in the TIFF file; {across * down:,} are needed")
    if sum(sizes) > len(data):
        raise _damaged("parts of the film lie over each other in the TIFF file")
    parts = [data[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    row_bytes = columns * page.pixel_bytes
    if page.one(_COMPRESSION, 1) == _NONE:
        plain = _uncompressed(page, parts, row_bytes, is_tiled=is_tiled)
    else:
        plain = _unpacked(page, parts, row_bytes, is_tiled=is_tiled)
    signed = "i" if page.one(_SAMPLE_FORMAT, 1) == 2 else "u"
    values = plain.view(f"{page.order}{signed}{page.sample_bytes}").reshape(page.height, -1, page.samples)
    if page.one(_PREDICTOR, 1) == 2 and page.one(_COMPRESSION, 1) != _NONE:
        values = _undone(values, columns if is_tiled else page.width)
    return values[..., 0] if page.samples == 1 else values


def _undone(values: Values, columns: int) -> Values:
    """Values of which each is stored as its distance from the one on its left, within a tile: section 14."""
    native = values.astype(values.dtype.newbyteorder("="))
    parts = [
        np.cumsum(native[:, start : start + columns], axis=1, dtype=native.dtype)
        for start in range(0, native.shape[1], columns)
    ]
    return np.concatenate(parts, axis=1)


def _uncompressed(page: _Page, parts: list[bytes], row_bytes: int, *, is_tiled: bool) -> Pixels:
    """The bytes of the rows: (H, bytes)."""
    if not is_tiled:
        whole = b"".join(part[: page.part[0] * row_bytes] for part in parts)
        needed = page.height * row_bytes
        if len(whole) < needed:
            raise _damaged(f"{len(whole):,} bytes of pixels in the TIFF file; {needed:,} are needed")
        return np.frombuffer(whole[:needed], np.uint8).reshape(page.height, row_bytes)
    rows = page.part[0]
    across = -(-page.width // page.part[1])
    if any(len(part) < rows * row_bytes for part in parts):
        raise _damaged("a tile of the TIFF file ends early")
    tiles = [np.frombuffer(part[: rows * row_bytes], np.uint8).reshape(rows, row_bytes) for part in parts]
    bands = [np.hstack(tiles[start : start + across]) for start in range(0, len(tiles), across)]
    return np.ascontiguousarray(np.vstack(bands)[: page.height, : page.width * page.pixel_bytes])


def _unpacked(page: _Page, parts: list[bytes], row_bytes: int, *, is_tiled: bool) -> Pixels:
    """The same of compressed parts, by libtiff in the sandbox, which gets a file that calls every byte a grey pixel."""
    size = page.height * page.width * page.pixel_bytes
    if size > _MOST_A_BYTE * sum(map(len, parts)):
        raise _damaged(f"{sum(map(len, parts)):,} bytes cannot hold the film that the TIFF file announces")
    rows = page.part[0]
    width = page.width * page.pixel_bytes
    compression = page.one(_COMPRESSION)
    places = {_TILE_WIDTH: row_bytes, _TILE_HEIGHT: rows} if is_tiled else {_STRIP_ROWS: rows}
    if is_tiled and (row_bytes % 16 or rows % 16):  # section 15
        raise _damaged(f"tiles of {page.part[1]} x {rows} pixels; multiples of 16 are read")
    fields = {_WIDTH: width, _HEIGHT: page.height, _BITS: 8, _COMPRESSION: compression, _PHOTOMETRIC: _BLACK_IS_ZERO}
    fields |= {_SAMPLES: 1, **places}
    file = _tiff_of(fields, parts, (_TILES, _TILE_SIZES) if is_tiled else (_STRIPS, _STRIP_SIZES))
    return sandboxed("libtiff", file, Layout(width, page.height, 1, 8, signed=False))


def _tiff_of(fields: dict[int, int], parts: list[bytes], tags: tuple[int, int]) -> bytes:
    """A TIFF file of one page with these fields, and parts under the tags of their places and sizes."""
    count = len(fields) + 2
    lists_at = 8 + 2 + 12 * count + 4
    first = lists_at + 8 * len(parts)
    sizes = [len(part) for part in parts]
    starts = (first + np.concatenate([[0], np.cumsum(sizes[:-1], dtype=np.int64)])).tolist()
    entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items()}
    for number, (tag, numbers) in enumerate(zip(tags, (starts, sizes), strict=True)):
        value = numbers[0] if len(parts) == 1 else lists_at + 4 * number * len(parts)
        entries[tag] = struct.pack("<HHII", tag, 4, len(parts), value)
    directory = b"".join(entries[tag] for tag in sorted(entries))
    lists = struct.pack(f"<{2 * len(parts)}I", *starts, *sizes)
    return b"".join([_LITTLE, struct.pack("<IH", 8, count), directory, bytes(4), lists, *parts])


def _tiff_grey(page: _Page, values: Values) -> tuple[Pixels, int, tuple[str, ...]]:
    """Grey pixels as the page lies, the bits of the stored values, and flags."""
    photometric, extra = page.one(_PHOTOMETRIC), page.one(_EXTRA, 0)
    colours = 3 if photometric == _RGB else 1
    alpha = values[..., colours] if page.samples > colours and extra == _UNASSOCIATED else None
    if values.dtype.kind == "i":
        values = (values.astype(np.int32) + (1 << 15)).astype(np.uint16)
    channels = values[..., :colours] if values.ndim == 3 else values[..., None]
    flags: tuple[str, ...] = ()
    bits, top = 8 * page.sample_bytes, (1 << 8 * page.sample_bytes) - 1
    if colours == 3:
        pixels = grey_of_colours(channels, bits, is_luminance=False)
    elif page.sample_bytes == 1:
        pixels = np.ascontiguousarray(channels[..., 0])
    else:
        highest = page.one(_HIGHEST, 0)
        said = highest.bit_length() if highest & (highest + 1) == 0 and values.dtype.kind == "u" else None
        pixels, bits, flags = from_16_bits(channels[..., 0].astype(np.uint16), said, None)
    if photometric == _WHITE_IS_ZERO:
        pixels = 255 - pixels
    if alpha is not None:
        pixels = over_black(
            pixels.astype(np.uint16), (alpha.astype(np.uint32) * 65535 // top).astype(np.uint16)
        ).astype(np.uint8)
    return pixels, bits, flags


def _read_jpeg_2000(data: bytes, least_side: int | None) -> Film:
    codestream = _codestream(data)
    stream = read_jpeg_2000_header(codestream)
    check_size(stream.width, stream.height)
    if stream.components not in (1, 3) or not 8 <= stream.bits <= 16:
        raise _damaged(f"JPEG 2000 of {stream.components} x {stream.bits} bits; 1 or 3 values of 8 to 16 bits are read")
    halvings = halvings_of(codestream, uid.JPEG2000, stream, stream, least_side)
    values = None
    if halvings:
        try:
            values = sandboxed("PIL", codestream, stream, halvings)
        except ValueError:
            values = None
    if values is None:
        try:
            values = sandboxed("_openjpeg", codestream, stream)
        except ValueError as error:
            raise _damaged("the JPEG 2000 file is damaged") from error
    unsigned = values.astype(np.int32) + ((1 << stream.bits - 1) if stream.signed else 0)
    flags: tuple[str, ...] = ()
    bits = stream.bits
    if stream.components == 3:
        pixels = grey_of_colours(unsigned.astype(np.uint16 if bits > 8 else np.uint8), bits, is_luminance=False)
    elif bits == 16:
        pixels, bits, flags = from_16_bits(np.clip(unsigned, 0, 65535).astype(np.uint16), None, None)
    else:
        pixels = unit_to_uint8(unsigned / np.float32((1 << bits) - 1))
    info = ImageInfo(format="JPEG2000", width=stream.width, height=stream.height, bits=bits, flags=flags)
    return Film(pixels, info)


def _codestream(data: bytes) -> bytes:
    """The code stream of a JP2 file or of a raw one: T.800 I.4.

    Raises
    ------
    InputError
        DAMAGED_IMAGE where there is none, or its values stand for colours in a palette.
    """
    if data.startswith(CODESTREAM_START):
        return data
    at = 0
    for _ in range(_MOST_BOXES):
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        end = len(data) if length == 0 else at + length
        if kind == b"jp2h" and b"pclr" in data[at:end]:
            raise _damaged("values of the JPEG 2000 file stand for colours in a palette")
        if kind == b"jp2c":
            return data[at + head : end]
        if end < at + head:
            break
        at = end
    raise _damaged("the JPEG 2000 file has no code stream")
