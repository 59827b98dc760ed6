"""Reading data folders: pinned classes, no patient in two splits, one clear line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr_training.data.records import load_films
from cxr_training.errors import TrainingError
from tests.cxr_training.folders import write_manifest, write_tree


def replace(folder: Path, old: str, new: str, count: int = -1) -> None:
    path = folder / "manifest.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, count), encoding="utf-8")


def test_a_manifest_gives_its_films(tmp_path: Path) -> None:
    films = load_films(write_manifest(tmp_path, 4))
    assert len(films.records) == 24
    assert {record.split for record in films.of("val")} == {"val"}
    assert films.records[0].extra == {"source": "two"}


def test_classes_are_numbered_by_the_spec_and_not_by_folder_order(tmp_path: Path) -> None:
    films = load_films(write_tree(tmp_path))
    assert {(record.label, record.target) for record in films.records} == {("NORMAL", 0), ("PNEUMONIA", 1)}
    assert len(films.of("train")) == 8


def test_a_film_of_the_tree_is_a_patient_of_its_own(tmp_path: Path) -> None:
    films = load_films(write_tree(tmp_path))
    assert len({record.patient_id for record in films.records}) == len(films.records)


def test_other_is_left_out_and_counted(tmp_path: Path) -> None:
    write_manifest(tmp_path, 4)
    replace(tmp_path, "train-NORMAL-3.png,NORMAL", "train-NORMAL-3.png,OTHER")
    films = load_films(tmp_path)
    assert (len(films.records), films.ignored) == (23, 1)
    assert [(one.name, one.label, one.target) for one in films.others] == [("train-NORMAL-3.png", "OTHER", 0)]


def test_other_is_negative_where_that_is_asked_for(tmp_path: Path) -> None:
    write_manifest(tmp_path, 4)
    before = load_films(tmp_path).digest()
    replace(tmp_path, "train-NORMAL-3.png,NORMAL", "train-NORMAL-3.png,OTHER")
    films = load_films(tmp_path)
    assert films.with_others("ignore") is films
    negative = films.with_others("negative")
    assert (len(negative.records), negative.ignored, negative.others) == (24, 0, ())
    assert negative.digest() == before  # the film is what it was: a NORMAL one


def test_a_patient_with_an_other_film_in_another_split_is_noticed(tmp_path: Path) -> None:
    write_manifest(tmp_path, 4)
    replace(tmp_path, "train-NORMAL-3.png,NORMAL,train-NORMAL-1", "train-NORMAL-3.png,OTHER,test-NORMAL-1")
    with pytest.raises(TrainingError, match="test-NORMAL-1"):
        load_films(tmp_path)


def test_the_digest_knows_films_and_labels_and_not_their_order(tmp_path: Path) -> None:
    write_manifest(tmp_path, 4)
    first = load_films(tmp_path).digest()
    path = tmp_path / "manifest.csv"
    head, *rows = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([head, *reversed(rows)]) + "\n", encoding="utf-8")
    assert load_films(tmp_path).digest() == first
    replace(tmp_path, "val-NORMAL-3.png,NORMAL", "val-NORMAL-3.png,PNEUMONIA")
    assert load_films(tmp_path).digest() != first


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("patient_id", "patient", "no column patient_id"),
        ("train-NORMAL-0.png,NORMAL", "train-NORMAL-0.png,COVID", "label is 'COVID'"),
        ("train-NORMAL-0,train", "train-NORMAL-0,training", "split is 'training'"),
        ("train-NORMAL-0,train", ",train", "patient_id is empty"),
        ("train-NORMAL-0.png,", "lost.png,", "is missing"),
        ("val-NORMAL-0,val", "train-NORMAL-0,val", "is in 'train' and in 'val'"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_reason(tmp_path: Path, old: str, new: str, message: str) -> None:
    write_manifest(tmp_path, 4)
    replace(tmp_path, old, new, 1)
    with pytest.raises(TrainingError, match=message):
        load_films(tmp_path)


def test_a_film_that_is_not_the_manifests_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path, 1)
    path = tmp_path / "manifest.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines = [lines[0] + ",sha256", *(line + "," + "0" * 64 for line in lines[1:])]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(TrainingError, match="its sha256 differs"):
        load_films(tmp_path)


def test_the_same_film_in_two_splits_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path)
    (tmp_path / "test" / "NORMAL" / "copy.png").write_bytes((tmp_path / "train" / "NORMAL" / "0.png").read_bytes())
    with pytest.raises(TrainingError, match="are the same film"):
        load_films(tmp_path)


def test_a_manifest_in_another_encoding_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path, 1)
    path = tmp_path / "manifest.csv"
    path.write_bytes(path.read_bytes() + "München.png,NORMAL,p,train,one\n".encode("latin-1"))
    with pytest.raises(TrainingError, match="not CSV in UTF-8"):
        load_films(tmp_path)


def test_an_empty_class_is_refused_by_name(tmp_path: Path) -> None:
    films = load_films(write_manifest(tmp_path, 2, splits=("train", "val")))
    with pytest.raises(TrainingError, match="'test' has no NORMAL film"):
        films.of("test")


def test_unknown_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="is not a folder"):
        load_films(tmp_path / "lost")
    with pytest.raises(TrainingError, match=r"neither a manifest\.csv nor a folder train/"):
        load_films(tmp_path)
    write_tree(tmp_path)
    (tmp_path / "val" / "COVID").mkdir()
    with pytest.raises(TrainingError, match="named NORMAL and PNEUMONIA"):
        load_films(tmp_path)


def test_a_damaged_film_is_named_when_it_is_read(tmp_path: Path) -> None:
    write_manifest(tmp_path, 1)
    (tmp_path / "train-NORMAL-0.png").write_bytes(b"no film")
    with pytest.raises(TrainingError, match=r"train-NORMAL-0\.png: UNKNOWN_FORMAT"):
        load_films(tmp_path).of("train")[0].read()
