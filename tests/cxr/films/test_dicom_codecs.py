"""Transfer syntaxes: the same stored values from each, and nothing decoded that is not what the tags say."""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from cxr.errors import InputError
from cxr.films import dicom_codecs, sandbox
from cxr.films.decode import decode
from cxr.films.dicom_codecs import read_stored
from cxr.films.stream_codecs import Coded
from tests.films import compressed, dicom, encoded, film

LOSSLESS = (RLELossless, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless)
RAMP = np.add.outer(32 * np.arange(64), 32 * np.arange(64)).astype(np.uint16)
# The ramp by other encoders: libjpeg-turbo 3.1 at quality 95 and with predictor 4, OpenJPH 0.26
RAMP_12_BIT = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJBwYGCAsICQoKCgoKBggLDAsK"
    "DAkKCgr/wQALDABAAEABAREA/8QAFQABAQAAAAAAAAAAAAAAAAAACw3/xAAbEAABBAMAAAAAAAAAAAAAAAAKACY1RFNhcf/aAAgBAQAAPwCG/jcD"
    "cQDCxVuaSAA3A3EAwsVbmkgANwNxAMLFW5pIADcDcQDCxVuaSAA3A3EAwsVbmkgANwNxAMLFW5pIADcDcQDCxVuaSAA3A3EAwsVbmlH/AMbgbiAY"
    "WKtzSQAG4G4gGFirc0kABuBuIBhYq3NJAAbgbiAYWKtzSQAG4G4gGFirc0kABuBuIBhYq3NJAAbgbiAYWKtzSQAG4G4gGFirc0o/+NwNxAMLFW5p"
    "IADcDcQDCxVuaSAA3A3EAwsVbmkgANwNxAMLFW5pIADcDcQDCxVuaSAA3A3EAwsVbmkgANwNxAMLFW5pIADcDcQDCxVuaUf/ABuBuIBhYq3NJAAb"
    "gbiAYWKtzSQAG4G4gGFirc0kABuBuIBhYq3NJAAbgbiAYWKtzSQAG4G4gGFirc0kABuBuIBhYq3NJAAbgbiAYWKtzSj/AONwNxAMLFW5pIADcDcQ"
    "DCxVuaSAA3A3EAwsVbmkgANwNxAMLFW5pIADcDcQDCxVuaSAA3A3EAwsVbmkgANwNxAMLFW5pIADcDcQDCxVuaUf/G4G4gGFirc0kABuBuIBhYq3"
    "NJAAbgbiAYWKtzSQAG4G4gGFirc0kABuBuIBhYq3NJAAbgbiAYWKtzSQAG4G4gGFirc0kABuBuIBhYq3NKP/AI3A3EAwsVbmkgANwNxAMLFW5pIA"
    "DcDcQDCxVuaSAA3A3EAwsVbmkgANwNxAMLFW5pIADcDcQDCxVuaSAA3A3EAwsVbmkgANwNxAMLFW5pR/8bgbiAYWKtzSQAG4G4gGFirc0kABuBuI"
    "BhYq3NJAAbgbiAYWKtzSQAG4G4gGFirc0kABuBuIBhYq3NJAAbgbiAYWKtzSQAG4G4gGFirc0v/Z"
)
RAMP_PREDICTOR_4 = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/wwALDABAAEABAREA/8QAFgABAQEAAAAAAAAAAAAAAAAAAAYM/9oACAEBAAQAAM//AEFBQUFBQUFBQUFBQUFB"
    "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUAAAAAAAAAAAoAAAAAAAAAABQAAAAAAAAAACgAAAAAAAAAA"
    "FAAAAAAAAAAAKAAAAAAAAAAAUAAAAAAAAAAAoAAAAAAAAAABQAAAAAAAAAACgAAAAAAAAAAFAAAAAAAAAAAKAAAAAAAAAAAUAAAAAAAAAAAoAAAA"
    "AAAAAABQAAAAAAAAAACgAAAAAAAAAAFAAAAAAAAAAAKAAAAAAAAAAAUAAAAAAAAAAAoAAAAAAAAAABQAAAAAAAAAACgAAAAAAAAAAFAAAAAAAAAA"
    "AKAAAAAAAAAAAUAAAAAAAAAAAoAAAAAAAAAABQAAAAAAAAAACgAAAAAAAAAAFAAAAAAAAAAAKAAAAAAAAAAAUAAAAAAAAAAAoAAAAAAAAAABQAAA"
    "AAAAAAACgAAAAAAAAAAFAAAAAAAAAAAKAAAAAAAAAAAUAAAAAAAAAAAoAAAAAAAAAABQAAAAAAAAAACgAAAAAAAAAAFAAAAAAAAAAAKAAAAAAAAA"
    "AAUAAAAAAAAAAAoAAAAAAAAAABQAAAAAAAAAACgAAAAAAAAAAFAAAAAAAAAAAKAAAAAAAAAAAUAAAAAAAAAAAoAAAAAAAAAABQAAAAAAAAAACgAA"
    "AAAAAAAAFAAAAAAAAAAAKAAAAAAAAAAAUAAAAAAAAAAAoAAAAAAAAAABQAAAAAAAAAACgAAAAAAAAAAFAAAAAAAAAAAKAAAAAAAAAAAUAAAAAAAA"
    "AAAoAAAAAAAAAABQAAAAAAAAAAD/2Q=="
)
RAMP_HTJ2K = base64.b64decode(
    "/0//UQApQAAAAABAAAAAQAAAAAAAAAAAAAAAQAAAAEAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQkJCQ"
    "kJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAASgAAf+TwAArAP9/2/bb9rftAoG0AMAAE8AAE4CQQPICgnQAkITkAKNUAMAA"
    "FVAABVhIkCBB8qpyAnUASCJBguTAQgHstgDAABaEAAFpgCIiIiIiIiIi58p6enGCeAAiRURERERERP79jGB79jGB7LoAwAAW3AABdEAOh8PhcDgc"
    "DofD4XA4HPn/Cnp6enp6enECfQCODofD4XA4HA6Hw+FwOP7/eGCEB79iEB79iEB79iEB7LMBwAAuqgABduDee++9995777333nvvvffee++99/6/"
    "/Ap6enp6enp6enp6enp6enACdgG+995777333nvvvffee++999577/9/2wAAB79gAB79gAB79gAB79gAB79gAB79gAB79gAB7LMC/9k="
)


def ramp_in(syntax: UID, stream: bytes, bits: int = 12, **tags: Any) -> bytes:
    return dicom(RAMP, bits=bits, syntax=syntax, PixelData=encapsulate([stream]), **tags)


def film_in(syntax: UID, stream: bytes, **tags: Any) -> bytes:
    return dicom(film(), bits=8, syntax=syntax, PixelData=encapsulate([stream]), **tags)


def stored_in(data: bytes) -> Any:
    return read_stored(dcmread(io.BytesIO(data))).values


def frame_in(data: bytes) -> bytes:
    return get_frame(dcmread(io.BytesIO(data)).PixelData, 0, number_of_frames=1)


def refusal_of(data: bytes) -> InputError:
    with pytest.raises(InputError) as caught:
        decode(data)
    return caught.value


def stored_of(kind: str) -> tuple[np.ndarray[Any, Any], int]:
    """Values over the whole range of some bits, and how many bits."""
    bits = int(kind.rstrip("s"))
    values = np.rint(film() / 255.0 * ((1 << bits) - 1)).astype(np.int32)
    if kind.endswith("s"):
        return (values - (1 << (bits - 1))).astype(np.int8 if bits == 8 else np.int16), bits
    return values.astype(np.uint8 if bits == 8 else np.uint16), bits


@pytest.mark.parametrize("kind", ["8", "10", "12", "16", "12s", "16s"])
@pytest.mark.parametrize("syntax", LOSSLESS)
def test_a_lossless_syntax_gives_the_values_that_went_in(syntax: UID, kind: str) -> None:
    stored, bits = stored_of(kind)
    data = compressed(dicom(stored, bits=bits), syntax)
    assert dcmread(io.BytesIO(data)).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(stored_in(data), stored)


@pytest.mark.parametrize("kind", ["8", "12", "12s", "16s"])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_plain_values_are_read_in_either_byte_order(syntax: UID, kind: str) -> None:
    stored, bits = stored_of(kind)
    order = "<" if syntax.is_little_endian else ">"
    pixels = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    if bits == 8 and order == ">":  # written as words, OW
        pixels = np.frombuffer(pixels, "u2").byteswap().tobytes()
    np.testing.assert_array_equal(stored_in(dicom(stored, bits=bits, syntax=syntax, PixelData=pixels)), stored)


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1])
def test_a_lossless_jpeg_of_another_encoder_and_predictor_is_read(syntax: UID) -> None:
    np.testing.assert_array_equal(stored_in(ramp_in(syntax, RAMP_PREDICTOR_4)), RAMP)


def test_a_12_bit_jpeg_is_read_within_one_of_4096_greys() -> None:
    assert np.abs(stored_in(ramp_in(JPEGExtended12Bit, RAMP_12_BIT)) - RAMP).max() <= 1


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit])
def test_an_8_bit_jpeg_is_read_within_three_of_256_greys(syntax: UID) -> None:
    stream = encoded(film(), "JPEG", quality=95)
    assert np.abs(stored_in(film_in(syntax, stream)) - film()).max() <= 3


def test_high_throughput_jpeg_2000_is_read() -> None:
    np.testing.assert_array_equal(stored_in(ramp_in(HTJ2KLossless, RAMP_HTJ2K, bits=16)), RAMP)


@pytest.mark.parametrize("kind", ["8", "12"])
def test_near_lossless_jpeg_ls_keeps_its_promise(kind: str) -> None:
    stored, bits = stored_of(kind)
    data = compressed(dicom(stored, bits=bits), JPEGLSNearLossless, jls_error=3)
    distance = np.abs(stored_in(data) - stored)
    assert 0 < distance.max() <= 3


def test_lossy_jpeg_2000_is_read_within_two_percent() -> None:
    stored, bits = stored_of("12")
    data = compressed(dicom(stored, bits=bits), JPEG2000, j2k_cr=[10])
    assert np.abs(stored_in(data) - stored).max() <= 80


@pytest.mark.parametrize("boxes", [True, False])
def test_jpeg_2000_is_read_with_and_without_the_boxes_around_it(boxes: bool) -> None:
    stream = encoded(film(), "JPEG2000", no_jp2=not boxes)
    np.testing.assert_array_equal(stored_in(film_in(JPEG2000Lossless, stream)), film())


@pytest.mark.parametrize("syntax", [None, *LOSSLESS])
@pytest.mark.parametrize("signed", [False, True])
def test_what_lies_in_unused_bits_is_taken_out(syntax: UID | None, signed: bool) -> None:
    """PS3.5 8.1.1; old files keep overlays there."""
    stored, _ = stored_of("12s" if signed else "12")
    overlaid = (stored.astype(np.uint16) & 0x0FFF) | 0x5000
    data = dicom(overlaid, bits=16, PixelRepresentation=int(signed))
    dataset = dcmread(io.BytesIO(compressed(data, syntax) if syntax else data))
    dataset.BitsStored, dataset.HighBit = 12, 11
    np.testing.assert_array_equal(read_stored(dataset).values, stored)


def test_lossy_values_a_little_above_the_range_are_clipped_not_wrapped() -> None:
    """Lossy coding overshoots: here one value of 4,096 in a film that otherwise uses 11 bits, made by its encoder."""
    stored = np.minimum(stored_of("12")[0] // 2, 2047)
    stored[40, 40] = 2300
    data = compressed(dicom(stored, bits=12), JPEG2000, j2k_cr=[2])
    dataset = dcmread(io.BytesIO(data))
    dataset.BitsStored, dataset.HighBit = 11, 10
    frame = read_stored(dataset)
    assert frame.flags == ()
    assert frame.values.max() == 2047


def test_a_stream_with_more_bits_than_the_tags_is_read_in_its_own_depth() -> None:
    """Clipped or masked at 11 bits half of this ramp would be white or start again from black."""
    frame = read_stored(dcmread(io.BytesIO(ramp_in(JPEGExtended12Bit, RAMP_12_BIT, bits=11))))
    np.testing.assert_allclose(frame.values, RAMP, atol=1)
    assert (frame.bits, frame.flags) == (12, ("bit_depth_unsure",))


@pytest.mark.parametrize("syntax", [*LOSSLESS, JPEGLSNearLossless, JPEGBaseline8Bit, JPEGExtended12Bit])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_stream_that_ends_early_is_damage_not_half_a_film(syntax: UID, share: float) -> None:
    if syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
        stream = encoded(film(), "JPEG")
    else:
        stream = frame_in(compressed(dicom(film(), bits=8), syntax))
    assert refusal_of(film_in(syntax, stream[: int(len(stream) * share)])).code == "DAMAGED_IMAGE"


@functools.cache
def refused_streams() -> dict[str, tuple[bytes, str]]:
    """Files whose compressed stream is not what the tags say, with what the refusal names."""
    rgb = Image.merge("RGB", [Image.fromarray(film())] * 3)
    header = RAMP_12_BIT.find(b"\xff\xc1")
    far = bytearray(encoded(film(), "JPEG2000", no_jp2=True))
    far[24:32] = b"\x00\x00\x00\x01" * 2
    return {
        "baseline, larger": (film_in(JPEGBaseline8Bit, encoded(film(height=300, width=200), "JPEG")), "200 x 300"),
        "extended, taller": (ramp_in(JPEGExtended12Bit, RAMP_12_BIT, Rows=65), "64 x 65"),
        "lossless, wider": (ramp_in(JPEGLosslessSV1, RAMP_PREDICTOR_4, Columns=65), "65 x 64"),
        "JPEG 2000, larger": (
            film_in(JPEG2000Lossless, encoded(film(height=3000, width=3000), "JPEG2000", no_jp2=True)),
            "3000 x 3000",
        ),
        "high throughput, taller": (ramp_in(HTJ2KLossless, RAMP_HTJ2K, bits=16, Rows=70), "64 x 70"),
        "JPEG-LS, wider": (
            dicom(
                film(width=81),
                bits=8,
                syntax=JPEGLSLossless,
                PixelData=encapsulate([frame_in(compressed(dicom(film(), bits=8), JPEGLSLossless))]),
            ),
            "81 x 96",
        ),
        "colour JPEG": (film_in(JPEGBaseline8Bit, encoded(rgb, "JPEG")), "stream 3"),
        "colour JPEG 2000": (film_in(JPEG2000Lossless, encoded(rgb, "JPEG2000", no_jp2=True)), "stream 3"),
        "12 bits in 8": (ramp_in(JPEGExtended12Bit, RAMP_12_BIT, bits=8), "stream 12"),
        "progressive JPEG": (film_in(JPEGBaseline8Bit, encoded(film(), "JPEG", progressive=True)), "0xC2"),
        "lossless under the name of Extended": (ramp_in(JPEGExtended12Bit, RAMP_PREDICTOR_4), "0xC3"),
        "no frame header": (ramp_in(JPEGExtended12Bit, RAMP_12_BIT[:header] + b"\xff\xd9"), "no frame header"),
        "no JPEG": (ramp_in(JPEGLosslessSV1, b"\0" * 100), "as JPEG"),
        "no JPEG 2000": (ramp_in(JPEG2000Lossless, b"\0" * 100), "as JPEG 2000"),
        "a tile for each pixel": (film_in(JPEG2000Lossless, bytes(far)), "7,680 tiles"),
        "two frames": (
            dicom(RAMP, syntax=JPEGExtended12Bit, PixelData=encapsulate([RAMP_12_BIT, RAMP_12_BIT], has_bot=True)),
            "offset table 2",
        ),
        "two uncompressed frames": (dicom(RAMP, PixelData=RAMP.tobytes() * 2), "16,384 bytes"),
        "half a frame": (dicom(RAMP, PixelData=RAMP.tobytes()[:4096]), "4,096 bytes"),
        "RLE of 8 bits": (dicom(RAMP, syntax=RLELossless, PixelData=encapsulate([b"\1" + b"\0" * 99])), "1 RLE"),
        "three values for a pixel": (dicom(RAMP, SamplesPerPixel=3, PlanarConfiguration=0), "SamplesPerPixel is 3"),
        "32 bits": (dicom(RAMP, BitsAllocated=32), "BitsAllocated is 32"),
        "more bits than places": (dicom(RAMP, BitsStored=17), "BitsStored is 17"),
    }


@pytest.mark.parametrize("case", refused_streams())
def test_a_stream_that_is_not_what_the_tags_say_is_refused_with_the_numbers(case: str) -> None:
    data, words = refused_streams()[case]
    refusal = refusal_of(data)
    assert refusal.code == "DAMAGED_IMAGE"
    assert words in refusal.detail


def test_the_frame_header_is_found_behind_other_segments_and_fill_bytes() -> None:
    comment = b"\xff\xfe\x00\x08\xff\xc1\x00\x0b\x08\x00"  # a comment that looks like a frame header
    stream = RAMP_12_BIT[:2] + comment + b"\xff" * 3 + RAMP_12_BIT[2:]
    assert np.abs(stored_in(ramp_in(JPEGExtended12Bit, stream)) - RAMP).max() <= 1


def rle(segments: list[bytes], side: int) -> bytes:
    starts = np.cumsum([64, *(len(segment) for segment in segments)])[:-1]
    header = np.zeros(16, "<u4")
    header[0], header[1 : 1 + len(segments)] = len(segments), starts
    frame = header.tobytes() + b"".join(segments)
    return dicom(RAMP, syntax=RLELossless, PixelData=encapsulate([frame]), Rows=side, Columns=side)


@pytest.mark.parametrize(
    ("segment", "side", "readable"),
    [
        pytest.param(b"\x81\x07" * 50, 7000, False, id="49 million pixels from 100 bytes"),
        pytest.param(b"\x81\x07" * 1_000_000, 64, True, id="128 million bytes where 4096 are due"),
        pytest.param(b"\x80" * 1_000_000, 64, False, id="nothing, a million times"),
    ],
)
def test_an_rle_segment_is_never_unpacked_beyond_its_pixels(segment: bytes, side: int, readable: bool) -> None:
    data = rle([segment, segment], side)
    tracemalloc.start()
    try:
        with contextlib.nullcontext() if readable else pytest.raises(InputError, match="RLE segment holds"):
            assert (stored_in(data) == 0x707).all()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * len(data) + 2_000_000


def test_a_stream_that_brings_its_decoder_down_is_damage_and_nothing_is_printed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """GDCM 3.2 aborts its process on the first of these."""
    for stream in (RAMP_12_BIT[:400], RAMP_12_BIT[:-100] + b"\xff\xd9", RAMP_12_BIT[:500] + b"\xa5" * 300):
        assert refusal_of(ramp_in(JPEGExtended12Bit, stream)).code == "DAMAGED_IMAGE"
    decode(ramp_in(JPEGExtended12Bit, RAMP_12_BIT))
    assert capfd.readouterr() == ("", "")


def test_a_decoder_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_WALL_FACTOR", 0.0)
    monkeypatch.setattr(sandbox, "_LEAST_WALL_S", 0.0)
    assert refusal_of(ramp_in(JPEGExtended12Bit, RAMP_12_BIT)).code == "OVERLOADED"


def test_a_system_without_room_for_a_process_is_out_of_memory_not_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.SANDBOX.close()
    monkeypatch.setattr(sandbox.sys, "executable", "/nowhere/python")
    with pytest.raises(MemoryError):
        decode(ramp_in(JPEGExtended12Bit, RAMP_12_BIT))


def test_jpeg_ls_that_changes_its_size_after_the_frame_header_is_not_decoded() -> None:
    """ITU-T T.870 C.2.4.1.4: an LSE segment of type 4 gives a size of its own."""
    stream = frame_in(compressed(dicom(film(), bits=8), JPEGLSLossless))
    scan = stream.find(b"\xff\xda")
    larger = b"\xff\xf8\x00\x0c\x04\x04" + (60_000).to_bytes(4, "big") * 2
    assert refusal_of(film_in(JPEGLSLossless, stream[:scan] + larger + stream[scan:])).code == "DAMAGED_IMAGE"


@pytest.mark.parametrize("syntax", [UID("1.2.840.113619.5.2"), UID("1.2.840.10008.1.2.4.100"), UID("1.2.3")])
def test_a_syntax_nobody_reads_is_unsupported(syntax: UID) -> None:
    data = ramp_in(JPEGLosslessSV1, RAMP_PREDICTOR_4)
    dataset = dcmread(io.BytesIO(data))
    dataset.file_meta.TransferSyntaxUID = syntax
    with pytest.raises(InputError) as caught:
        read_stored(dataset)
    assert caught.value.code == "UNSUPPORTED_TRANSFER_SYNTAX"


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEGLosslessSV1, JPEGExtended12Bit])
def test_a_missing_decoder_makes_its_syntax_unsupported(syntax: UID, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.importlib.util, "find_spec", lambda _name: None)
    assert refusal_of(ramp_in(syntax, RAMP_12_BIT)).code == "UNSUPPORTED_TRANSFER_SYNTAX"


@pytest.mark.parametrize(
    ("data", "times"),
    [
        pytest.param(compressed(dicom(film(), bits=8), RLELossless), 300, id="RLE"),
        pytest.param(film_in(JPEGBaseline8Bit, encoded(film(), "JPEG")), 300, id="baseline"),
        pytest.param(ramp_in(HTJ2KLossless, RAMP_HTJ2K, bits=16), 300, id="high throughput"),
        pytest.param(compressed(dicom(film(), bits=8), JPEG2000Lossless), 300, id="JPEG 2000"),
        pytest.param(compressed(dicom(film(), bits=8), JPEGLSLossless), 8, id="JPEG-LS"),
        pytest.param(ramp_in(JPEGExtended12Bit, RAMP_12_BIT), 8, id="extended"),
        pytest.param(ramp_in(JPEGLosslessSV1, RAMP_PREDICTOR_4), 8, id="lossless"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_no_damage_to_a_stream_raises_anything_but_an_input_error(data: bytes, times: int) -> None:
    rng = np.random.default_rng(0)
    start = data.find(b"\xe0\x7f\x10\x00") + 20
    for _ in range(times):
        mutated = bytearray(data[: rng.integers(start + 64, len(data)) if rng.random() < 0.2 else len(data)])
        for place in rng.integers(start, len(mutated), rng.integers(1, 5)):
            mutated[place] = rng.integers(0, 256)
        with contextlib.suppress(InputError):
            decode(bytes(mutated))


def packbits(data: bytes, rng: np.random.Generator) -> bytes:
    """An RLE segment that unpacks to some bytes, cut into runs as no good encoder would."""
    segment, at = bytearray(), 0
    while at < len(data):
        if rng.random() < 0.1:
            segment.append(128)
        length = int(rng.integers(1, 129))
        if length > 1 and len(set(data[at : at + length])) == 1 and len(data) - at >= length:
            segment += bytes([257 - length, data[at]])
        else:
            length = min(length, len(data) - at)
            segment += bytes([length - 1]) + data[at : at + length]
        at += length
    return bytes(segment)


def unpacked_by_the_book(segment: bytes, length: int) -> bytes | None:
    """PS3.5 G.3.2, a byte at a time; None where there is too little."""
    out, at = bytearray(), 0
    while len(out) < length:
        if at >= len(segment):
            return None
        head = segment[at]
        run = segment[at + 1 : at + 2 + head] if head < 128 else segment[at + 1 : at + 2] * (257 - head) * (head > 128)
        out += run
        at += 2 + head if head < 128 else 2 if head > 128 else 1
    return bytes(out[:length])


def test_rle_runs_are_unpacked_as_the_standard_says_whole_and_damaged() -> None:
    rng = np.random.default_rng(3)
    for number in range(300):
        data = np.repeat(rng.integers(0, 256, 400), rng.integers(1, 9, 400)).astype(np.uint8).tobytes()
        segment = bytearray(packbits(data, rng))
        if number % 2:
            for place in rng.integers(0, len(segment), 3):
                segment[place] = rng.integers(0, 256)
        if number % 3 == 2:
            del segment[int(rng.integers(1, len(segment))) :]
        length = len(data) - int(rng.integers(0, 50))
        expected = unpacked_by_the_book(bytes(segment), length)
        if expected is None:
            with pytest.raises(InputError, match="RLE segment holds"):
                dicom_codecs._unpack_segment(bytes(segment), length)
        else:
            assert dicom_codecs._unpack_segment(bytes(segment), length).tobytes() == expected


@pytest.mark.parametrize(
    ("stream", "bits"),
    [(RAMP_PREDICTOR_4, 12), (RAMP_12_BIT, 12), (encoded(film(height=64, width=64), "JPEG", quality=80), 8)],
    ids=["lossless", "12 bits", "8 bits"],
)
def test_the_fast_jpeg_decoder_and_the_other_give_the_same_values(stream: bytes, bits: int) -> None:
    first, second = (
        bytes(sandbox.decode_in_sandbox(Coded(library, 64, 64, bits), stream)) for library in ("libjpeg", "gdcm")
    )
    assert first == second


@pytest.mark.parametrize("kind", ["8", "10", "12", "16", "12s", "16s"])
@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1])
def test_the_fast_lossless_jpeg_decoder_is_exact_by_itself(syntax: UID, kind: str) -> None:
    """So that the other one behind it cannot hide that it failed."""
    stored, bits = stored_of(kind)
    data = compressed(dicom(stored, bits=bits), syntax)
    in_stream = dicom_codecs._read_jpeg_header(frame_in(data), (0xC3,)).bits
    coded = Coded("libjpeg", stored.shape[1], stored.shape[0], in_stream)
    values = np.frombuffer(sandbox.decode_in_sandbox(coded, frame_in(data)), stored.dtype).reshape(stored.shape)
    unused = 8 * stored.itemsize - bits
    np.testing.assert_array_equal(values << unused, stored << unused)


def test_what_the_fast_jpeg_decoder_fails_on_is_read_by_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where Pillow was built with an older library: none of its functions for more than 8 bits is there."""
    whole = stored_in(ramp_in(JPEGExtended12Bit, RAMP_12_BIT))
    fast, *others = dicom_codecs._SANDBOXED[JPEGExtended12Bit]
    assert fast == "libjpeg"
    monkeypatch.setitem(dicom_codecs._SANDBOXED, JPEGExtended12Bit, ("_CharLS", *others))
    np.testing.assert_array_equal(stored_in(ramp_in(JPEGExtended12Bit, RAMP_12_BIT)), whole)
