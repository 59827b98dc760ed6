"""Decoding near the network's size: a few grey levels from the exact way, and the same for every reader."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr.errors import InputError, ModelError
from cxr.films.decode import decode
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
from tests.films import dicom, encoded, film

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

    def counted(data: bytes, least_side: int | None = None) -> Film:
        sides.append(least_side)
        return decode(data, least_side)

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
