"""A whole run on a small network: what it reads, what it leaves, what it refuses."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import resnet50

from cxr.model.network import build, read_state_dict
from cxr.model.spec import SPEC_FILE, ModelSpec
from cxr.predict import Predictor
from cxr_training import export, train
from cxr_training.data.records import load_films
from cxr_training.errors import TrainingError
from cxr_training.fit.settings import HeadSettings, TrainSettings
from cxr_training.runs import RunRecord
from tests.commands import run_command
from tests.cxr_training.folders import write_manifest

SETTINGS = TrainSettings(weights="random", arch="resnet10", size=64, head=HeadSettings(epochs=20), seed=3)
ARGUMENTS = ["--weights", "random", "--arch", "resnet10", "--size", "64", "--epochs", "20", "--seed", "3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_manifest(tmp_path_factory.mktemp("data"), 10)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: trained, calibrated, exported, evaluated."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert run_command("train", ["--data", str(data), "--run", str(folder), *ARGUMENTS]) == 0
    assert run_command("calibrate", ["--data", str(data), "--run", str(folder)]) == 0
    assert run_command("export", ["--run", str(folder)]) == 0
    assert run_command("evaluate", ["--data", str(data), "--run", str(folder)]) == 0
    return folder


def test_a_run_leaves_everything_a_reader_looks_for(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names - {"errors"} == {  # there only where the model errs
        "run.json",
        "checkpoint.pth",
        "history.csv",
        "history.png",
        "augmentations.png",
        "calibration.json",
        "model.pth",
        "model.json",
        "metrics.json",
        "predictions.csv",
        "report.md",
        "report.html",
        "errors.md",
        "roc.png",
        "pr.png",
        "reliability.png",
        "confusion.png",
    }


def test_the_state_dict_has_torchvisions_keys_and_the_head_once(run: Path) -> None:
    state = torch.load(run / "model.pth", weights_only=True)
    assert list(state) == list(build("resnet10", 2).state_dict())
    assert state["fc.weight"].shape == (2, 512)


def test_the_exported_model_is_the_checkpoint_with_its_calibration(run: Path) -> None:
    spec = ModelSpec.load(run)
    calibration = json.loads((run / "calibration.json").read_text(encoding="utf-8"))
    assert spec.temperature == calibration["temperature"]
    assert spec.operating_points == calibration["operating_points"]
    assert spec.operating_point == "youden"
    assert spec.pretrained == "random"
    assert spec.training["seed"] == 3
    state, checkpoint = read_state_dict(run / "model.pth"), read_state_dict(run / "checkpoint.pth")
    assert all(torch.equal(tensor, checkpoint[name]) for name, tensor in state.items())


def test_the_figures_are_those_of_the_predictor_on_the_test_films(run: Path, data: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    records = load_films(data).of("test")
    predictions = Predictor.load(run, "cpu").predict([record.read() for record in records])
    right = np.mean([one.label == record.label for one, record in zip(predictions, records, strict=True)])
    assert metrics["overall"]["accuracy"] == pytest.approx(right)
    assert metrics["overall"]["films"] == 20
    assert set(metrics["groups"]) == {"source=one", "source=two"}
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for row, one in zip(rows, predictions, strict=True):
        assert float(row["probability_PNEUMONIA"]) == pytest.approx(one.probabilities[1], abs=1e-5)


def test_the_report_says_where_the_weights_came_from(run: Path) -> None:
    report = (run / "report.md").read_text(encoding="utf-8")
    assert "random numbers" in report
    assert "Not a diagnosis" in report
    assert all((run / name).is_file() for name in re.findall(r"\((\w+\.png)\)", report))


def test_training_does_not_open_a_test_film(tmp_path: Path) -> None:
    write_manifest(tmp_path / "data", 4)
    films = load_films(tmp_path / "data")
    for record in films.records:
        if record.split == "test":
            record.file.write_bytes(b"whoever reads this fails")
    train.train(films, tmp_path / "run", SETTINGS, device="cpu")
    assert (tmp_path / "run" / "checkpoint.pth").is_file()


def test_the_same_settings_give_the_same_weights(data: Path, run: Path, tmp_path: Path) -> None:
    record = train.train(load_films(data), tmp_path / "again", SETTINGS, device="cpu")
    first = read_state_dict(run / "checkpoint.pth")
    second = read_state_dict(tmp_path / "again" / "checkpoint.pth")
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-5, rtol=1e-4)
    assert record.result["best_epoch"] == RunRecord.load(run).result["best_epoch"]


def test_a_finished_run_stands_and_is_not_overwritten(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "checkpoint.pth").stat().st_mtime_ns
    base = ["--data", str(data), "--run", str(run), *ARGUMENTS]
    left = run / ".history.png.1.partial"
    left.touch()  # as a kill in the middle of a write would
    assert run_command("train", [*base, "--resume"]) == 0
    assert not left.exists()
    assert "already holds this run" in capsys.readouterr().out
    assert run_command("train", base) == 2
    assert run_command("train", [*base, "--resume", "--epochs", "7"]) == 2
    assert "--force" in capsys.readouterr().err
    assert (run / "checkpoint.pth").stat().st_mtime_ns == before


def test_a_state_dict_of_another_program_can_be_the_start(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    source = build("resnet10", 1000)  # another head: it is replaced
    torch.save(source.state_dict(), tmp_path / "mine.pth")
    settings = TrainSettings(weights=str(tmp_path / "mine.pth"), arch="resnet10", size=64, views=0)
    record = train.train(load_films(data), tmp_path / "run", settings, device="cpu")
    trained = read_state_dict(tmp_path / "run" / "checkpoint.pth")
    for name, tensor in source.state_dict().items():
        if not name.startswith("fc."):  # the frozen part, BatchNorm statistics included, is untouched
            assert torch.equal(trained[name], tensor), name
    assert record.pretrained == "file:mine.pth"
    assert record.settings["weights"] == "mine.pth"  # no path of the training machine travels with the model


def test_other_weights_of_the_same_name_are_another_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--data", str(data), "--run", str(tmp_path / "run"), "--arch", "resnet10", "--size", "64", "--views", "0"]
    for folder, seed in (("one", 1), ("two", 2)):
        torch.manual_seed(seed)
        (tmp_path / folder).mkdir()
        torch.save(build("resnet10", 2).state_dict(), tmp_path / folder / "m.pth")
    one, two = str(tmp_path / "one" / "m.pth"), str(tmp_path / "two" / "m.pth")
    assert run_command("train", [*base, "--epochs", "1", "--weights", one]) == 0
    assert run_command("train", [*base, "--epochs", "1", "--weights", one, "--resume"]) == 0
    assert run_command("train", [*base, "--epochs", "1", "--weights", two, "--resume"]) == 2
    assert "already holds a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "lost.pth"], "lost.pth is missing"),
        (["--device", "cuda:77"], "GPU|invalid|device"),
        (["--data", "lost-folder"], "lost-folder is not a folder"),
        (["--learning-rate", "-1"], "learning rate is -1"),
        (["--learning-rate", "nan"], "learning rate is nan"),
        (["--seed", "-1"], "seed is -1"),
        (["--max-degrees", "nan"], "max degrees is nan"),
        (["--run", "/dev/null/run"], "/dev/null is not a directory"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    data: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--device" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    base = ["--data", str(data), "--run", str(tmp_path / "run"), "--arch", "resnet10", "--size", "64"]
    assert run_command("train", [*base, "--weights", "random", *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_steps_out_of_order_say_which_comes_first(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "nothing"
    assert run_command("calibrate", ["--data", str(data), "--run", str(run)]) == 2
    assert "train one with pneumoscan train" in capsys.readouterr().err
    assert run_command("export", ["--run", str(run)]) == 2
    assert "train one with pneumoscan train" in capsys.readouterr().err
    assert run_command("evaluate", ["--data", str(data), "--run", str(run)]) == 2
    assert "run pneumoscan export" in capsys.readouterr().err


def test_a_calibration_of_another_checkpoint_is_refused(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train.train(load_films(data), run, SETTINGS, device="cpu")
    assert run_command("calibrate", ["--data", str(data), "--run", str(run)]) == 0
    torch.save(build("resnet10", 2).state_dict(), run / "checkpoint.pth")
    with pytest.raises(TrainingError, match="damaged or of another training"):
        export.export(run)
    record = dataclasses.replace(RunRecord.load(run), checkpoint_sha256="")  # of before it was noted
    (run / "run.json").write_text(record.to_json(), encoding="utf-8")
    with pytest.raises(TrainingError, match="belongs to another checkpoint"):
        export.export(run)


def test_a_new_training_takes_the_old_model_out_of_the_run(data: Path, tmp_path: Path) -> None:
    old = {"model.json", "calibration.json", "metrics.json", "audit.json", "model-card.md", "model-card.html"}
    for name in ("run.json", *old):
        (tmp_path / name).write_text("of an older training", encoding="utf-8")
    train.train(load_films(data), tmp_path, SETTINGS, cache=tmp_path / "cache", device="cpu")
    left = {path.name for path in tmp_path.iterdir()}
    assert {"run.json", "checkpoint.pth"} <= left
    assert not old & left  # nothing to pack until it is exported


def test_safetensors_hold_the_same_model(run: Path, data: Path, tmp_path: Path) -> None:
    for name in ("run.json", "checkpoint.pth", "calibration.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    spec = export.export(tmp_path, "safetensors")
    assert (tmp_path / SPEC_FILE).is_file()
    assert spec.weights_file == "model.safetensors"
    films = [record.read() for record in load_films(data).of("val")[:3]]
    for one, two in zip(
        Predictor.load(run, "cpu").predict(films), Predictor.load(tmp_path, "cpu").predict(films), strict=True
    ):
        np.testing.assert_array_equal(one.logits, two.logits)


def test_weights_of_another_architecture_are_refused(tmp_path: Path, data: Path) -> None:
    torch.save(resnet50().state_dict(), tmp_path / "r50.pth")
    settings = TrainSettings(weights=str(tmp_path / "r50.pth"), arch="resnet10", size=64)
    with pytest.raises(TrainingError, match=r"r50\.pth"):
        train.train(load_films(data), tmp_path / "run", settings, device="cpu")
