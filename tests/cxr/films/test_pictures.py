"""Pictures with more than 8 bits a sample: every bit counts, and a depth that had to be guessed is flagged."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cxr.errors import InputError
from cxr.films.decode import decode
from tests.films import encoded, film

GREY, COLOUR, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 4, 6  # PNG specification, section 11.2.2


def png(samples: npt.NDArray[Any], kind: int, *, sbit: int | None = None, filtered: int = 0) -> bytes:
    """A PNG of 16 bits a sample, (H, W, channels), written by hand: Pillow writes grey ones only."""
    height, width, channels = samples.shape
    rows = samples.astype(">u2").reshape(height, -1).view(np.uint8).reshape(height, -1)
    if filtered == 1:  # Sub: each byte less the one a pixel before
        rows = np.concatenate([rows[:, : 2 * channels], rows[:, 2 * channels :] - rows[:, : -2 * channels]], axis=1)
    elif filtered == 2:  # Up: each byte less the one above
        rows = np.concatenate([rows[:1], rows[1:] - rows[:-1]])
    packed = zlib.compress(b"".join(bytes([filtered]) + row.tobytes() for row in rows))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))]
    if sbit is not None:
        chunks.append((b"sBIT", bytes([sbit] * channels)))
    chunks += [(b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def at(bits: int, share: float = 1.0) -> npt.NDArray[np.uint16]:
    return np.rint(film() / 255.0 * share * ((1 << bits) - 1)).astype(np.uint16)


@pytest.mark.parametrize("bits", range(9, 17))
def test_a_film_of_any_depth_is_as_bright_as_it_is(bits: int) -> None:
    decoded = decode(encoded(at(bits)))
    assert np.abs(decoded.pixels.astype(int) - film()).max() <= 1
    assert decoded.info.bits == bits
    assert decoded.info.flags == (() if bits % 2 == 0 else ("bit_depth_unsure",))  # an odd one may be a dim even one


@pytest.mark.parametrize("share", [0.13, 0.3, 0.4, 0.55])
def test_a_film_that_leaves_doubt_about_its_depth_is_flagged(share: float) -> None:
    assert decode(encoded(at(12, share))).info.flags == ("bit_depth_unsure",)


@pytest.mark.parametrize("sbit", [9, 11, 12, 14])
def test_the_depth_a_png_states_is_taken(sbit: int) -> None:
    """PNG specification, section 11.3.2.7."""
    dim = at(sbit, 0.3)
    decoded = decode(png(dim[..., None], GREY, sbit=sbit))
    assert np.abs(decoded.pixels - film() * 0.3).max() <= 1
    assert (decoded.info.bits, decoded.info.flags) == (sbit, ())


def test_a_stated_depth_of_samples_that_fill_16_bits_is_that_of_the_upper_bits() -> None:
    decoded = decode(png((at(12) << 4)[..., None], GREY, sbit=12))
    assert np.abs(decoded.pixels.astype(int) - film()).max() <= 1


@pytest.mark.parametrize("filtered", [0, 1, 2])
@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize(("kind", "channels"), [(COLOUR, 3), (COLOUR_ALPHA, 4), (GREY_ALPHA, 2)])
def test_a_deep_film_in_colour_or_with_alpha_is_the_grey_one(
    kind: int, channels: int, bits: int, filtered: int
) -> None:
    """python-pillow/Pillow#2574: its high bytes alone are nearly black where it has 12 bits."""
    stored = at(bits)
    samples = np.repeat(stored[..., None], channels, axis=2)
    if kind != COLOUR:
        samples[..., -1] = 65535
    decoded = decode(png(samples, kind, filtered=filtered))
    np.testing.assert_array_equal(decoded.pixels, decode(encoded(stored)).pixels)
    assert (decoded.info.bits, decoded.info.flags) == (bits, ())


@pytest.mark.parametrize(("kind", "channels"), [(COLOUR_ALPHA, 4), (GREY_ALPHA, 2)])
def test_what_is_transparent_is_black(kind: int, channels: int) -> None:
    samples = np.repeat(at(16)[..., None], channels, axis=2)
    samples[..., -1] = 65535
    samples[:, :10, -1] = 0
    pixels = decode(png(samples, kind)).pixels
    assert (pixels[:, :10] == 0).all()
    np.testing.assert_array_equal(pixels[:, 10:], film()[:, 10:])


@pytest.mark.parametrize("alpha", [0, 4095])
def test_an_alpha_that_is_the_same_all_over_says_nothing(alpha: int) -> None:
    samples = np.stack([at(12), np.full((96, 80), alpha)], axis=2)
    np.testing.assert_array_equal(decode(png(samples, GREY_ALPHA)).pixels, decode(encoded(at(12))).pixels)


def test_a_deep_coloured_picture_is_refused_however_few_bits_it_uses() -> None:
    for bits in (10, 16):
        samples = np.stack([np.rint(film(seed) / 255 * ((1 << bits) - 1)) for seed in (1, 2, 3)], axis=2)
        with pytest.raises(InputError) as refused:
            decode(png(samples, COLOUR))
        assert refused.value.code == "NOT_A_RADIOGRAPH"


@pytest.mark.parametrize("offset", [32768, 31768, 20000])
def test_a_film_with_something_added_has_its_contrast_and_a_flag(offset: int) -> None:
    """fo-dicom#738: a signed film to which 32,768 was added is grey in the middle of 16 bits."""
    decoded = decode(encoded(at(12) + np.uint16(offset)))
    assert np.abs(decoded.pixels.astype(int) - film()).max() <= 1
    assert decoded.info.flags == ("bit_depth_unsure",)


@pytest.mark.parametrize("high", [65535, 30000])
def test_a_dead_pixel_does_not_make_a_film_dark(high: int) -> None:
    stored = at(12)
    stored[5, 5] = high
    decoded = decode(encoded(stored))
    assert np.abs(decoded.pixels.astype(int) - film())[6:].max() <= 1
    assert decoded.info.flags == ("bit_depth_unsure",)


def test_a_marker_of_the_full_white_of_12_bits_shows_the_depth_of_a_dim_film() -> None:
    stored = at(12, 0.4)
    stored[:6, :6] = 4095
    decoded = decode(encoded(stored))
    assert np.abs(decoded.pixels - film() * 0.4)[6:].max() <= 1
