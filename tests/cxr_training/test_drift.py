"""The drift reference: from validation films into the archive, and never beside other weights."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cxr.model.classes import CLASSES
from cxr.model.spec import ModelSpec, Preprocessing
from cxr.predict import Predictor
from cxr.serving.drift import DRIFT_FILE, Reference, read_reference
from cxr.serving.metrics import SIGNALS
from cxr.serving.reply import ModelIdentity
from cxr.serving.service import BatchService, IncomingRequest
from cxr_training import drift
from cxr_training.data.records import load_films
from cxr_training.measure.scoring import scored_films
from pneumoscan.archive import package
from tests.commands import run_command
from tests.cxr.networks import predictor, save_model
from tests.cxr.references import reference_for
from tests.cxr_training.folders import write_manifest
from tests.films import encoded, film


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that was trained, calibrated and exported, and its films."""
    base = tmp_path_factory.mktemp("drift")
    data = write_manifest(base / "data", 30)
    run = base / "run"
    common = ["--run", str(run), "--data", str(data), "--device", "cpu"]
    small = ["--arch", "resnet10", "--weights", "random", "--epochs", "1", "--size", "64", "--views", "1"]
    assert run_command("train", [*common, *small]) == 0
    assert run_command("calibrate", common) == 0
    assert run_command("export", ["--run", str(run)]) == 0
    return run, data


def test_the_reference_is_what_the_served_model_says_of_the_validation_films(folders: tuple[Path, Path]) -> None:
    run, data = folders
    spec = ModelSpec.load(run)
    reference = read_reference(run, spec)
    assert reference is not None
    assert reference.films == 60
    served = reference_for(Predictor.load(run, "cpu"), [record.read() for record in load_films(data).of("val")])
    for name in SIGNALS:
        np.testing.assert_allclose(reference.signals[name].edges, served.signals[name].edges, rtol=1e-4)
        assert reference.signals[name].counts == served.signals[name].counts


@pytest.mark.parametrize("way", ["exact", "reduced"])
def test_a_worker_finds_in_the_validation_films_what_the_reference_says_of_them(tmp_path: Path, way: str) -> None:
    """The same films through both: every one in the same bin of every signal, however large films are decoded."""
    data = tmp_path / "data"
    for i, label in enumerate(CLASSES * 20):
        path = data / "val" / label / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(film(i, 500 + 10 * (i % 7), 611), "JPEG", quality=90))
    for split in ("train", "test"):
        (data / split).mkdir()
    records = load_films(data).of("val")
    spec = save_model(tmp_path, preprocessing=Preprocessing(size=64, decode=way))
    loaded = predictor(tmp_path)
    films = [*scored_films(loaded, records, whole=False)]
    probabilities = np.array([film.prediction.probabilities[1] for film in films])
    reference = drift.reference_of([drift.signals_of(film) for film in films], probabilities, spec, spec.temperature)
    assert reference is not None
    service = BatchService(loaded, ModelIdentity.of(spec, "pneumonia", "1.0.0"), reference=reference)
    service.answer([IncomingRequest({"body": record.file.read_bytes()}, {}, "id") for record in records])
    assert service.drift is not None
    assert service.drift.counts == {name: reference.signals[name].counts for name in SIGNALS}


def test_the_archive_carries_it_and_one_of_another_model_stays_behind(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = folders
    text = (run / DRIFT_FILE).read_text(encoding="utf-8")
    with zipfile.ZipFile(package(run, "1.0.0", tmp_path)) as packed:
        assert packed.read(DRIFT_FILE).decode() == text
    other = dataclasses.replace(Reference.from_json(text), weights_sha256="0" * 64)
    (run / DRIFT_FILE).write_text(other.to_json(), encoding="utf-8")
    try:
        with zipfile.ZipFile(package(run, "2.0.0", tmp_path)) as packed:
            assert DRIFT_FILE not in packed.namelist()
        assert "of another model and left out" in capsys.readouterr().err
    finally:
        (run / DRIFT_FILE).write_text(text, encoding="utf-8")


def test_weights_in_another_format_keep_it_and_may_go_back(folders: tuple[Path, Path]) -> None:
    run, _ = folders
    digests = set()
    for form in ("safetensors", "pth"):
        assert run_command("export", ["--run", str(run), "--format", form]) == 0
        spec = ModelSpec.load(run)
        digests.add(spec.weights_sha256)
        assert read_reference(run, spec) is not None
    assert len(digests) == 2


def test_a_reference_is_made_anew_from_a_hospitals_own_films(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = folders
    before = (run / DRIFT_FILE).read_text(encoding="utf-8")
    try:
        assert run_command("drift", ["--run", str(run), "--data", str(data), "--split", "test", "--device", "cpu"]) == 0
        assert "60 films" in capsys.readouterr().out
        after = (run / DRIFT_FILE).read_text(encoding="utf-8")
        assert after != before
        assert read_reference(run, ModelSpec.load(run)) == Reference.from_json(after)
    finally:
        (run / DRIFT_FILE).write_text(before, encoding="utf-8")


def test_too_few_films_make_no_reference_and_calibrating_with_them_takes_the_old_one_away(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = folders
    few = write_manifest(tmp_path / "few", 4)
    before = (run / DRIFT_FILE).read_text(encoding="utf-8")
    assert run_command("drift", ["--run", str(run), "--data", str(few), "--device", "cpu"]) == 2
    assert "8 films in split 'val', 30 are needed" in capsys.readouterr().err
    assert (run / DRIFT_FILE).read_text(encoding="utf-8") == before
    common = ["--run", str(run), "--device", "cpu"]
    assert run_command("calibrate", [*common, "--data", str(few)]) == 0
    assert not (run / DRIFT_FILE).exists()
    assert "fewer than 30 validation films, so no reference to see drift by" in capsys.readouterr().out
    assert run_command("calibrate", [*common, "--data", str(data)]) == 0
    assert run_command("export", ["--run", str(run)]) == 0
    assert (run / DRIFT_FILE).read_text(encoding="utf-8") == before
