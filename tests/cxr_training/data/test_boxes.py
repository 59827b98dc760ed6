"""Boxes of films: the three places they are kept in, their scale, what is refused."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from cxr_training.data.boxes import NO_BOXES, BoxedFilm, KeptBoxes, boxed_film, load_boxes
from cxr_training.data.collections.candidates import Box
from cxr_training.data.records import Record, load_films
from cxr_training.errors import TrainingError
from tests.commands import run_command
from tests.films import film
from tests.real_films import NEEDS_REAL_FILMS, REAL

RSNA = ("file", "patientId", "x", "y", "width", "height", "Target")
OWN = ("file", "x", "y", "width", "height")


def folder_of(
    folder: Path, boxes: Sequence[str] = ("", ""), sizes: Sequence[tuple[int, int]] = ((64, 64),) * 2
) -> Path:
    """A data folder of `a.png` (PNEUMONIA), `b.png` (NORMAL), each (height, width), and `other.png` (OTHER)."""
    rows = [["file", "label", "patient_id", "split", "boxes"]]
    for i, (name, label) in enumerate((("a", "PNEUMONIA"), ("b", "NORMAL"))):
        Image.fromarray(film(i, *sizes[i])).save(folder / f"{name}.png")
        rows.append([f"{name}.png", label, name, "test", boxes[i]])
    Image.fromarray(film(9)).save(folder / "other.png")
    rows.append(["other.png", "OTHER", "other", "test", ""])
    return write(folder / "manifest.csv", *rows).parent


def write(path: Path, *rows: Sequence[object]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)
    return path


def on_its_film(boxes: KeptBoxes, record: Record) -> BoxedFilm | None:
    return boxed_film(boxes, record, *record.read().shape)


def boxes_on(folder: Path, place: int = 0) -> tuple[Box, ...]:
    films = load_films(folder)
    marked = on_its_film(load_boxes(films), films.records[place])
    return marked.boxes if marked else ()


def test_boxes_in_the_manifest_count_the_films_pixels(tmp_path: Path) -> None:
    folder_of(tmp_path, ("1 2 30 40; 5 6.5 7 8", ""), ((96, 64), (64, 64)))
    films = load_films(tmp_path)
    boxes = load_boxes(films)
    marked = on_its_film(boxes, films.records[0])
    assert marked is not None
    assert (boxes.kept_in, marked.height, marked.width) == ("manifest.csv", 96, 64)
    assert marked.boxes == (Box(1, 2, 30, 40), Box(5, 6.5, 7, 8))
    assert on_its_film(boxes, films.records[1]) is None


def test_boxes_of_a_prepared_folder_count_the_films_pixels(tmp_path: Path) -> None:
    folder_of(tmp_path)
    write(tmp_path / "boxes.csv", OWN, ["a.png", 4, 5, 6, 7], ["./a.png", 40, 41, 20, 23])
    assert boxes_on(tmp_path) == (Box(4, 5, 6, 7), Box(40, 41, 20, 23))


@pytest.mark.parametrize("side", [64, 512, 600, 1024, 2048])
def test_boxes_of_the_rsna_table_are_scaled_to_the_film(tmp_path: Path, side: int) -> None:
    folder_of(tmp_path, sizes=((side, side), (64, 64)))
    row = ["a.png", "study", 634.0, 314.0, 220.0, 309.0, 1]
    write(tmp_path / "boxes_rsna.csv", RSNA, row, ["b.png", "other study", "", "", "", "", 0])
    (box,) = boxes_on(tmp_path)
    factor = side / 1024
    assert (box.x, box.y, box.width, box.height) == pytest.approx(
        (634 * factor, 314 * factor, 220 * factor, 309 * factor)
    )
    assert boxes_on(tmp_path, 1) == ()


def test_a_box_up_to_the_edge_of_the_film_lies_on_it_at_every_scale(tmp_path: Path) -> None:
    folder_of(tmp_path, sizes=((600, 600), (64, 64)))
    write(tmp_path / "boxes_rsna.csv", RSNA, ["a.png", "study", 0.3, 0, 1023.7, 1024, 1])
    (box,) = boxes_on(tmp_path)
    assert box.x + box.width == pytest.approx(600)


def test_boxes_of_films_that_are_not_used_stay_unused(tmp_path: Path) -> None:
    folder_of(tmp_path)
    write(tmp_path / "boxes.csv", OWN, ["other.png", 900, 900, 5, 5], ["a.png", 1, 1, 2, 2])
    assert boxes_on(tmp_path) == (Box(1, 1, 2, 2),)
    assert boxes_on(tmp_path, 1) == ()


def test_a_folder_without_boxes_has_none(tmp_path: Path) -> None:
    assert load_boxes(load_films(folder_of(tmp_path))) == NO_BOXES
    write(tmp_path / "boxes.csv", OWN)
    write(tmp_path / "boxes_rsna.csv", RSNA, ["a.png", "study", "", "", "", "", "0"])
    assert load_boxes(load_films(tmp_path)) == NO_BOXES


def test_toy_films_have_the_boxes_of_their_manifest(tmp_path: Path) -> None:
    out = tmp_path / "toy"
    assert run_command("toy", [str(out), "--patients", "6", "--size", "80"]) == 0
    films = load_films(out)
    boxes = load_boxes(films)
    marked = [on_its_film(boxes, record) for record in films.records]
    assert [one is not None for one in marked] == [record.label == "PNEUMONIA" for record in films.records]
    shapes = {one.record.read().shape == (one.height, one.width) for one in marked if one}
    assert shapes == {True}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 2 3", "the box is '1 2 3': write x y width height"),
        ("1 2 3 4;", "the box is ''"),
        ("1,2,3,4", "the box is '1,2,3,4'"),
        ("1 2 3 nan", "the box is '1 2 3 nan'"),
    ],
)
def test_a_box_that_is_none_in_the_manifest_is_told(tmp_path: Path, text: str, said: str) -> None:
    folder_of(tmp_path, ("1 1 2 2", text))
    with pytest.raises(TrainingError, match=r"manifest\.csv: b\.png") as caught:
        load_boxes(load_films(tmp_path))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([OWN, ["a.png", 1, 2, "wide", 4]], "the box of 'a.png' is 1, 2, wide, 4: four numbers are needed"),
        ([OWN, ["a.png", 1, 2, "", 4]], "four numbers are needed"),
        ([OWN, ["b.png"], ["c.png", 1, 2, 3, 4]], "there is a box of 'c.png', which is not in the folder"),
        ([OWN, ["../a.png", 1, 2, 3, 4]], "which is not in the folder"),
        ([OWN[:-1], ["a.png", 1, 2, 3]], "has no column height"),
        ([RSNA, ["a.png", "study", 1, 2, 3, 4, 1]], "name it boxes_rsna.csv"),
    ],
)
def test_a_table_of_boxes_that_is_none_is_told(tmp_path: Path, rows: list[Sequence[object]], said: str) -> None:
    write(folder_of(tmp_path) / "boxes.csv", *rows)
    with pytest.raises(TrainingError) as caught:
        load_boxes(load_films(tmp_path))
    assert said in str(caught.value)
    assert "boxes.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([OWN, ["a.png", 1, 2, 3, 4]], "has no column patientid, target"),
        ([RSNA, ["a.png", "study", 1, 2, 3, 4, 0]], "Target of a.png is '0'"),
        ([RSNA, ["a.png", "study", "", "", "", "", 1]], "Target of a.png is '1'"),
        ([RSNA, ["a.png", "study", 1, 2, 3, 4, 2]], "Target of a.png is '2': a row has 1 and a box, or 0 and no box"),
    ],
)
def test_a_table_that_is_not_rsnas_is_told(tmp_path: Path, rows: list[Sequence[object]], said: str) -> None:
    write(folder_of(tmp_path) / "boxes_rsna.csv", *rows)
    with pytest.raises(TrainingError) as caught:
        load_boxes(load_films(tmp_path))
    assert said in str(caught.value)


@pytest.mark.parametrize("box", ["60 0 5 5", "0 60 5 5", "-1 0 5 5", "3 3 0 5", "3 3 5 -2"])
def test_a_box_that_does_not_lie_on_its_film_is_told(tmp_path: Path, box: str) -> None:
    with pytest.raises(TrainingError, match=r"a box of a\.png is x .* lie on 64x64 pixels\. Mend it"):
        boxes_on(folder_of(tmp_path, (box, "")))


def test_rsna_boxes_over_1024_and_films_that_are_not_square_are_told(tmp_path: Path) -> None:
    write(folder_of(tmp_path) / "boxes_rsna.csv", RSNA, ["a.png", "study", 1000, 0, 25, 5, 1])
    with pytest.raises(TrainingError, match="lie on 1024x1024 pixels"):
        boxes_on(tmp_path)
    (tmp_path / "squeezed").mkdir()
    folder_of(tmp_path / "squeezed", sizes=((96, 64), (64, 64)))
    write(tmp_path / "squeezed" / "boxes_rsna.csv", RSNA, ["a.png", "study", 100, 0, 25, 5, 1])
    with pytest.raises(TrainingError, match=r"a\.png is 64x96, its boxes are drawn on 1024x1024"):
        boxes_on(tmp_path / "squeezed")


def test_boxes_in_two_places_are_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, ("1 2 3 4", ""))
    write(tmp_path / "boxes.csv", OWN, ["a.png", 4, 5, 6, 7])
    with pytest.raises(TrainingError, match=r"manifest\.csv and in boxes\.csv: keep them in one place"):
        load_boxes(load_films(tmp_path))


@NEEDS_REAL_FILMS
def test_every_box_of_the_real_rsna_table_falls_on_its_film_of_512() -> None:
    films = load_films(REAL / "cxr")
    boxes = load_boxes(films)
    marked = [one for record in films.records if (one := on_its_film(boxes, record))]
    assert Counter(one.record.split for one in marked) == {"train": 71, "val": 6, "test": 25}
    assert {(one.height, one.width, one.record.label) for one in marked} == {(512, 512, "PNEUMONIA")}
    (first,) = (one for one in marked if one.record.name.endswith("00000211_013.jpg"))
    assert first.boxes == (Box(133, 155, 110.5, 145), Box(317, 157, 110, 154.5))  # halved
