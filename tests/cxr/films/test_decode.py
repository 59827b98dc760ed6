"""Decoding: the same film out of every file type, and a code for every file that holds none."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cxr.errors import CODES, InputError
from cxr.films.decode import decode
from cxr.films.film import MAX_BYTES, significant_bits
from tests.films import dicom, encoded, film


def code_of(data: bytes) -> str:
    with pytest.raises(InputError) as caught:
        decode(data)
    return caught.value.code


def test_a_grey_png_comes_out_as_it_went_in() -> None:
    pixels = film()
    decoded = decode(encoded(pixels))
    np.testing.assert_array_equal(decoded.pixels, pixels)
    assert (decoded.info.format, decoded.info.width, decoded.info.height, decoded.info.bits) == ("PNG", 80, 96, 8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_a_grey_film_saved_in_colour_is_the_same_film(mode: str) -> None:
    pixels = film()
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels).convert(mode))).pixels, pixels)


def test_a_16_bit_png_is_scaled_and_not_clipped() -> None:
    pixels = film()
    decoded = decode(encoded(pixels.astype(np.uint16) * 257))
    np.testing.assert_array_equal(decoded.pixels, pixels)
    assert decoded.info.bits == 16


def test_a_12_bit_film_in_a_16_bit_png_is_not_dark() -> None:
    stored = np.rint(film() / 255.0 * 4095).astype(np.uint16)
    decoded = decode(encoded(stored))
    assert decoded.info.bits == 12
    assert np.abs(decoded.pixels.astype(int) - film()).max() <= 1


@pytest.mark.parametrize(
    ("highest", "bits"), [(1, 8), (255, 8), (256, 9), (2047, 11), (4095, 12), (4096, 13), (16384, 15), (65535, 16)]
)
def test_significant_bits_hold_the_highest_value(highest: int, bits: int) -> None:
    assert significant_bits(highest) == bits


def test_a_jpeg_is_close_to_the_film() -> None:
    decoded = decode(encoded(film(), "JPEG", quality=95))
    assert decoded.info.format == "JPEG"
    assert np.abs(decoded.pixels.astype(int) - film()).mean() < 2


def test_exif_orientation_is_followed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    upright = decode(encoded(film(), "JPEG", quality=95)).pixels
    turned = decode(encoded(film(), "JPEG", quality=95, exif=exif))
    assert (turned.info.width, turned.info.height) == (96, 80)
    np.testing.assert_array_equal(turned.pixels, np.rot90(upright, -1))


def png_bomb(width: int, height: int) -> bytes:
    """A small file whose header announces a huge picture."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 9999))]
    packed = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"", "EMPTY_BODY", id="nothing"),
        pytest.param(b"GIF89a" + b"\0" * 200, "UNKNOWN_FORMAT", id="gif"),
        pytest.param(b"%PDF-1.7 ", "UNKNOWN_FORMAT", id="pdf"),
        pytest.param(b"\xff\xd8 and no marker", "UNKNOWN_FORMAT", id="half a JPEG start"),
        pytest.param(b"\0" * (MAX_BYTES + 1), "TOO_MANY_BYTES", id="49 MB"),
        pytest.param(encoded(film())[:900], "DAMAGED_IMAGE", id="cut png"),
        pytest.param(encoded(film(), "JPEG")[:300], "DAMAGED_IMAGE", id="cut jpeg"),
        pytest.param(b"\xff\xd8\xff\xe0 no jpeg", "DAMAGED_IMAGE", id="jpeg in name only"),
        pytest.param(png_bomb(20000, 20000), "TOO_MANY_PIXELS", id="400 megapixel png"),
        pytest.param(png_bomb(8000, 8000), "TOO_MANY_PIXELS", id="64 megapixel png"),
        pytest.param(encoded(film(height=40)), "TOO_SMALL", id="40 rows"),
        pytest.param(encoded(np.full((96, 80), 7, np.uint8)), "NO_CONTRAST", id="even grey"),
        pytest.param(
            encoded(np.stack([film(1), film(2), film(3)], axis=2)), "NOT_A_RADIOGRAPH", id="colour photograph"
        ),
        pytest.param(dicom(film(), bits=8)[:700], "DAMAGED_IMAGE", id="cut dicom"),
    ],
)
def test_what_is_no_film_gets_its_code(data: bytes, code: str) -> None:
    assert code_of(data) == code


def test_every_code_has_a_status_of_its_kind() -> None:
    assert all(400 <= code.status < 600 for code in CODES.values())
    assert {name for name, code in CODES.items() if code.retryable} == {"OVERLOADED", "WORKER_LOST", "OUT_OF_MEMORY"}
