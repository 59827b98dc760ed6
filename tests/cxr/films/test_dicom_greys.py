"""Stored value to grey where files are not as the standard wants them: the right grey, or a flag, never in silence."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import DataElement, Dataset, dcmread
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from cxr.errors import InputError
from cxr.films.decode import decode
from cxr.films.film import Film
from cxr.films.greys import own_range
from tests.films import dicom, film

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
CURVE = np.rint((np.arange(4096) / 4095) ** 2 * 4095).astype(np.uint16)  # what a look-up table makes of the ramp
CURVED = CURVE[RAMP] / 4095 * 255


def twelve_bits() -> npt.NDArray[np.uint16]:
    return np.rint(film() / 255.0 * 4095).astype(np.uint16)


def table(
    entries: npt.NDArray[Any] | bytes,
    bits: int,
    first: int = 0,
    vr: str = "OW",
    length: int | None = None,
) -> Dataset:
    """A look-up table whose data has any VR and whose descriptor says anything."""
    item = Dataset()
    count = len(entries) if length is None else length
    item.add_new("LUTDescriptor", "US", [count % 65536, first % 65536, bits])
    if vr in ("US", "SS") and not isinstance(entries, bytes):
        values = entries.astype(np.int16 if vr == "SS" else np.uint16)
        item["LUTData"] = DataElement("LUTData", vr, [int(value) for value in values])
    else:
        item.add_new("LUTData", vr, entries if isinstance(entries, bytes) else entries.astype("<u2").tobytes())
    return item


def close_to(decoded: Film, expected: npt.NDArray[Any], most: float = 0.51) -> None:
    assert np.abs(decoded.pixels - np.asarray(expected, dtype=float)).max() <= most


@pytest.mark.parametrize(("bits", "said"), [(8, 16), (10, 16), (12, 16), (14, 16), (10, 12), (12, 8), (16, 12)])
def test_a_table_is_as_wide_as_its_entries_whatever_its_descriptor_says(bits: int, said: int) -> None:
    """Enet4/dicom-rs#825: Agfa gives the size of an entry. Read by the letter the film is 16 times too dark."""
    entries = np.rint(CURVE / 4095 * ((1 << bits) - 1)).astype(np.uint16)
    decoded = decode(dicom(RAMP, VOILUTSequence=[table(entries, said)]))
    close_to(decoded, entries[RAMP] / ((1 << bits) - 1) * 255)
    assert decoded.info.flags == ()


def test_a_table_that_leaves_doubt_about_its_depth_is_flagged() -> None:
    decoded = decode(dicom(RAMP, VOILUTSequence=[table(CURVE // 16 * 9, 16)]))  # up to 2,295 of 65,535: 12 bits?
    assert "bit_depth_unsure" in decoded.info.flags


def test_a_table_that_ends_at_a_power_of_two_is_not_read_half_as_bright() -> None:
    entries = np.arange(4096).astype(np.uint16) + 1
    close_to(decode(dicom(RAMP, VOILUTSequence=[table(entries, 16)])), RAMP / 4095 * 255, 1.01)


@pytest.mark.parametrize("vr", ["US", "SS", "OW", "OB", "UN"])
@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
def test_entries_are_unsigned_whatever_the_vr_of_the_data(vr: str, sequence: str) -> None:
    """PS3.3 C.11.1.1: the range is 0 to 2^n - 1. Half of these entries would be negative as SS."""
    entries = np.rint(CURVE / 4095 * 65535).astype(np.uint16)
    close_to(decode(dicom(RAMP, **{sequence: [table(entries, 16, vr=vr)]})), CURVED)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("vr", ["US", "OW"])
def test_entries_are_read_in_the_order_of_the_file(vr: str, syntax: Any) -> None:
    order = "<" if syntax.is_little_endian else ">"
    item = table(CURVE, 12, vr=vr)
    if vr == "OW":
        item.LUTData = CURVE.astype(f"{order}u2").tobytes()
    pixels = RAMP.astype(f"{order}u2").tobytes()
    close_to(decode(dicom(RAMP, syntax=syntax, PixelData=pixels, VOILUTSequence=[item])), CURVED)


@pytest.mark.parametrize("vr", ["OB", "OW", "US", "UN"])
def test_entries_of_8_bits_may_take_one_byte_each(vr: str) -> None:
    entries = np.rint(CURVE / 4095 * 255).astype(np.uint8)
    item = table(entries.tobytes(), 8, vr="OW" if vr == "US" else vr, length=4096)
    if vr == "US":  # two entries in each word, the first in its low byte
        item["LUTData"] = DataElement("LUTData", "US", [int(word) for word in np.frombuffer(entries.tobytes(), "<u2")])
    close_to(decode(dicom(RAMP, VOILUTSequence=[item])), entries[RAMP])


@pytest.mark.parametrize("bits", [12, 16])
def test_a_table_one_entry_short_is_not_taken_for_bytes(bits: int) -> None:
    decoded = decode(dicom(RAMP, VOILUTSequence=[table(CURVE[:-1], bits, length=4096)]))
    assert np.abs(decoded.pixels - CURVED).mean() < 0.6


def test_the_first_value_mapped_may_have_the_sign_of_the_values_or_none() -> None:
    high = RAMP + 40000
    close_to(decode(dicom(high, bits=16, VOILUTSequence=[table(CURVE, 12, first=40000)])), CURVED)
    low = (RAMP.astype(np.int32) - 2000).astype(np.int16)
    close_to(decode(dicom(low, bits=16, VOILUTSequence=[table(CURVE, 12, first=-2000)])), CURVED)
    rescaled = dicom(RAMP, RescaleSlope=1, RescaleIntercept=-2000, VOILUTSequence=[table(CURVE, 12, first=-2000)])
    close_to(decode(rescaled), CURVED)


BROKEN: dict[str, Any] = {
    "nothing in it": Dataset(),
    "no data": table(b"", 12, length=4096),
    "a third of the data": table(CURVE[:1300], 12, length=4096),
    "no bits": table(CURVE, 0),
    "99 bits": table(CURVE, 99),
    "one grey": table(np.full(4096, 77), 12),
    "of other values": table(CURVE, 12, first=30000),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_table_beside_a_good_window_leaves_the_window_and_a_flag(kind: str) -> None:
    """cornerstonejs/cornerstoneWADOImageLoader#45: other viewers show the window."""
    tags = {"WindowCenter": 2048, "WindowWidth": 3000}
    decoded = decode(dicom(twelve_bits(), VOILUTSequence=[BROKEN[kind]], **tags))
    np.testing.assert_array_equal(decoded.pixels, decode(dicom(twelve_bits(), **tags)).pixels)
    assert "window_unreadable" in decoded.info.flags
    alone = decode(dicom(twelve_bits(), VOILUTSequence=[BROKEN[kind]]))
    np.testing.assert_array_equal(alone.pixels, decode(dicom(twelve_bits())).pixels)
    assert "window_unreadable" in alone.info.flags


def test_of_several_tables_the_first_is_used_however_many_follow() -> None:
    full = np.rint((np.arange(65536) / 65535) ** 2 * 65535).astype(np.uint16)
    stored = (film().astype(np.uint16) * 257).astype(np.uint16)
    several = [table(full, 16), *[table(full[::-1].copy(), 16)] * 11]  # 1.6 MB
    close_to(decode(dicom(stored, bits=16, VOILUTSequence=several)), full[stored] / 65535 * 255)


def with_text(keyword: str, text: str, other: dict[str, str]) -> bytes:
    """A film with a number written as pydicom would not write it."""
    length = len(text) + len(text) % 2
    data = dicom(twelve_bits(), **{**other, keyword: "7" * length})
    return data.replace(b"7" * length, text.ljust(length).encode())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "text", ["2048,0", "2,048E3", " 2048", "+2048.", "2048.0\\100", "2048,0\\99,5", "2.048,0", "2048\0"]
)
def test_a_window_is_read_however_it_is_written(text: str) -> None:
    decoded = decode(with_text("WindowCenter", text, {"WindowWidth": "1000"}))
    np.testing.assert_array_equal(
        decoded.pixels, decode(dicom(twelve_bits(), WindowCenter=2048, WindowWidth=1000)).pixels
    )
    assert decoded.info.flags == decode(dicom(twelve_bits(), WindowCenter=2048, WindowWidth=1000)).info.flags


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("text", ["auto", "2048;5", "--2048", "1_000", "NaN", "inf", "0x800", "2048 1000"])
def test_a_window_that_cannot_be_read_is_flagged_and_the_range_used(text: str) -> None:
    decoded = decode(with_text("WindowCenter", text, {"WindowWidth": "1000"}))
    np.testing.assert_array_equal(decoded.pixels, decode(dicom(twelve_bits())).pixels)
    assert "window_unreadable" in decoded.info.flags


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 2048},
        {"WindowWidth": 1000},
        {"WindowCenter": 2048, "WindowWidth": 0},
        {"WindowCenter": 2048, "WindowWidth": -1000},
        {"WindowCenter": 2048, "WindowWidth": 0.5},
    ],
)
def test_half_a_window_or_one_of_no_width_is_flagged(tags: dict[str, Any]) -> None:
    decoded = decode(dicom(twelve_bits(), **tags))
    np.testing.assert_array_equal(decoded.pixels, decode(dicom(twelve_bits())).pixels)
    assert decoded.info.flags == ("window_unreadable",)


def test_a_second_window_stands_in_for_a_first_without_width() -> None:
    decoded = decode(dicom(twelve_bits(), WindowCenter=[5, 2048], WindowWidth=[0, 4096]))
    np.testing.assert_array_equal(
        decoded.pixels, decode(dicom(twelve_bits(), WindowCenter=2048, WindowWidth=4096)).pixels
    )
    assert decoded.info.flags == ("window_unreadable",)


def test_a_narrow_window_of_a_film_with_a_tiny_slope_is_meant() -> None:
    """fo-dicom#1999: values from 0 to 0.4095, window 0.1 to 0.3."""
    decoded = decode(dicom(RAMP, RescaleSlope="0.0001", RescaleIntercept=0, WindowCenter=0.2, WindowWidth=0.2))
    close_to(decoded, np.clip((RAMP * 0.0001 - 0.1) / 0.2, 0, 1) * 255)


@pytest.mark.parametrize("function", ["linear", " LINEAR", "Linear_Exact", "sigmoid ", "SIGMOID\0"])
def test_the_function_of_a_window_may_have_blanks_and_lower_case(function: str) -> None:
    window = {"WindowCenter": 2048, "WindowWidth": 1000}
    clean = function.strip(" \0").upper()
    decoded = decode(dicom(RAMP, **window, VOILUTFunction=function))
    np.testing.assert_array_equal(decoded.pixels, decode(dicom(RAMP, **window, VOILUTFunction=clean)).pixels)
    x = RAMP.astype(float)
    by_hand = {
        "LINEAR": np.clip((x - 2047.5) / 999 + 0.5, 0, 1),
        "LINEAR_EXACT": np.clip((x - 2048) / 1000 + 0.5, 0, 1),
        "SIGMOID": 1 / (1 + np.exp(-4 * (x - 2048) / 1000)),
    }
    close_to(decoded, by_hand[clean] * 255)


@pytest.mark.filterwarnings("ignore")
def test_slope_and_intercept_may_have_a_decimal_comma() -> None:
    window = {"WindowCenter": 1500, "WindowWidth": 6000}
    data = dicom(RAMP, RescaleSlope="1.50", RescaleIntercept="-9.5", **window)
    commas = data.replace(b"1.50", b"1,50").replace(b"-9.5", b"-9,5")
    assert commas != data
    np.testing.assert_array_equal(decode(commas).pixels, decode(data).pixels)
    close_to(decode(commas), np.clip((RAMP * 1.5 - 9.5 - 1499.5) / 5999 + 0.5, 0, 1) * 255)


@pytest.mark.parametrize("tags", [{"RescaleIntercept": -1000}, {"RescaleSlope": 2}])
def test_slope_and_intercept_have_their_usual_values_where_only_one_is_there(tags: dict[str, Any]) -> None:
    slope, intercept = tags.get("RescaleSlope", 1), tags.get("RescaleIntercept", 0)
    decoded = decode(dicom(RAMP, WindowCenter=1000, WindowWidth=4000, **tags))
    close_to(decoded, np.clip((RAMP.astype(float) * slope + intercept - 999.5) / 3999 + 0.5, 0, 1) * 255)


def test_a_slope_of_zero_is_damage_that_is_named() -> None:
    with pytest.raises(InputError, match="RescaleSlope is 0"):
        decode(dicom(twelve_bits(), RescaleSlope=0, RescaleIntercept=5))


def outlined(stored: npt.NDArray[Any], kind: str) -> npt.NDArray[Any]:
    """A film of 12 bits from 800 to 2,847 with what is no part of it."""
    framed = stored.copy()
    if kind == "one dead pixel":
        framed[30, 30] = 65535
    elif kind == "dead pixels of many values":
        framed[5:9, 5] = [9000, 20001, 43210, 65535]
    elif kind == "a pixel without a signal":
        framed += 20000
        framed[4, 4] = 0
        framed[4, 5] = 65535
    elif kind == "a marker":
        framed[2:10, 2:10] = 65535
    elif kind == "a frame and a marker":
        framed[:16] = framed[-16:] = 0
        framed[:, :12] = framed[:, -12:] = 0
        framed[20:24, 20:40] = 65535
    elif kind == "a frame of noise":
        framed[:12] = np.arange(12 * 80).reshape(12, 80) % 8
    return framed


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize(
    "kind",
    [
        "one dead pixel",
        "dead pixels of many values",
        "a pixel without a signal",
        "a marker",
        "a frame and a marker",
        "a frame of noise",
    ],
)
def test_without_a_window_what_is_no_part_of_the_film_does_not_set_its_range(kind: str, photometric: str) -> None:
    stored = np.rint(film().astype(float) / 255 * 2047 + 800).astype(np.uint16)
    framed = outlined(stored, kind)
    decoded = decode(dicom(framed, bits=16, PhotometricInterpretation=photometric))
    inside = framed == stored + (20000 if kind == "a pixel without a signal" else 0)
    low, high = stored[inside].min(), stored[inside].max()
    grey = (stored - low) / (high - low) * 255.0
    grey = grey if photometric == "MONOCHROME2" else 255 - grey
    assert np.abs(decoded.pixels.astype(float) - grey)[inside].max() <= 3
    assert "bit_depth_unsure" in decoded.info.flags


def test_a_film_without_anything_else_keeps_its_whole_range() -> None:
    counts = np.bincount(film().ravel(), minlength=256)
    levels = np.flatnonzero(counts)
    assert own_range(levels, counts[levels]) == (0.0, 255.0, False)
    assert own_range(np.array([3, 700]), np.array([5, 5])) == (3.0, 700.0, False)


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_a_film_of_8_bits_was_rendered_and_keeps_its_markers_white(photometric: str) -> None:
    stored = film() // 2
    stored[2:10, 2:10] = 255
    decoded = decode(dicom(stored, bits=8, PhotometricInterpretation=photometric))
    np.testing.assert_array_equal(decoded.pixels, stored if photometric == "MONOCHROME2" else 255 - stored)
    assert decoded.info.flags == ()


def test_letters_that_are_as_bright_again_as_the_film_leave_its_range_alone() -> None:
    """Of 600 real films 9 have a thousandth of their pixels spread over a third of their range: they are part of it."""
    stored = (film(height=480, width=400).astype(np.uint16) * 6).astype(np.uint16)
    stored[10, :400] = np.linspace(1530, 2500, 400)
    assert decode(dicom(stored, bits=12)).info.flags == ()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [10, 12])
def test_values_at_the_top_of_their_words_are_moved_down(bits: int, signed: bool) -> None:
    """High Bit 15; PS3.5 8.1.1. fo-dicom#138, older CR and ACR-NEMA writers."""
    stored = twelve_bits() >> (12 - bits)
    values = (stored.astype(np.int32) - (1 << (bits - 1) if signed else 0)).astype(np.int16 if signed else np.uint16)
    window = {"WindowCenter": 0 if signed else 1 << (bits - 1), "WindowWidth": 1 << bits}
    above = dicom(values << (16 - bits), bits=bits, HighBit=15, **window)
    np.testing.assert_array_equal(decode(above).pixels, decode(dicom(values, bits=bits, **window)).pixels)


def test_a_high_bit_that_the_values_contradict_is_not_believed() -> None:
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    wrong = decode(dicom(twelve_bits(), HighBit=15, **window))
    np.testing.assert_array_equal(wrong.pixels, decode(dicom(twelve_bits(), **window)).pixels)


@pytest.mark.parametrize("bits", [13, 14, 16])
def test_values_beyond_bits_stored_are_read_in_their_own_depth_and_flagged(bits: int) -> None:
    """Masked at 12 bits the film would begin again from black two, four or sixteen times."""
    shown = film(height=960, width=800)
    stored = np.rint(shown / 255.0 * ((1 << bits) - 1)).astype(np.uint16)
    decoded = decode(dicom(stored, bits=12))
    close_to(decoded, shown, 1)
    assert (decoded.info.bits, decoded.info.flags) == (bits, ("bit_depth_unsure",))
    window = {"WindowCenter": 1 << (bits - 1), "WindowWidth": 1 << bits}
    close_to(decode(dicom(stored, bits=12, **window)), shown, 1)


def test_an_overlay_in_the_upper_bits_is_taken_out() -> None:
    """PS3.5 8.1.1, PS3.3 C.9.2 until 2004: letters in bit 15 of a film of 12 bits."""
    overlaid = twelve_bits()
    overlaid[10:30:3, 5:60:2] |= 0x8000
    decoded = decode(dicom(overlaid, bits=12))
    np.testing.assert_array_equal(decoded.pixels, decode(dicom(twelve_bits())).pixels)
    assert decoded.info.flags == ()


def test_negative_values_without_their_sign_in_the_upper_bits_are_negative() -> None:
    """PS3.5 8.1.1: unused bits need not repeat the sign."""
    signed = (twelve_bits().astype(np.int32) - 2048).astype(np.int16)
    bare = (signed.astype(np.uint16) & 0x0FFF).astype(np.int16)
    np.testing.assert_array_equal(decode(dicom(bare, bits=12)).pixels, decode(dicom(signed, bits=12)).pixels)


def test_a_modality_table_says_by_its_being_there_that_the_sign_is_right() -> None:
    """As mlut_18.dcm of pydicom-data: half its pixels lie on either side of zero, which looks like a wrong sign."""
    shown = film(height=480, width=400)
    words = np.rint(shown / 255.0 * 4095).astype(np.int32)
    signed = np.where(words >= 2048, words - 4096, words).astype(np.int16)  # black and white next to each other
    shuffled = np.roll(np.arange(4096), 2048).astype(np.uint16)
    tags = {"ModalityLUTSequence": [table(shuffled, 12, first=-2048)], "WindowCenter": 2048, "WindowWidth": 4096}
    decoded = decode(dicom(signed, bits=12, **tags))
    assert decoded.info.flags == ()
    close_to(decoded, shuffled[signed.astype(int) + 2048] / 4095 * 255, 1)


@pytest.mark.parametrize(
    ("sequence", "flags"), [("VOILUTSequence", ("window_unreadable",)), ("ModalityLUTSequence", ())]
)
def test_a_table_that_was_emptied_is_no_table(sequence: str, flags: tuple[str, ...]) -> None:
    """As JPEGLosslessP14SV1_1s_1f_u_16_16.dcm of pylibjpeg-data, from which a program took all values."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", None)
    item.add_new("LUTExplanation", "LO", "")
    item.add_new("LUTData", "US", None)
    decoded = decode(dicom(RAMP, **{sequence: [item]}))
    assert decoded.info.flags == flags
    close_to(decoded, RAMP / 4095 * 255)


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_a_film_with_the_wrong_sign_is_read_with_its_own_and_flagged(bits: int, signed: bool) -> None:
    """Pixel Representation is wrong: half of the film would change places with the other half."""
    shown = film(height=480, width=400)
    values = np.rint(shown / 255.0 * ((1 << bits) - 1)).astype(np.int32) - (1 << (bits - 1) if signed else 0)
    words = (values & ((1 << bits) - 1)).astype(np.uint16)
    decoded = decode(dicom(words, bits=bits, PixelRepresentation=int(not signed)))
    close_to(decoded, shown, 1)
    assert decoded.info.flags == ("bit_depth_unsure",)


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_a_hundredth_of_the_pixels_gone_wild_leave_the_film_as_bright_as_it_is(photometric: str) -> None:
    rng = np.random.default_rng(0)
    shown = film(height=480, width=400)
    stored = shown.astype(np.uint16) * 16
    wild = rng.random(stored.shape) < 0.01
    stored[wild] = rng.integers(5000, 65535, np.count_nonzero(wild))
    decoded = decode(dicom(stored, bits=16, PhotometricInterpretation=photometric))
    grey = shown if photometric == "MONOCHROME2" else 255 - shown
    assert np.abs(decoded.pixels.astype(float) - grey)[~wild].mean() < 3
    assert "bit_depth_unsure" in decoded.info.flags


def test_padding_outside_the_bits_stored_is_still_padding() -> None:
    signed = (twelve_bits().astype(np.int32) - 2048).astype(np.int16)
    padded = signed.copy()
    padded[:, :10] = -32768
    decoded = decode(dicom(padded, bits=12, PixelPaddingValue=-32768))
    assert (decoded.pixels[:, :10] == 0).all()
    np.testing.assert_array_equal(decoded.pixels[:, 11:], decode(dicom(signed, bits=12)).pixels[:, 11:])


def test_a_film_that_is_all_padding_by_its_tag_is_shown() -> None:
    stored = twelve_bits()
    data = dicom(stored, PixelPaddingValue=0, PixelPaddingRangeLimit=4095)
    np.testing.assert_array_equal(decode(data).pixels, decode(dicom(stored)).pixels)


def test_smallest_and_largest_value_tags_change_nothing() -> None:
    lying = dicom(twelve_bits(), SmallestImagePixelValue=0, LargestImagePixelValue=65535)
    np.testing.assert_array_equal(decode(lying).pixels, decode(dicom(twelve_bits())).pixels)


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 1500, "WindowWidth": 2000}])
@pytest.mark.parametrize("form", [" MONOCHROME1", "monochrome1", "MONOCHROME1\0"])
def test_a_negative_is_known_however_its_photometric_interpretation_is_written(form: str, window: Any) -> None:
    decoded = decode(dicom(twelve_bits(), PhotometricInterpretation=form, **window))
    positive = decode(dicom(twelve_bits(), **window))
    close_to(decoded, 255 - positive.pixels.astype(int), 1)


@pytest.mark.parametrize(
    ("photometric", "shape", "flags"),
    [
        ("MONOCHROME2", "INVERSE", ("polarity_unsure",)),
        ("MONOCHROME1", "IDENTITY", ("polarity_unsure",)),
        ("MONOCHROME1", "INVERSE", ()),
        ("MONOCHROME2", "IDENTITY", ()),
    ],
)
def test_a_presentation_shape_that_contradicts_is_flagged(photometric: str, shape: str, flags: Any) -> None:
    """PS3.3 C.8.11.3.1.2: MONOCHROME1 goes with INVERSE, MONOCHROME2 with IDENTITY."""
    data = dicom(twelve_bits(), PhotometricInterpretation=photometric, PresentationLUTShape=shape)
    assert decode(data).info.flags == flags


def test_raw_values_are_refused_with_the_remedy_unless_the_file_says_how_to_show_them() -> None:
    raw = {"PresentationIntentType": "FOR PROCESSING"}
    with pytest.raises(InputError, match="FOR PRESENTATION") as refused:
        decode(dicom(twelve_bits(), **raw))
    assert refused.value.code == "NOT_A_RADIOGRAPH"
    with pytest.raises(InputError, match="FOR PRESENTATION"):
        decode(dicom(twelve_bits(), SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1.1"))
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    with pytest.raises(InputError, match="FOR PRESENTATION"):
        decode(dicom(twelve_bits(), **raw, **window, PixelIntensityRelationship="LIN"))
    assert decode(dicom(twelve_bits(), **raw, **window)).info.flags == ("for_processing",)


def test_a_known_tag_that_became_unknown_is_read_as_what_it_is() -> None:
    """A PACS that does not know a tag passes it on as UN."""
    item = Dataset()
    for keyword, values in (("LUTDescriptor", [4096, 0, 12]), ("LUTData", CURVE)):
        element = DataElement(keyword, "OB", b"")
        item[keyword] = DataElement(element.tag, "UN", np.asarray(values, "<u2").tobytes(), already_converted=True)
        item[keyword].VR = "UN"
    close_to(decode(dicom(RAMP, VOILUTSequence=[item])), CURVED)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("low", [0.55, 0.75])
@pytest.mark.parametrize("is_padding", [True, False])
def test_a_border_beside_a_bright_film_says_nothing_about_the_sign(bits: int, low: float, is_padding: bool) -> None:
    """Every value of the film lies in the upper half; read as negative ones they would lie nearer to the border's 0."""
    top = (1 << bits) - 1
    stored = np.rint((low + (0.98 - low) * film() / 255.0) * top).astype(np.int64)
    start, width = low * top, (0.98 - low) * top
    expected = np.clip((stored - start) / width, 0, 1) * 255
    stored[:, :12], expected[:, :12] = 0, 0
    tags: dict[str, Any] = {"VOILUTFunction": "LINEAR_EXACT", "WindowCenter": f"{start + width / 2:.9g}"}
    tags |= {"WindowWidth": f"{width:.9g}"} | ({"PixelPaddingValue": 0} if is_padding else {})
    unsigned = decode(dicom(stored.astype(np.uint8 if bits == 8 else np.uint16), bits=bits, **tags))
    close_to(unsigned, expected)
    assert "bit_depth_unsure" not in unsigned.info.flags
    half = 1 << (bits - 1)
    tags["WindowCenter"] = f"{start + width / 2 - half:.9g}"
    tags |= {"PixelPaddingValue": -half} if is_padding else {}
    signed = decode(dicom((stored - half).astype(np.int8 if bits == 8 else np.int16), bits=bits, **tags))
    close_to(signed, expected)
    assert "bit_depth_unsure" not in signed.info.flags


@pytest.mark.parametrize("padding", ["lowest", "highest"])
@pytest.mark.parametrize("low", [0.05, 0.45, 0.75])
@pytest.mark.parametrize("bits", [10, 13, 16])
def test_padding_beside_a_signed_film_does_not_tell_its_values_to_be_unsigned(
    bits: int, low: float, padding: str
) -> None:
    """Signed values whose sign is not drawn out over the unused bits, and those of RLE, whose bytes have no sign."""
    half = 1 << (bits - 1)
    stored = np.rint((low + 0.2 * film() / 255.0) * (2 * half - 1)).astype(np.int64) - half
    lowest, highest = int(stored.min()), int(stored.max())
    expected = (stored - lowest) / (highest - lowest) * 255
    value = -half if padding == "lowest" else half - 1
    stored[:, :12], expected[:, :12] = value, 0
    window = {
        "WindowCenter": f"{(lowest + highest) / 2:g}",
        "WindowWidth": str(highest - lowest),
        "VOILUTFunction": "LINEAR_EXACT",
        "PixelPaddingValue": value,
    }
    in_bits = (stored & (2 * half - 1)).astype(np.uint16).view(np.int16)
    packed = dcmread(io.BytesIO(dicom(stored.astype(np.int16), bits=bits, **window)))
    packed.compress(RLELossless, generate_instance_uid=False)
    stream = io.BytesIO()
    packed.save_as(stream)
    for data in (dicom(in_bits, bits=bits, **window), stream.getvalue()):
        decoded = decode(data)
        close_to(decoded, expected)
        assert "bit_depth_unsure" not in decoded.info.flags
