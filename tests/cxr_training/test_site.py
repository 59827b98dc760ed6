"""A site's own thresholds on the same weights: what is new, what is not, and figures that do not flatter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxr.json_records import parse
from cxr.model.spec import ModelSpec, sha256_of
from cxr.predict import Predictor, softmax
from cxr.serving.drift import DRIFT_FILE, Reference
from cxr_training.calibrate import Fitting
from cxr_training.data.records import Record, load_films
from cxr_training.site import cross_fitted
from tests.commands import run_command
from tests.cxr_training.folders import write_manifest


def records_of(targets: list[int]) -> list[Record]:
    names = ("NORMAL", "PNEUMONIA")
    return [
        Record(Path("none"), str(i), names[target], f"p{i}", "val", f"{i:064x}") for i, target in enumerate(targets)
    ]


def test_a_run_of_a_site_has_the_same_weights_and_the_sites_own_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, site = write_manifest(tmp_path / "data", 8), write_manifest(tmp_path / "site", 20)
    run, out = tmp_path / "run", tmp_path / "here"
    small = ["--arch", "resnet10", "--weights", "random", "--epochs", "1", "--size", "64", "--views", "0"]
    assert run_command("train", ["--run", str(run), "--data", str(data), *small]) == 0
    arguments = ["--run", str(run), "--site", str(site), "--out", str(out), "--device", "cpu", "--missed", "0.1"]
    assert run_command("calibrate", arguments) == 1 + 1  # not calibrated yet
    assert run_command("calibrate", ["--run", str(run), "--data", str(data), "--device", "cpu"]) == 0
    before = {file.name: sha256_of(file) for file in run.iterdir()}
    assert run_command("calibrate", arguments) == 0
    assert {file.name: sha256_of(file) for file in run.iterdir()} == before
    for folder in (run, out):
        assert run_command("export", ["--run", str(folder)]) == 0
    old, new = ModelSpec.load(run), ModelSpec.load(out)
    assert new.weights_sha256 == old.weights_sha256
    assert (old.band_rates, new.band_rates) == ((0.05, 0.05), (0.1, 0.05))
    assert new.operating_points != old.operating_points
    assert new.indeterminate is not None
    assert new.indeterminate[0] <= new.threshold <= new.indeterminate[1]
    assert new.parity["openvino-float32"].films == 40
    reference = Reference.from_json((out / DRIFT_FILE).read_bytes())
    assert (reference.films, reference.temperature) == (40, new.temperature)
    films = [record.read() for record in load_films(site).of("val")]
    logits = [[one.logits for one in Predictor.load(folder, "cpu").predict(films)] for folder in (run, out)]
    np.testing.assert_array_equal(*logits)
    found = parse((out / "site.json").read_bytes())
    assert (found["films"], found["positive"]) == (40, 20)
    first = softmax(np.array(logits[0]), old.temperature)[:, 1] >= old.threshold
    targets = np.array([record.target for record in load_films(site).of("val")])
    assert found["figures"]["sensitivity"]["before"] == pytest.approx(first[targets == 1].mean())
    page = (out / "site.html").read_text(encoding="utf-8")
    assert "at most 10 % are expected below it" in " ".join(page.split())
    capsys.readouterr()
    assert run_command("calibrate", arguments) == 2
    assert "already holds a run: choose another --out" in " ".join(capsys.readouterr().err.split())


def test_figures_after_are_not_flattered_by_the_films_that_were_fitted_on() -> None:
    """Scores without any signal: on its own films a threshold looks better than chance, on others it does not."""
    rng = np.random.default_rng(5)
    own, crossed = [], []
    for _ in range(60):
        targets = np.repeat([0, 1], 20)
        logits = np.stack([np.zeros(40), rng.normal(size=40)], axis=1)
        answers = cross_fitted(logits, records_of(targets.tolist()), Fitting())
        crossed.append(answers.called[targets == 1].mean() - answers.called[targets == 0].mean())
        best = max(
            (logits[targets == 1, 1] >= at).mean() - (logits[targets == 0, 1] >= at).mean() for at in logits[:, 1]
        )
        own.append(best)
    assert np.mean(own) > 0.12
    assert abs(np.mean(crossed)) < 0.06


def test_no_film_of_a_patient_is_judged_by_another_of_the_same() -> None:
    """All films of a patient are held out together: changing one of them changes nothing for the others."""
    rng = np.random.default_rng(6)
    targets = np.repeat([0, 1], 20)
    records = [
        Record(one.file, one.name, one.label, f"p{i // 4}", "val", one.sha256)
        for i, one in enumerate(records_of(targets.tolist()))
    ]
    logits = np.stack([np.zeros(40), rng.normal(loc=2.0 * targets - 1)], axis=1)
    changed = logits.copy()
    changed[0, 1] += 3.0
    one, two = (cross_fitted(given, records, Fitting()) for given in (logits, changed))
    np.testing.assert_array_equal(one.probabilities[1:4], two.probabilities[1:4])
    assert (one.probabilities[4:] != two.probabilities[4:]).any()
