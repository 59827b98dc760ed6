"""TensorBoard and MLflow, asked what they were told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cxr_training.errors import TrainingError
from cxr_training.fit.head import Epoch
from cxr_training.fit.tracking import flat, tracked
from pneumoscan.tracking import import_mlflow

EPOCHS = (Epoch(0, 0.0, 0.7, 0.5, 0.8, 0.4), Epoch(1, 0.1, 0.5, 0.75, 0.6, 0.5))
SETTINGS = {"arch": "resnet10", "head": {"epochs": 3}}


def test_settings_become_one_level() -> None:
    assert flat(SETTINGS) == {"arch": "resnet10", "head.epochs": 3}


def test_tensorboard_shows_every_figure_of_every_epoch(tmp_path: Path) -> None:
    with tracked("tensorboard", tmp_path, SETTINGS) as on_epoch:
        for epoch in EPOCHS:
            on_epoch(epoch)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        "learning_rate",
        "train_loss",
        "train_accuracy",
        "val_loss",
        "val_accuracy",
    }
    shown = [(point.step, point.value) for point in events.Scalars("val_loss")]
    assert shown == [(0, pytest.approx(0.8)), (1, pytest.approx(0.6))]


def test_mlflow_holds_settings_and_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = import_mlflow()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    try:
        with tracked("mlflow", tmp_path / "first", SETTINGS) as on_epoch:
            for epoch in EPOCHS:
                on_epoch(epoch)
        client = mlflow.MlflowClient()
        (experiment,) = client.search_experiments(filter_string="name = 'pneumoscan'")
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.run_name == "first"
        assert run.data.params == {"arch": "resnet10", "head.epochs": "3"}
        assert [point.value for point in client.get_metric_history(run.info.run_id, "val_loss")] == [0.8, 0.6]
    finally:
        mlflow.set_tracking_uri(None)


def test_mlflow_without_a_place_to_write_to_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = import_mlflow()
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    try:
        with pytest.raises(TrainingError, match="set MLFLOW_TRACKING_URI"), tracked("mlflow", tmp_path, SETTINGS):
            pass
    finally:
        mlflow.set_tracking_uri(None)


@pytest.mark.parametrize(("tracker", "package"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow")])
def test_a_library_that_is_missing_is_named(
    tracker: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package or name == "torch.utils.tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with (
        pytest.raises(TrainingError, match=rf"{package}.*pneumoscan\[tracking\]"),
        tracked(tracker, tmp_path, SETTINGS),
    ):
        pass
