"""An audit from the command line: what it finds, what it leaves, what it refuses."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from cxr.model.classes import CLASSES
from cxr.model.spec import ModelSpec, sha256_of
from cxr_training import audit
from cxr_training.data.records import load_films
from cxr_training.fit.settings import HeadSettings
from cxr_training.measure.shortcuts import ABOVE, UNCLEAR
from cxr_training.runs import RunRecord, spec_of
from tests.commands import run_command
from tests.cxr_training.marked_films import brightness, corner_mark, nothing, write_films
from tests.cxr_training.pages.test_page import Reader

ARGUMENTS = ["--weights", "random", "--arch", "resnet10", "--size", "64", "--epochs", "20", "--views", "0"]
AUDIT = ["--bootstrap", "300", "--device", "cpu"]


pytestmark = pytest.mark.usefixtures("one_thread")


def trained(data: Path, run: Path) -> Path:
    assert run_command("train", ["--data", str(data), "--run", str(run), *ARGUMENTS]) == 0
    return run


def audited(run: Path, data: Path, *arguments: str) -> dict[str, Any]:
    assert run_command("audit", ["--run", str(run), "--data", str(data), *AUDIT, *arguments]) == 0
    out = Path(arguments[arguments.index("--out") + 1]) if "--out" in arguments else run
    found: dict[str, Any] = json.loads((out / "audit.json").read_text(encoding="utf-8"))
    return found


def readings_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "audit-readings.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model of films whose only difference is a mark in the corner: data and run."""
    folder = tmp_path_factory.mktemp("marked")
    data = write_films(folder / "data", corner_mark)
    return data, trained(data, folder / "runs" / "first")


@pytest.fixture(scope="module")
def found(marked: tuple[Path, Path]) -> dict[str, Any]:
    data, run = marked
    return audited(run, data)


def test_a_mark_in_the_corner_is_found_by_the_border_and_by_the_model_without_a_centre(found: dict[str, Any]) -> None:
    for name in ("border", "model_centre_blanked"):
        assert found["readings"][name]["overall"]["auroc"] > 0.95, name
        assert found["readings"][name]["overall"]["verdict"] == ABOVE, name
        for source in ("source=one", "source=two"):
            assert found["readings"][name]["groups"][source]["auroc"] > 0.9, name
    assert found["readings"]["model_border_blanked"]["overall"]["verdict"] == UNCLEAR
    border = next(words for words in found["plain_words"] if words.startswith("From the border alone"))
    assert "something other than the source is at work" in border


@pytest.mark.slow
def test_films_without_a_mark_give_nothing_away(tmp_path: Path) -> None:
    data = write_films(tmp_path / "data", nothing)
    found = audited(trained(data, tmp_path / "run"), data)
    for name in ("pixels", "border", "model_centre_blanked", "source_alone"):
        overall = found["readings"][name]["overall"]
        assert overall["verdict"] == UNCLEAR, name
        assert overall["auroc_ci"] is None or overall["auroc_ci"][0] <= 0.5 <= overall["auroc_ci"][1], name
    assert found["source_from_features"]["all"]["verdict"] == UNCLEAR
    assert not any("better than chance" in words for words in found["plain_words"])


@pytest.mark.slow
def test_a_source_that_is_darker_is_read_from_the_features_within_each_class(tmp_path: Path) -> None:
    data = write_films(tmp_path / "data", brightness)
    found = audited(trained(data, tmp_path / "run"), data)
    for name in ("all", *CLASSES):
        assert found["source_from_features"][name]["balanced_accuracy"] > 0.9, name
        assert found["source_from_features"][name]["verdict"] == ABOVE, name
    assert any("a head could go by it" in words for words in found["plain_words"])


def test_an_audit_names_its_model_its_films_and_its_resamples(found: dict[str, Any], marked: tuple[Path, Path]) -> None:
    data, run = marked
    assert found["weights_sha256"] == sha256_of(run / "checkpoint.pth")
    assert found["data_sha256"] == found["trained_on_sha256"] == load_films(data).digest()
    assert found["data_sha256"] == RunRecord.load(run).data_sha256
    assert found["bootstrap"] == {"unit": "patient", "level": 0.95, "resamples": 300, "seed": 0}
    assert found["backbone_frozen"] is True
    assert found["sources"] == ["one", "two"]
    assert found["readings"]["model"]["overall"]["films"] == 48


def test_an_exported_run_is_read_as_it_is_served(marked: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = marked
    for name in ("run.json", "checkpoint.pth"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    assert run_command("calibrate", ["--data", str(data), "--run", str(tmp_path)]) == 0
    assert run_command("export", ["--run", str(tmp_path), "--format", "safetensors"]) == 0
    found = audited(tmp_path, data, "--cache", str(run.parent / ".features"))
    assert found["weights_sha256"] == ModelSpec.load(tmp_path).weights_sha256
    assert not (tmp_path.parent / ".features").exists()


def test_the_page_is_one_file_and_its_pictures_are_there(found: dict[str, Any], marked: tuple[Path, Path]) -> None:
    _, run = marked
    page = (run / "audit.html").read_text(encoding="utf-8")
    reader = Reader(page)
    assert len(reader.links) == 2
    assert all(link.startswith("data:image/png;base64,") for link in reader.links)
    words = " ".join(reader.words)
    assert all(sentence in words for sentence in found["plain_words"])
    assert "Not a diagnosis" in words
    markdown = (run / "audit.md").read_text(encoding="utf-8")
    pictures = re.findall(r"\(([\w-]+\.png)\)", markdown)
    assert pictures == ["audit-views.png", "audit-auroc.png"]
    assert all((run / name).is_file() for name in pictures)
    assert {path.name for path in run.glob("*audit*")} == {
        "audit.json",
        "audit.md",
        "audit.html",
        "audit-readings.csv",
        "audit-views.png",
        "audit-auroc.png",
    }


def test_the_same_seed_gives_the_same_audit(found: dict[str, Any], marked: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = marked
    again = audited(run, data, "--out", str(tmp_path / "again"))
    assert again == found
    assert (tmp_path / "again" / "audit.json").read_bytes() == (run / "audit.json").read_bytes()


@pytest.mark.slow
def test_labels_of_the_test_films_are_measured_on_and_never_fitted(
    found: dict[str, Any], marked: tuple[Path, Path], tmp_path: Path
) -> None:
    data, run = marked
    turned = tmp_path / "data"
    turned.mkdir()
    for path in data.glob("*.png"):
        (turned / path.name).write_bytes(path.read_bytes())
    rows = (data / "manifest.csv").read_text(encoding="utf-8").splitlines()
    swap = {CLASSES[0]: CLASSES[1], CLASSES[1]: CLASSES[0]}
    lines = [row.split(",") for row in rows]
    text = "\n".join(
        ",".join([line[0], swap[line[1]], *line[2:]] if line[3] == "test" and i % 3 else line)  # two in three
        for i, line in enumerate(lines)
    )
    (turned / "manifest.csv").write_text(text + "\n", encoding="utf-8")
    other = audited(run, turned, "--out", str(tmp_path / "out"), "--cache", str(run.parent / ".features"))
    before, after = readings_of(run), readings_of(tmp_path / "out")
    assert [row["label"] for row in before] != [row["label"] for row in after]
    order = {row["file"]: row for row in after}
    for row in before:
        label, others = row.pop("label"), order[row["file"]]
        assert label in CLASSES
        assert row == {name: value for name, value in others.items() if name != "label"}
    assert other["strengths"] == found["strengths"]
    assert other["readings"]["border"]["overall"]["auroc"] != found["readings"]["border"]["overall"]["auroc"]


def test_films_of_one_source_or_of_none_say_why_nothing_is_asked(marked: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = marked
    single = write_films(tmp_path / "single", nothing, per_class=6)
    rows = (single / "manifest.csv").read_text(encoding="utf-8").replace("\r\n", "\n")
    (single / "manifest.csv").write_text(rows.replace(",two\n", ",one\n"), encoding="utf-8")
    found = audited(run, single, "--out", str(tmp_path / "one"))
    assert found["source_from_features"] is None
    assert found["leave_one_source_out"] is None
    assert found["source_from_features_reason"] == "all films are from one source, one"
    assert "source_alone" not in found["readings"]
    assert "all films are from one source" in (tmp_path / "one" / "audit.md").read_text(encoding="utf-8")

    (single / "manifest.csv").write_text(re.sub(r",(one|two|source)\n", "\n", rows), encoding="utf-8")
    found = audited(run, single, "--out", str(tmp_path / "none"))
    assert "column source" in found["leave_one_source_out_reason"]
    assert found["sources"] == []
    assert "Not asked: the films name no source" in (tmp_path / "none" / "audit.md").read_text(encoding="utf-8")


def test_other_films_than_those_it_was_trained_on_are_said(marked: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = marked
    other = write_films(tmp_path / "data", nothing, per_class=4)
    found = audited(run, other, "--out", str(tmp_path / "out"))
    assert found["trained_on_sha256"] != found["data_sha256"]
    assert "trained on other data" in (tmp_path / "out" / "audit.md").read_text(encoding="utf-8")


def test_left_out_heads_are_trained_as_the_model_was(marked: tuple[Path, Path]) -> None:
    _, run = marked
    assert audit.head_settings(spec_of(run)) == HeadSettings(epochs=20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "lost-run"], "lost-run holds no run"),
        (["--data", "lost-folder"], "lost-folder is not a folder"),
        (["--bootstrap", "5"], "5 resamples are too few"),
        (["--seed", "-1"], "seed is -1"),
        (["--device", "tpu"], "device is 'tpu'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    marked: tuple[Path, Path],
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, run = marked
    base = ["--run", str(run), "--data", str(data), "--out", str(tmp_path / "out")]
    assert run_command("audit", [*base, *arguments]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert len(said.err.splitlines()) == 1
    assert said.out == ""
    assert not (tmp_path / "out").exists()


def test_the_training_films_are_no_split_to_measure_on(
    marked: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = marked
    assert run_command("audit", ["--run", str(run), "--data", str(data), "--split", "train"]) == 2
    assert "--split" in capsys.readouterr().err
