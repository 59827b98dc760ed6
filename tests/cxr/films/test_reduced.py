"""Decoding near the network's size: a few grey levels from the exact way, and the same for every reader."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGBaseline8Bit, JPEGExtended12Bit

from cxr.errors import InputError, ModelError
from cxr.films.decode import decode
from cxr.films.dicom_codecs import read_stored
from cxr.films.film import Film, Pixels
from cxr.model.preprocess import resize
from cxr.model.spec import Preprocessing
from cxr.serving.render import MAX_SIDE
from cxr.serving.reply import ModelIdentity
from cxr.serving.service import BatchService
from cxr_training.data.toy.anatomy import draw_anatomy
from cxr_training.data.toy.films import draw_film
from tests.cxr.networks import SMALL, predictor, save_model
from tests.cxr.serving.test_service import ask
from tests.films import compressed, dicom, encoded, film

EXACT = Preprocessing()
REDUCED = Preprocessing(decode="reduced")


def chest(height: int, width: int, seed: int = 0) -> Pixels:
    """A made-up chest film with the noise that a detector adds."""
    rng = np.random.default_rng(seed)
    return np.rint(draw_film(rng, draw_anatomy(rng), "PNEUMONIA", (height, width)).pixels * 255).astype(np.uint8)


def apart(data: bytes) -> int:
    """The largest difference of the two ways at the network's size, grey levels."""
    exact = resize(decode(data).pixels, EXACT).astype(int)
    reduced = resize(decode(data, REDUCED.least_side).pixels, REDUCED).astype(int)
    return int(np.abs(exact - reduced).max())


def mean_apart(data: bytes) -> float:
    """The mean difference of the two ways at the network's size, grey levels."""
    exact = resize(decode(data).pixels, EXACT).astype(int)
    reduced = resize(decode(data, REDUCED.least_side).pixels, REDUCED).astype(int)
    return float(np.abs(exact - reduced).mean())


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(2500, 2000), (2000, 2500), (1024, 1024), (3000, 900)])
def test_it_is_at_most_three_grey_levels_from_the_exact_way(height: int, width: int) -> None:
    pixels = chest(height, width)
    for data in (encoded(pixels, "JPEG", quality=90), encoded(pixels), dicom(pixels.astype(np.uint16) * 16)):
        assert 0 < apart(data) <= 3


def test_a_jpeg_comes_smaller_but_never_below_the_side_that_is_needed() -> None:
    data = encoded(film(height=1000, width=1900), "JPEG")
    assert decode(data, 448).pixels.shape == (500, 950)
    assert decode(data, 501).pixels.shape == (1000, 1900)
    assert decode(data, 120).pixels.shape == (125, 238)
    assert decode(data).pixels.shape == (1000, 1900)


def test_what_is_said_of_the_film_is_its_own_size() -> None:
    data = encoded(film(height=1000, width=1900), "JPEG")
    assert decode(data, 448).info == decode(data).info
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was turned by a quarter
    lying = decode(encoded(Image.fromarray(film(height=1000, width=1900)), "JPEG", exif=turned), 448)
    assert (lying.info.width, lying.info.height) == (1000, 1900)
    assert lying.pixels.shape == (950, 500)


def test_a_colour_photograph_is_still_found_out() -> None:
    colours = np.zeros((1000, 1000, 3), dtype=np.uint8)
    colours[..., 0] = film(height=1000, width=1000)
    with pytest.raises(InputError) as caught:
        decode(encoded(colours, "JPEG"), 448)
    assert caught.value.code == "NOT_A_RADIOGRAPH"


def test_a_small_film_is_the_same_either_way() -> None:
    for data in (encoded(film(height=300, width=400), "JPEG"), encoded(film(height=300, width=400))):
        assert apart(data) == 0


def test_the_answer_does_not_depend_on_the_picture_and_the_picture_is_full(tmp_path: Path) -> None:
    spec = save_model(tmp_path, preprocessing=dataclasses.replace(SMALL, decode="reduced"))
    service = BatchService(predictor(tmp_path), ModelIdentity.of(spec, "pneumonia", "1.0.0"))
    data = encoded(film(height=1400, width=1200), "JPEG")
    (plain,), (shown,) = ask(service, data), ask(service, data, **{"Cxr-Cam": "overlay"})
    assert plain[2]["logits"] == shown[2]["logits"]
    status, form, picture = ask(service, data, Accept="image/png")[0]
    assert (status, form) == (200, "image/png")
    with Image.open(io.BytesIO(picture)) as overlay:
        assert overlay.height == 1024


def a_film(height: int = 1100, width: int = 1300) -> npt.NDArray[np.uint16]:
    """12 bits, drawn, without windows that would hide how far two ways are from each other."""
    return np.rint(chest(height, width).astype(np.float32) / 255 * 3000 + 500).astype(np.uint16)


REDUCING: dict[str, Callable[..., bytes]] = {
    "JPEG 2000, lossless": lambda values, **tags: compressed(dicom(values, bits=12, **tags), JPEG2000Lossless),
    "JPEG 2000": lambda values, **tags: compressed(dicom(values, bits=12, **tags), JPEG2000, j2k_cr=[8]),
    "JPEG baseline": lambda values, **tags: dicom(
        (values >> 4).astype(np.uint8),
        bits=8,
        syntax=JPEGBaseline8Bit,
        PixelData=encapsulate([encoded((values >> 4).astype(np.uint8), "JPEG", quality=90)]),
        **tags,
    ),
    "JPEG extended": lambda values, **tags: dicom(
        (values >> 4).astype(np.uint8),
        bits=8,
        syntax=JPEGExtended12Bit,
        PixelData=encapsulate([encoded((values >> 4).astype(np.uint8), "JPEG", quality=90)]),
        **tags,
    ),
}


def test_a_windowed_film_in_jpeg_2000_is_half_a_level_from_the_exact_way_on_average() -> None:
    data = REDUCING["JPEG 2000, lossless"](a_film(), WindowCenter=2000, WindowWidth=3200)
    assert mean_apart(data) <= 0.6


@pytest.mark.parametrize("coding", REDUCING)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_dicom_film_in_jpeg_or_jpeg_2000_comes_smaller_and_nearly_the_same(coding: str, photometric: str) -> None:
    data = REDUCING[coding](a_film(), PhotometricInterpretation=photometric)
    reduced, whole = decode(data, 448), decode(data)
    assert reduced.pixels.shape == (550, 650)
    assert whole.pixels.shape == (1100, 1300)
    assert reduced.info == whole.info
    # The averages of JPEG 2000 swing to both sides of an edge, such as that of a collimator
    assert mean_apart(data) <= 2.5
    assert apart(data) <= (12 if "2000" in coding else 3)
    assert decode(data, 551).pixels.shape == (1100, 1300)
    assert decode(data, 275).pixels.shape == (275, 325)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_values_of_every_depth_and_sign_are_halved_where_they_are(bits: int, signed: bool) -> None:
    values = np.rint(chest(700, 800).astype(np.float32) / 255 * ((1 << bits) - 1)).astype(np.int32)
    if signed:
        values -= 1 << (bits - 1)
    kind = f"<{'i' if signed else 'u'}{1 if bits == 8 else 2}"
    data = compressed(dicom(values.astype(kind), bits=bits), JPEG2000Lossless)
    dataset = dcmread(io.BytesIO(data))
    whole, halved = read_stored(dataset).values, read_stored(dataset, 350).values
    assert halved.shape == (350, 400)
    means = whole.reshape(350, 2, 400, 2).mean(axis=(1, 3))
    assert np.abs(means - halved).mean() < 0.02 * (1 << bits)
    assert abs(float(means.mean() - halved.mean())) < 0.002 * (1 << bits)


def test_a_film_with_something_beside_it_in_its_bits_is_decoded_whole() -> None:
    """An overlay in the upper bits or a value for padding would be averaged into the film."""
    values = a_film()
    overlaid = values.copy()
    overlaid[300:500, 300:500] |= 0x8000
    padded = compressed(dicom(values, bits=12, PixelPaddingValue=0), JPEG2000Lossless)
    data = compressed(dicom(overlaid, bits=16), JPEG2000Lossless)
    dataset = dcmread(io.BytesIO(data))
    dataset.BitsStored, dataset.HighBit = 12, 11
    assert decode(padded, 448).pixels.shape == (1100, 1300)
    np.testing.assert_array_equal(read_stored(dataset, 448).values, values)
    high = compressed(dicom(values << 4, bits=16), JPEG2000Lossless)
    dataset = dcmread(io.BytesIO(high))
    dataset.BitsStored, dataset.HighBit = 12, 15
    np.testing.assert_array_equal(read_stored(dataset, 448).values, values)


@pytest.mark.parametrize("coding", REDUCING)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_half_a_stream_is_damage_also_where_less_of_it_is_needed(coding: str, share: float) -> None:
    data = REDUCING[coding](a_film())
    dataset = dcmread(io.BytesIO(data))
    stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([stream[: int(len(stream) * share)]])
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    with pytest.raises(InputError) as caught:
        decode(file.getvalue(), 448)
    assert caught.value.code == "DAMAGED_IMAGE"


def test_jpeg_2000_is_halved_no_more_often_than_its_coding_halves_it() -> None:
    data = compressed(dicom(a_film(), bits=12), JPEG2000Lossless)
    dataset = dcmread(io.BytesIO(data))
    stream = io.BytesIO()
    Image.fromarray(chest(1100, 1300)).save(stream, "JPEG2000", no_jp2=True, num_resolutions=2)
    once = dicom(chest(1100, 1300), bits=8, syntax=JPEG2000Lossless, PixelData=encapsulate([stream.getvalue()]))
    assert decode(once, 100).pixels.shape == (550, 650)
    assert read_stored(dataset, 100).values.shape == (138, 163)


CODED: dict[str, Callable[[Pixels], bytes]] = {
    "PNG": encoded,
    "JPEG": lambda grey: encoded(grey, "JPEG"),
    "DICOM": lambda grey: dicom(grey.astype(np.uint16) * 16),
}


@pytest.mark.parametrize(
    ("form", "side", "times"),
    [("PNG", 2200, 1), ("DICOM", 2200, 1), ("JPEG", 90, 1), ("JPEG", 255, 1), ("JPEG", 256, 2), ("JPEG", 2200, 2)],
)
def test_a_film_is_decoded_once_for_score_and_picture_but_a_large_jpeg(
    form: str, side: int, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network of these tests takes 64 x 64 pixels: 128 are needed, and a JPEG of 256 comes at half its size."""
    sides: list[int | None] = []

    def counted(data: bytes, least_side: int | None, formats: Collection[str]) -> Film:
        sides.append(least_side)
        return decode(data, least_side, formats)

    monkeypatch.setattr("cxr.serving.service.decode", counted)
    spec = save_model(tmp_path, preprocessing=dataclasses.replace(SMALL, decode="reduced"))
    service = BatchService(predictor(tmp_path), ModelIdentity.of(spec, "pneumonia", "1.0.0"))
    data = CODED[form](film(height=side, width=side + 10))
    (plain,) = ask(service, data, **{"Cxr-Cam": "grid"})
    assert len(sides) == 1
    sides.clear()
    (pictured,) = ask(service, data, **{"Cxr-Cam": "overlay"})
    assert len(sides) == times
    assert pictured[2]["logits"] == plain[2]["logits"]


def test_the_two_sizes_of_a_large_jpeg_are_two_decodings() -> None:
    """So none of them gives the other to the bit: what a picture needs cannot be scored in its place."""
    data = encoded(chest(2200, 2100), "JPEG", quality=90)
    scored, shown = decode(data, REDUCED.least_side).pixels, decode(data, MAX_SIDE).pixels
    assert shown.shape == (1100, 1050)
    smaller = np.asarray(Image.fromarray(shown).reduce(2))
    assert scored.shape == smaller.shape == (550, 525)
    assert not np.array_equal(scored, smaller)
    assert not np.array_equal(resize(scored, REDUCED), resize(shown, REDUCED))


@pytest.mark.parametrize("form", ["PNG", "DICOM"])
def test_a_film_that_is_no_jpeg_is_decoded_whole_whatever_size_is_needed(form: str) -> None:
    data = CODED[form](film(height=1200, width=1100))
    for side in (64, 448, MAX_SIDE):
        assert np.array_equal(decode(data, side).pixels, decode(data).pixels)


def test_another_word_is_refused() -> None:
    with pytest.raises(ModelError, match="known are exact, reduced"):
        Preprocessing(decode="fast")
