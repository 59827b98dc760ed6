from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cxr_training.data.collections.candidates import years
from cxr_training.data.collections.covid import label_of
from cxr_training.data.prepare import output as prepare_output
from cxr_training.data.records import load_films
from tests.commands import run_command
from tests.cxr_training.folders import write_manifest, write_tree
from tests.films import dicom, encoded, film
from tests.real_films import NEEDS_REAL_FILMS, REAL

FINAL_HEADER = (
    "patientid,offset,sex,age,finding,RT_PCR_positive,survival,intubated,intubation_present,went_icu,in_icu,"
    "needed_supplemental_O2,extubated,temperature,pO2_saturation,leukocyte_count,neutrophil_count,lymphocyte_count,"
    "view,modality,date,location,folder,filename,doi,url,license,clinical_notes,other_notes,"
)
EARLY_HEADER = (
    "Patientid,offset,sex,age,finding,survival,view,date,location,filename,doi, url,license,clinical notes,other notes"
)


def write_csv(path: Path, header: str, rows: Sequence[dict[str, str]]) -> None:
    names = header.split(",")
    lines = [",".join(row.get(name, "") for name in names) for row in rows]
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


def rsna_folder(folder: Path, number: str = "{}.0") -> Path:
    """Twelve studies: four of each class, two boxes on each with an opacity. Box numbers as `number` formats them."""
    (folder / "stage_2_train_images").mkdir(parents=True)
    classes = ("Lung Opacity", "Normal", "No Lung Opacity / Not Normal")
    boxes, infos = [], []
    for n in range(12):
        study, name = f"study-{n:02}", classes[n % 3]
        tags = {"PatientID": study, "PatientName": "Secret^Name", "PatientAge": f"{30 + n:03}Y", "PatientSex": "F"}
        pixels = film(100 + n)
        (folder / "stage_2_train_images" / f"{study}.dcm").write_bytes(dicom(pixels, bits=8, **tags))
        for box in [(4, 5, 20, 30), (40, 6, 21, 31)] if n % 3 == 0 else [None]:
            values = dict(zip(("x", "y", "width", "height"), map(number.format, box), strict=True)) if box else {}
            boxes.append({"patientId": study, "Target": "1" if box else "0", **values})
            infos.append({"patientId": study, "class": name})
    write_csv(folder / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", boxes)
    write_csv(folder / "stage_2_detailed_class_info.csv", "patientId,class", infos)
    return folder


def covid_folder(folder: Path, header: str = FINAL_HEADER) -> Path:
    """Six films to keep, of three patients, and one row for every reason to leave one out."""
    (folder / "images").mkdir(parents=True)
    final = header == FINAL_HEADER
    rows = []

    def add(patient: str, finding: str, path: str, view: str, modality: str = "X-ray", present: bool = True) -> None:
        name = f"film-{len(rows)}.png"
        if present:
            (folder / "images" / name).write_bytes(encoded(film(200 + len(rows))))
        row = {"finding": path if final else finding, "view": view, "filename": name, "age": "50", "sex": "M"}
        if final:
            rows.append({**row, "patientid": patient, "modality": modality, "folder": "images", "license": "CC0"})
        else:
            view = "CT" if modality == "CT" else view
            rows.append({**row, "Patientid": patient, "view": view, " url": "https://example.org"})

    add("1", "COVID-19", "Pneumonia/Viral/COVID-19", "PA")
    add("1", "COVID-19", "Pneumonia/Viral/COVID-19", "AP")
    add("2", "ARDS", "Pneumonia", "AP Supine")
    add("2", "Streptococcus", "Pneumonia/Bacterial/Streptococcus", "AP Erect")
    add("3", "No Finding", "No Finding", "PA")
    add("3", "Pneumocystis", "Pneumonia/Fungal/Pneumocystis", "PA")
    add("4", "COVID-19", "Pneumonia/Viral/COVID-19", "L")
    add("4", "COVID-19", "Pneumonia/Viral/COVID-19", "Axial", "CT")
    add("4", "Tuberculosis", "Tuberculosis", "PA")
    add("4", "SARS", "Pneumonia/Viral/SARS", "PA", present=False)
    add("", "SARS", "Pneumonia/Viral/SARS", "PA")
    (folder / "images" / "stray.png").write_bytes(encoded(film(300)))
    write_csv(folder / "metadata.csv", header, rows)
    return folder


def prepared(capsys: pytest.CaptureFixture[str], out: Path, *arguments: str | Path) -> dict[str, Any]:
    assert run_command("prepare", [str(out), *map(str, arguments), "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def rows_of(out: Path, name: str = "manifest.csv") -> list[dict[str, str]]:
    with (out / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def reasons(report: dict[str, Any]) -> dict[str, int]:
    return {reason: entry["count"] for reason, entry in report["dropped"].items()}


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_no_patient_is_in_two_splits(out: Path) -> None:
    pairs = {(row["patient_id"], row["split"]) for row in rows_of(out)}
    assert len(pairs) == len({patient for patient, _ in pairs})


def test_the_rsna_classes_become_labels_and_tags_become_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = prepared(capsys, tmp_path / "out", "--rsna", rsna_folder(tmp_path / "rsna"))

    rows = rows_of(tmp_path / "out")
    assert Counter(row["label"] for row in rows) == {"PNEUMONIA": 4, "NORMAL": 4, "OTHER": 4}
    assert rows[5]["original_file"] == "rsna/stage_2_train_images/study-05.dcm"
    assert {key: rows[5][key] for key in ("label", "patient_id", "view", "age", "sex", "width", "height")} == {
        **{"label": "OTHER", "patient_id": "rsna:study-05", "view": "PA", "age": "35", "sex": "F"},
        **{"width": "80", "height": "96"},
    }
    films = load_films(tmp_path / "out")
    assert (len(films.records), films.ignored) == (8, 4)
    assert report["boxes"] == {"kept": 8, "outside_their_film": 0}
    written = {name: data for name, data in content(tmp_path / "out").items() if not name.startswith("images/")}
    assert all(b"Secret" not in data for data in written.values())


def test_other_counts_as_normal_where_that_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared(capsys, tmp_path / "out", "--rsna", rsna_folder(tmp_path / "rsna"), "--other", "negative")

    assert Counter(row["label"] for row in rows_of(tmp_path / "out")) == {"PNEUMONIA": 4, "NORMAL": 8}


def test_boxes_are_the_same_from_integers_and_from_floats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared(capsys, tmp_path / "floats", "--rsna", rsna_folder(tmp_path / "rsna-floats"))
    prepared(capsys, tmp_path / "integers", "--rsna", rsna_folder(tmp_path / "rsna-integers", "{}"))

    assert (tmp_path / "floats" / "boxes.csv").read_bytes() == (tmp_path / "integers" / "boxes.csv").read_bytes()
    with_opacity = [row["file"] for row in rows_of(tmp_path / "floats") if row["label"] == "PNEUMONIA"]
    assert [tuple(row.values()) for row in rows_of(tmp_path / "floats", "boxes.csv")] == [
        (file, *numbers) for file in with_opacity for numbers in (("4", "5", "20", "30"), ("40", "6", "21", "31"))
    ]


def test_studies_whose_tables_disagree_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rsna = rsna_folder(tmp_path / "rsna")
    labels, classes = rsna / "stage_2_train_labels.csv", rsna / "stage_2_detailed_class_info.csv"
    text = labels.read_text(encoding="utf-8")
    text = text.replace("study-01,,,,,0", "study-01,,,,,1").replace("study-02,,,,,0", "study-02,1,1,9,9,0")
    labels.write_text(text.replace("40.0,6.0,21.0", "70.0,6.0,21.0", 1), encoding="utf-8")
    text = classes.read_text(encoding="utf-8").replace("study-04,Normal\n", "")
    classes.write_text(text + "study-03,Normal\n", encoding="utf-8")
    (rsna / "stage_2_train_images" / "study-05.dcm").unlink()

    report = prepared(capsys, tmp_path / "out", "--rsna", rsna)

    assert reasons(report) == {"labels_disagree": 3, "not_in_table": 1, "image_missing": 1}
    assert report["dropped"]["labels_disagree"]["first"] == [
        f"rsna/stage_2_train_images/study-{n}.dcm" for n in ("01", "02", "03")
    ]
    assert report["boxes"] == {"kept": 5, "outside_their_film": 1}  # 70 + 21 lies beyond the 80 columns of study 0


def test_the_patient_of_the_tags_joins_studies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rsna = rsna_folder(tmp_path / "rsna")
    for n in range(12):
        path = rsna / "stage_2_train_images" / f"study-{n:02}.dcm"
        path.write_bytes(dicom(film(100 + n), bits=8, PatientID=f"person-{n % 5}"))

    prepared(capsys, tmp_path / "out", "--rsna", rsna)

    assert {row["patient_id"] for row in rows_of(tmp_path / "out")} == {f"rsna:person-{n}" for n in range(5)}
    assert_no_patient_is_in_two_splits(tmp_path / "out")


@pytest.mark.parametrize("header", [FINAL_HEADER, EARLY_HEADER])
def test_both_forms_of_the_covid_table_give_the_same_films(
    header: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = prepared(capsys, tmp_path / "out", "--covid", covid_folder(tmp_path / "covid", header))

    rows = rows_of(tmp_path / "out")
    assert [(row["label"], row["patient_id"], row["view"]) for row in rows] == [
        ("PNEUMONIA", "covid:1", "PA"),
        ("PNEUMONIA", "covid:1", "AP"),
        ("PNEUMONIA", "covid:2", "AP Supine"),
        ("PNEUMONIA", "covid:2", "AP Erect"),
        ("NORMAL", "covid:3", "PA"),
        ("PNEUMONIA", "covid:3", "PA"),
    ]
    dropped = dict.fromkeys(("view", "modality", "finding", "image_missing", "no_patient_id", "not_in_table"), 1)
    assert reasons(report) == dropped
    assert {row["licence"] for row in rows} == {"CC0" if header == FINAL_HEADER else "not stated"}


@pytest.mark.parametrize(
    ("finding", "label"),
    [
        ("Pneumonia/Viral/COVID-19", "PNEUMONIA"),
        ("Pneumonia", "PNEUMONIA"),
        ("COVID-19, ARDS", "PNEUMONIA"),
        ("No Finding", "NORMAL"),
        ("No Finding, COVID-19", None),
        ("Tuberculosis", None),
        ("todo", None),
        ("Unknown", None),
        ("", None),
    ],
)
def test_a_finding_is_pneumonia_nothing_or_of_no_use(finding: str, label: str | None) -> None:
    assert label_of(finding) == label


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("54", "54"),
        ("054Y", "54"),
        ("40-64", "40-64"),
        ("50.0", "50"),
        ("018M", "1"),
        ("151", ""),
        ("Elderly", ""),
        ("", ""),
    ],
)
def test_ages_are_whole_years_or_nothing(text: str, age: str) -> None:
    assert years(text) == age


def test_all_sources_together_give_the_same_bytes_again_in_any_order_of_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rsna, covid = rsna_folder(tmp_path / "rsna"), covid_folder(tmp_path / "covid")
    own = write_manifest(tmp_path / "own", per_class=4)
    sources = ("--rsna", rsna, "--covid", covid, "--folder", own)
    first = prepared(capsys, tmp_path / "first", *sources)
    for path in (*rsna.glob("*.csv"), *covid.glob("*.csv"), *own.glob("*.csv")):
        header, *lines = path.read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join([header, *reversed(lines)]) + "\n", encoding="utf-8")

    prepared(capsys, tmp_path / "second", *sources)

    assert content(tmp_path / "second") == content(tmp_path / "first")
    assert first["films"] == 12 + 6 + 24
    assert first["new"]
    assert_no_patient_is_in_two_splits(tmp_path / "first")
    assert len(load_films(tmp_path / "first").records) == 12 - 4 + 6 + 24
    kept = {
        row["original_file"]: row["split"] for row in rows_of(tmp_path / "first") if row["source"] in ("one", "two")
    }
    assert all(name.removeprefix("folder/").startswith(split) for name, split in kept.items())


def test_images_are_copied_unchanged_under_names_that_tell_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    covid = covid_folder(tmp_path / "covid")
    prepared(capsys, tmp_path / "out", "--covid", covid)

    for row in rows_of(tmp_path / "out"):
        original = covid / row["original_file"].removeprefix("covid/")
        assert (tmp_path / "out" / row["file"]).read_bytes() == original.read_bytes()
        assert row["file"] == f"images/{row['sha256'][:24]}.png"


def test_the_same_exposure_in_two_sources_is_kept_once_and_unites_its_patients(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rsna = rsna_folder(tmp_path / "rsna")
    own = tmp_path / "own"
    own.mkdir()
    (own / "again.png").write_bytes(encoded(film(100)))  # the pixels of study-00
    (own / "compressed.jpg").write_bytes(encoded(film(101), "JPEG", quality=60))  # study-01, a near duplicate
    (own / "wrong.png").write_bytes(encoded(film(103)))  # study-03 under another label
    (own / "more.png").write_bytes(encoded(film(400)))
    (own / "copy.png").write_bytes(encoded(film(400)))
    manifest = (
        "file,label,patient_id,split\n"
        "again.png,PNEUMONIA,a,test\ncompressed.jpg,NORMAL,a,test\nwrong.png,NORMAL,b,train\n"
        "more.png,NORMAL,c,train\ncopy.png,NORMAL,d,val\n"
    )
    (own / "manifest.csv").write_text(manifest, encoding="utf-8")

    report = prepared(capsys, tmp_path / "out", "--rsna", rsna, "--folder", own)

    assert {reason: entry["first"] for reason, entry in report["dropped"].items()} == {
        "duplicate_file": ["folder/more.png (kept: folder/copy.png)"],
        "duplicate_pixels": ["folder/again.png (kept: rsna/stage_2_train_images/study-00.dcm)"],
        "near_duplicate": ["folder/compressed.jpg (kept: rsna/stage_2_train_images/study-01.dcm)"],
        "duplicates_disagree": ["folder/wrong.png", "rsna/stage_2_train_images/study-03.dcm"],
    }
    rows = {row["original_file"].split("/")[-1]: row for row in rows_of(tmp_path / "out")}
    # a has the exposures of study-00 and study-01; c and d are one patient, who was in train and in val
    assert {rows[name]["patient_id"] for name in ("study-00.dcm", "study-01.dcm")} == {"folder:a"}
    assert {rows[name]["split"] for name in ("study-00.dcm", "study-01.dcm")} == {"test"}
    assert (rows["copy.png"]["patient_id"], rows["copy.png"]["split"]) == ("folder:c", "val")
    assert report["patients_united"] == 4  # the studies 0, 1 and 3 with a, a and b; d with c
    load_films(tmp_path / "out")


def test_a_tree_keeps_its_splits_unless_they_are_to_be_made_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = write_tree(tmp_path / "tree", per_class=10)

    report = prepared(capsys, tmp_path / "kept", "--folder", tree)
    prepared(capsys, tmp_path / "anew", "--folder", tree, "--resplit", "--fractions", "0.5/0.25/0.25")

    kept, anew = rows_of(tmp_path / "kept"), rows_of(tmp_path / "anew")
    assert all(row["original_file"].split("/")[1] == row["split"] for row in kept)
    assert Counter((row["split"], row["label"]) for row in anew) == {
        (split, label): count
        for label in ("NORMAL", "PNEUMONIA")
        for split, count in (("train", 15), ("val", 8), ("test", 7))
    }
    assert report["notes"] == ["60 films come from a tree without patients: each counts as a patient of its own."]


def test_class_folders_without_splits_are_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in ("Normal", "Pneumonia"):
        (tmp_path / "tree" / label).mkdir(parents=True)
        for n in range(10):
            (tmp_path / "tree" / label / f"{n}.png").write_bytes(encoded(film(n + 50 * (label == "Normal"))))
    (tmp_path / "tree" / "Normal" / "Thumbs.db").write_bytes(b"no film")
    (tmp_path / "tree" / "Normal" / "short.png").write_bytes(encoded(film(99))[:100])

    report = prepared(capsys, tmp_path / "out", "--folder", tmp_path / "tree")

    assert reasons(report) == {"UNKNOWN_FORMAT": 1, "DAMAGED_IMAGE": 1}
    films = load_films(tmp_path / "out")
    assert {split: len(films.of(split)) for split in ("train", "val", "test")} == {"train": 14, "val": 4, "test": 2}


def test_a_prepared_folder_prepared_again_keeps_films_splits_and_boxes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared(capsys, tmp_path / "one", "--rsna", rsna_folder(tmp_path / "rsna"))
    prepared(capsys, tmp_path / "two", "--folder", tmp_path / "one")

    columns = ("file", "label", "split", "source", "label_source", "view", "age", "sex", "licence", "sha256")
    one, two = (
        {row["file"]: [row[name] for name in columns] for row in rows_of(tmp_path / out)} for out in ("one", "two")
    )
    assert one == two
    assert sorted(rows_of(tmp_path / "one", "boxes.csv"), key=str) == sorted(
        rows_of(tmp_path / "two", "boxes.csv"), key=str
    )


@pytest.mark.parametrize(
    ("table", "header", "row"),
    [
        ("boxes.csv", "file,x,y,width,height", "a.png,4,5,6,7"),
        ("boxes_rsna.csv", "file,patientId,x,y,width,height,Target", "a.png,study,64,80,96,112,1"),
        ("manifest.csv", "", "4 5 6 7"),
    ],
)
def test_own_boxes_are_carried_wherever_they_are_kept(
    table: str, header: str, row: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "a.png").write_bytes(encoded(film(1, 64, 64)))
    text = row if table == "manifest.csv" else ""
    (own / "manifest.csv").write_text(f"file,label,patient_id,boxes\na.png,PNEUMONIA,p,{text}\n", encoding="utf-8")
    if header:
        (own / table).write_text(f"{header}\n{row}\n", encoding="utf-8")

    prepared(capsys, tmp_path / "out", "--folder", own)

    (box,) = rows_of(tmp_path / "out", "boxes.csv")
    assert [box[name] for name in ("x", "y", "width", "height")] == ["4", "5", "6", "7"]


def test_an_identical_earlier_result_is_said_and_another_one_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    covid = covid_folder(tmp_path / "covid")
    out = tmp_path / "out"
    out.mkdir()
    assert run_command("prepare", [str(out), "--covid", str(covid)]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: 6 films of 3 patients (")
    before = content(out)

    assert run_command("prepare", [str(out), "--covid", str(covid)]) == 0
    assert "is there already and identical" in capsys.readouterr().out
    assert run_command("prepare", [str(out), "--covid", str(covid), "--seed", "1", "--json"]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err

    assert content(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["covid", "out"]


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    covid = covid_folder(tmp_path / "covid")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_output, "as_markdown", interrupted)
    assert run_command("prepare", [str(tmp_path / "out"), "--covid", str(covid)]) == 1

    assert [path.name for path in tmp_path.iterdir()] == ["covid"]


def test_a_table_cannot_name_a_file_outside_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = write_manifest(tmp_path / "own", per_class=2)
    (tmp_path / "secret.png").write_bytes(encoded(film(1)))
    with (own / "manifest.csv").open("a", encoding="utf-8") as stream:
        stream.write(f"../secret.png,NORMAL,p,train,\n{tmp_path}/secret.png,NORMAL,p,train,\nnone.png,NORMAL,p,,\n")

    assert reasons(prepared(capsys, tmp_path / "out", "--folder", own)) == {"image_missing": 3}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing to prepare"),
        (("--rsna", "{there}"), "stage_2_detailed_class_info.csv is missing"),
        (("--covid", "{there}/none"), "is not a folder"),
        (("--folder", "{there}"), "rename it"),
        (("--folder", "{there}", "--fractions", "0.5/0.5/0.5"), "add up to 1"),
        (("--folder", "{there}", "--fractions", "nan/1/0"), "add up to 1"),
        (("--folder", "{there}", "--seed", "x"), "invalid int value"),
        (("--folder", "."), "out lies in"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_2(
    arguments: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there" / "CARDIOMEGALY").mkdir(parents=True)

    assert run_command("prepare", ["out", *(argument.format(there="there") for argument in arguments)]) == 2

    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_refused_before_films_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    covid = covid_folder(tmp_path / "covid")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine", encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    assert run_command("prepare", ["out", "--covid", str(covid)]) == 2
    assert run_command("prepare", [".", "--covid", str(covid)]) == 2

    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_where_no_film_is_left_the_reasons_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    covid = covid_folder(tmp_path / "covid")
    shutil.rmtree(covid / "images")

    assert run_command("prepare", [str(tmp_path / "out"), "--covid", str(covid)]) == 2

    assert "no film is left of 11: finding, image_missing, modality" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@NEEDS_REAL_FILMS
def test_the_rsna_sample_is_as_counted_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = prepared(capsys, tmp_path / "out", "--rsna", REAL / "rsna-mini")

    # By reading the two tables: 71 rows each. 40 of the rows with boxes have Target 0 and no numbers, one for each of
    # 20 Normal and 20 No Lung Opacity / Not Normal studies. The other 31 rows are boxes of 20 studies with Lung
    # Opacity: ten with one, nine with two, one (316eed14) with three.
    rows = rows_of(tmp_path / "out")
    assert Counter(row["label"] for row in rows) == {"PNEUMONIA": 20, "NORMAL": 20, "OTHER": 20}
    boxes = Counter(row["file"] for row in rows_of(tmp_path / "out", "boxes.csv"))
    assert Counter(boxes.values()) == {1: 10, 2: 9, 3: 1}
    assert reasons(report) == {}
    assert Counter(row["split"] for row in rows) == {"train": 42, "val": 9, "test": 9}
    assert_no_patient_is_in_two_splits(tmp_path / "out")
    assert load_films(tmp_path / "out").ignored == 20


@NEEDS_REAL_FILMS
@pytest.mark.parametrize(
    ("table", "dropped"),
    [
        # 19 rows. Lateral: the second rows of patients 20, 22 and 28. CT: the third row of 22. Absent: the film of
        # 23. 14 are left: 20, 21, 22, 24 to 30 once each, 31 four times.
        ("metadata.csv", {"view": 3, "modality": 1, "image_missing": 1}),
        # 20 rows: the same without that CT, and two of patient 38 without finding: one film, absent, and one CT.
        ("metadata_2020-03.csv", {"view": 3, "modality": 1, "image_missing": 2}),
    ],
)
def test_the_covid_sample_is_as_counted_by_hand_in_both_forms(
    table: str, dropped: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    covid = tmp_path / "covid"
    covid.mkdir()
    (covid / "images").symlink_to(REAL / "covid-mini" / "images")
    shutil.copy(REAL / "covid-mini" / table, covid / "metadata.csv")

    report = prepared(capsys, tmp_path / "out", "--covid", covid)

    rows = rows_of(tmp_path / "out")
    patients = Counter(int(row["patient_id"].removeprefix("covid:")) for row in rows)
    assert patients == {**dict.fromkeys((20, 21, 22, 24, 25, 26, 27, 28, 29, 30), 1), 31: 4}
    assert {row["label"] for row in rows} == {"PNEUMONIA"}
    assert reasons(report) == dropped
    assert_no_patient_is_in_two_splits(tmp_path / "out")
    # The views of the final table: PA of 20, 22, 28 and day 2 of 31; AP Supine of 25, 27 and 29. The early one: all PA.
    views = {"PA": 4, "AP": 7, "AP Supine": 3} if table == "metadata.csv" else {"PA": 14}
    assert Counter(row["view"] for row in rows) == views


@NEEDS_REAL_FILMS
def test_both_real_samples_together_give_the_same_bytes_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = ("--rsna", REAL / "rsna-mini", "--covid", REAL / "covid-mini")
    report = prepared(capsys, tmp_path / "one", *sources)
    prepared(capsys, tmp_path / "two", *sources)

    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert (report["films"], report["films_dropped"]) == (74, 5)
    assert report["notes"] == [
        "All films of covid-chestxray in a class are PNEUMONIA: a model can learn the source for the class."
    ]
