"""The report of an evaluation: what it holds, what it says, what it refuses."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxr.predict import Predictor
from cxr_training import evaluate
from cxr_training.data.records import load_films
from cxr_training.pages.films import confident_errors, side_by_side
from pneumoscan.archive import package
from tests.commands import run_command
from tests.cxr.networks import save_model, small_network
from tests.cxr_training.folders import write_manifest
from tests.cxr_training.pages.test_page import Reader
from tests.films import film

FIGURES = ("auroc", "auprc", "sensitivity", "specificity", "accuracy", "brier", "log_loss", "ece")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve films of each class, two a patient, with ages and made up altogether; three have boxes."""
    folder = write_manifest(tmp_path_factory.mktemp("data"), 12, ("test",))
    rows = (folder / "manifest.csv").read_text(encoding="utf-8").splitlines()
    ages = ["age", *["062Y", "7", "33.0", "412"] * 6]
    text = "\n".join(
        f"{row.rsplit(',', 1)[0]},{'source' if not i else 'synthetic'},{ages[i]}" for i, row in enumerate(rows)
    )
    (folder / "manifest.csv").write_text(text + "\n", encoding="utf-8")
    boxes = [f"test-PNEUMONIA-{i}.png,{i},10,30,20" for i in (0, 1, 7)]
    (folder / "boxes.csv").write_text("\n".join(["file,x,y,width,height", *boxes]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that knows nothing, so that it errs both ways."""
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, operating_points={"youden": 0.4475})
    return folder


@pytest.fixture(scope="module")
def out(data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    arguments = ["--run", str(model), "--data", str(data), "--out", str(folder), "--device", "cpu"]
    assert (
        run_command("evaluate", [*arguments, "--bootstrap", "300", "--seed", "5", "--prevalence", "0.02", "0.2"]) == 0
    )
    return folder


def metrics_of(out: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def test_every_figure_has_its_interval_beside_it_and_groups_are_by_age_too(out: Path) -> None:
    metrics = metrics_of(out)
    assert metrics["bootstrap"] == {"unit": "patient", "level": 0.95, "resamples": 300, "seed": 5}
    assert list(metrics["groups"]) == ["age=6-17", "age=18-39", "age=40-64"]
    for group in (metrics["overall"], *metrics["groups"].values()):
        assert all(f"{name}_ci" in group for name in FIGURES)
        assert [one["prevalence"] for one in group["predictive_values"]][1:] == [0.02, 0.2]
    overall = metrics["overall"]
    assert (overall["films"], overall["patients"], overall["positive"]) == (24, 12, 12)
    for name in ("auroc", "accuracy", "brier"):
        low, high = overall[f"{name}_ci"]
        assert low <= overall[name] <= high
    assert metrics["groups"]["age=6-17"]["brier_ci"] is None  # six patients


def test_the_report_says_the_same_in_both_forms(out: Path) -> None:
    metrics = metrics_of(out)
    markdown = (out / "report.md").read_text(encoding="utf-8")
    words = " ".join(Reader((out / "report.html").read_text(encoding="utf-8")).words)
    low, high = metrics["overall"]["auroc_ci"]
    for said in (
        "Research use only. Not a diagnosis.",
        "Every film is synthetic.",
        "300 times (seed 5)",
        "24 films of 12 patients",
        f"{metrics['overall']['auroc']:.3f} ({low:.3f} to {high:.3f})",
        "age=40-64",
        "PPV at 2 % PNEUMONIA",
    ):
        assert said in markdown, said
        assert said in words, said
    numbers = [set(re.findall(r"\d\.\d{3}", page)) for page in (markdown, words)]
    assert numbers[0] <= numbers[1]


def test_the_html_needs_no_other_file_and_holds_every_picture_of_the_other_pages(out: Path) -> None:
    read = Reader((out / "report.html").read_text(encoding="utf-8"))
    assert all(link.startswith("data:image/") for link in read.links)
    pages = "".join((out / name).read_text(encoding="utf-8") for name in ("report.md", "errors.md", "localisation.md"))
    shown = re.findall(r"!\[.*?\]\(([\w./-]+)\)", pages)
    films = [*(out / "errors").iterdir(), *(out / "localisation").iterdir()]
    assert len(shown) == len(read.links) == 4 + len(films)
    for name in shown:
        with Image.open(out / name) as picture:
            picture.load()


def test_the_page_of_errors_shows_each_film_on_the_wrong_side_the_most_confident_first(out: Path) -> None:
    page = (out / "errors.md").read_text(encoding="utf-8")
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    wrong = {
        label: sorted(
            (float(row["probability_PNEUMONIA"]), row["file"])
            for row in rows
            if row["label"] == label and row["predicted"] != label
        )
        for label in ("NORMAL", "PNEUMONIA")
    }
    missed, alarmed = (part.split("###")[0] for part in page.split("### False ")[1:])
    assert re.findall(r"`(.*?)`", missed) == [name for _, name in wrong["PNEUMONIA"]]
    assert re.findall(r"`(.*?)`", alarmed) == [name for _, name in wrong["NORMAL"][::-1]]
    assert missed.count(".jpg") + alarmed.count(".jpg") == sum(map(len, wrong.values())) > 0
    assert "Not a diagnosis" in page


def test_no_more_than_twelve_errors_of_a_kind_are_shown_and_ties_keep_to_the_threshold() -> None:
    probabilities = np.linspace(0, 1, 41)
    missed, alarmed = confident_errors(np.repeat([1, 0], [21, 20]), probabilities, 0.5)
    assert missed == list(range(12))  # film 20, at the threshold, is called
    assert alarmed == list(range(40, 28, -1))
    assert confident_errors(np.array([0, 1]), np.array([0.1, 0.9]), 0.5) == ([], [])


def test_the_film_stands_left_of_its_map() -> None:
    pixels = film(3, 448, 300)
    picture = side_by_side(pixels, np.zeros((7, 7), dtype=np.float32), 2.0)
    np.testing.assert_array_equal(picture[:, :300], np.repeat(pixels[..., None], 3, 2))
    np.testing.assert_array_equal(picture[:, 308:608], picture[:, :300])  # no evidence, no colour
    hot = side_by_side(pixels, np.full((7, 7), 2.0, dtype=np.float32), 2.0)
    assert (hot[:, 308:608, 0].astype(int) > hot[:, 308:608, 2]).all()
    assert side_by_side(film(3, 72, 64), np.zeros((7, 7), dtype=np.float32), 2.0).shape[0] == 448


def test_pictures_of_an_earlier_evaluation_do_not_stay(data: Path, model: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(model, "cpu")
    records = load_films(data).of("test")
    (tmp_path / "errors").mkdir()
    (tmp_path / "errors" / "false-negative-99.jpg").write_bytes(b"of another model")
    evaluate.evaluate(predictor, records, tmp_path)
    assert not (tmp_path / "errors" / "false-negative-99.jpg").exists()


def test_an_evaluation_can_be_repeated_to_the_last_digit(data: Path, model: Path, out: Path, tmp_path: Path) -> None:
    arguments = ["--run", str(model), "--data", str(data), "--out", str(tmp_path), "--device", "cpu"]
    assert (
        run_command("evaluate", [*arguments, "--bootstrap", "300", "--seed", "5", "--prevalence", "0.02", "0.2"]) == 0
    )
    assert metrics_of(tmp_path) == metrics_of(out)


def test_an_archive_is_measured_with_the_same_settings(data: Path, model: Path, out: Path, tmp_path: Path) -> None:
    archive = package(model, "1.0.0", tmp_path / "store")
    arguments = ["--archive", str(archive), "--data", str(data), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert (
        run_command("evaluate", [*arguments, "--bootstrap", "300", "--seed", "5", "--prevalence", "0.02", "0.2"]) == 0
    )
    packed, run = metrics_of(tmp_path / "out"), metrics_of(out)
    assert packed["bootstrap"] == run["bootstrap"]
    assert packed["overall"]["auroc_ci"] == pytest.approx(run["overall"]["auroc_ci"])
    assert packed["localisation"]["all"]["films"] == 3
    assert packed["localisation"]["all"]["energy"] == pytest.approx(run["localisation"]["all"]["energy"], abs=1e-6)
    one, two = (
        [[one["prevalence"], one["ppv"], *one["npv_ci"]] for one in metrics["overall"]["predictive_values"]]
        for metrics in (packed, run)
    )
    np.testing.assert_allclose(one, two, atol=1e-9)


def test_two_evaluations_can_be_compared(data: Path, out: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "other", small_network(seed=4))
    other = str(tmp_path / "other")
    assert run_command("evaluate", ["--run", other, "--data", str(data), "--device", "cpu"]) == 0
    base = ["--first", str(out), "--second", other, "--data", str(data), "--out", str(tmp_path / "both")]
    assert run_command("compare", [*base, "--bootstrap", "200"]) == 0
    found = json.loads((tmp_path / "both" / "comparison.json").read_text(encoding="utf-8"))
    second = metrics_of(tmp_path / "other")["overall"]
    for name in ("sensitivity", "specificity", "accuracy"):
        assert found["first"][name] == pytest.approx(metrics_of(out)["overall"][name])
        assert found["second"][name] == pytest.approx(second[name])
    assert found["synthetic"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prevalence", "0"], "prevalence is 0"),
        (["--prevalence", "0.1", "1.5"], "prevalence is 1.5"),
        (["--prevalence", "nan"], "prevalence is nan"),
        (["--bootstrap", "10"], "10 resamples are too few"),
        (["--seed", "-3"], "seed is -3"),
    ],
)
def test_settings_that_cannot_be_are_told_before_a_film_is_scored(
    data: Path, model: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--run", str(model), "--data", str(data), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert run_command("evaluate", [*base, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_pneumonia_is_measured_against_everything_else_where_films_are_labelled_other(
    data: Path, model: Path, out: Path, tmp_path: Path
) -> None:
    text = (data / "manifest.csv").read_text(encoding="utf-8")
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    changed = re.sub(r"(test-NORMAL-(?:2|3|8)\.png),NORMAL", r"\1,OTHER", text)
    (folder / "manifest.csv").write_text(changed, encoding="utf-8")
    arguments = ["--run", str(model), "--data", str(folder), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert (
        run_command("evaluate", [*arguments, "--bootstrap", "300", "--seed", "5", "--prevalence", "0.02", "0.2"]) == 0
    )
    whole, found = (
        json.loads((place / "metrics.json").read_text(encoding="utf-8")) for place in (out, tmp_path / "out")
    )
    assert "everything_else" not in whole or whole["everything_else"] == {}
    assert (found["overall"]["films"], found["overall"]["positive"]) == (21, 12)
    against = found["everything_else"]["all"]
    assert (against["films"], against["positive"]) == (24, 12)
    for name in ("auroc", "auroc_ci", "sensitivity", "specificity", "ece"):  # the films that were NORMAL before
        assert against[name] == pytest.approx(whole["overall"][name]), name
    assert "PNEUMONIA against everything else" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "everything else" not in (out / "report.md").read_text(encoding="utf-8")
