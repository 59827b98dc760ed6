"""The screen: what looks frontal passes, what does not is refused or flagged, and a negative is told from both."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cxr.errors import InputError, ModelError
from cxr.films.film import Film, ImageInfo, Pixels
from cxr.films.frontal import FEATURES, SIDE, Screen, check_frontal, edge_histograms, of_negative, thumbnail
from cxr.model.spec import ModelSpec
from cxr_training.data.toy.anatomy import draw_anatomy
from cxr_training.data.toy.films import draw_film
from cxr_training.fit.screen import fit_screen


def drawn(seed: int) -> Pixels:
    """A drawn frontal chest film, (160, 144) uint8."""
    rng = np.random.default_rng([5, seed])
    label = ("NORMAL", "PNEUMONIA")[seed % 2]
    return np.rint(draw_film(rng, draw_anatomy(rng), label, (160, 144)).pixels * 255).astype(np.uint8)


def side_view(seed: int) -> Pixels:
    """One lung of a drawn film, drawn out to the whole width."""
    whole = drawn(seed)
    return np.asarray(Image.fromarray(whole[:, : whole.shape[1] // 2]).resize((144, 160)))


@pytest.fixture(scope="module")
def screen() -> Screen:
    return fit_screen(np.stack([thumbnail(drawn(seed)) for seed in range(60)]))


def info(view: str | None = None) -> ImageInfo:
    return ImageInfo(format="PNG", width=144, height=160, bits=8, view_position=view)


UNSEEN = range(100, 120)


def test_frontal_films_it_has_not_seen_pass(screen: Screen) -> None:
    verdicts = [screen.judge(drawn(seed)) for seed in UNSEEN]
    assert all(verdict.is_frontal and not verdict.inverted for verdict in verdicts)


def test_negatives_are_told_from_frontal_films(screen: Screen) -> None:
    verdicts = [screen.judge(255 - drawn(seed)) for seed in UNSEEN]
    assert all(verdict.is_frontal and verdict.inverted for verdict in verdicts)


@pytest.mark.parametrize(
    "other",
    [side_view, lambda seed: np.rot90(drawn(seed)), lambda seed: drawn(seed)[::-1]],
    ids=["one lung", "a quarter turn", "on its head"],
)
def test_other_views_do_not_pass(screen: Screen, other: object) -> None:
    assert callable(other)
    assert np.mean([screen.judge(np.ascontiguousarray(other(seed))).is_frontal for seed in UNSEEN]) <= 0.1


def white_frame(film: Pixels) -> Pixels:
    return np.pad(film, ((20, 30), (25, 10)), constant_values=255)


def askew(film: Pixels) -> Pixels:
    """Small and tilted on a white sheet."""
    small = Image.fromarray(film)
    mask = Image.new("L", small.size, 255).rotate(9, expand=True)
    sheet = Image.new("L", (330, 300), 255)
    sheet.paste(small.rotate(9, expand=True), (120, 40), mask)
    return np.asarray(sheet)


def upper_half(film: Pixels) -> Pixels:
    """The chest above, soft tissue below."""
    tissue = np.random.default_rng(2).integers(90, 200, (5, 4)).astype(np.uint8)
    below = np.asarray(Image.fromarray(tissue).resize(film.shape[::-1], Image.Resampling.BICUBIC))
    return np.concatenate([film, below])


@pytest.mark.parametrize("change", [white_frame, askew, upper_half])
def test_a_frame_a_sheet_and_more_of_the_body_do_not_matter(screen: Screen, change: object) -> None:
    assert callable(change)
    verdicts = [screen.judge(change(drawn(seed))) for seed in UNSEEN]
    assert np.mean([verdict.is_frontal and not verdict.inverted for verdict in verdicts]) >= 0.95


def test_a_negative_in_a_frame_is_told_too(screen: Screen) -> None:
    verdicts = [screen.judge(white_frame(255 - drawn(seed))) for seed in UNSEEN]
    assert np.mean([verdict.is_frontal and verdict.inverted for verdict in verdicts]) >= 0.95


@pytest.mark.parametrize("axis", [1, 0], ids=["beside each other", "above each other"])
def test_two_views_in_one_picture_do_not_pass(screen: Screen, axis: int) -> None:
    pairs = [np.concatenate([drawn(seed), drawn(seed + 50)], axis) for seed in UNSEEN]
    assert np.mean([screen.judge(pair).is_frontal for pair in pairs]) <= 0.1


def test_a_screen_of_before_judges_the_whole_picture_as_it_did(screen: Screen) -> None:
    """A screen in a model.json that does not say what it sees."""
    spec = ModelSpec(arch="resnet10", pretrained="random", weights_file="w.pth", weights_sha256="0", screen=screen)
    values = json.loads(spec.to_json())
    del values["content_sha256"], values["screen"]["sees"]
    old = ModelSpec.from_json(json.dumps(values)).screen
    assert old is not None
    framed = white_frame(drawn(100))
    (score,) = old.scores(edge_histograms(thumbnail(framed, SIDE)[None]))
    verdict = old.judge(framed)
    assert verdict.inverted or verdict.score == score
    assert old.judge(framed) != screen.judge(framed)


def test_brightness_and_contrast_do_not_matter(screen: Screen) -> None:
    film = drawn(100)
    pale = (film // 2 + 90).astype(np.uint8)
    assert screen.judge(pale).score == pytest.approx(screen.judge(film).score, abs=0.3)


def test_histograms_of_the_negative_need_no_second_pass() -> None:
    films = np.stack([thumbnail(drawn(seed), SIDE) for seed in range(3)])
    np.testing.assert_allclose(of_negative(edge_histograms(films)), edge_histograms(255 - films), atol=1e-5)


def test_an_edge_to_the_right_is_counted_in_its_cell_and_direction() -> None:
    film = np.zeros((1, SIDE, SIDE), dtype=np.uint8)
    film[0, :, 36:] = 200  # dark to bright across the fifth column of cells
    histogram = edge_histograms(film).reshape(8, 8, 8)
    assert histogram[:, 4, 0].min() > 0
    histogram[:, 4, 0] = 0
    assert histogram.max() == 0


def test_an_even_film_has_no_edges_and_no_nan() -> None:
    assert np.array_equal(edge_histograms(np.full((1, SIDE, SIDE), 7, np.uint8)), np.zeros((1, FEATURES)))


def test_a_film_without_a_tag_that_looks_otherwise_is_refused_with_the_remedy(screen: Screen) -> None:
    with pytest.raises(InputError, match="Cxr-View: PA") as refused:
        check_frontal(Film(side_view(100), info()), None, screen)
    assert refused.value.code == "NOT_FRONTAL"


@pytest.mark.parametrize(("tag", "declared"), [("PA", None), (None, "AP")])
def test_who_says_it_is_frontal_gets_an_answer_with_a_flag(
    screen: Screen, tag: str | None, declared: str | None
) -> None:
    film = check_frontal(Film(side_view(100), info(tag)), declared, screen)
    assert film.info.flags == ("unlike_frontal",)
    assert film.info.view_position == (tag or declared)


def test_a_declared_lateral_is_refused_whatever_it_looks_like(screen: Screen) -> None:
    for judge in (screen, None):
        with pytest.raises(InputError, match="lateral"):
            check_frontal(Film(drawn(100), info()), "LATERAL", judge)


def test_a_negative_is_answered_with_a_flag(screen: Screen) -> None:
    assert check_frontal(Film(255 - drawn(100), info()), None, screen).info.flags == ("inverted",)


def test_a_screen_of_drawn_films_flags_and_does_not_refuse(screen: Screen) -> None:
    lenient = replace(screen, refuses=False)
    assert check_frontal(Film(side_view(100), info()), None, lenient).info.flags == ("unlike_frontal",)


def test_without_a_screen_every_film_passes() -> None:
    assert check_frontal(Film(side_view(100), info()), None, None).info == info()


def test_the_screen_goes_through_the_spec_unchanged(screen: Screen) -> None:
    spec = ModelSpec(arch="resnet10", pretrained="random", weights_file="w.pth", weights_sha256="0", screen=screen)
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_a_screen_of_another_size_or_with_a_nan_is_no_screen() -> None:
    with pytest.raises(ModelError, match="512"):
        Screen((1.0, 2.0), 0.0, 0.0)
    with pytest.raises(ModelError, match="known are whole, field"):
        Screen((0.0,) * FEATURES, 0.0, 0.0, sees="half")
    with pytest.raises(ModelError, match="not finite"):
        Screen((float("nan"),) * FEATURES, 0.0, 0.0)
