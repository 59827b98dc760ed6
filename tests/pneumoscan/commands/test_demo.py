"""The demo's own judgement; that it runs as a whole is what `make demo` shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pneumoscan.commands.demo import DemoError, choose_films, draw_sheet, largest_difference, main
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


def test_a_run_that_was_not_evaluated_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--run", str(tmp_path), "--data", str(tmp_path), "--archive", str(tmp_path / "a.mar")]
    assert main(arguments) == 1
    assert "predictions.csv" in capsys.readouterr().err
