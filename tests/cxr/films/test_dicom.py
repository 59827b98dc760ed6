"""DICOM: the film as a reading room shows it, and refusals by tag."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pydicom import DataElement, Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, JPEG2000Lossless

from cxr.errors import InputError
from cxr.films.decode import decode
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


def test_a_sigmoid_window_follows_the_standard_far_from_its_centre() -> None:
    """PS3.3 C.11.2.1.3.1: 1 / (1 + exp(-4 (x - c) / w))."""
    stored = stored_12_bit()
    stored[0, :4] = [0, 1300, 1700, 4095]
    pixels = decode(dicom(stored, WindowCenter=1500, WindowWidth=400, VOILUTFunction="SIGMOID")).pixels
    expected = [0, 255 / (1 + np.exp(2)), 255 / (1 + np.exp(-2)), 255]
    assert np.abs(pixels[0, :4] - expected).max() <= 0.5
    np.testing.assert_array_equal(
        decode(dicom(stored, WindowCenter=1500, WindowWidth=1e-6, VOILUTFunction="SIGMOID")).pixels[0, :4],
        [0, 0, 255, 255],
    )


def test_a_linear_exact_window_follows_the_standard() -> None:
    """PS3.3 C.11.2.1.3.2: (x - c) / w + 0.5, black at 2000 and white at 2100 for centre 2050 and width 100."""
    stored = stored_12_bit()
    stored[0, :6] = [1999, 2000, 2025, 2050, 2100, 2101]
    pixels = decode(dicom(stored, WindowCenter=2050, WindowWidth=100, VOILUTFunction="LINEAR_EXACT")).pixels
    np.testing.assert_array_equal(pixels[0, :6], [0, 0, 64, 128, 255, 255])


def test_a_window_of_width_one_is_a_threshold() -> None:
    """PS3.3 C.11.2.1.2.1 note 4."""
    stored = stored_12_bit()
    pixels = decode(dicom(stored, WindowCenter=2000, WindowWidth=1)).pixels
    np.testing.assert_array_equal(pixels, np.where(stored >= 2000, 255, 0))


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 2048},
        {"WindowWidth": 100},
        {"WindowCenter": 2048, "WindowWidth": 0},
        {"WindowCenter": 2048, "WindowWidth": 0.5},
        {"WindowCenter": None, "WindowWidth": None},
        {"WindowCenter": 2048, "WindowWidth": 0, "VOILUTFunction": "LINEAR_EXACT"},
    ],
)
def test_without_a_whole_window_the_film_fills_the_grey_range(tags: dict[str, Any]) -> None:
    given = {name: value for name, value in tags.items() if value is not None}
    stored = stored_12_bit()
    np.testing.assert_array_equal(decode(dicom(stored, **given)).pixels, decode(dicom(stored)).pixels)


def test_pixel_spacing_changes_no_pixel() -> None:
    stored = stored_12_bit()
    spaced = dicom(stored, PixelSpacing=[0.1, 0.4], ImagerPixelSpacing=[0.1, 0.4])
    np.testing.assert_array_equal(decode(spaced).pixels, decode(dicom(stored)).pixels)


def look_up_table(values: np.ndarray[Any, Any], first: int, bits: int, order: str = "<") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(values) % 65536, first, bits])
    item.add_new("LUTData", "OW", values.astype(f"{order}u2" if values.itemsize == 2 else "u1").tobytes())
    return item


@pytest.mark.parametrize("kind", ["8 bits", "8 bits in 16", "12 bits", "16 bits"])
@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
def test_a_look_up_table_maps_the_values(sequence: str, kind: str) -> None:
    """PS3.3 C.11.1.1 and C.11.2.1.1: the first and last entry hold for all values before and after."""
    bits = int(kind.split()[0])
    curve = np.rint(np.linspace(0, 1, 3000) ** 2 * ((1 << bits) - 1)).astype(
        np.uint8 if kind == "8 bits" else np.uint16
    )
    stored = stored_12_bit()
    pixels = decode(dicom(stored, **{sequence: [look_up_table(curve, 500, bits)]})).pixels
    expected = curve[np.clip(stored.astype(int) - 500, 0, 2999)] / ((1 << bits) - 1) * 255
    assert np.abs(pixels - expected).max() <= 0.51


def test_a_look_up_table_for_signed_values_begins_below_zero() -> None:
    signed = (stored_12_bit().astype(np.int32) * 16 - 32768).astype(np.int16)
    curve = np.arange(65536)[::-1].astype(np.uint16)
    pixels = decode(dicom(signed, bits=16, ModalityLUTSequence=[look_up_table(curve, -32768, 16)])).pixels
    assert np.abs(pixels.astype(int) - (255 - film())).max() <= 1


def test_a_look_up_table_of_a_big_endian_file_is_read_in_its_order() -> None:
    stored = stored_12_bit()
    curve = (4095 - np.arange(4096)).astype(np.uint16)
    little = dicom(stored, VOILUTSequence=[look_up_table(curve, 0, 12)])
    big = dicom(
        stored,
        syntax=ExplicitVRBigEndian,
        PixelData=stored.astype(">u2").tobytes(),
        VOILUTSequence=[look_up_table(curve, 0, 12, ">")],
    )
    np.testing.assert_array_equal(decode(big).pixels, decode(little).pixels)


def test_a_modality_look_up_table_of_impossible_depth_is_damage() -> None:
    with pytest.raises(InputError, match="look-up table of 0 bits"):
        decode(dicom(stored_12_bit(), ModalityLUTSequence=[look_up_table(np.arange(4, dtype=np.uint16), 0, 0)]))


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


def test_padding_given_in_the_wrong_vr_is_still_padding() -> None:
    stored = (stored_12_bit() // 4).astype(np.int16)
    stored[:, :10] = -2000
    data = dicom(stored, bits=16, PixelPaddingValue=-2000)
    np.testing.assert_array_equal(decode(data).pixels[:, :10], 0)
    dataset = dcmread(io.BytesIO(data))
    dataset["PixelPaddingValue"] = DataElement("PixelPaddingValue", "US", 65536 - 2000)
    stream = io.BytesIO()
    dataset.save_as(stream)
    np.testing.assert_array_equal(decode(stream.getvalue()).pixels, decode(data).pixels)


def test_padding_may_be_a_range() -> None:
    stored = stored_12_bit() // 2 + 1000
    stored[:, :5], stored[:, 5:10] = 3, 17
    pixels = decode(dicom(stored, PixelPaddingValue=17, PixelPaddingRangeLimit=3)).pixels
    assert (pixels[:, :10] == 0).all()
    assert pixels[:, 10:].min() < 3


def test_a_rescale_without_values_changes_nothing() -> None:
    stored = stored_12_bit()
    pixels = decode(dicom(stored, RescaleSlope="", RescaleIntercept="")).pixels
    np.testing.assert_array_equal(pixels, decode(dicom(stored)).pixels)


@pytest.mark.parametrize("name", ["FloatPixelData", "DoubleFloatPixelData"])
def test_float_pixel_data_is_refused_by_name(name: str) -> None:
    kind = np.float32 if name == "FloatPixelData" else np.float64
    data = dicom(stored_12_bit(), PixelData=None, BitsStored=None, **{name: film().astype(kind).tobytes()})
    with pytest.raises(InputError, match="float pixel data") as caught:
        decode(data)
    assert caught.value.code == "DAMAGED_IMAGE"


@pytest.mark.parametrize("start", [128, 132])
def test_a_dicom_file_without_its_first_bytes_is_the_same_film(start: int) -> None:
    whole = dicom(stored_12_bit())
    np.testing.assert_array_equal(decode(whole[start:]).pixels, decode(whole).pixels)


def view_code(meaning: str) -> Dataset:
    code = Dataset()
    code.CodeMeaning = meaning
    return code


def test_a_frontal_film_may_say_so_in_every_tag() -> None:
    tags = {"PatientOrientation": ["L", "F"], "ViewCodeSequence": [view_code("postero-anterior")]}
    assert decode(dicom(stored_12_bit(), **tags)).info.view_position == "PA"


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"Modality": "CT"}, "NOT_A_RADIOGRAPH"),
        ({"BodyPartExamined": "KNEE"}, "NOT_A_RADIOGRAPH"),
        ({"ViewPosition": "LL"}, "NOT_FRONTAL"),
        ({"ViewPosition": "LATERAL"}, "NOT_FRONTAL"),
        ({"ViewPosition": None, "PatientOrientation": ["A", "F"]}, "NOT_FRONTAL"),
        ({"ViewPosition": "", "ViewCodeSequence": [view_code("Left lateral")]}, "NOT_FRONTAL"),
        ({"NumberOfFrames": 3}, "MULTI_FRAME"),
        ({"Rows": 20000, "Columns": 20000}, "TOO_MANY_PIXELS"),
        ({"PixelData": None}, "DAMAGED_IMAGE"),
        ({"BitsStored": None}, "DAMAGED_IMAGE"),
        ({"PixelRepresentation": None}, "DAMAGED_IMAGE"),
        ({"RescaleSlope": "1e300", "RescaleIntercept": 0}, "DAMAGED_IMAGE"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "NOT_A_RADIOGRAPH"),
    ],
)
def test_a_tag_that_rules_the_film_out_gives_its_code(tags: dict[str, Any], code: str) -> None:
    with pytest.raises(InputError) as caught:
        decode(dicom(stored_12_bit(), **tags))
    assert caught.value.code == code


def test_a_deflated_film_is_the_same_film() -> None:
    stored = stored_12_bit()
    packed = dicom(stored, syntax=DeflatedExplicitVRLittleEndian)
    assert len(packed) < 0.6 * len(dicom(stored))
    np.testing.assert_array_equal(decode(packed).pixels, decode(dicom(stored)).pixels)


def test_a_jpeg_2000_film_is_decoded() -> None:
    stream = encapsulate([encoded(film(), "JPEG2000", no_jp2=True)])
    decoded = decode(dicom(film(), bits=8, syntax=JPEG2000Lossless, PixelData=stream))
    np.testing.assert_array_equal(decoded.pixels, film())


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
        decode(dicom(stored_12_bit(), PatientName="CANARY^NAME", BodyPartExamined="CANARY LEG"))
    assert "CANARY" not in str(caught.value)
