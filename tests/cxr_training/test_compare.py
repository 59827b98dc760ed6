"""Two models on the same films: DeLong's and McNemar's tests against slow and hand-worked ways."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score

from cxr.json_records import SEAL, to_json
from cxr_training.compare import Scored, compare
from cxr_training.data.records import load_films
from cxr_training.errors import TrainingError
from cxr_training.measure.intervals import Bootstrap
from cxr_training.measure.metrics import Floats, Targets
from cxr_training.measure.paired import delong, delong_covariance, mcnemar, paired_differences
from tests.commands import run_command
from tests.cxr_training.folders import write_manifest


def slow_covariance(targets: Targets, scores: Floats) -> Floats:
    """DeLong, DeLong, Clarke-Pearson (1988), equations 3 to 6, pair by pair."""
    places = []
    for row in scores:
        ill, healthy = row[targets == 1], row[targets == 0]
        pairs = np.array([[1.0 if x > y else 0.5 if x == y else 0.0 for y in healthy] for x in ill])
        places.append((pairs.mean(axis=1), pairs.mean(axis=0), pairs.mean()))
    covariance = np.empty((len(scores), len(scores)))
    for r, (x1, y1, a1) in enumerate(places):
        for s, (x2, y2, a2) in enumerate(places):
            s10 = sum((x1 - a1) * (x2 - a2)) / (len(x1) - 1)
            s01 = sum((y1 - a1) * (y2 - a2)) / (len(y1) - 1)
            covariance[r, s] = s10 / len(x1) + s01 / len(y1)
    return covariance


@pytest.mark.parametrize("levels", [5, 1_000_000])  # with many ties and with none
def test_the_fast_covariance_is_that_of_all_pairs(levels: int) -> None:
    rng = np.random.default_rng(3)
    targets = rng.permutation(np.repeat([1, 0], [17, 26]))
    scores = np.stack([np.round(rng.normal(targets, 1.0) * levels) / levels for _ in range(3)])
    areas, covariance = delong_covariance(targets, scores)
    np.testing.assert_allclose(areas, [roc_auc_score(targets, row) for row in scores], atol=1e-12)
    np.testing.assert_allclose(covariance, slow_covariance(targets, scores), atol=1e-12)


def test_delong_of_four_films_is_the_hand_worked_one() -> None:
    """NORMAL 1, 3 and PNEUMONIA 2, 4; the second model has them in order.

    Of the first, films 2 and 4 are above 1/2 and all of NORMAL, films 1 and 3 below all and 1/2 of PNEUMONIA: variance
    1/8 each, of their means 1/16, together 1/8. The second's variance is 0, and so is the covariance.
    """
    found = delong(np.array([0, 1, 0, 1]), np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0]))
    assert found is not None
    assert found.difference == pytest.approx(0.25)
    assert found.standard_error == pytest.approx(np.sqrt(1 / 8))
    assert found.z == pytest.approx(0.25 * np.sqrt(8))
    assert found.p == pytest.approx(2 * (1 - norm.cdf(0.25 * np.sqrt(8))))


def test_delong_sees_ranks_alone_and_turns_its_sign_with_the_models() -> None:
    rng = np.random.default_rng(8)
    targets = np.repeat([1, 0], 40)
    first, second = rng.normal(targets, 1.0), rng.normal(2 * targets, 1.0)
    one, two, three = (
        delong(targets, first, second),
        delong(targets, second, first),
        delong(targets, np.exp(first), second),
    )
    assert one is not None
    assert two is not None
    assert one == three
    assert two.difference == pytest.approx(-one.difference)
    assert two.p == pytest.approx(one.p)


def test_equal_readings_differ_by_nothing_and_one_film_of_a_class_is_too_few() -> None:
    targets, scores = np.repeat([1, 0], 5), np.arange(10.0)
    found = delong(targets, scores, scores)
    assert found is not None
    assert (found.difference, found.p, found.z, found.ci) == (0.0, 1.0, None, None)
    assert delong(np.array([1, 0, 0]), np.arange(3.0), np.arange(3.0)) is None


def test_of_models_that_are_equally_good_delong_finds_one_in_twenty_apart() -> None:
    rng = np.random.default_rng(5)
    targets = np.repeat([1, 0], 50)
    found = 0
    for _ in range(2000):
        signal = rng.normal(targets, 1.0)
        test = delong(targets, signal + rng.normal(size=100), signal + rng.normal(size=100))
        found += test is not None and test.p is not None and test.p < 0.05
    assert 0.035 < found / 2000 < 0.065  # three standard errors


def test_mcnemar_counts_the_films_one_model_alone_gets_right() -> None:
    targets = np.array([1] * 10 + [0] * 10)
    first = targets == 1
    second = first.copy()
    first[:6] = False  # six the second alone gets right
    second[19] = True  # one the first alone
    found = mcnemar(targets, first, second)
    assert (found.only_first_right, found.only_second_right) == (1, 6)
    assert found.p == pytest.approx(2 * (1 + 7) / 2**7)
    assert found.p == pytest.approx(binomtest(6, 7).pvalue)
    assert mcnemar(targets, first, first).p == 1.0


def test_the_paired_bootstrap_resamples_both_models_together() -> None:
    rng = np.random.default_rng(2)
    targets = np.repeat([1, 0], 45)
    one, two = (1 / (1 + np.exp(-rng.normal(2.0 * targets - 1.0, 1.0))) for _ in range(2))
    patients = [f"{i:02}" for i in range(90)]
    found = paired_differences(targets, (one, one >= 0.5), (two, two >= 0.3), patients, Bootstrap(200, 4))
    draws = np.random.default_rng(4).integers(0, 90, (200, 90))
    areas = [roc_auc_score(targets[d], two[d]) - roc_auc_score(targets[d], one[d]) for d in draws]
    np.testing.assert_allclose(found["auroc"].ci or [], np.percentile(areas, [2.5, 97.5]), atol=1e-12)
    gained = [(two[d] >= 0.3)[targets[d] == 1].mean() - (one[d] >= 0.5)[targets[d] == 1].mean() for d in draws]
    np.testing.assert_allclose(found["sensitivity"].ci or [], np.percentile(gained, [2.5, 97.5]), atol=1e-12)
    assert found["specificity"].difference == pytest.approx((two < 0.3)[45:].mean() - (one < 0.5)[45:].mean())


def write_predictions(folder: Path, rows: list[tuple[str, str, float]], threshold: float = 0.5) -> Path:
    folder.mkdir()
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "probability_PNEUMONIA", "predicted"])
        for file, label, probability in rows:
            called = "PNEUMONIA" if probability >= threshold else "NORMAL"
            writer.writerow([file, label, f"{probability:.6f}", called])
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_manifest(tmp_path_factory.mktemp("data"), 12, ("test",))


def rows_of(data: Path, seed: int) -> list[tuple[str, str, float]]:
    rng = np.random.default_rng(seed)
    return [
        (one.name, one.label, float(1 / (1 + np.exp(-rng.normal(one.target - 0.5, 1.0)))))
        for one in load_films(data).of("test")
    ]


def test_films_are_matched_by_name_and_patients_come_from_the_data(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = rows_of(data, 1), rows_of(data, 2)
    one, two = write_predictions(tmp_path / "one", first), write_predictions(tmp_path / "two", second)
    turned = write_predictions(tmp_path / "turned", second[::-1])
    base = ["--data", str(data), "--bootstrap", "200", "--out"]
    assert run_command("compare", ["--first", str(one), "--second", str(two), *base, str(tmp_path / "a")]) == 0
    file = str(turned / "predictions.csv")
    assert run_command("compare", ["--first", str(one), "--second", file, *base, str(tmp_path / "b")]) == 0
    a, b = (json.loads((tmp_path / name / "comparison.json").read_text(encoding="utf-8")) for name in "ab")
    assert a.pop(SEAL) != b.pop(SEAL)
    assert a["second"].pop("name") == "two"
    assert b["second"].pop("name") == "turned"
    assert a == b
    assert (a["films"], a["patients"]) == (24, 12)
    targets = np.array([label == "PNEUMONIA" for _, label, _ in first], dtype=np.int64)
    scores = [np.array([round(row[2], 6) for row in rows]) for rows in (first, second)]
    expected = roc_auc_score(targets, scores[1]) - roc_auc_score(targets, scores[0])
    assert a["differences"]["auroc"]["difference"] == pytest.approx(expected)
    assert a["delong"]["difference"] == pytest.approx(expected)
    page = (tmp_path / "a" / "comparison.md").read_text(encoding="utf-8")
    assert "Not a diagnosis" in page
    assert f"| {expected:+.3f} |" in page
    assert "24 films, AUROC second - first" in capsys.readouterr().out


def test_without_out_the_comparison_is_printed(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_predictions(tmp_path / "one", rows_of(data, 1))
    assert run_command("compare", ["--first", str(one), "--second", str(one), "--data", str(data)]) == 0
    assert "standard error 0.0000, 95 % interval -, z -, p 1.0000" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_what_cannot_be_compared_is_said_in_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(data, 1)
    whole = write_predictions(tmp_path / "whole", rows)
    flipped = [(rows[0][0], "PNEUMONIA" if rows[0][1] == "NORMAL" else "NORMAL", rows[0][2]), *rows[1:]]
    (tmp_path / "text.csv").write_text("file,label\nx,y\n", encoding="utf-8")
    (tmp_path / "bad.csv").write_text("file,label,probability_PNEUMONIA,predicted\nx,NORMAL,nan,NORMAL\n")
    (tmp_path / "no.csv").write_text("file,label,probability_PNEUMONIA,predicted\nx,NORMAL,high,NORMAL\n")
    (tmp_path / "empty.csv").write_text("file,label,probability_PNEUMONIA,predicted\n", encoding="utf-8")
    for second, message in (
        (write_predictions(tmp_path / "fewer", rows[1:]), "different films: 1 are in one of the two alone"),
        (write_predictions(tmp_path / "flipped", flipped), "to the second and"),
        (write_predictions(tmp_path / "twice", [*rows, rows[3]]), "is there twice"),
        (tmp_path, "predictions.csv is missing: run pneumoscan evaluate"),
        (tmp_path / "text.csv", "has no column probability_PNEUMONIA, predicted"),
        (tmp_path / "bad.csv", "line 2: no probability"),
        (tmp_path / "no.csv", "is no table of predictions"),
        (tmp_path / "empty.csv", "holds no film"),
    ):
        assert run_command("compare", ["--first", str(whole), "--second", str(second), "--data", str(data)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    other = write_predictions(tmp_path / "other", [(f"new-{rows[0][0]}", *rows[0][1:]), *rows[1:]])
    assert run_command("compare", ["--first", str(other), "--second", str(other), "--data", str(data)]) == 2
    assert "1 films are not in the data, new-" in capsys.readouterr().err


def test_a_set_of_one_class_gives_what_it_can(data: Path) -> None:
    records = [record for record in load_films(data).records if record.target]
    labels = {record.name: record.label for record in records}
    scored = Scored("m", labels, np.linspace(0, 1, len(labels)), np.linspace(0, 1, len(labels)) >= 0.5)
    found = compare(scored, scored, records, Bootstrap(100))
    assert (found.first.auroc, found.differences["auroc"].difference, found.delong) == (None, None, None)
    assert found.first.sensitivity == 0.5
    assert json.loads(to_json(found))["mcnemar"]["NORMAL"] == {"only_first_right": 0, "only_second_right": 0, "p": 1.0}
    with pytest.raises(TrainingError, match="different films"):
        compare(scored, Scored("m", {}, np.zeros(0), np.zeros(0, np.bool_)), records)
