"""Maps on boxes: exact values, chance, and what the report says of them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.ndimage import zoom

from cxr.json_records import parse, read, to_json
from cxr.predict import Prediction
from cxr_training.data.boxes import BoxedFilm
from cxr_training.data.collections.candidates import Box
from cxr_training.data.records import Record
from cxr_training.measure.intervals import Bootstrap
from cxr_training.measure.localisation import (
    FIGURES,
    SIDE,
    MapsOnBoxes,
    cells_inside,
    disjoint,
    energy_inside,
    localisation_figures,
    maps_on_boxes,
    peak,
    places,
)
from cxr_training.measure.records import BoxFigures, Localisation
from cxr_training.pages.films import extremes, with_boxes
from tests.commands import run_command
from tests.cxr.networks import save_model
from tests.cxr_training.folders import write_manifest
from tests.cxr_training.pages.test_page import Reader
from tests.films import film

FEW = Bootstrap(200)
CELL = Box(256, 109, 147, 147)  # all pixels of a square of 512 that cell r2c4 of 7x7 reaches
LEFT, RIGHT = Box(0, 0, 256, 512), Box(256, 0, 256, 512)

Grid = npt.NDArray[np.float32]


def marked(*boxes: Box, height: int = 512, width: int = 512, patient: str = "p", label: str = "PNEUMONIA") -> BoxedFilm:
    record = Record(Path("a.png"), "a.png", label, patient, "test", "")
    return BoxedFilm(record, height, width, boxes)


def grid_of(**cells: float) -> Grid:
    """7x7 cells of 0 with some set, as `r3c5=1.0`."""
    grid = np.zeros((7, 7), dtype=np.float32)
    for name, value in cells.items():
        grid[int(name[1]), int(name[3])] = value
    return grid


def noise(rng: np.random.Generator) -> Grid:
    return rng.normal(size=(7, 7)).astype(np.float32)


def says(grid: Grid, bias: float = 0.0, *, called: bool = True) -> Prediction:
    """A prediction whose contrast is this map and bias."""
    normal = np.full_like(grid, 0.25)
    logits = np.array([0.25, grid.mean() + 0.25 + bias])
    label = "PNEUMONIA" if called else "NORMAL"
    maps = np.stack([normal, grid + normal])
    return Prediction(logits, np.array([0.5, 0.5]), maps, np.array([0.0, bias]), label, False)


def on_boxes_of(films: Sequence[BoxedFilm | None], predictions: Sequence[Prediction]) -> MapsOnBoxes:
    on_boxes = maps_on_boxes(films, predictions)
    assert on_boxes is not None
    return on_boxes


def figures(films: Sequence[BoxedFilm | None], predictions: Sequence[Prediction]) -> Localisation:
    records = [one.record for one in films if one]
    found = localisation_figures(maps_on_boxes(films, predictions), films, records, "boxes.csv", FEW)
    assert found is not None
    return found


def energy(grid: Grid, *boxes: Box) -> float:
    return float(energy_inside(grid, [disjoint(boxes)])[0])


def points_inside(grid: Grid, *boxes: Box) -> bool:
    return bool(cells_inside(grid.shape, disjoint(boxes))[peak(grid)])


def random_box(rng: np.random.Generator, side: float = SIDE) -> Box:
    return Box(*rng.uniform(0.05 * side, 0.5 * side, 4).tolist())


def test_overlapping_boxes_become_rectangles_that_cover_each_place_once() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        boxes = [
            Box(*map(float, (*rng.integers(0, 10, 2), *rng.integers(1, 10, 2)))) for _ in range(rng.integers(1, 5))
        ]
        times = np.zeros((20, 20), dtype=int)
        for left, top, right, bottom in disjoint(boxes).astype(int):
            times[top:bottom, left:right] += 1
        mask = np.zeros_like(times)
        for box in boxes:
            mask[int(box.y) : int(box.y + box.height), int(box.x) : int(box.x + box.width)] = 1
        np.testing.assert_array_equal(times, mask)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (512, 512), (300, 512), (2021, 1733), (64, 3000)])
def test_a_map_of_one_positive_value_has_the_area_of_the_boxes_as_its_energy(height: int, width: int) -> None:
    box = Box(width * 0.1, height * 0.2, width * 0.35, height * 0.4)
    inside = Box(width * 0.2, height * 0.3, width * 0.1, height * 0.1)
    on_boxes = on_boxes_of(
        [marked(box, inside, height=height, width=width)], [says(np.full((7, 7), 0.4, dtype=np.float32))]
    )
    assert on_boxes.area[0] == pytest.approx(0.35 * 0.4)
    assert on_boxes.energy[0, 0] == pytest.approx(0.35 * 0.4, rel=1e-6)


def test_evidence_that_lies_in_the_box_alone_is_an_energy_of_one_and_beside_it_of_zero() -> None:
    grid = grid_of(r2c4=3.0)
    assert energy(grid, CELL) == pytest.approx(1.0, abs=1e-12)
    assert energy(grid, LEFT) == 0.0
    assert energy(grid, LEFT, CELL) == pytest.approx(1.0, abs=1e-12)
    assert energy(grid, Box(256, 109, 147, 146)) < 1.0


def test_half_the_evidence_in_the_box_is_an_energy_of_half() -> None:
    assert energy(grid_of(r1c1=2.0, r5c5=2.0), Box(0, 0, 256, 256)) == pytest.approx(0.5)
    assert energy(grid_of(r3c3=1.0), LEFT) == pytest.approx(0.5)
    assert energy(grid_of(r3c3=1.0), LEFT, Box(0, 0, 256, 256), RIGHT) == pytest.approx(1.0)


def test_a_pixel_counts_by_the_part_of_it_in_the_box() -> None:
    grid = noise(np.random.default_rng(5))
    whole = [energy(grid, Box(100, 50, width, 80)) for width in (60, 61)]
    assert energy(grid, Box(100, 50, 60.25, 80)) == pytest.approx(0.75 * whole[0] + 0.25 * whole[1])
    assert energy(grid, Box(0, 0, 512, 512)) == pytest.approx(1.0)


def test_evidence_for_normal_does_not_take_from_evidence_for_pneumonia() -> None:
    assert energy(grid_of(r2c4=3.0, r5c1=-9.0), CELL) == pytest.approx(1.0, abs=1e-12)


def test_the_bias_decides_what_counts_as_evidence() -> None:
    grid = grid_of(r2c4=3.0, r5c1=1.0)
    on_boxes = on_boxes_of([marked(CELL)] * 3, [says(grid), says(grid, -1.0), says(grid, -3.5)])
    np.testing.assert_allclose(np.diagonal(on_boxes.energy), [0.75, 1.0, 0.0], atol=1e-3)
    assert on_boxes.has_evidence.tolist() == [True, True, False]


def test_the_maximum_lies_on_the_centre_of_its_cell() -> None:
    np.testing.assert_allclose(places(7, 70), [5, 15, 25, 35, 45, 55, 65])
    assert places(1, 61).tolist() == [30.5]
    assert peak(grid_of(r2c4=1.0, r4c2=0.5)) == (2, 4)


@pytest.mark.parametrize(
    ("box", "hit"),
    [
        (Box(329, 182, 1, 1), True),  # cell r2c4 is at 329.1, 182.9
        (Box(329.5, 100, 100, 100), False),  # a third of a pixel away; there is no tolerance
        (Box(0, 0, 512, 512), True),
        (Box(182, 329, 1, 1), False),  # rows and columns are not mixed up
    ],
)
def test_the_map_hits_where_its_maximum_lies_in_a_box(box: Box, hit: bool) -> None:
    grid = grid_of(r2c4=1.0, r4c2=0.5)
    assert points_inside(grid, box) is hit
    assert points_inside(grid, Box(0, 500, 2, 2), box) is hit


def test_a_constant_in_the_map_or_the_bias_does_not_move_the_maximum() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        grid, box = noise(rng), random_box(rng)
        hits = {points_inside(grid + np.float32(offset), box) for offset in (-50.0, 0.0, 3.25)}
        on_boxes = on_boxes_of([marked(box)] * 2, [says(grid), says(grid, -7.0)])
        assert len(hits | set(on_boxes.pointing.astype(bool).ravel().tolist())) == 1


@pytest.mark.parametrize("seed", range(5))
def test_both_figures_agree_with_scipys_zoom_and_a_mask_pixel_by_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid, bias = noise(rng), float(rng.normal() / 4)
    height, width = 256, 1024
    boxes = []
    mask = np.zeros((512, 512), dtype=bool)
    for _ in range(3):
        x, y = (np.sort(rng.choice(512, 2, replace=False)).tolist() for _ in range(2))
        boxes.append(Box(2 * x[0], y[0] / 2, 2 * (x[1] - x[0]), (y[1] - y[0]) / 2))
        for row in range(*y):
            for column in range(*x):
                mask[row, column] = True
    large = zoom(grid.astype(np.float64) + bias, 512 / 7, order=1, grid_mode=True, mode="nearest")
    on_boxes = on_boxes_of([marked(*boxes, height=height, width=width)], [says(grid, bias)])
    assert on_boxes.area[0] == pytest.approx(mask.mean())
    expected = large[mask & (large > 0)].sum() / large[large > 0].sum()
    assert on_boxes.energy[0, 0] == pytest.approx(expected, rel=1e-5)
    row, column = (int(place) for place in np.unravel_index(large.argmax(), large.shape))
    assert (row * 7 // 512, column * 7 // 512) == peak(grid)


def test_the_same_film_at_another_size_gives_the_same_figures() -> None:
    grid = noise(np.random.default_rng(3))
    films = [marked(Box(a, 2 * a, 3 * a, 4 * a), height=12 * a, width=10 * a) for a in (7, 256)]
    on_boxes = on_boxes_of(films, [says(grid)] * 2)
    assert on_boxes.energy[0, 0] == pytest.approx(on_boxes.energy[1, 1], rel=1e-9)
    assert on_boxes.pointing.min() == on_boxes.pointing.max()


def test_figures_are_means_over_films_and_a_film_without_evidence_counts_as_zero() -> None:
    right, wrong, cold = grid_of(r2c4=3.0), grid_of(r5c1=6.0), grid_of(r2c4=-1.0) - np.float32(1.0)
    films = [marked(CELL, patient=str(i)) for i in range(4)]
    found = figures(films, [says(right), says(right, called=False), says(wrong), says(cold, called=False)])
    everything, called = found.all, found.called
    assert (everything.films, everything.patients, everything.boxes) == (4, 4, 4)
    assert everything.without_evidence == 1
    assert everything.energy == pytest.approx(0.5)
    assert everything.pointing == 0.5  # of the cold map the first of the least cold cells counts; it is in no box
    assert everything.area == pytest.approx(147**2 / 512**2)
    assert (called.films, called.pointing, called.energy) == (2, 0.5, pytest.approx(0.5))
    assert everything.exact_ci == ("pointing", "pointing_mean_map")  # four patients
    assert everything.pointing_ci == pytest.approx([0.0676, 0.9324], abs=1e-4)  # Clopper-Pearson of 2 in 4
    assert everything.energy_ci is None


def test_swapped_maps_are_those_of_other_patients_alone() -> None:
    films = [marked(LEFT, patient="1"), marked(LEFT, patient="1"), marked(RIGHT, patient="2")]
    grids = [grid_of(r3c1=6.0), grid_of(r3c1=2.0, r3c5=1.0), grid_of(r3c5=1.0)]
    found = figures(films, [says(grid) for grid in grids]).all
    assert found.pointing == 1.0
    assert found.pointing_swapped == 0.0
    assert found.energy == pytest.approx((1 + 2 / 3 + 1) / 3, abs=1e-3)
    # On both LEFT films the map of patient 2, all on the right; on the RIGHT film those of patient 1.
    assert found.energy_swapped == pytest.approx((0 + 0 + (0 + 1 / 3) / 2) / 3, abs=1e-3)
    assert found.energy_over_swapped == found.energy - found.energy_swapped
    alone = figures(films[:2], [says(grid) for grid in grids[:2]]).all
    assert (alone.pointing_swapped, alone.energy_over_swapped) == (None, None)


def test_the_mean_map_is_one_map_for_all_films() -> None:
    films = [marked(LEFT, patient="1"), marked(RIGHT, patient="2"), marked(RIGHT, patient="3")]
    grids = [grid_of(r3c1=6.0), grid_of(r3c5=2.0), grid_of(r3c5=1.0)]
    found = figures(films, [says(grid) for grid in grids]).all
    # The mean is 2 left and 1 right: it points left on every film, and two thirds of its evidence are there.
    assert found.pointing_mean_map == pytest.approx(1 / 3)
    assert found.energy_mean_map == pytest.approx((2 + 1 + 1) / 9, abs=1e-3)


def test_a_model_that_says_the_same_of_every_film_has_nothing_over_swapped_maps() -> None:
    rng = np.random.default_rng(1)
    grid = noise(rng)
    films = [marked(random_box(rng), patient=str(i // 2)) for i in range(24)]
    found = figures(films, [says(grid)] * 24).all
    for name in ("pointing", "energy"):
        assert found.named(f"{name}_over_swapped").value == pytest.approx(0.0, abs=1e-12)
        assert found.named(name).value == pytest.approx(found.named(f"{name}_mean_map").value)
        assert found.named(f"{name}_over_swapped").interval is None  # no resample differs


def test_maps_that_have_nothing_to_do_with_the_films_are_rarely_said_to_see_something() -> None:
    rng = np.random.default_rng(4)
    boxes, predictions = [random_box(rng) for _ in range(60)], [says(noise(rng)) for _ in range(60)]
    all_looks = on_boxes_of([marked(box, patient=str(i)) for i, box in enumerate(boxes)], predictions)
    claims = 0
    for _ in range(60):
        films, maps = (rng.choice(60, 25, replace=False) for _ in range(2))
        on_boxes = MapsOnBoxes(
            tuple(all_looks.films[i] for i in films),
            tuple(predictions[j] for j in maps),
            all_looks.pointing[np.ix_(films, maps)],
            all_looks.energy[np.ix_(films, maps)],
            all_looks.has_evidence[maps],
            all_looks.mean_map_pointing[films],
            all_looks.mean_map_energy[films],
            all_looks.area[films],
        )
        found = localisation_figures(on_boxes, [], [], "", FEW)
        assert found is not None
        claims += found.all.energy_over_swapped_ci[0] > 0.0
    assert claims <= 5  # 1.5 in the long run; more than 5 in fewer than 1 of 100 such tests


def test_maps_that_follow_the_boxes_are_said_to_see_something_that_no_fixed_map_does() -> None:
    rng = np.random.default_rng(6)
    boxes, predictions = [], []
    for _ in range(20):
        row, column = rng.integers(1, 6, 2)
        boxes.append(Box(places(7)[column] - 60, places(7)[row] - 60, 120, 120))
        predictions.append(says(grid_of(**{f"r{row}c{column}": 2.0}) + noise(rng) / 4))
    found = figures([marked(box, patient=str(i)) for i, box in enumerate(boxes)], predictions).all
    assert found.pointing == 1.0
    for name in ("pointing", "energy"):
        assert found.named(f"{name}_over_swapped").interval[0] > 0.2
        assert found.named(name).value > found.named(f"{name}_mean_map").value + 0.2


def test_a_mean_map_without_evidence_makes_no_figure_rather_than_an_easy_one() -> None:
    films = [marked(LEFT, patient=str(i)) for i in range(12)]
    found = figures(films, [says(grid_of(r3c1=2.0), -1.0), *[says(grid_of(), -1.0)] * 11]).all
    assert found.energy == pytest.approx(1 / 12)
    assert (found.energy_mean_map, found.energy_mean_map_ci) == (None, None)
    assert read(BoxFigures, parse(to_json(found))) == found


def test_intervals_are_of_patients_not_of_films() -> None:
    rng = np.random.default_rng(2)
    predictions = [says(noise(rng)) for _ in range(12)]
    films = [marked(random_box(rng), patient=str(i)) for i in range(12)]
    one, five = figures(films, predictions).all, figures(films * 5, predictions * 5).all
    assert (five.films, five.patients) == (60, 12)
    for name in FIGURES:
        assert five.named(name).value == pytest.approx(one.named(name).value, abs=1e-6)
        assert five.named(name).interval == pytest.approx(one.named(name).interval, abs=1e-6)
        figure = one.named(name)
        assert figure.interval is None or figure.interval[0] <= figure.value <= figure.interval[1]


def test_films_without_boxes_and_films_labelled_normal_are_left_out() -> None:
    films = [marked(LEFT), None, marked(LEFT, patient="n", label="NORMAL")]
    found = figures(films, [says(grid_of(r3c1=1.0), called=False)] * 3)
    assert (found.all.films, found.normal_with_boxes, found.positive) == (1, 1, 1)
    assert found.called is None
    assert maps_on_boxes([None], [says(grid_of())]) is None
    assert localisation_figures(None, [None], [], "", FEW) is None


def test_examples_are_the_extremes_and_no_film_is_shown_twice() -> None:
    assert extremes(np.array([0.2, 0.0, 0.9, 0.4, 0.6])) == ([2, 4, 3], [1, 0])
    assert extremes(np.arange(40.0)) == ([39, 38, 37, 36, 35, 34], [0, 1, 2, 3, 4, 5])
    assert extremes(np.array([0.3])) == ([0], [])


def test_boxes_are_drawn_on_the_film_and_on_the_map(tmp_path: Path) -> None:
    Image.fromarray(film(1, 112, 112) // 2).save(tmp_path / "a.png")  # shown at four times its size
    record = Record(tmp_path / "a.png", "a.png", "PNEUMONIA", "p", "test", "")
    marked = BoxedFilm(record, 112, 112, (Box(20, 30, 40, 50),))
    picture = with_boxes(marked, record.read(), says(grid_of(r6c6=1.0)), 2.0).astype(int)
    white = (picture == 255).all(axis=2)
    for start in (0, 448 + 8):
        assert white[120, start + 80 : start + 240].all()
        assert white[319, start + 80 : start + 240].all()
        assert white[120:320, start + 80].all()
        assert white[120:320, start + 239].all()
        assert not white[125:315, start + 85 : start + 235].any()
    assert white[416, 448 + 8 + 416 - 5]  # the cross, in the corner cell of the map alone
    assert not white[447, 442]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve films of each class; of PNEUMONIA all but the last two have a box."""
    folder = write_manifest(tmp_path_factory.mktemp("data"), 12, ("test",))
    rows = [f"test-PNEUMONIA-{i}.png,{i},10,30,20.5" for i in range(10)]
    (folder / "boxes.csv").write_text("\n".join(["file,x,y,width,height", *rows]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, operating_points={"youden": 0.4475})
    return folder


def measure(model: Path, data: Path, out: Path) -> dict[str, Any]:
    arguments = ["--run", str(model), "--data", str(data), "--out", str(out), "--device", "cpu"]
    assert run_command("evaluate", [*arguments, "--bootstrap", "200"]) == 0
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def test_an_evaluation_says_where_the_model_looked(data: Path, model: Path, tmp_path: Path) -> None:
    found = measure(model, data, tmp_path)["localisation"]
    assert (found["boxes_from"], found["positive"], found["all"]["films"]) == ("boxes.csv", 12, 10)
    assert set(found["all"]) == {
        *("films", "patients", "boxes", "without_evidence", "exact_ci"),
        *FIGURES,
        *(f"{name}_ci" for name in FIGURES),
    }
    assert found["all"]["area"] == pytest.approx(30 * 20.5 / (72 * 64))
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    read = Reader((tmp_path / "report.html").read_text(encoding="utf-8"))
    words = " ".join(read.words)
    for page in (markdown, words):
        assert "Does it look at the right place?" in page
        assert "10 of the 12 films of PNEUMONIA have boxes" in page
        assert f"{found['all']['energy']:.3f}" in page
    films = (tmp_path / "localisation.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[.*?\]\(([\w./-]+)\)", films)
    assert len(shown) == len(set(re.findall(r"`(test-.*?)`", films))) == 10
    assert {path.name for path in (tmp_path / "localisation").iterdir()} == {Path(name).name for name in shown}
    assert "Not a diagnosis" in films
    errors = len(list((tmp_path / "errors").iterdir()))
    assert len(read.links) == 4 + errors + 10
    assert all(link.startswith("data:image/") for link in read.links)


def test_a_split_without_boxes_has_no_such_part_and_keeps_none_of_another_data(
    data: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    measure(model, data, out)
    assert (out / "localisation.md").is_file()
    plain = shutil.copytree(data, tmp_path / "plain")
    (plain / "boxes.csv").unlink()
    assert measure(model, plain, out)["localisation"] is None
    assert "right place" not in (out / "report.html").read_text(encoding="utf-8")
    assert not (out / "localisation.md").exists()
    assert list((out / "localisation").iterdir()) == []


def test_boxes_that_cannot_be_are_told_before_a_film_is_scored(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = shutil.copytree(data, tmp_path / "broken")
    with (broken / "boxes.csv").open("a", encoding="utf-8") as stream:
        stream.write("test-PNEUMONIA-11.png,50,0,20,20\n")
    arguments = ["--run", str(model), "--data", str(broken), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert run_command("evaluate", arguments) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "a box of test-PNEUMONIA-11.png is x 50" in error
    assert not (tmp_path / "out").exists()
