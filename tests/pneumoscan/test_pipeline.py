"""What the demo leaves out, what ends it, how it judges answers; that it runs as a whole is what `make demo` shows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxr_training.data.toy.files import MIN_PATIENTS, write_toy_data
from cxr_training.errors import TrainingError
from pneumoscan.errors import DemoError
from pneumoscan.pipeline import (
    ModelPlan,
    _Step,
    choose_films,
    draw_sheet,
    largest_difference,
    make_model,
    serve_and_compare,
)
from tests.commands import run_command
from tests.films import film


def rows(count: int) -> list[dict[str, str]]:
    labels = ["NORMAL", "PNEUMONIA"] * count
    return [
        {"file": f"{i}.png", "label": label, "probability_PNEUMONIA": f"{i / 100:.6f}"}
        for i, label in enumerate(labels)
    ]


def replies(asked: list[dict[str, str]], shift: float = 0.0) -> list[dict[str, Any]]:
    return [{"probabilities": {"PNEUMONIA": float(row["probability_PNEUMONIA"]) + shift}} for row in asked]


def test_films_of_both_classes_are_chosen(tmp_path: Path) -> None:
    lines = ["file,label,probability_PNEUMONIA", *(",".join(row.values()) for row in rows(30))]
    (tmp_path / "predictions.csv").write_text("\n".join(lines), encoding="utf-8")
    chosen = choose_films(tmp_path)
    assert [row["label"] for row in chosen.values()] == ["NORMAL"] * 12 + ["PNEUMONIA"] * 12


def test_a_served_probability_that_is_not_the_evaluated_one_fails_the_demo() -> None:
    asked = rows(4)
    assert largest_difference(replies(asked, 4e-6), asked) == pytest.approx(4e-6)
    with pytest.raises(DemoError, match="differ by"):
        largest_difference(replies(asked, 1e-3), asked)


def test_the_sheet_shows_a_line_for_each_class(tmp_path: Path) -> None:
    asked = rows(5)
    answered = replies(asked)
    for i, reply in enumerate(answered):
        Image.fromarray(film(i)).convert("RGB").save(tmp_path / f"{i}.overlay.png")
        reply["cam"] = {"file": str(tmp_path / f"{i}.overlay.png")}
    draw_sheet(answered, asked, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * 326, 4 * (250 + 6), 3)
    assert (sheet.min(axis=(1, 2)) < 50).sum() > 500


def test_a_run_that_was_not_evaluated_is_not_served(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"predictions\.csv is missing: run pneumoscan evaluate"):
        serve_and_compare(tmp_path, tmp_path, tmp_path / "a.mar", "cpu")


def test_a_step_that_fails_ends_the_demo_with_one_line_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run_command(
            "demo", ["--out", str(tmp_path / "run"), "--data", str(tmp_path / "none"), "--store", str(tmp_path)]
        )
        == 1
    )
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "[1/7] train"
    assert lines[0].startswith(f"pneumoscan train: {tmp_path / 'none'} is not a folder")
    assert lines[1:] == ["pneumoscan demo: train failed, see above"]


def test_a_step_is_left_out_only_where_its_file_is_as_new_as_all_it_is_made_of(tmp_path: Path) -> None:
    source, other, made = tmp_path / "source", tmp_path / "other", tmp_path / "made"
    step = _Step("train", (), made, (source, other))
    assert not step.stands
    for at, path in enumerate((source, other, made), start=1):
        path.write_text("")
        os.utime(path, (at, at))
    assert step.stands
    os.utime(other, (4, 4))
    assert not step.stands
    other.unlink()
    assert not step.stands
    assert not _Step("train", (), made).stands


@pytest.mark.slow
def test_a_second_time_only_training_and_packing_look_at_what_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_toy_data(tmp_path / "data", MIN_PATIENTS, 0, 128)
    plan = ModelPlan(
        run=tmp_path / "run",
        data=tmp_path / "data",
        weights="random",
        arch="resnet18",
        device="cpu",
        or_random=True,
        version="1.0.0",
        store=tmp_path / "store",
    )
    archive = make_model(plan)
    before = {path: path.stat().st_mtime_ns for path in (*plan.run.iterdir(), archive) if path.is_file()}
    capsys.readouterr()
    assert make_model(plan) == archive
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert capsys.readouterr().err.count(" stands") == 5
