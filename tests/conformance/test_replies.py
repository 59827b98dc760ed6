"""An archive with fixed weights gives the replies that are kept in `replies.json`.

After a change of the replies that is meant::

    python -m tests.conformance.recording sample tests/conformance/replies.json --force
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import replies
from tests.conformance.archives import fixed_weights, pack, unpack, working, write_fixed_model
from tests.conformance.comparing import PatternError, differences, read_allowed
from tests.conformance.recording import main

KEPT = Path(__file__).with_name("replies.json")
ROUNDING = 1e-3  # logits of processors that add in another order
GREY = 0.5  # of a picture's mean


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    entries: dict[str, Any] = json.loads(KEPT.read_text(encoding="utf-8"))
    return entries


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    work = tmp_path_factory.mktemp("conformance")
    write_fixed_model(work / "run")
    with working(unpack(pack(work / "run", work / "store"), work / "archive")) as worker:
        return replies.sample(worker)


def test_every_request_is_answered_as_it_was(kept: dict[str, Any], answered: dict[str, Any]) -> None:
    lines = [
        f"{place}: {before} -> {after}"
        for place, before, after in differences(kept, answered, ROUNDING)
        if not (place.endswith(".mean") and abs(float(before) - float(after)) <= GREY)
    ]
    assert not lines, "\n".join(["the replies have changed:", *lines])


def test_the_sample_has_both_labels_both_sides_of_doubt_and_many_errors(kept: dict[str, Any]) -> None:
    bodies = [entry["body"] for entry in kept.values()]
    assert {body["label"] for body in bodies if "label" in body} == {"NORMAL", "PNEUMONIA"}
    assert {body["decision"]["indeterminate"] for body in bodies if "decision" in body} == {True, False}
    assert len({body["code"] for body in bodies if "code" in body}) >= 10
    probabilities = [body["probabilities"]["PNEUMONIA"] for body in bodies if "probabilities" in body]
    assert min(abs(one - edge) for one in probabilities for edge in (0.31, 0.5, 0.6)) > ROUNDING


def test_the_fixed_weights_are_numpys(kept: dict[str, Any]) -> None:
    weights = fixed_weights()
    assert weights["conv1.weight"].shape == (64, 3, 7, 7)
    assert weights["fc.bias"].tolist() == pytest.approx([8.4, -8.4])
    digests = {entry["body"]["model"]["weights_sha256"] for entry in kept.values() if "model" in entry["body"]}
    assert len(digests) == 1


# --- comparing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "tolerance", "places"),
    [
        ({"a": 1, "b": [1.0, 2.0]}, {"a": 1, "b": [1.0, 2.0]}, 0.0, []),
        ({"b": [1.0, 2.0]}, {"b": [1.0, 2.0001]}, 0.0, ["b[1]"]),
        ({"b": [1.0, 2.0]}, {"b": [1.0, 2.0001]}, 1e-3, []),
        ({"b": [1.0]}, {"b": [1.0, 2.0]}, 1e-3, ["b"]),
        ({"a": {"status": 200}}, {"a": {"status": 422}}, 1e-3, ["a.status"]),
        ({"a": True}, {"a": 1}, 1e-3, ["a"]),
        ({"a": 1, "gone": None}, {"a": 1, "new": None}, 0.0, ["gone", "new"]),
        ({"line": "AUROC 0.8440 of 16"}, {"line": "AUROC 0.8441 of 16"}, 1e-3, []),
        ({"line": "AUROC 0.844 of 16"}, {"line": "AUROC 0.844 of 17"}, 1e-3, ["line"]),
        ({"png": {"pixels_sha256": "a"}}, {"png": {"pixels_sha256": "b"}}, 0.0, ["png.pixels_sha256"]),
        ({"png": {"pixels_sha256": "a"}}, {"png": {"pixels_sha256": "b"}}, 1e-3, []),
    ],
)
def test_what_differs_is_found_at_its_place(before: Any, after: Any, tolerance: float, places: list[str]) -> None:
    assert [place for place, _, _ in differences(before, after, tolerance)] == places


def recorded(folder: Path, value: float) -> str:
    (folder / "section").mkdir(parents=True)
    (folder / "section" / "part.json").write_text(json.dumps({"entry": {"value": value}, "other": 1}))
    (folder / "summary.json").write_text("{}")
    return str(folder)


def test_two_recordings_are_compared_and_what_is_allowed_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, same, other = (recorded(tmp_path / name, value) for name, value in (("a", 1.0), ("b", 1.0), ("c", 1.5)))
    assert main(["compare", one, same]) == 0
    assert "section/part: 2 of 2 entries identical" in capsys.readouterr().out
    assert main(["compare", one, other]) == 1
    assert "section/part | entry.value: 1.0 -> 1.5" in capsys.readouterr().out
    assert main(["compare", one, other, "--tolerance", "0.6"]) == 0
    rules = tmp_path / "rules.txt"
    rules.write_text("# why\n^section/part \\| entry\\.value -- it is measured in another unit\n")
    capsys.readouterr()
    assert main(["compare", one, other, "--allowed", str(rules)]) == 0
    assert "allowed: 1 differences: it is measured in another unit" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["no reason", " -- only a reason", "( -- broken", "x -- "])
def test_a_line_that_is_no_pattern_with_a_reason_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "rules.txt").write_text(line)
    with pytest.raises(PatternError, match="line 1"):
        read_allowed(tmp_path / "rules.txt")
