"""The head from labels and boxes: what the cells are held against, what is learnt, and that the sum stays exact."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cxr.model.cam import class_maps, logits_of
from cxr_training.data.boxes import BoxedFilm, load_boxes
from cxr_training.data.collections.candidates import Box
from cxr_training.data.records import Record, load_films
from cxr_training.errors import TrainingError
from cxr_training.fit.box_head import Cells, KnownFilm, known_films, train_head_with_boxes
from cxr_training.fit.feature_rows import StoredFeatures
from cxr_training.fit.features import View
from cxr_training.fit.head import TrainedHead, Weighting
from cxr_training.fit.settings import Augmentation, BoxSettings
from cxr_training.runs import RunRecord, checkpoint_predictor
from tests.commands import run_command
from tests.cxr_training.folders import labelled_film

Array = npt.NDArray[np.float32]

RECORD = Record(Path("none.png"), "none.png", "PNEUMONIA", "p", "train", "ab" * 32)


def known(*boxes: Box, height: int = 140, width: int = 210) -> KnownFilm:
    return KnownFilm(RECORD, BoxedFilm(RECORD, height, width, boxes), height, width)


def test_a_cell_has_the_share_of_it_that_lies_in_a_box() -> None:
    # cells are 20 high and 30 wide
    shares = known(Box(30, 20, 30, 40), Box(75, 100, 30, 10)).shares(View(), (7, 7))
    expected = np.zeros((7, 7))
    expected[1:3, 1] = 1.0
    expected[5, 2:4] = 0.25
    np.testing.assert_allclose(shares, expected, atol=1 / 255)


def test_overlapping_boxes_cover_a_cell_once() -> None:
    assert known(Box(0, 0, 210, 140), Box(0, 0, 100, 70)).shares(View(), (7, 7)).max() == 1.0


def test_under_an_augmented_view_the_boxes_move_with_the_film() -> None:
    film = known(Box(60, 40, 30, 20))  # cell r2c2 of 7x7
    view = View(1, Augmentation(max_degrees=0.0, flip=True), seed=next(s for s in range(9) if _flips(s)))
    assert np.unravel_index(film.shares(view, (7, 7)).argmax(), (7, 7)) == (2, 4)
    turned = View(1, Augmentation(max_degrees=20.0), seed=0)
    pixels = np.zeros((140, 210), dtype=np.uint8)
    pixels[40:60, 60:90] = 255
    moved = np.argwhere(turned.changed(RECORD, pixels) > 127).mean(axis=0) / (20, 30)
    cells = np.indices((7, 7)) + 0.5
    shares = film.shares(turned, (7, 7))
    np.testing.assert_allclose((cells * shares).sum((1, 2)) / shares.sum(), moved, atol=0.05)


def _flips(seed: int) -> bool:
    row = np.arange(64, dtype=np.uint8).repeat(64).reshape(64, 64).T.copy()
    return bool(View(1, Augmentation(max_degrees=0.0, flip=True), seed).changed(RECORD, row)[0, 0])


@dataclass(frozen=True)
class Problem:
    """Films of 4 x 4 cells with 12 features: number 3 tells of the class all over, 5 of an opacity in a cell."""

    maps: Array
    shares: Array
    targets: npt.NDArray[np.int64]

    @property
    def pooled(self) -> Array:
        return np.asarray(self.maps.mean(axis=(2, 3)))

    def cells(self, count: int) -> Cells:
        rows = np.array(self.maps[:count], dtype=np.float16).view(np.memmap)
        sums = np.zeros((count, 32), dtype=np.uint8).view(np.memmap)
        films = tuple(f"{number:064x}" for number in range(count))
        return Cells(StoredFeatures(rows, sums, np.arange(count), films), self.shares[:count])


def problem(seed: int = 0, films: int = 160) -> Problem:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, films)
    maps = rng.normal(size=(films, 12, 4, 4))
    shares = np.zeros((films, 4, 4))
    for film in np.flatnonzero(targets):
        row, column = rng.integers(0, 4, 2)
        shares[film, row, column] = 1.0
    maps[:, 3] = (0.3 * rng.normal(size=films) + 0.6 * targets)[:, None, None]  # the same all over
    maps[:, 5] += 3.0 * shares
    return Problem(
        (maps * np.logspace(-1, 1, 12)[:, None, None]).astype(np.float16).astype(np.float32),
        shares.astype(np.float32),
        targets,
    )


FILMS, VAL = problem(), problem(1)


def trained(settings: BoxSettings, known: int = 60) -> TrainedHead:
    weights = Weighting.even(len(FILMS.targets), len(VAL.targets))
    cells = [FILMS.cells(known)]
    return train_head_with_boxes(
        [FILMS.pooled], FILMS.targets, VAL.pooled, VAL.targets, cells, settings, weights=weights
    )


def contrast(head: TrainedHead) -> Array:
    return (head.weight[1] - head.weight[0]).numpy()


def test_where_boxes_weigh_nothing_the_head_is_that_of_logistic_regression() -> None:
    head = trained(BoxSettings(weight=1e-9, weight_decay=0.1))
    scaler = StandardScaler().fit(FILMS.pooled)
    model = LogisticRegression(C=2 / (0.1 * len(FILMS.targets)), tol=1e-8, max_iter=1000)
    model.fit(scaler.transform(FILMS.pooled), FILMS.targets)
    expected = model.decision_function(scaler.transform(VAL.pooled))
    logits = VAL.pooled @ head.weight.numpy().T + head.bias.numpy()
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], expected, atol=2e-2)


def test_no_other_head_has_a_lower_loss() -> None:
    settings = BoxSettings(weight=2.0, weight_decay=0.05, epochs=300)
    head = trained(settings)
    mean, deviation = FILMS.pooled.mean(axis=0), FILMS.pooled.std(axis=0)
    best = np.append(contrast(head) * deviation, float(head.bias[1] - head.bias[0]) + contrast(head) @ mean)

    def entropy(logits: Array, targets: Array) -> float:
        return float((np.logaddexp(0, logits) - targets * logits).mean())

    def loss(values: Array, scale: float, offset: float) -> float:
        weight, bias = values[:-1], values[-1]
        films = entropy((FILMS.pooled - mean) / deviation @ weight + bias, FILMS.targets)
        grid = np.einsum("bchw,c->bhw", (FILMS.maps[:60] - mean[:, None, None]) / deviation[:, None, None], weight)
        cells = entropy(scale * grid + offset, FILMS.shares[:60])
        return films + settings.weight * cells + settings.weight_decay / 4 * float(weight @ weight)

    here = minimize(lambda pair: loss(best, *pair), (1.0, -3.0))
    lowest = minimize(lambda values: loss(values[:-2], *values[-2:]), np.append(best, here.x))
    assert lowest.fun <= here.fun < lowest.fun + 1e-5


def test_with_boxes_the_map_points_at_what_lies_in_them_more_often() -> None:
    def hits(head: TrainedHead) -> float:
        grids = np.einsum("bchw,c->bhw", VAL.maps, contrast(head))
        chosen = np.flatnonzero(VAL.targets)
        return float(np.mean([VAL.shares[i].ravel()[grids[i].argmax()] for i in chosen]))

    assert hits(trained(BoxSettings(weight=2.0))) > hits(trained(BoxSettings(weight=1e-9))) + 0.15


def test_the_mean_of_the_map_plus_the_bias_is_the_logit_and_both_classes_have_half_of_it() -> None:
    head = trained(BoxSettings())
    maps = class_maps(torch.from_numpy(VAL.maps), head.weight)
    expected = torch.from_numpy(VAL.pooled) @ head.weight.T + head.bias
    torch.testing.assert_close(logits_of(maps, head.bias), expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(maps[:, 0], -maps[:, 1])


def write_data(folder: Path) -> Path:
    """Films of two label sources, boxes on those of one; two films labelled OTHER."""
    folder.mkdir(parents=True)
    rows = [["file", "label", "patient_id", "split", "source", "label_source"]]
    boxes = [["file", "x", "y", "width", "height"]]
    for split in ("train", "val", "test"):
        for i in range(12):
            label = ("NORMAL", "PNEUMONIA")[i % 2] if i < 10 else "OTHER"
            name = f"{split}-{i}.png"
            Image.fromarray(labelled_film(label, 100 * len(rows) + i)).save(folder / name)
            reader = "a radiologist" if i >= 4 else "nlp"
            rows.append([name, label, name, split, "one", reader])
            if label == "PNEUMONIA" and i >= 4:
                boxes.append([name, "8", "8", "28", "28"])
    for file, table in (("manifest.csv", rows), ("boxes.csv", boxes)):
        with (folder / file).open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(table)
    return folder


def test_films_without_opacity_teach_cells_where_those_who_drew_boxes_labelled_them(tmp_path: Path) -> None:
    films = load_films(write_data(tmp_path / "data"))
    others = [record for record in films.others if record.split == "train"]
    found = known_films([*films.of("train"), *others], load_boxes(films))
    names = {film.record.name: bool(film.boxed) for film in found}
    assert names == {
        **{f"train-{i}.png": True for i in (5, 7, 9)},
        **{f"train-{i}.png": False for i in (4, 6, 8, 10, 11)},
    }
    assert all(not film.shares(View(1), (2, 2)).any() for film in found if film.boxed is None)


def test_a_boxed_film_that_was_changed_since_it_was_listed_teaches_nothing(tmp_path: Path) -> None:
    films = load_films(write_data(tmp_path / "data"))
    changed = next(record for record in films.of("train") if record.name == "train-5.png")
    Image.fromarray(labelled_film("NORMAL", 1)).save(changed.file)
    with pytest.raises(TrainingError, match=r"train-5\.png was changed after its folder was listed"):
        known_films(films.of("train"), load_boxes(films))


ARGUMENTS = ["--weights", "random", "--arch", "resnet10", "--size", "64", "--boxes", "--epochs", "12"]


def test_a_run_with_boxes_is_whole_and_its_maps_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = write_data(tmp_path / "data"), tmp_path / "runs" / "first"
    base = ["--data", str(data), "--run", str(run), *ARGUMENTS]
    assert run_command("train", base) == 0
    record = RunRecord.load(run)
    assert record.settings["boxes"] == {"weight": 1.0, "weight_decay": 0.2, "epochs": 12}
    assert record.settings["label_weights"]["radiologist"] == 8.0
    assert record.result["films"] == {"train": 10, "val": 10}
    films = [one.read() for one in load_films(data).of("val")]
    for prediction in checkpoint_predictor(run, "cpu").predict(films):
        np.testing.assert_allclose(prediction.maps.mean((1, 2)) + prediction.bias, prediction.logits, atol=1e-5)
    assert run_command("train", [*base, "--resume"]) == 0
    assert "already holds this run" in capsys.readouterr().out
    boxes = (data / "boxes.csv").read_text(encoding="utf-8")
    (data / "boxes.csv").write_text(boxes.replace("train-5.png,8,8", "train-5.png,9,8"), encoding="utf-8")
    assert run_command("train", [*base, "--resume"]) == 2  # other boxes are another run
    for step in (
        ["calibrate", "--data", str(data)],
        ["export"],
        ["evaluate", "--data", str(data), "--bootstrap", "100"],
    ):
        assert run_command(step[0], [*step[1:], "--run", str(run)]) == 0
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["localisation"]["all"]["films"] == 3
    assert metrics["everything_else"]["all"]["films"] == 12


VIEWS = ["--views", "1", "--mirrored", "--flip", "--max-crop", "0.1"]


def test_films_of_sources_without_further_views_count_under_the_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head sees every film under every view; of one source alone they are other features."""
    data = write_data(tmp_path / "data")
    manifest = (data / "manifest.csv").read_text(encoding="utf-8").splitlines()
    of_two = [
        line.replace(",one,", ",two,") if line.partition(".")[0].endswith(("8", "9")) else line for line in manifest
    ]
    (data / "manifest.csv").write_text("\n".join(of_two), encoding="utf-8")
    seen: list[list[npt.NDArray[np.float32]]] = []
    shares: list[list[npt.NDArray[np.float32]]] = []

    def note(views: list[npt.NDArray[np.float32]], *rest: Any, **more: Any) -> TrainedHead:
        seen.append(views)
        shares.append([cells.shares for cells in rest[3]])
        return train_head_with_boxes(views, *rest, **more)

    monkeypatch.setattr("cxr_training.fit.stages.train_head_with_boxes", note)
    base = ["--data", str(data), "--run", str(tmp_path / "run"), *ARGUMENTS, *VIEWS]
    assert run_command("train", [*base, "--views-of", "two"]) == 0
    (plain, *others), (of_plain, of_mirrored, _) = seen[0], shares[0]
    films = [film.name for film in load_films(data).of("train")]
    for view in others:
        changed = [name for name, one, two in zip(films, plain, view, strict=True) if np.abs(one - two).max() > 0]
        assert changed == ["train-8.png", "train-9.png"]
    assert len(of_plain) == 8  # known cell by cell
    assert len(of_mirrored) == 2
    boxed = of_plain[of_plain.any((1, 2))][-1]
    np.testing.assert_allclose(of_mirrored[of_mirrored.any((1, 2))][0], boxed[:, ::-1])
    record = RunRecord.load(tmp_path / "run")
    assert (record.settings["mirrored"], record.settings["views_of"]) == (True, ["two"])
    assert run_command("train", [*base, "--views-of", "two", "--resume"]) == 0  # it is there
    assert run_command("train", [*base, "--views-of", "three", "--force"]) == 2


def test_other_films_are_negative_where_that_is_asked_for(tmp_path: Path) -> None:
    data, run = write_data(tmp_path / "data"), tmp_path / "run"
    assert run_command("train", ["--data", str(data), "--run", str(run), *ARGUMENTS, "--other", "negative"]) == 0
    assert RunRecord.load(run).result["films"] == {"train": 12, "val": 12}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--trainable", "layer4"], "boxes teach the head alone"),
        (["--learning-rate", "0.1"], "--learning-rate: not with --boxes"),
        (["--label-weight", "radiologist"], "write KIND=NUMBER"),
        (["--label-weight", "nurse=2"], "known are radiologist, physician, pcr, text-mined"),
        (["--box-weight", "0"], "box weight is 0"),
    ],
)
def test_what_does_not_go_together_is_refused(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(tmp_path), "--run", str(tmp_path / "run"), *ARGUMENTS, *more]
    assert run_command("train", arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_boxes_that_are_not_there_are_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path / "data")
    (data / "boxes.csv").unlink()
    assert run_command("train", ["--data", str(data), "--run", str(tmp_path / "run"), *ARGUMENTS]) == 2
    assert "no training film of PNEUMONIA has a box" in capsys.readouterr().err


def test_a_training_that_diverges_says_so() -> None:
    broken = FILMS.pooled.copy()
    broken[3, 4] = np.inf
    weights = Weighting.even(len(FILMS.targets), len(VAL.targets))
    with pytest.raises(TrainingError, match="loss is no number"):
        train_head_with_boxes(
            [broken], FILMS.targets, VAL.pooled, VAL.targets, [FILMS.cells(9)], BoxSettings(), weights=weights
        )
