"""The synthetic films: how they are drawn, split and stored, and how hard they are.

Difficulty, measured at the default size as AUROC on the test patients:

- 32 x 32 pixels, standardised, logistic regression, 240 patients, mean of seeds 0-3: 0.67 (C=1) to 0.70 (C=0.01).
- Layer4 means of a random ResNet-152 (seed 0, BatchNorm from training films), C=0.01, 80 patients,
  in bfloat16: 0.77, 0.97 and 0.90 for seeds 0, 1 and 2; by patient-wise cross-validation 0.88, 0.95 and 0.91.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.pixels.processing import apply_voi_lut
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr_training.data.toy import files as toy_files
from cxr_training.data.toy.files import COLUMNS, FORMS, dicom_bytes, draw_planned, plan_films, png_bytes, write_toy_data
from cxr_training.data.toy.films import ToyFilm, draw_anatomy, draw_film

SIZE = 96


def _film(seed: int, label: str, size: tuple[int, int] = (256, 240)) -> ToyFilm:
    return draw_film(np.random.default_rng(seed), draw_anatomy(np.random.default_rng(seed)), label, size)


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _as_shown(data: bytes) -> NDArray[np.float64]:
    """A DICOM file's picture in 0-1, white high, by pydicom's own windowing."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    shown = apply_voi_lut(dataset.pixel_array, dataset).astype(np.float64) / (2**dataset.BitsStored - 1)
    picture: NDArray[np.float64] = 1 - shown if dataset.PhotometricInterpretation == "MONOCHROME1" else shown
    return picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy") / "films"
    write_toy_data(out, patients=20, seed=7, size=SIZE)
    return out


def test_the_same_seed_gives_the_same_bytes_and_another_seed_gives_others(folder: Path, tmp_path: Path) -> None:
    write_toy_data(tmp_path / "again", patients=20, seed=7, size=SIZE)
    write_toy_data(tmp_path / "other", patients=20, seed=8, size=SIZE)

    assert _bytes(tmp_path / "again") == _bytes(folder)
    assert _bytes(tmp_path / "other")["manifest.csv"] != _bytes(folder)["manifest.csv"]


def test_the_manifest_lists_every_file_with_its_digest(folder: Path) -> None:
    rows = _rows(folder)

    assert tuple(rows[0]) == COLUMNS
    assert {row["file"] for row in rows} == {name for name in _bytes(folder) if name.startswith("films/")}
    assert all(hashlib.sha256((folder / row["file"]).read_bytes()).hexdigest() == row["sha256"] for row in rows)
    assert all(bool(row["boxes"]) == (row["label"] == "PNEUMONIA") for row in rows)
    assert all("synthetic" == row["source"] == row["label_source"] for row in rows)


@pytest.mark.parametrize("patients", [6, 11, 80])
def test_no_patient_is_in_two_splits_and_every_split_has_both_classes(patients: int) -> None:
    for seed in range(20):
        plans = plan_films(patients, seed)
        splits: dict[int, set[str]] = defaultdict(set)
        labels: dict[str, list[str]] = defaultdict(list)
        films: dict[int, int] = defaultdict(int)
        for plan in plans:
            splits[plan.patient].add(plan.split)
            labels[plan.split].append(plan.label)
            films[plan.patient] += 1
        assert len(splits) == patients
        assert all(len(names) == 1 for names in splits.values())
        assert set(films.values()) <= {1, 2, 3, 4}
        assert set(labels) == {"train", "val", "test"}
        assert all(abs(names.count("NORMAL") - names.count("PNEUMONIA")) <= 1 for names in labels.values())


def test_the_kind_of_file_tells_nothing_about_the_class_or_the_split() -> None:
    plans = plan_films(80, seed=0)

    for split in ("train", "val", "test"):
        for label in ("NORMAL", "PNEUMONIA"):
            forms = [plan.form for plan in plans if (plan.split, plan.label) == (split, label)]
            counts = [forms.count(form) for form in FORMS]
            assert max(counts) - min(counts) <= 1


def test_three_fifths_of_the_patients_are_for_training() -> None:
    splits = {plan.patient: plan.split for plan in plan_films(80, seed=0)}

    assert [list(splits.values()).count(name) for name in ("train", "val", "test")] == [48, 16, 16]


@pytest.mark.parametrize("seed", range(8))
def test_boxes_lie_in_the_film_and_cover_what_tells_it_from_its_normal_twin(seed: int) -> None:
    ill, well = _film(seed, "PNEUMONIA"), _film(seed, "NORMAL")
    difference = np.square(ill.pixels - well.pixels)
    covered = np.zeros(ill.pixels.shape, dtype=bool)

    assert well.boxes == ()
    assert 1 <= len(ill.boxes) <= 3
    for x, y, w, h in ill.boxes:
        assert x >= 0
        assert y >= 0
        assert w > 10
        assert h > 10
        assert x + w <= ill.pixels.shape[1]
        assert y + h <= ill.pixels.shape[0]
        assert difference[y : y + h, x : x + w].mean() > 10 * difference.mean() / covered.size**0.5
        covered[y : y + h, x : x + w] = True
    assert difference[covered].sum() > 0.97 * difference.sum()


def test_a_patient_looks_more_like_itself_than_like_others() -> None:
    anatomies = [draw_anatomy(np.random.default_rng(seed)) for seed in range(2)]

    def same_pose(anatomy: int) -> NDArray[np.float32]:
        return draw_film(np.random.default_rng(5), anatomies[anatomy], "NORMAL", (128, 128)).pixels

    assert np.array_equal(same_pose(0), same_pose(0))
    assert np.abs(same_pose(0) - same_pose(1)).mean() > 0.01


def test_an_unknown_label_is_refused() -> None:
    with pytest.raises(ValueError, match="COVID"):
        _film(0, "COVID")


def test_a_16_bit_png_keeps_the_film_to_half_a_step_and_agrees_with_8_bits() -> None:
    film = _film(1, "PNEUMONIA")
    fine = Image.open(io.BytesIO(png_bytes(film, 16)))
    coarse = Image.open(io.BytesIO(png_bytes(film, 8)))
    values = np.asarray(fine).astype(np.int64)

    assert np.abs(values / 65535 - film.pixels).max() <= 0.51 / 65535
    assert np.abs(values - 257 * np.asarray(coarse).astype(np.int64)).max() <= 129
    assert len(np.unique(values)) > 256
    assert "synthetic" in fine.info["Comment"]


@pytest.mark.parametrize("photometric_interpretation", ["MONOCHROME2", "MONOCHROME1"])
def test_a_dicom_file_in_its_window_is_the_film(photometric_interpretation: str) -> None:
    film = _film(2, "NORMAL")

    data = dicom_bytes(film, photometric_interpretation, patient_id="SYN0001", age=44, sex="F", uid_seed="0/1")

    assert np.abs(_as_shown(data) - film.pixels).max() < 0.6 / 3000


def test_monochrome1_and_its_monochrome2_twin_are_inverse_when_stored_and_the_same_when_shown() -> None:
    film = _film(3, "PNEUMONIA")
    one, two = (
        dicom_bytes(film, f"MONOCHROME{n}", patient_id="SYN0001", age=44, sex="F", uid_seed="0/1") for n in (1, 2)
    )
    stored = [pydicom.dcmread(io.BytesIO(data)).pixel_array.astype(int) for data in (one, two)]

    assert np.array_equal(stored[0], 4095 - stored[1])
    np.testing.assert_allclose(_as_shown(one), _as_shown(two), atol=1e-9)


def test_dicom_files_say_that_they_are_synthetic_frontal_chest_films(folder: Path) -> None:
    for row in (row for row in _rows(folder) if row["file"].endswith(".dcm")):
        dataset = pydicom.dcmread(folder / row["file"])
        assert dataset.PatientName == "SYNTHETIC^FILM"
        assert "synthetic" in dataset.ImageComments
        assert (dataset.BitsStored, dataset.BodyPartExamined) == (12, "CHEST")
        assert dataset.Modality in ("DX", "CR")
        assert dataset.ViewPosition == row["view"]
        assert dataset.PatientAge == f"{int(row['age']):03d}Y"
        assert (dataset.PatientSex, dataset.PatientID) == (row["sex"], row["patient_id"])


def test_dicom_instances_are_distinct_and_a_patient_has_one_age_and_sex(folder: Path) -> None:
    rows = _rows(folder)
    uids = [pydicom.dcmread(folder / row["file"]).SOPInstanceUID for row in rows if row["file"].endswith(".dcm")]

    assert len(set(uids)) == len(uids)
    assert len({(row["patient_id"], row["age"], row["sex"]) for row in rows}) == 20


def test_32_by_32_pixels_do_not_tell_the_classes_apart() -> None:
    areas = []
    for seed in (0, 1):
        plans = plan_films(70, seed)
        films = [draw_planned(plan, seed, 128)[0].pixels for plan in plans]
        pixels = np.stack(
            [np.asarray(Image.fromarray(film).resize((32, 32), Image.Resampling.BOX)).ravel() for film in films]
        )
        ill = np.array([plan.label == "PNEUMONIA" for plan in plans])
        train = np.array([plan.split == "train" for plan in plans])
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500)).fit(pixels[train], ill[train])
        areas.append(roc_auc_score(ill[~train], model.decision_function(pixels[~train])))

    assert np.mean(areas) < 0.72


def test_fine_texture_inside_the_lungs_tells_them_apart() -> None:
    def roughness(film: ToyFilm) -> float:
        mottle = ndimage.gaussian_filter(film.pixels, 1.2) - ndimage.gaussian_filter(film.pixels, 4)
        return float(np.percentile(ndimage.gaussian_filter(mottle**2, 8), 97))

    ill = [roughness(_film(seed, "PNEUMONIA")) for seed in range(25)]
    well = [roughness(_film(100 + seed, "NORMAL")) for seed in range(25)]

    assert roc_auc_score([1] * 25 + [0] * 25, ill + well) > 0.85


def test_nothing_is_left_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(toy_files, "_write_manifest", fail)
    with pytest.raises(OSError, match="disk full"):
        write_toy_data(tmp_path / "films", patients=6, seed=0, size=64)

    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_folder_that_was_to_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_toy_data(tmp_path / "films", patients=6, seed=0, size=64)
    before = _bytes(tmp_path)

    def fail(*_args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(toy_files, "_write_manifest", fail)
    with pytest.raises(OSError, match="disk full"):
        write_toy_data(tmp_path / "films", patients=6, seed=1, size=64, force=True)

    assert _bytes(tmp_path) == before
