"""Every file that the pipeline writes, damaged in every way: told in one line, or made again, never another result."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from cxr.engines.openvino import adds_int8_exactly
from cxr.model.spec import sha256_of
from cxr_training.fit.resume import STATE_FILE, Unfinished
from tests.commands import run_command
from tests.cxr_training.folders import write_manifest

Damage = Callable[[bytes], bytes]
NETWORK: Final = ("--weights", "random", "--arch", "resnet10", "--size", "64", "--device", "cpu", "--epochs", "3")


def flipped(data: bytes) -> bytes:
    """One bit in the middle, where the values are."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


DAMAGES: Final[dict[str, Damage]] = {
    "one flipped bit": flipped,
    "a cut tail": lambda data: data[: -len(data) // 3],
    "a cut tail made long again": lambda data: (
        data[: -len(data) // 3] + bytes(len(data) - len(data[: -len(data) // 3]))
    ),
    "zeros in the middle": lambda data: data[: len(data) // 3] + bytes(len(data) // 3) + data[2 * (len(data) // 3) :],
    "nothing": lambda _: b"",
    "garbage": lambda data: bytes(range(256)) * (len(data) // 256 + 1),
}
# One of them always, the others where there is time.
EACH: Final = [pytest.param(name, marks=[pytest.mark.slow] if number else []) for number, name in enumerate(DAMAGES)]


@dataclass(frozen=True)
class Model:
    """A run that is calibrated, exported and evaluated, with its films."""

    data: Path
    run: Path

    def step(self, name: str, *more: str) -> int:
        films = [] if name in ("export", "pack", "card") else ["--data", str(self.data)]
        return run_command(name, ["--run", str(self.run), *films, *more])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("made")
    model = Model(write_manifest(folder / "data", 12), folder / "runs" / "one")
    engines = ["--engine", "openvino-int8"] if adds_int8_exactly() else []
    assert model.step("train", *NETWORK) == 0
    assert model.step("quantise", "--films", "4") == 0
    assert model.step("calibrate", "--device", "cpu", "--engine", "openvino-float32", *engines) == 0
    assert model.step("export") == 0
    assert model.step("evaluate", "--device", "cpu") == 0
    return model


@pytest.fixture
def model(made: Model, tmp_path: Path) -> Model:
    """A copy to damage."""
    shutil.copytree(made.data, tmp_path / "data")
    shutil.copytree(made.run.parent, tmp_path / "runs")
    return Model(tmp_path / "data", tmp_path / "runs" / "one")


def told(status: int, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """A command that ended with one line which names the file and what to run."""
    *_, line = capsys.readouterr().err.splitlines()
    assert status == 2, line
    assert line.startswith("pneumoscan ")
    assert name in line
    assert "again" in line or "run pneumoscan" in line or "train" in line, line


# By file, the step that reads it first.
READ_BY: Final = {
    "run.json": ("export",),
    "checkpoint.pth": ("calibrate", "--device", "cpu"),
    "calibration.json": ("export",),
    "model.json": ("pack", "--version", "1.0.0"),
    "model.pth": ("pack", "--version", "1.0.0"),
    "metrics.json": ("card",),
    "int8.xml": ("calibrate", "--device", "cpu", "--engine", "openvino-int8"),
    "int8.bin": ("calibrate", "--device", "cpu", "--engine", "openvino-int8"),
}


@pytest.mark.parametrize("damage", EACH)
@pytest.mark.parametrize("name", READ_BY)
def test_a_damaged_file_of_a_run_is_told(
    name: str, damage: str, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name.startswith("int8") and not adds_int8_exactly():
        pytest.skip("this processor has no VNNI")
    path = model.run / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    step, *more = READ_BY[name]
    store = ["--store", str(tmp_path / "store")] if step == "pack" else []
    told(model.step(step, *more, *store), capsys, name)
    assert not (tmp_path / "store").exists() or not list((tmp_path / "store").iterdir())


EDITS: Final = {
    "run.json": ("pretrained", "imagenet", ("export",)),
    "calibration.json": ("temperature", 1.25, ("export",)),
    "model.json": ("temperature", 1.25, ("pack", "--version", "1.0.0", "--store", "store")),
    "metrics.json": ("threshold", 0.25, ("card",)),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_file_that_was_edited_by_hand_is_told(
    name: str, model: Model, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    key, value, (step, *more) = EDITS[name]
    values = json.loads((model.run / name).read_bytes())
    assert values[key] != value
    (model.run / name).write_text(json.dumps({**values, key: value}, indent=2), encoding="utf-8")
    told(model.step(step, *more), capsys, name)


def test_a_spec_of_another_calibration_is_not_packed(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = model.data / "manifest.csv"
    rows = [row for row in csv.reader(manifest.read_text().splitlines()) if row[0] != "val-NORMAL-0.png"]
    with manifest.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    assert model.step("calibrate", "--device", "cpu", "--engine", "openvino-float32") == 0
    told(model.step("pack", "--version", "1.0.0", "--store", str(tmp_path / "store")), capsys, "calibration.json")


@pytest.mark.parametrize("damage", EACH)
def test_damaged_predictions_are_compared_with_nobody(
    damage: str, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model.run / "predictions.csv"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    both = ["--first", str(model.run), "--second", str(model.run)]
    status = run_command("compare", [*both, "--data", str(model.data), "--out", str(tmp_path)])
    told(status, capsys, "predictions.csv")


def train_again(model: Model) -> str:
    """The weights that the same training gives on the features as they lie there."""
    other = model.run.with_name("other")
    words = ["--data", str(model.data), "--run", str(other), "--force", *NETWORK]
    assert run_command("train", words) == 0
    return sha256_of(other / "checkpoint.pth")


@pytest.mark.parametrize("damage", EACH)
@pytest.mark.parametrize("ending", ["rows", "films", "sums"])
def test_damaged_features_are_made_again(ending: str, damage: str, model: Model) -> None:
    tables = list((model.run.parent / ".features").glob(f"*.{ending}"))
    assert tables
    for path in tables:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert train_again(model) == sha256_of(model.run / "checkpoint.pth")


def test_features_of_one_film_in_the_place_of_another_are_made_again(model: Model) -> None:
    for path in (model.run.parent / ".features").glob("*.films"):
        data = path.read_bytes()
        path.write_bytes(data[32:64] + data[:32] + data[64:])
    assert train_again(model) == sha256_of(model.run / "checkpoint.pth")


@pytest.mark.parametrize("damage", EACH)
def test_a_damaged_state_of_a_training_is_told(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = write_manifest(tmp_path / "data", 4), tmp_path / "runs" / "one"
    with pytest.MonkeyPatch.context() as patch:
        save = Unfinished.save

        def stop(self: Unfinished, state: object) -> None:
            save(self, state)  # type: ignore[arg-type]
            raise KeyboardInterrupt

        patch.setattr(Unfinished, "save", stop)
        words = ["--data", str(data), "--run", str(run), *NETWORK, "--trainable", "layer4", "--save-every", "0"]
        assert run_command("train", words) == 1
    state = run / STATE_FILE
    state.write_bytes(DAMAGES[damage](state.read_bytes()))
    capsys.readouterr()
    assert run_command("train", [*words, "--resume"]) == 2
    assert f"{STATE_FILE} cannot be read" in capsys.readouterr().err


def test_a_film_that_changes_after_it_was_listed_is_told_and_poisons_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cxr_training.data import records

    data, run = write_manifest(tmp_path / "data", 4), tmp_path / "runs" / "one"
    film, other = data / "train-NORMAL-0.png", data / "train-PNEUMONIA-1.png"
    before = film.read_bytes()
    words = ["--data", str(data), "--run", str(run), *NETWORK]
    real = records.load_films

    def then_swapped(folder: Path, **given: Any) -> records.Films:
        films = real(folder, **given)
        film.write_bytes(other.read_bytes())
        return films

    with monkeypatch.context() as patch:
        patch.setattr(records, "load_films", then_swapped)
        assert run_command("train", words) == 2
    assert f"{film} was changed" in capsys.readouterr().err
    film.write_bytes(before)
    assert run_command("train", [*words, "--force"]) == 0
    clean = run.with_name("clean")
    assert (
        run_command("train", ["--data", str(data), "--run", str(clean), "--cache", str(tmp_path / "c"), *NETWORK]) == 0
    )
    assert sha256_of(run / "checkpoint.pth") == sha256_of(clean / "checkpoint.pth")
