"""DICOM: the film as a reading room shows it, and refusals by tag."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless

from cxr.errors import InputError
from cxr.images import decode
from tests.films import dicom, encoded, film


def stored_12_bit() -> np.ndarray[Any, np.dtype[np.uint16]]:
    return np.rint(film() / 255.0 * 4095).astype(np.uint16)


def test_the_film_fills_the_grey_range_without_a_window() -> None:
    decoded = decode(dicom(stored_12_bit() // 4 + 100))
    assert np.abs(decoded.pixels.astype(int) - film()).max() <= 1
    info = decoded.info
    assert (info.format, info.bits, info.photometric_interpretation, info.view_position) == (
        "DICOM",
        12,
        "MONOCHROME2",
        "PA",
    )


def test_monochrome1_and_its_monochrome2_twin_are_the_same_film() -> None:
    stored = stored_12_bit()
    one = decode(dicom(4095 - stored, PhotometricInterpretation="MONOCHROME1", WindowCenter=2048, WindowWidth=4096))
    two = decode(dicom(stored, WindowCenter=2048, WindowWidth=4096))
    np.testing.assert_array_equal(one.pixels, two.pixels)


def test_a_linear_window_follows_the_standard() -> None:
    """PS3.3 C.11.2.1.2.1: at centre 2048 and width 101, x <= 1997.5 is black and x > 2097.5 white."""
    stored = stored_12_bit()
    stored[0, :6] = [0, 1997, 1998, 2048, 2097, 2098]
    pixels = decode(dicom(stored, WindowCenter=2048, WindowWidth=101)).pixels
    expected = [0, 0, round((0.5 / 100) * 255), round((0.5 / 100 + 0.5) * 255), round(0.995 * 255), 255]
    assert np.abs(pixels[0, :6].astype(int) - expected).max() <= 1


def test_a_sigmoid_window_is_half_grey_at_its_centre() -> None:
    stored = stored_12_bit()
    stored[0, 0] = 1500
    data = dicom(stored, WindowCenter=1500, WindowWidth=800, VOILUTFunction="SIGMOID")
    assert abs(int(decode(data).pixels[0, 0]) - 128) <= 1


def test_of_several_windows_the_first_is_used() -> None:
    stored = stored_12_bit()
    several = decode(dicom(stored, WindowCenter=[2048, 100], WindowWidth=[4096, 10]))
    np.testing.assert_array_equal(several.pixels, decode(dicom(stored, WindowCenter=2048, WindowWidth=4096)).pixels)


def test_the_window_applies_after_the_rescale() -> None:
    stored = stored_12_bit()
    plain = decode(dicom(stored, WindowCenter=2048, WindowWidth=4096))
    shifted = decode(dicom(stored, RescaleSlope=1, RescaleIntercept=-1000, WindowCenter=1048, WindowWidth=4096))
    np.testing.assert_array_equal(shifted.pixels, plain.pixels)


def test_signed_values_are_read_as_signed() -> None:
    stored = stored_12_bit()
    signed = decode(dicom((stored.astype(np.int32) - 2048).astype(np.int16)))
    np.testing.assert_array_equal(signed.pixels, decode(dicom(stored)).pixels)


def test_padding_is_black_and_does_not_set_the_range() -> None:
    stored = stored_12_bit() // 2 + 1000
    stored[:, :10] = 0
    pixels = decode(dicom(stored, PixelPaddingValue=0)).pixels
    assert (pixels[:, :10] == 0).all()
    assert pixels[:, 10:].min() < 3


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"Modality": "CT"}, "NOT_A_RADIOGRAPH"),
        ({"BodyPartExamined": "KNEE"}, "NOT_A_RADIOGRAPH"),
        ({"ViewPosition": "LL"}, "NOT_FRONTAL"),
        ({"ViewPosition": "LATERAL"}, "NOT_FRONTAL"),
        ({"NumberOfFrames": 3}, "MULTI_FRAME"),
        ({"Rows": 20000, "Columns": 20000}, "TOO_MANY_PIXELS"),
        ({"PixelData": None}, "DAMAGED_IMAGE"),
        ({"BitsStored": None}, "DAMAGED_IMAGE"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "NOT_A_RADIOGRAPH"),
    ],
)
def test_a_tag_that_rules_the_film_out_gives_its_code(tags: dict[str, Any], code: str) -> None:
    with pytest.raises(InputError) as caught:
        decode(dicom(stored_12_bit(), **tags))
    assert caught.value.code == code


def test_a_deflated_data_set_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(InputError) as caught:
        decode(dicom(stored_12_bit(), syntax=DeflatedExplicitVRLittleEndian))
    assert caught.value.code == "UNSUPPORTED_TRANSFER_SYNTAX"


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEGLosslessSV1])
def test_a_compression_without_a_decoder_is_not_called_damage(syntax: UID) -> None:
    with pytest.raises(InputError) as caught:
        decode(dicom(stored_12_bit(), syntax=syntax, PixelData=encapsulate([b"\xff\xd8 pixels"])))
    assert caught.value.code == "UNSUPPORTED_TRANSFER_SYNTAX"


def test_a_jpeg_2000_film_is_decoded() -> None:
    stream = encapsulate([encoded(film(), "JPEG2000", no_jp2=True)])
    decoded = decode(dicom(film(), bits=8, syntax=JPEG2000Lossless, PixelData=stream))
    np.testing.assert_array_equal(decoded.pixels, film())


def test_a_compressed_stream_larger_than_its_tags_say_is_not_decoded() -> None:
    stream = encapsulate([encoded(film(height=3000, width=3000), "JPEG2000", no_jp2=True)])
    with pytest.raises(InputError, match="3000 x 3000"):
        decode(dicom(film(), bits=8, syntax=JPEG2000Lossless, PixelData=stream))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore")
def test_no_damage_raises_anything_but_an_input_error(seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = dicom(
        stored_12_bit(), WindowCenter=2048, WindowWidth=400, RescaleSlope=1, RescaleIntercept=0, PixelPaddingValue=0
    )
    stream = encapsulate([encoded(film(), "JPEG2000", no_jp2=True)])
    for start in (whole, dicom(film(), bits=8, syntax=JPEG2000Lossless, PixelData=stream)):
        for _ in range(150):
            data = bytearray(start)
            for place in rng.integers(128, 1100, rng.integers(1, 6)):
                data[place] = rng.integers(0, 256)
            with contextlib.suppress(InputError):
                decode(bytes(data))


@pytest.mark.filterwarnings("ignore")
def test_a_number_that_is_none_is_damage() -> None:
    data = dicom(stored_12_bit(), RescaleSlope="123456", RescaleIntercept=0).replace(b"123456", b"abcdef")
    with pytest.raises(InputError) as caught:
        decode(data)
    assert caught.value.code == "DAMAGED_IMAGE"


def test_no_tag_text_reaches_an_error() -> None:
    with pytest.raises(InputError) as caught:
        decode(dicom(stored_12_bit(), PatientName="CANARY^NAME", BodyPartExamined="CANARYLEG"))
    assert "CANARY" not in str(caught.value)
