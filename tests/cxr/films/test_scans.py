"""TIFF and JPEG 2000 files: admitted by the operator alone, to the last bit, and bounded."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cxr.errors import InputError, ModelError
from cxr.films import sandbox, scans
from cxr.films.decode import decode
from cxr.films.scans import FORMATS, formats_in
from tests.films import encoded, film

DEEP = (film(3, 96, 80).astype(np.uint16) << 4) + 15  # 12 bits: 15 to 4,095
WIDE = film(3, 96, 80).astype(np.uint16) * 257


def read(data: bytes, least_side: int | None = None) -> Any:
    return decode(data, least_side, FORMATS)


def tiff(
    values: npt.NDArray[Any], order: str = "<", pages: int = 1, tile: tuple[int, int] | None = None, **fields: Any
) -> bytes:
    """An uncompressed TIFF file, by sections 2 and 15 of the specification; ``t262=0`` sets field 262 to 0."""
    height, width = values.shape[:2]
    samples = values.shape[2] if values.ndim == 3 else 1
    stored = values.astype(values.dtype.newbyteorder(order))
    if tile is None:
        parts = [stored[row : row + 7].tobytes() for row in range(0, height, 7)]
        places = {273: "starts", 278: 7, 279: "sizes"}
    else:
        rows, columns = tile
        padding = [(0, -height % rows), (0, -width % columns), *[(0, 0)] * (values.ndim - 2)]
        padded = np.pad(stored, padding)
        parts = [
            padded[y : y + rows, x : x + columns].tobytes()
            for y in range(0, padded.shape[0], rows)
            for x in range(0, padded.shape[1], columns)
        ]
        places = {322: columns, 323: rows, 324: "starts", 325: "sizes"}
    bits = values.dtype.itemsize * 8
    entries: dict[int, Any] = {256: width, 257: height, 258: (bits,) * samples, 259: 1, 262: 2 if samples == 3 else 1}
    entries |= {277: samples} | places | {int(name[1:]): value for name, value in fields.items()}
    entries = {tag: value for tag, value in entries.items() if value is not None}
    sizes = tuple(map(len, parts))
    starts = tuple(8 + sum(sizes[:number]) for number in range(len(parts)))
    body, tail, directories = b"".join(parts), b"", []
    at = 8 + len(body) + len(body) % 2
    for page in range(pages):
        rows_of = []
        lists = at + 2 + 12 * len(entries) + 4
        tail = b""
        for tag, value in sorted(entries.items()):
            numbers = {"starts": starts, "sizes": sizes}.get(value, value) if isinstance(value, str) else value
            numbers = numbers if isinstance(numbers, tuple) else (numbers,)
            packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
            where = packed if len(packed) == 4 else struct.pack(f"{order}I", lists + len(tail))
            tail += b"" if len(packed) == 4 else packed
            rows_of.append(struct.pack(f"{order}HHI", tag, 4, len(numbers)) + where)
        next_at = lists + len(tail) if page + 1 < pages else 0
        directories.append(
            struct.pack(f"{order}H", len(entries)) + b"".join(rows_of) + struct.pack(f"{order}I", next_at)
        )
        directories[-1] += tail
        at = lists + len(tail)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    first = 8 + len(body) + len(body) % 2
    return magic + struct.pack(f"{order}I", first) + body + b"\0" * (len(body) % 2) + b"".join(directories)


@pytest.mark.parametrize("form", ["TIFF", "JPEG2000"])
def test_they_are_refused_until_the_operator_admits_them_and_the_words_say_how(form: str) -> None:
    data = encoded(film(), form)
    with pytest.raises(InputError, match="pneumoscan serve --formats") as refused:
        decode(data)
    assert refused.value.code == "UNKNOWN_FORMAT"
    other = "jpeg2000" if form == "TIFF" else "tiff"
    with pytest.raises(InputError, match="admit"):
        decode(data, None, [other])
    assert read(data).info.format == form


def test_a_format_that_is_none_is_refused_where_the_server_starts() -> None:
    assert formats_in("") == frozenset()
    assert formats_in("tiff, jpeg2000") == {"tiff", "jpeg2000"}
    with pytest.raises(ModelError, match="gif"):
        formats_in("tiff,gif")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tile", [None, (16, 32)])
def test_eight_bits_are_the_films_own_and_twelve_in_sixteen_are_a_4095th_each(
    order: str, tile: tuple[int, int] | None
) -> None:
    np.testing.assert_array_equal(read(tiff(film(), order, tile=tile)).pixels, film())
    deep = read(tiff(DEEP, order, tile=tile))
    np.testing.assert_array_equal(deep.pixels, np.rint(DEEP * (255 / 4095)).astype(np.uint8))
    assert deep.info.bits == 12
    wide = read(tiff(WIDE, order, tile=tile))
    np.testing.assert_array_equal(wide.pixels, film(3, 96, 80))
    assert wide.info.bits == 16


@pytest.mark.parametrize(
    ("compression", "predictor"),
    [("tiff_lzw", 1), ("tiff_lzw", 2), ("tiff_adobe_deflate", 2), ("tiff_deflate", 1), ("packbits", 1)],
)
@pytest.mark.parametrize("values", [film(3, 96, 80), DEEP], ids=["8 bits", "16 bits"])
def test_what_pillow_compresses_is_read_as_it_was(values: npt.NDArray[Any], compression: str, predictor: int) -> None:
    data = encoded(Image.fromarray(values), "TIFF", compression=compression, tiffinfo={317: predictor})
    np.testing.assert_array_equal(read(data).pixels, read(tiff(values)).pixels)


def test_where_white_is_zero_the_film_is_the_negative_of_its_values() -> None:
    np.testing.assert_array_equal(read(tiff(film(), t262=0)).pixels, 255 - film())
    np.testing.assert_array_equal(read(tiff(DEEP, t262=0)).pixels, 255 - read(tiff(DEEP)).pixels)
    data = encoded(film(), "TIFF", compression="tiff_lzw")
    assert read(data.replace(struct.pack("<HHI", 262, 3, 1) + b"\1", struct.pack("<HHI", 262, 3, 1) + b"\0")).pixels[
        0, 0
    ] == 255 - int(film()[0, 0])


def test_the_highest_sample_value_settles_the_bits_of_a_dim_film() -> None:
    dim = DEEP // 3
    assert read(tiff(dim)).info.flags == ("bit_depth_unsure",)
    sure = read(tiff(dim, t281=4095))
    assert sure.info.flags == ()
    np.testing.assert_array_equal(sure.pixels, np.rint(dim * (255 / 4095)).astype(np.uint8))


def test_signed_values_keep_their_order() -> None:
    signed = (WIDE.astype(np.int32) - 32768).astype(np.int16)
    np.testing.assert_array_equal(read(tiff(signed, t339=2)).pixels, film(3, 96, 80))


def test_grey_stored_as_colour_is_read_and_colour_is_refused() -> None:
    grey = np.repeat(film()[..., None], 3, axis=2)
    np.testing.assert_array_equal(read(tiff(grey)).pixels, film())
    deep = np.repeat(WIDE[..., None], 3, axis=2)
    np.testing.assert_array_equal(read(tiff(deep, ">")).pixels, film(3, 96, 80))
    coloured = np.stack([film(1), film(2), film(3)], axis=2)
    with pytest.raises(InputError, match="colour") as refused:
        read(tiff(coloured))
    assert refused.value.code == "NOT_A_RADIOGRAPH"


def test_orientation_and_alpha_are_followed() -> None:
    np.testing.assert_array_equal(read(tiff(film(), t274=6)).pixels, np.rot90(film(), -1))
    alpha = np.full_like(film(), 255)
    alpha[:10] = 0
    shown = read(tiff(np.dstack([film(), alpha]), t262=1, t338=2)).pixels
    assert not shown[:10].any()
    np.testing.assert_array_equal(shown[10:], film()[10:])


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (tiff(film(), pages=2), "MULTI_FRAME"),
        (tiff(film(), pages=9), "MULTI_FRAME"),
        (b"II+\0\x08\0\0\0" + bytes(40), "UNKNOWN_FORMAT"),
        (tiff(film(), t256=60_000, t257=60_000), "TOO_MANY_PIXELS"),
        (tiff(film(), t257=20), "TOO_SMALL"),
        (tiff(film(), t258=12), "DAMAGED_IMAGE"),
        (tiff(film(), t259=7), "DAMAGED_IMAGE"),
        (tiff(film(), t262=3), "DAMAGED_IMAGE"),
        (tiff(film(), t339=3), "DAMAGED_IMAGE"),
        (tiff(film(), t278=200_000_000, t257=5000), "DAMAGED_IMAGE"),
        (tiff(film(), t278=1), "DAMAGED_IMAGE"),
        (tiff(film(), t279=(5000,) * 14), "DAMAGED_IMAGE"),
        (tiff(film(), t273=tuple(range(10**6, 10**6 + 14))), "DAMAGED_IMAGE"),
        (tiff(film(), t322=0, t323=16, t324=(8,), t325=(100,)), "DAMAGED_IMAGE"),
        (tiff(film(), t262=None), "DAMAGED_IMAGE"),
        (tiff(film())[:3000], "DAMAGED_IMAGE"),
        (b"II*\0\xff\xff\xff\xff", "DAMAGED_IMAGE"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_whole_film_is_refused(data: bytes, code: str) -> None:
    with pytest.raises(InputError) as refused:
        read(data)
    assert refused.value.code == code


def test_pages_that_are_thumbnails_are_passed_over() -> None:
    np.testing.assert_array_equal(read(tiff(film(), pages=3, t254=1)).pixels, film())


def test_a_file_too_small_for_its_film_is_refused_before_a_decoder_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> None:
        raise AssertionError("a decoder was started")

    monkeypatch.setattr(sandbox.SANDBOX, "outcome", start)
    with pytest.raises(InputError, match="cannot hold"):
        read(tiff(np.zeros((64, 64), np.uint8), t256=7000, t257=7000, t259=5, t273=(8,), t278=7000, t279=(4000,)))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate"])
def test_mutated_tiff_files_are_read_or_refused(compression: str) -> None:
    whole = encoded(Image.fromarray(DEEP), "TIFF", compression=compression)
    rng = np.random.default_rng(7)
    for _ in range(60):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 4):
            data[at] = rng.integers(0, 256)
        try:
            assert read(bytes(data)).pixels.dtype == np.uint8
        except InputError as error:
            assert error.code != "INTERNAL"  # noqa: PT017


def test_no_library_sees_the_files_own_header(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    original = scans.sandboxed
    monkeypatch.setattr(
        scans, "sandboxed", lambda name, data, layout: (seen.append(data), original(name, data, layout))[1]
    )
    read(encoded(film(), "TIFF", compression="tiff_lzw", tiffinfo={270: "CANARY"}))
    assert len(seen) == 1
    assert b"CANARY" not in seen[0]


@pytest.mark.parametrize("raw", [True, False], ids=["code stream", "JP2"])
def test_jpeg_2000_without_loss_is_the_film_to_the_last_bit(raw: bool) -> None:
    data = encoded(film(), "JPEG2000", no_jp2=raw)
    np.testing.assert_array_equal(read(data).pixels, film())
    wide = encoded(Image.fromarray(WIDE), "JPEG2000", no_jp2=raw)
    np.testing.assert_array_equal(read(wide).pixels, film(3, 96, 80))
    assert read(wide).info.format == "JPEG2000"
    colour = encoded(Image.fromarray(np.repeat(film()[..., None], 3, axis=2)), "JPEG2000", no_jp2=raw)
    assert np.abs(read(colour).pixels.astype(int) - film()).max() <= 1


def test_jpeg_2000_comes_reduced_with_the_facts_of_the_whole() -> None:
    data = encoded(Image.fromarray(film(1, 1000, 900)), "JPEG2000")
    reduced = read(data, 200)
    assert reduced.pixels.shape == (250, 225)
    assert reduced.info == read(data).info


@pytest.mark.parametrize(
    "data",
    [
        encoded(film(), "JPEG2000")[:300],
        encoded(film(), "JPEG2000")[:60],
        b"\x00\x00\x00\x0cjP  " + bytes(30),
        encoded(film(), "JPEG2000").replace(b"colr", b"pclr"),
    ],
    ids=["ends early", "no code stream", "zeros", "palette"],
)
def test_jpeg_2000_that_holds_no_film_is_refused(data: bytes) -> None:
    with pytest.raises(InputError) as refused:
        read(data)
    assert refused.value.code == "DAMAGED_IMAGE"
