"""Three classes all the way: from labels to the model, its replies and its report."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, roc_auc_score

from cxr.model.spec import ModelSpec
from cxr.predict import Predictor
from cxr.serving.card import model_card, read_metrics
from cxr.serving.metrics import BatchMetrics
from cxr.serving.record import PredictionRecord
from cxr.serving.reply import ModelIdentity
from cxr.serving.self_check import check_golden, golden_answers
from cxr.serving.service import BatchService, IncomingRequest
from cxr_client import Decision
from cxr_training.data.records import load_films
from cxr_training.errors import TrainingError
from pneumoscan.score.rows import Reply, Scorer, row_of
from tests.commands import run_command
from tests.cxr_training.folders import write_manifest
from tests.films import Grey, film

CLASSES = ("NORMAL", "BACTERIAL", "VIRAL")
ARGUMENTS = ["--weights", "random", "--arch", "resnet10", "--size", "64", "--epochs", "40", "--views", "0"]


pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(label: str, seed: int) -> Grey:
    """A film; one of BACTERIAL has a fine chequered patch on one side, one of VIRAL stripes all over."""
    pixels = film(seed, 72, 64).copy()
    if label == "BACTERIAL":
        chequers = np.indices((28, 28)).sum(axis=0) // 3 % 2 * 110
        pixels[20:48, 4:32] = np.clip(pixels[20:48, 4:32] // 2 + chequers, 0, 255)
    elif label == "VIRAL":
        pixels = np.clip(pixels // 2 + np.indices(pixels.shape)[0] % 6 // 3 * 90, 0, 255).astype(np.uint8)
    return pixels


def write_causes(folder: Path, per_class: int = 16) -> Path:
    folder.mkdir(parents=True)
    rows = []
    for s, split in enumerate(("train", "val", "test")):
        for c, label in enumerate(CLASSES):
            for i in range(per_class):
                name = f"{split}-{label}-{i}.png"
                Image.fromarray(drawn(label, 1000 * s + 100 * c + i)).save(folder / name)
                rows.append([name, label, name, split, ("one", "two")[i % 2]])
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["file", "label", "patient_id", "split", "source"], *rows])
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data folder of three classes, and a run that went all the way on it."""
    folder = tmp_path_factory.mktemp("classes")
    data, run = write_causes(folder / "data"), folder / "runs" / "first"
    common = ["--data", str(data), "--run", str(run)]
    assert run_command("train", [*common, *ARGUMENTS]) == 0
    assert run_command("calibrate", common) == 0
    assert run_command("export", ["--run", str(run)]) == 0
    assert run_command("evaluate", [*common, "--bootstrap", "200"]) == 0
    assert run_command("audit", [*common, "--bootstrap", "200"]) == 0
    assert run_command("card", ["--run", str(run)]) == 0
    return data, run


@pytest.fixture(scope="module")
def rows(folders: tuple[Path, Path]) -> list[dict[str, str]]:
    """What evaluation noted of each film."""
    with (folders[1] / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_classes_are_those_of_the_labels_and_all_but_normal_are_positive(folders: tuple[Path, Path]) -> None:
    spec = ModelSpec.load(folders[1])
    assert (spec.classes, spec.positive) == (CLASSES, CLASSES[1:])
    assert spec.cam_zero == "decision"


def test_the_model_tells_the_three_apart_and_the_table_holds_what_it_said(rows: list[dict[str, str]]) -> None:
    assert len(rows) == 48
    assert np.mean([row["label"] == row["predicted"] for row in rows]) > 0.8
    for row in rows:
        together = sum(float(row[f"probability_{name}"]) for name in CLASSES[1:])
        assert float(row["probability_positive"]) == pytest.approx(together, abs=2e-6)
        assert (row["is_positive"] == "true") == (row["label"] != "NORMAL")
        assert (row["called_positive"] == "true") == (row["predicted"] != "NORMAL")


def test_the_report_has_the_confusion_matrix_and_each_class_against_the_rest(
    folders: tuple[Path, Path], rows: list[dict[str, str]]
) -> None:
    metrics = json.loads((folders[1] / "metrics.json").read_text(encoding="utf-8"))
    labels, called = (np.array([row[column] for row in rows]) for column in ("label", "predicted"))
    found = metrics["classes"]
    assert found["confusion"] == confusion_matrix(labels, called, labels=CLASSES).tolist()
    assert found["accuracy"] == pytest.approx(np.mean(labels == called))
    for name in CLASSES:
        truth = labels == name
        one = found["one_vs_rest"][name]
        assert (one["films"], one["patients"]) == (16, 16)
        assert one["auroc"] == pytest.approx(roc_auc_score(truth, [float(row[f"probability_{name}"]) for row in rows]))
        assert one["sensitivity"] == pytest.approx(np.mean(called[truth] == name))
        assert one["specificity"] == pytest.approx(np.mean(called[~truth] != name))
    assert metrics["overall"]["positive"] == 32
    report = (folders[1] / "report.md").read_text(encoding="utf-8")
    assert "| true | called NORMAL | called BACTERIAL | called VIRAL | films |" in report


@pytest.mark.parametrize("page", ["report.md", "model-card.md", "audit.md", "errors.md"])
def test_pages_speak_of_these_classes(folders: tuple[Path, Path], page: str) -> None:
    text = (folders[1] / page).read_text(encoding="utf-8")
    assert "PNEUMONIA" not in text
    assert "BACTERIAL or VIRAL" in text


@pytest.fixture(scope="module")
def service(folders: tuple[Path, Path]) -> BatchService:
    loaded = Predictor.load(folders[1], "cpu")
    return BatchService(loaded, ModelIdentity.of(loaded.spec, "pneumonia", "1.0.0"))


def ask(service: BatchService, data: bytes, **headers: str) -> Any:
    (reply,) = service.answer([IncomingRequest({"body": data}, headers, "id")])
    return json.loads(reply.body)


def test_a_server_answers_as_the_evaluation_did(
    folders: tuple[Path, Path], rows: list[dict[str, str]], service: BatchService
) -> None:
    for row in rows[::7]:
        data = (folders[0] / row["file"]).read_bytes()
        body = ask(service, data, **{"Cxr-Target": "contrast", "Cxr-View": "PA"})
        decided = Decision.of(body)
        assert body["label"] == row["predicted"]
        assert decided.positive == CLASSES[1:]
        assert decided.is_positive == (row["called_positive"] == "true")
        assert decided.probability == pytest.approx(float(row["probability_positive"]), abs=1e-5)
        assert (np.mean(body["cam"]["grid"]) > 0) == decided.is_positive
        of_label = ask(service, data, **{"Cxr-Target": body["label"], "Cxr-View": "PA"})["cam"]
        assert np.mean(of_label["grid"]) + of_label["bias"] == pytest.approx(body["logits"][body["label"]], abs=1e-4)
        scored = row_of("film.png", Reply(200, body), Scorer("torch-float32", "1.0.0", "0" * 64))
        assert (scored.label, scored.probability) == (body["label"], decided.probability)


def test_a_trial_and_the_record_of_predictions_have_the_probability_that_decides(
    folders: tuple[Path, Path], service: BatchService, tmp_path: Path
) -> None:
    recording = BatchService(service.predictor, service.identity, record=PredictionRecord(tmp_path))
    data = (folders[0] / "test-VIRAL-0.png").read_bytes()
    (reply,) = recording.answer([IncomingRequest({"body": data}, {"Cxr-View": "PA"}, "id")])
    probability = Decision.of(json.loads(reply.body)).probability
    assert f"p={probability:.6f};" in reply.answer
    (written,) = tmp_path.iterdir()
    assert json.loads(written.read_text(encoding="utf-8"))["score"] == probability


def test_a_target_is_a_class_of_this_model(folders: tuple[Path, Path], service: BatchService) -> None:
    data = (folders[0] / "test-VIRAL-0.png").read_bytes()
    problem = ask(service, data, **{"Cxr-Target": "PNEUMONIA"})
    assert problem["code"] == "BAD_OPTION"
    assert "NORMAL, BACTERIAL, VIRAL, contrast" in problem["detail"]


def test_what_is_counted_has_the_labels_of_this_model(folders: tuple[Path, Path], service: BatchService) -> None:
    measured = BatchMetrics.zeros(service.predictor.spec.classes)
    data = (folders[0] / "test-VIRAL-0.png").read_bytes()
    service.answer([IncomingRequest({"body": data}, {"Cxr-View": "PA"}, "id")], measured)
    counted = {labels[0]: films for (name, labels), films in measured.counts.items() if name == "cxr_predictions_total"}
    assert {*counted} == {*CLASSES}
    assert sum(counted.values()) == 1


def test_golden_films_hold_every_class(folders: tuple[Path, Path], service: BatchService, tmp_path: Path) -> None:
    data = (folders[0] / "test-VIRAL-1.png").read_bytes()
    answers = golden_answers(service.predictor, {"one.png": data})
    assert {f"probability_{name}" for name in CLASSES} < answers["one.png"].keys()
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "one.png").write_bytes(data)
    packed = {service.predictor.engine.name: answers, "torch-float32": answers}
    (tmp_path / "golden" / "answers.json").write_text(json.dumps(packed), encoding="utf-8")
    check_golden(service.predictor, tmp_path)


def test_the_card_names_the_classes_and_the_group(folders: tuple[Path, Path]) -> None:
    spec = ModelSpec.load(folders[1])
    card = model_card(spec, {}, read_metrics(folders[1], spec))
    assert (card["classes"], card["positive"]) == ([*CLASSES], [*CLASSES[1:]])


def test_two_models_of_three_classes_are_compared(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = map(str, folders)
    assert run_command("compare", ["--first", run, "--second", run, "--data", data, "--bootstrap", "100"]) == 0
    shown = capsys.readouterr().out
    assert "+0.000" in shown
    assert all(f"| {name} |" in shown for name in CLASSES)


def test_a_model_is_not_measured_on_films_of_other_classes(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="label is 'PNEUMONIA': known are NORMAL, BACTERIAL, VIRAL, OTHER"):
        load_films(write_manifest(tmp_path / "two", 4), ModelSpec.load(folders[1]).scheme)


def test_boxes_are_for_two_classes(folders: tuple[Path, Path], tmp_path: Path) -> None:
    command = ["--data", str(folders[0]), "--run", str(tmp_path / "run"), *ARGUMENTS, "--boxes"]
    assert run_command("train", command) != 0


def test_other_can_be_a_class_and_the_group_be_named(tmp_path: Path) -> None:
    folder = write_manifest(tmp_path, 6)
    path = folder / "manifest.csv"
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    changed = [line.replace(",NORMAL,", ",OTHER,") if "-NORMAL-5" in line else line for line in lines]
    path.write_text("\n".join([head, *changed]), encoding="utf-8")
    films = load_films(folder).with_others("class")
    assert films.scheme.classes == ("NORMAL", "OTHER", "PNEUMONIA")
    assert films.scheme.positive == ("PNEUMONIA",)
    assert (films.ignored, films.others) == (0, ())
    assert {record.label: record.target for record in films.of("val")} == {"NORMAL": 0, "OTHER": 1, "PNEUMONIA": 2}
    assert load_films(folder, films.scheme).with_others("class").digest() == films.digest()
    path.write_text("\n".join([head, *(line.replace(",OTHER,", ",COVID,") for line in changed)]), encoding="utf-8")
    assert load_films(folder).scheme.positive == ("COVID", "PNEUMONIA")
    assert load_films(folder, positive=["COVID"]).scheme.classes == ("NORMAL", "PNEUMONIA", "COVID")
    with pytest.raises(TrainingError, match="FLU"):
        load_films(folder, positive=["FLU"])
